"""What the paper promises of the embedding (section 3.1.2), measured: retrieval, affective distance, interpolation, stability."""
