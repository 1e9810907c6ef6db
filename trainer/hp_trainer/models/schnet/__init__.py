"""SCHNet, part by part: SAM and CLIP frozen, the modules that join them, adapter and decoder."""
