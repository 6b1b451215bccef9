"""Duplicates: equal bytes, then a perceptual hash over all pairs, then embeddings; one image of each group is kept."""
