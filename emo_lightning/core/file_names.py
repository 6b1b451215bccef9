"""Names of files that more than one room writes or reads."""

from __future__ import annotations

MANIFEST_FILE = "manifest.json"
"""Beside tars, or beside tables of embeddings: says what is there, and is written last."""
CARD_FILE = "README.md"
"""The card of a data set or of a model, where the Hugging Face hub looks for it."""
PREDICTIONS_FILE = "predictions.jsonl"
"""What a model or a probe says of each image."""
EMBEDDINGS_FILE = "des.parquet"
"""The embedding (DES) of each image."""
METRICS_FILE = "metrics.json"
"""What a probe stage measured."""


def about_file(predictions: str) -> str:
    """Name of the file that says who made a file of predictions, which is beside it."""
    return predictions.removesuffix(".jsonl") + ".about.json"
