"""What a goal's measurement is given, and what it finds."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
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


def tested(what: str, *tests: str) -> Line:
    """A line that tests of the suite measure: they are run, in a process of their own."""
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
            *tests,
        ]
        # A session of its own: some of these tests send signals to groups.
        done = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=False, start_new_session=True)
        if not report.exists():
            return Line(
                what,
                f"the tests did not run ({done.returncode}): {done.stdout[-300:]}{done.stderr[-300:]}",
                False,
                " ".join(tests),
            )
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    ran = len(cases) - skipped
    found = f"{ran - len(failed)}/{ran} tests" + (f"; failed: {', '.join(map(str, failed))}" if failed else "")
    return Line(what, found, ran > 0 and not failed, " ".join(tests))
