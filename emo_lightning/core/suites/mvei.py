"""MVEI (arXiv:2509.21950, 2607.21061): a statement about each image, which is right or wrong. `benchmarks/MVEI/Std-MVEI.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from emo_lightning.core.suites.carrier import one_image, read_carrier
from emo_lightning.core.suites.item import RowError, Rows, SuiteItem, answerable, optional_object, text

CLASSES = ("sentiment polarity", "emotion interpretation", "scene context", "perception subjectivity")
"""Of statements: the tasks of the suite."""
VERDICTS = ("correct", "incorrect")


def read_mvei(path: Path) -> Rows:
    """Statements: `task` is the class, `truth` and the candidates are the verdicts `correct` and `incorrect`."""
    return read_carrier(path, _statement)


def _statement(item: SuiteItem, other: Mapping[str, object]) -> SuiteItem:
    found = text(optional_object(other, "statement_meta"), "class").strip().lower()
    if found not in CLASSES:
        msg = f"other_info.statement_meta.class is {found[:60]!r}; expected one of {', '.join(CLASSES)}"
        raise RowError(msg)
    return answerable(replace(one_image(item), task=found, candidates=VERDICTS), "ground_truth")
