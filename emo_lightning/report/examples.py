"""Images that a model got right and images that it got wrong, with everything that was said of them."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emo_lightning.analysis.references import References, load_predictions
from emo_lightning.core.records import Prediction, Record
from emo_lightning.report.panel import LONG_SIDE, choose
from emo_lightning.report.run_folder import RunFolder, Stage


def right_and_wrong(run: RunFolder, stage: Stage, count: int, seed: int = 0) -> dict[str, Any] | None:
    """A seeded choice, spread over the emotions, of images whose emotion the last arm of a Table 5 stage has right or wrong.

    Args:
        run: the run.
        stage: of kind `table5`; its settings name the predictions and the references.
        count: images of either sort, at most.
        seed: of the choice.

    Returns:
        `arm`, `arms`, `right` and `wrong` (items as in `panel.json`, `image` being JPEG bytes), `rights`, `of`, `emotions`
        (label -> images); None where the references are JSON lines, which hold no images.

    Raises:
        SchemaError, FileNotFoundError: predictions or references are not there any more, or do not belong together.
    """
    settings = stage.settings
    truth = References.load([str(run.located(path)) for path in settings["references"]])
    if not truth.has_images:
        return None
    arms = {arm: load_predictions(run.located(str(path)), truth) for arm, path in settings["predictions"].items()}
    arm = list(arms)[-1]
    labelled = [i for i, record in enumerate(truth.records) if record.emotion is not None]
    right = [i for i in labelled if is_right(arms[arm].get(truth.records[i].id), truth.records[i])]
    wrong = [i for i in labelled if i not in set(right)]
    emotions: dict[str, int] = {}
    for i in labelled:
        name = str(truth.records[i].emotion)
        emotions[name] = emotions.get(name, 0) + 1
    return {
        "arm": arm,
        "arms": list(arms),
        "seed": seed,
        "rights": len(right),
        "of": len(labelled),
        "emotions": emotions,
        "right": [_item(truth, i, arms) for i in _chosen(truth.records, right, count, seed)],
        "wrong": [_item(truth, i, arms) for i in _chosen(truth.records, wrong, count, seed)],
    }


def is_right(prediction: Prediction | None, record: Record) -> bool:
    """Emotion accuracy as in Table 5's strict mode: case and outer blanks aside."""
    said = prediction.emotion if prediction else None
    return record.emotion is not None and (said or "").strip().casefold() == record.emotion.value


def _chosen(records: Sequence[Record], among: Sequence[int], count: int, seed: int) -> list[int]:
    return [among[i] for i in choose([records[i] for i in among], count, seed)]


def _item(truth: References, row: int, arms: Mapping[str, Mapping[str, Prediction]]) -> dict[str, Any]:
    record, picture = truth.records[row], truth.image(row).convert("RGB")
    picture.thumbnail((LONG_SIDE, LONG_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return {
        "id": record.id,
        "image": buffer.getvalue(),
        "size": [record.width, record.height],
        "split": record.split,
        "truth": _said(record, [o.bbox for o in record.primary_objects]),
        "predictions": {
            arm: _said(p, [o.bbox for o in p.objects]) if (p := said.get(record.id)) else None for arm, said in arms.items()
        },
    }


def _said(item: Record | Prediction, boxes: Sequence[Sequence[float]]) -> dict[str, Any]:
    keys = ("description", "background", "attribute", "subject", "emotion", "intensity")
    said: dict[str, Any] = {key: getattr(item, key) for key in keys}
    if said["intensity"] is not None and not np.isfinite(said["intensity"]):
        said["intensity"] = None
    return {**said, "boxes": [list(box) for box in boxes if np.isfinite(box).all()]}
