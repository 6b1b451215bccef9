"""The glossary: the words that were settled stand in it, once, and are those of the pages and of the code."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/glossary.md").read_text(encoding="utf-8")
ENTRIES = dict(re.findall(r"^([^\n:#*].*)\n:   ((?:.|\n(?!\n))*)", PAGE, re.MULTILINE))
TERMS = [term for heading in ENTRIES for term in re.sub(r" \(.*\)", "", heading).split(", ")]

SETTLED = [
    "run",
    "experiment",
    "stage",
    "kind",
    "arm",
    "round",
    "objective",
    "question",
    "answer",
    "reply",
    "record",
    "item",
    "outcome",
    "verdict",
    "vote",
    "annotator",
    "party",
    "endpoint",
    "provider",
    "triplet",
    "subject",
    "region",
    "grounding",
    "shard",
    "index",
    "plan",
    "part",
    "bundle",
    "probe",
    "DES",
    "definition",
    "figure",
    "value",
    "interval",
]

METHODS = {
    "Wilson": r'method="wilson"',
    "Clopper–Pearson": r"proportion_ci\(CONFIDENCE_LEVEL\)",
    "Student": r"\bt\.ppf\(\(1 \+ CONFIDENCE_LEVEL\) / 2",
    "bootstrap": r"quantile|percentile",
}
"""By their names in the glossary: how code that makes an interval at the project's level does it."""


def prose() -> str:
    """All pages but the glossary, every help text and every message."""
    pages = [path for path in (ROOT / "docs").rglob("*.md") if path.name != "glossary.md"]
    code = [path for package in ("emo_lightning", "data_prep") for path in (ROOT / package).rglob("*.py")]
    return "\n".join(path.read_text(encoding="utf-8") for path in (*pages, ROOT / "README.md", *code))


def test_the_settled_words_stand_in_it_and_none_twice() -> None:
    assert not [word for word in SETTLED if word not in TERMS]
    assert not [term for term, times in Counter(TERMS).items() if times > 1]


def test_every_word_of_it_is_used() -> None:
    text = prose().lower()
    assert not [term for term in TERMS if not re.search(rf"\b{re.escape(term.lower())}", text)]


def test_every_way_to_an_interval_is_named() -> None:
    found: set[str] = set()
    for package in ("emo_lightning", "data_prep"):
        for path in (ROOT / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if "CONFIDENCE_LEVEL) / 2" in text or "(CONFIDENCE_LEVEL" in text:
                ways = {name for name, pattern in METHODS.items() if re.search(pattern, text)}
                assert ways, f"{path}: by which method is its interval? Name it here and in the glossary"
                found |= ways
    assert found == METHODS.keys()
    assert not [name for name in METHODS if name not in ENTRIES["interval"]]
