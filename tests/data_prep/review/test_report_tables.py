from __future__ import annotations

from data_prep.review.messages import Accuracy, ReviewReport, StudyRow
from data_prep.review.report_tables import report_notes, report_tables, table4_table
from emo_lightning.core.tables.table import Spread


def answered(mean: float | None, participants: int) -> StudyRow:
    low, high = (mean - 10, mean + 5) if mean is not None and participants > 1 else (None, None)
    return {"mean": mean, "low": low, "high": high, "answers": 9, "participants": participants, "images": 3}


def accuracy(right: int, n: int) -> Accuracy:
    return {"n": n, "right": right, "accuracy": right / n if n else None, "low": 0.25, "high": 1.0, "weighted": None}


def test_table4_has_a_row_of_each_data_set() -> None:
    table = table4_table(
        {
            "Ours": {"arousal": answered(80.0, 4), "emotion": answered(75.0, 3), "context": answered(50.0, 1)},
            "EmoSet": {"arousal": answered(None, 0), "emotion": answered(None, 0), "context": None},
        }
    )
    assert table.cell("Ours", "arousal") == Spread(80.0, 70.0, 85.0)
    assert table.cell("Ours", "context") == Spread(50.0)
    assert table.cell("Ours", "participants") == 4
    assert (table.cell("EmoSet", "emotion"), table.cell("EmoSet", "context")) == (Spread(None), None)


def test_the_report_leaves_out_what_nobody_judged() -> None:
    found: ReviewReport = {
        "reviewers": {"ada": {"items": 4, "decisions": 7}},
        "outcomes": {"valid": {"discarded": 1, "valid": 3}},
        "accuracy": {"valid": {"emotion": accuracy(3, 4), "subject": accuracy(0, 0)}},
        "agreement": {
            "emotion": {"reviewers": 2, "n": 4, "observed": 0.75, "kappa": 0.5, "kind": "cohen"},
            "subject": {"reviewers": 1, "n": 0, "observed": None, "kappa": None, "kind": None},
        },
    }
    right, agreement = report_tables(found)
    assert right.row_keys == ["valid/emotion"]
    assert right.cell("valid/emotion", "accuracy") == Spread(75.0, 25.0, 100.0)
    assert right.cell("valid/emotion", "weighted") is None
    assert agreement.row_keys == ["emotion"]
    assert [agreement.cell("emotion", key) for key in ("n", "alike", "kappa", "kind")] == [4, 0.75, 0.5, "Cohen"]
    assert report_notes(found) == ["ada: 7 decisions on 4 records", "valid → discarded 1, valid 3"]
    found["agreement"].pop("emotion")
    assert report_notes(found)[-1] == "no record has two reviewers; see --second"
    found["reviewers"].clear()
    assert report_notes(found) == ["nobody has reviewed yet"]
