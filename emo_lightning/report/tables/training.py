"""What every training saw."""

from __future__ import annotations

from collections.abc import Sequence

from emo_lightning.core.tables.provenance import Provenance
from emo_lightning.core.tables.table import Cell, Result, Table, columns
from emo_lightning.report.run_folder import StageFolder


def training_row(stage: StageFolder, found: Result) -> list[Cell]:
    """One line of `training_table`: a stage's settings and its `training.json`."""
    images, labels = found.get("images", {}), found.get("labels", {}).get("train", {})
    has = ", ".join(f"{label.replace('_', ' ')} {count:,}" for label, count in labels.items()) or None
    # Said of a training that went on with another number of processes: a step kept its samples, and was shared otherwise.
    step = found.get("step") or {
        "ranks": found["devices"],
        "accumulate": _whole(stage.setting("trainer", "accumulate_grad_batches")) or 1,
        "rows": _whole(stage.setting("data", "batch_size")),
    }
    each = step["ranks"] * step["accumulate"]
    batch: Cell = None if _whole(stage.setting("data", "batch_size")) is None else step["rows"] * each
    tokens = _whole(stage.setting("data", "global_tokens")) or (_whole(stage.setting("data", "max_tokens")) or 0) * each
    if tokens:
        batch = f"{tokens:,} tokens"
    return [
        stage.name,
        images.get("train"),
        images.get("val"),
        has,
        found["steps"],
        batch,
        found["trained_parameters"],
        str(found["seed"]),
    ]


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) else None


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
        "Batch: images (or tokens) per optimiser step, over all devices. Each stage is one training from one seed.",
        name="training",
        sources=list(sources),
    )


def answered_rows(name: str, found: Result) -> list[list[Cell]]:
    """Lines of `answered_table`: `answered` in a `training.json`, a set each."""
    points = ("accuracy", "gain", "zero_shot_gain", "over_constant")
    return [
        [f"{name}, {one}", *(None if values.get(key) is None else 100 * values[key] for key in points)]
        for one, values in found.get("answered", {}).items()
    ]


def answered_table(rows: list[list[Cell]], sources: Sequence[Provenance]) -> Table:
    """The lines of all trainings by rewards."""
    return Table(
        "training-answers",
        "What learning from rewards gained and lost",
        columns(
            ("set", "Stage, set"),
            ("accuracy", "Accuracy %"),
            ("gain", "Since the round began"),
            ("zero_shot_gain", "Over zero-shot"),
            ("over_constant", "Over the best constant"),
        ),
        rows,
        "Greedy answers at the last validation; differences in points. Zero-shot: the model that no round has trained, where the stage says or "
        "knows which that is (model.zero_shot, or the adapter's base).",
        digits=1,
        name="training_answers",
        sources=list(sources),
    )


def speed_row(name: str, found: Result) -> list[Cell] | None:
    """One line of `speed_table`: `perf` in a `training.json`; None where it has none."""
    perf = found.get("perf") or {}
    # No time went by, or no batch.
    if perf.get("tokens_per_s") is None:
        return None
    shares = [None if perf.get(key) is None else 100 * perf[key] for key in ("mfu", "fill", "data_wait")]
    return [name, round(perf["tokens_per_s"]), perf.get("images_per_s"), *shares, perf.get("memory")]


def speed_table(rows: list[list[Cell]], sources: Sequence[Provenance]) -> Table:
    """The lines of all trainings that logged their speed."""
    return Table(
        "training-speed",
        "How fast it was trained",
        columns(
            ("stage", "Stage"),
            ("tokens", "Tokens/s"),
            ("images", "Images/s"),
            ("mfu", "MFU %"),
            ("fill", "Fill %"),
            ("wait", "Waiting for data %"),
            ("memory", "Memory GiB"),
        ),
        rows,
        "Tokens of samples, without padding, over all devices; validation is left out. MFU: floating-point operations that were needed, as "
        "a share of the device's peak. Fill: tokens of samples among the places that batches have room for. Memory: allocated on a GPU at "
        "most; on a CPU, of the whole process.",
        digits=1,
        name="training_speed",
        sources=list(sources),
        folded=True,
    )
