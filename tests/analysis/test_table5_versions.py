"""The versions of Table 5's definitions: stored values of every part, so that no value changes under the same version.

The inputs are stored too (`table5_versions.json`, with the values). To store the values of a raised version, or of a new part:
`python -m tests.analysis.test_table5_versions`; it refuses a part that has changed without one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from emo_lightning.analysis.baselines import all_baselines
from emo_lightning.analysis.table5 import Table5
from emo_lightning.analysis.table5_rows import DEFINITION_VERSIONS, SCORING_MODES, TABLE5_ROWS, definition, short_definition
from emo_lightning.core.records import Prediction, Record
from emo_lightning.metrics import bootstrap
from emo_lightning.metrics.clip import ClipScorer

STORED = Path(__file__).with_name("table5_versions.json")

ROWS_OF = {
    "boxes": ("bbox_iou", "bbox_center_dist", "f1"),
    "clip": ("clip_score", "clip_triplet", "clip_image_text"),
    "triplet": tuple(
        f"{part}{ending}" for part in ("background", "attribute", "subject", "triplet") for ending in ("", "_similar")
    ),
    "emotion": ("emotion_acc", "parse_failure"),
    "intensity": ("intensity_acc", "intensity_level_acc", "intensity_kappa"),
}
"""Part -> its rows; every row belongs to one."""

COUNTS_OF = {
    "boxes": ("references_without_box", "degenerate_boxes"),
    "clip": ("references_without_description",),
    "triplet": ("references_without_triplet",),
    "emotion": ("references_without_emotion", "unparsable_emotions", "references", "missing_predictions"),
    "intensity": ("references_without_intensity", "unparsable_intensities"),
}

Values = dict[str, float | str | None]


class Letters(ClipScorer):
    """A scorer whose text embedding is how often each letter occurs: what a CLIP model gives is no part of the definition."""

    def __init__(self) -> None:
        self.truncated = 0

    def texts(self, texts: Sequence[str]) -> Tensor:
        """(len(texts), 26), unit norm."""
        counts = [[text.lower().count(chr(97 + n)) for n in range(26)] for text in texts]
        return torch.nn.functional.normalize(torch.tensor(counts, dtype=torch.float64).reshape(-1, 26), dim=-1)


def flat(value: object, name: str = "") -> Values:
    """Every number of a nested value, by its path."""
    if isinstance(value, dict):
        return {key: v for k, inner in value.items() for key, v in flat(inner, f"{name}/{k}").items()}
    if isinstance(value, list | tuple):
        return {key: v for k, inner in enumerate(value) for key, v in flat(inner, f"{name}/{k}").items()}
    assert value is None or isinstance(value, int | float | str)
    return {name.removeprefix("/"): value}


def found_values(records: list[Record], predictions: list[Prediction]) -> dict[str, Values]:
    """Part -> every value that its definition decides."""
    scorer = Letters()
    # What the images show, as texts: a definition compares vectors, wherever they come from.
    images = scorer.texts([f"{record.id} {record.source}" for record in records])
    said = {prediction.id: prediction for prediction in predictions}
    column = Table5(scorer, resamples=0)
    column.update([said.get(r.id) for r in records], records, images)
    point = column.compute()
    values: dict[str, Values] = {}
    for part, rows in ROWS_OF.items():
        own = {mode: {row: v for row, v in point[mode].items() if row in rows} for mode in SCORING_MODES}
        emotions = {
            name: {mode: {row: v for row, v in found[mode].items() if row in rows} for mode in SCORING_MODES}
            for name, found in point["by_emotion"].items()
        }
        counts = {name: point["counts"][name] for name in COUNTS_OF[part]}
        support = {mode: {row: n for row, n in point["support"][mode].items() if row in rows} for mode in SCORING_MODES}
        values[part] = flat({"all": own, "emotions": emotions, "counts": counts, "support": support})
    values["emotion"] |= flat({"confusion": point["confusion"]["counts"]})
    retrieved = {
        name: {"precision": e["precision"], "recall": e["recall"], "f1": e["f1"]} for name, e in point["by_emotion"].items()
    }
    values["emotion"] |= flat({"retrieved": retrieved})
    # The linear model over words is scikit-learn's, and may change with it.
    constant, _ = all_baselines(records[::2], None, seed=3)
    values["baselines"] = flat(
        {
            name: {
                "answer": baseline.describe(),
                "answers": [p.model_dump(exclude_none=True) for p in baseline.answers(records)],
            }
            for name, baseline in constant.items()
        }
    )
    drawn = bootstrap.draws([record.id for record in records], 60, seed=3)
    one, two = (drawn[:, :30].T @ np.arange(len(records)), drawn[:, 30:].T @ np.arange(len(records)))
    values["bootstrap"] = flat(
        {
            "draws": drawn[::5, ::5].tolist(),
            "interval": bootstrap.interval(one, len(records)),
            "difference": bootstrap.difference(2.0, 1.5, (one, two), len(records)),
        }
    )
    return values


def stored_inputs(stored: dict[str, list[dict[str, object]]]) -> tuple[list[Record], list[Prediction]]:
    """The references and what is scored against them."""
    records = [Record.model_validate(value) for value in stored["records"]]
    return records, [Prediction.model_validate(value) for value in stored["predictions"]]


def same(a: float | str | None, b: float | str | None) -> bool:
    """Up to the rounding of another machine's sums."""
    if isinstance(a, str) or isinstance(b, str) or a is None or b is None:
        return a == b
    return math.isclose(a, b, rel_tol=0, abs_tol=1e-9)


def changed(before: Values, after: Values) -> list[str]:
    """What differs, in words."""
    return [
        f"{name}: {before.get(name, 'absent')} -> {after.get(name, 'absent')}"
        for name in {**before, **after}
        if (name in before) != (name in after) or not same(before[name], after[name])
    ]


@pytest.fixture(scope="module")
def found() -> dict[str, Values]:
    return found_values(*stored_inputs(json.loads(STORED.read_text())["inputs"]))


@pytest.mark.parametrize("part", DEFINITION_VERSIONS)
def test_no_value_changes_under_the_same_version(part: str, found: dict[str, Values]) -> None:
    stored, version = json.loads(STORED.read_text()), DEFINITION_VERSIONS[part]
    differences = changed(stored["values"][part], found[part])
    if version == stored["versions"][part]:
        assert not differences, f"raise the version of {part!r} in analysis/table5_rows.py: {differences[:5]}"
    else:
        pytest.fail(f"{part!r} is now version {version}: store its values, python -m tests.analysis.test_table5_versions")


def test_every_row_in_both_modes_has_a_stored_value(found: dict[str, Values]) -> None:
    assert set(found) == set(DEFINITION_VERSIONS)
    for mode in SCORING_MODES:
        for row in TABLE5_ROWS[mode]:
            (part,) = [part for part, rows in ROWS_OF.items() if row.key in rows]
            value = found[part][f"all/{mode}/{row.key}"]
            assert isinstance(value, float), (mode, row.key)
            assert 0 < abs(value) < 100, "a value at its end could hide a change"


def test_a_changed_value_is_seen(found: dict[str, Values]) -> None:
    """Without this the comparison itself could be blind."""
    values = found["boxes"]
    name = next(iter(values))
    value = values[name]
    assert isinstance(value, float)
    assert changed(values, dict(values)) == []
    assert len(changed(values, values | {name: value + 1e-6})) == 1
    assert len(changed(values, values | {"new": 1.0})) == 1


def test_one_line_says_all_versions() -> None:
    assert definition() == ", ".join(f"{part} {n}" for part, n in DEFINITION_VERSIONS.items())
    assert short_definition(definition()) == definition()
    assert short_definition("0123456789abcdef" * 4) == "0123456789ab"


def make_inputs() -> dict[str, list[dict[str, object]]]:
    """Records with everything that may be missing missing somewhere, and answers with everything that may be odd."""
    from tests.analysis.test_table5_definition import world

    rng = np.random.default_rng(1)
    words = ["a", "red", "dog", "and", "cat", "run", "along", "the", "quiet", "beach", "before", "some", "storm"]

    def text() -> str:
        return " ".join(rng.choice(words, 4))

    pairs = [(r.model_copy(update={"description": text() if n % 9 else None}), p) for n, (r, p) in enumerate(world(21, 40))]
    said = [p.model_copy(update={"description": text() if n % 7 else " "}) for n, (_, p) in enumerate(pairs) if p]
    return {
        "records": [r.model_dump(mode="json", exclude_defaults=True) for r, _ in pairs],
        "predictions": [p.model_dump(mode="json", exclude_defaults=True) for p in said],
    }


def store() -> None:
    """Write the values of today's definitions; a part that has changed needs a raised version."""
    new: dict[str, Any] = {"inputs": make_inputs(), "versions": {}, "values": {}}
    old = json.loads(STORED.read_text()) if STORED.exists() else new
    values = found_values(*stored_inputs(old["inputs"]))
    for part, version in DEFINITION_VERSIONS.items():
        if part in old["versions"] and version <= old["versions"][part] and changed(old["values"][part], values[part]):
            msg = f"raise the version of {part!r} in analysis/table5_rows.py above {old['versions'][part]} first"
            raise SystemExit(msg)
    text = json.dumps({"versions": DEFINITION_VERSIONS, "values": values, "inputs": old["inputs"]}, indent=0)
    STORED.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    store()
