"""What every training saw."""

from __future__ import annotations

from collections.abc import Sequence

from emo_lightning.report.provenance import Provenance
from emo_lightning.report.table import Cell, Result, Table, columns


def training_row(name: str, settings: Result, found: Result) -> list[Cell]:
    """One line of `training_table`: a stage's settings and its `training.json`."""
    images, labels = found.get("images", {}), found.get("labels", {}).get("train", {})
    has = ", ".join(f"{label.replace('_', ' ')} {count:,}" for label, count in labels.items()) or None
    size = settings.get("data", {}).get("batch_size")
    each = found["devices"] * (settings.get("trainer", {}).get("accumulate_grad_batches") or 1)
    return [
        name,
        images.get("train"),
        images.get("val"),
        has,
        found["steps"],
        None if size is None else size * each,
        found["trained_parameters"],
        str(found["seed"]),
    ]


def training_table(rows: list[list[Cell]], sources: Sequence[Provenance]) -> Table:
    """The lines of all trainings, each with the stage that it comes from."""
    return Table(
        "training",
        "What was trained",
        columns(
            ("stage", "Stage"),
            ("images", "Images"),
            ("validation", "Validation"),
            ("labels", "Images with labels for"),
            ("steps", "Steps"),
            ("batch", "Batch"),
            ("trained_parameters", "Trained weights"),
            ("seed", "Seed"),
        ),
        rows,
        "Batch: images per optimiser step, over all devices. Each stage is one training from one seed.",
        name="training",
        sources=list(sources),
    )
