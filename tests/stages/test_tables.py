"""What the stages of the tables print fits a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from emo_lightning.core.records import Record, write_jsonl
from emo_lightning.stages.tables import table5_stage
from tests.made import make_prediction, make_record

MakeTar = Callable[[list[Record]], tuple[Path, list[Record]]]


def test_what_the_arms_are_is_broken_between_words(
    tmp_path: Path, make_tar: MakeTar, capsys: pytest.CaptureFixture[str]
) -> None:
    tar, _ = make_tar([make_record("a", [(1, 1, 9, 9)], emotion="awe", intensity=3)])
    said = tmp_path / "said.jsonl"
    write_jsonl(said, [make_prediction("a", emotion="awe")])
    about = {"ours": "taught in two rounds " * 9, "base": "as it comes"}
    table5_stage(tmp_path / "out", {"base": said, "ours": said}, [str(tar)], about=about, resamples=10)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    first = next(n for n, line in enumerate(lines) if line.startswith("ours: "))
    assert " ".join(lines[first:-1]).split() == ["ours:", *about["ours"].split()]
    assert lines[-1] == "base: as it comes"
