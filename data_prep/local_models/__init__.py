"""Models that run on this machine: their checkpoints are identified, read safely and loaded whole; images are decoded for them."""
