from __future__ import annotations

from pathlib import Path

import pytest

from emo_lightning.core.records import SchemaError
from emo_lightning.report.svg import joined_losses, overlay_svg, read_losses

VOID = {"meta", "br", "img", "link", "input", "hr"}


def test_overlay_leaves_out_empty_boxes() -> None:
    svg = overlay_svg(b"x", "image/jpeg", (10, 10), [(1, 1, 5, 5)], {"a": [(5, 5, 5, 9), (0, 0, float("nan"), 3)], "b": []})
    assert svg.count('class="box true"') == 1
    assert "predicted dashed" not in svg


def test_losses_leave_out_what_is_not_finite(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,train/loss,lr\n1,2.5,1e-3\n2,nan,1e-3\n3,,1e-3\n4,1.5,1e-3\n")
    assert read_losses(path) == {"train/loss": ([1.0, 4.0], [2.5, 1.5])}
    path.write_text("step,train/loss\n1,high\n")
    with pytest.raises(SchemaError, match=r"metrics\.csv:2: train/loss='high'"):
        read_losses(path)


def test_the_starts_of_a_training_are_one_curve() -> None:
    """Each step once, also of a run of an earlier version, whose second start has logged steps of the first again."""
    first = {"train/loss": ([1.0, 2.0, 3.0], [9.0, 8.0, 7.0])}
    second = {"train/loss": ([3.0, 4.0], [6.5, 6.0]), "val/loss": ([4.0], [5.0])}
    assert joined_losses([first, second]) == {
        "train/loss": ([1.0, 2.0, 3.0, 4.0], [9.0, 8.0, 6.5, 6.0]),
        "val/loss": ([4.0], [5.0]),
    }
