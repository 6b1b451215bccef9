from __future__ import annotations

import copy
from typing import Any

from emo_lightning.analysis.baselines import TRIPLET_ONLY
from emo_lightning.core.tables.table import Spread
from emo_lightning.report.tables.overview import overview_tables


def column(value: float) -> dict[str, Any]:
    """One of a `table5.json`, with the rows that the overview shows."""
    return {
        "strict": {"emotion_acc": value, "bbox_iou": value},
        "intervals": {"strict": {"emotion_acc": [value - 5, value + 5]}},
    }


SPLITS = {
    "heldout": {
        "references": 240,
        "arms": {"base": column(40), "ours": column(60)},
        "baselines": {"constant": column(12), TRIPLET_ONLY: column(95)},
    },
    "test": {"references": 240, "arms": {"base": column(50), "ours": column(83)}, "baselines": {"constant": column(11)}},
}


def test_what_was_trained_on_and_what_was_not_stand_apart() -> None:
    found = {
        "references": 480,
        "ahead": None,
        "baselines": {},
        "arms": {"base": column(45), "ours": column(72)},
        "by_split": SPLITS,
    }
    both, splits = overview_tables(found)
    assert (both.key, splits.key) == ("overview-table5", "overview-table5-splits")
    assert [one.title for one in splits.columns] == ["Arm", "heldout (240 images)", "test (240 images)"]
    assert splits.row_keys == ["base", "ours", "blind", "ceiling"]
    assert splits.cell("ours", "test") == Spread(83, 78, 88)
    assert splits.cell("ceiling", "heldout") == Spread(95, 90, 100)
    assert splits.cell("ceiling", "test") is None
    assert splits.best == {(1, 1), (1, 2)}
    assert "Heldout: combinations never trained on" in splits.note or "heldout: combinations never trained on" in splits.note


def test_one_split_needs_no_table_of_splits() -> None:
    found: dict[str, Any] = {"references": 480, "ahead": None, "baselines": {}, "arms": {"base": column(45)}}
    assert [table.key for table in overview_tables(found)] == ["overview-table5"]
    without = copy.deepcopy(SPLITS)
    for one in without.values():
        for side in ("arms", "baselines"):
            for each in one[side].values():  # type: ignore[attr-defined]
                each["strict"]["emotion_acc"] = None
    assert [table.key for table in overview_tables({**found, "by_split": without})] == ["overview-table5"]
