"""Every reader of what others wrote, by name."""

from __future__ import annotations

from tests.fuzz.formats import FORMATS
from tests.fuzz.importers import IMPORTERS
from tests.fuzz.prep import PREP
from tests.fuzz.runs import RUNS
from tests.fuzz.suites import SUITES
from tests.fuzz.target import Make

TARGETS: dict[str, Make] = {**FORMATS, **PREP, **IMPORTERS, **RUNS, **SUITES}
"""Name -> what makes the target in a folder of its own."""
