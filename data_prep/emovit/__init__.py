"""EmoViT on this machine (paper section 3.2): its checkpoint converted, its vote a distribution over the eight."""
