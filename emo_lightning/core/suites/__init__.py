"""The suites that the field is scored on, as their files are published: read here once, for whoever scores them and for whoever imports them.

`read_suite` gives every item of a file, or says which row is not as published; `SUITE_READERS` has the readers themselves, which go on behind
such a row. A file of results is read by the same reader: its items have `replies`; `read_results` also says where a model gave none.
"""

from __future__ import annotations

from pathlib import Path

from emo_lightning.core.suites.eemo_bench import read_eemo_bench
from emo_lightning.core.suites.files import find_image, possible_paths
from emo_lightning.core.suites.item import BadRow, FailedRow, SuiteError, SuiteItem, SuiteReader
from emo_lightning.core.suites.mvei import read_mvei
from emo_lightning.core.suites.vecbench import read_vecbench

__all__ = [
    "SUITE_READERS",
    "BadRow",
    "FailedRow",
    "SuiteError",
    "SuiteItem",
    "find_image",
    "possible_paths",
    "read_results",
    "read_suite",
]

SUITE_READERS: dict[str, SuiteReader] = {"mvei": read_mvei, "vecbench": read_vecbench, "eemo_bench": read_eemo_bench}
"""Readers by the name of the suite."""


def read_suite(name: str, path: str | Path) -> list[SuiteItem]:
    """All items of a file, in its order, without the rows of a file of results that hold an error in the place of a reply.

    Raises:
        SuiteError: an unknown suite, no such file, a row that is not as published, or no items; names the place.
    """
    return read_results(name, path)[0]


def read_results(name: str, path: str | Path) -> tuple[list[SuiteItem], list[FailedRow]]:
    """All items of a file, and the rows by which its maker says that the model gave no reply; raises as `read_suite`."""
    if name not in SUITE_READERS:
        msg = f"unknown suite {name!r}; allowed: {', '.join(SUITE_READERS)}"
        raise SuiteError(msg)
    found: list[SuiteItem] = []
    failed: list[FailedRow] = []
    for row in SUITE_READERS[name](Path(path)):
        if isinstance(row, FailedRow):
            failed.append(row)
            continue
        if isinstance(row, BadRow):
            msg = str(row)
            raise SuiteError(msg)
        found.append(row)
    if not found:
        msg = f"{path}: no items of {name}" + (
            f": all {len(failed)} rows hold an error in the place of a reply" if failed else ""
        )
        raise SuiteError(msg)
    return found, failed
