"""What a goal's measurement is given, and what it finds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]


class Line(NamedTuple):
    """One line of the table."""

    what: str
    found: str
    holds: bool
    test: str
    """Where the fast half of it is tested."""


@dataclass(frozen=True)
class Given:
    """How much is measured, and where."""

    quick: bool
    work: Path
    """A folder on a disk."""
    seed: int = 7

    def count(self, whole: int, quick: int) -> int:
        """How often something is done."""
        return quick if self.quick else whole


class Tested(NamedTuple):
    """A line that tests of the suite measure."""

    what: str
    tests: tuple[str, ...]
    """Files, or `FILE::TEST`."""
    goal: str | None = None
    """Its number, where that is not the one of the goal that names it."""


def tested(what: str, *tests: str) -> Tested:
    """A line that tests of the suite measure; they are run together at the end (`run_tests`)."""
    return Tested(what, tests)


def run_tests(asked: Sequence[Tested]) -> Iterator[Line]:
    """The lines of tests, which are run in one process."""
    chosen = list(dict.fromkeys(test for one in asked for test in one.tests))
    # One that stands in a file which is run as a whole is run once.
    chosen = [test for test in chosen if "::" not in test or test.partition("::")[0] not in chosen]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "--no-header",
            "-p",
            "no:cacheprovider",
            f"--junit-xml={report}",
            *chosen,
        ]
        # A session of its own: some of these tests send signals to groups.
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False, start_new_session=True)
        cases = list(ElementTree.parse(report).iter("testcase")) if report.exists() else []
    for one in asked:
        mine = [case for case in cases if any(_is_of(case, test) for test in one.tests)]
        # One that was skipped has measured nothing.
        missing = [test for test in one.tests if not any(_is_of(case, test) and _has_run(case) for case in cases)]
        failed = [case.get("name", "") for case in mine if case.find("failure") is not None or case.find("error") is not None]
        ran = sum(map(_has_run, mine))
        found = f"{ran - len(failed)}/{ran} tests" + (f"; failed: {', '.join(failed)}" if failed else "")
        if missing:
            found = f"did not run: {', '.join(missing)} ({done.returncode}): {done.stdout[-300:]}{done.stderr[-300:]}"
        yield Line(one.what, found, ran > 0 and not failed and not missing, " ".join(one.tests))


def _has_run(case: ElementTree.Element) -> bool:
    return case.find("skipped") is None


def _is_of(case: ElementTree.Element, test: str) -> bool:
    """Whether it is a case of a test, or of one in a file."""
    path, _, name = test.partition("::")
    if case.get("classname", "").replace(".", "/") + ".py" != path:
        return False
    return not name or case.get("name", "").partition("[")[0] == name
