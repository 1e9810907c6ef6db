"""Commands of the trainer: hp-train and hp-eval."""
