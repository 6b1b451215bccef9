"""The suites that the field is scored on, as their files are published: read here once, for whoever scores them and for whoever imports them.

`read_suite` gives every item of a file, or says which row is not as published; `SUITES` has the readers themselves, which go on behind
such a row. A file of results is read by the same reader: its items have `replies`.
"""

from __future__ import annotations

from pathlib import Path

from emo_lightning.core.suites.eemo_bench import read_eemo_bench
from emo_lightning.core.suites.files import find_image, possible_paths
from emo_lightning.core.suites.item import BadRow, Reader, SuiteError, SuiteItem
from emo_lightning.core.suites.mvei import read_mvei
from emo_lightning.core.suites.vecbench import read_vecbench

__all__ = ["SUITES", "BadRow", "SuiteError", "SuiteItem", "find_image", "possible_paths", "read_suite"]

SUITES: dict[str, Reader] = {"mvei": read_mvei, "vecbench": read_vecbench, "eemo_bench": read_eemo_bench}
"""Readers by the name of the suite."""


def read_suite(name: str, path: str | Path) -> list[SuiteItem]:
    """All items of a file, in its order.

    Raises:
        SuiteError: an unknown suite, no such file, a row that is not as published, or no items; names the place.
    """
    if name not in SUITES:
        msg = f"unknown suite {name!r}; allowed: {', '.join(SUITES)}"
        raise SuiteError(msg)
    found: list[SuiteItem] = []
    for row in SUITES[name](Path(path)):
        if isinstance(row, BadRow):
            msg = str(row)
            raise SuiteError(msg)
        found.append(row)
    if not found:
        msg = f"{path}: no items of {name}"
        raise SuiteError(msg)
    return found
