"""Device-resident pre- and post-processing on NVIDIA GPUs."""
