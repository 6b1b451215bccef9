"""MVEI (arXiv:2509.21950, 2607.21061): a statement about each image, which is right or wrong. `benchmarks/MVEI/Std-MVEI.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from emo_lightning.core.suites.carrier import one_image, read_carrier
from emo_lightning.core.suites.item import RowError, SuiteItem, SuiteRows, answerable, optional_object, text

MVEI_TASKS = ("sentiment polarity", "emotion interpretation", "scene context", "perception subjectivity")
"""Of statements: the tasks of the suite."""
STATEMENT_ANSWERS = ("correct", "incorrect")


def read_mvei(path: Path) -> SuiteRows:
    """Statements: `task` is the class, `truth` and the candidates are the verdicts `correct` and `incorrect`."""
    return read_carrier(path, _statement)


def _statement(item: SuiteItem, other: Mapping[str, object]) -> SuiteItem:
    found = text(optional_object(other, "statement_meta"), "class").strip().lower()
    if found not in MVEI_TASKS:
        msg = f"other_info.statement_meta.class is {found[:60]!r}; expected one of {', '.join(MVEI_TASKS)}"
        raise RowError(msg)
    return answerable(replace(one_image(item), task=found, candidates=STATEMENT_ANSWERS), "ground_truth")
