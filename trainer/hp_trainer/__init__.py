"""Networks, losses, data and the loop that train the parsers of hp_sdk (needs torch)."""
