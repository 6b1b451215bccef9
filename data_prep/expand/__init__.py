"""Expansion of a data set from its own triplets: search queries, and images of new compositions (paper section 3.1.1)."""
