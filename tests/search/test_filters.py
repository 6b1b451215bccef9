"""Conditions: what they mean, which are refused, and that a value is never anything but a value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Reference
from emo_lightning.search import Filters, SearchIndex
from emo_lightning.search.rows import NewRow
from tests.search.planted import planted, write

NASTY = [
    "' OR '1'='1",
    "'; DROP TABLE images; --",
    "\\",
    "\\'",
    '"quoted"',
    "100%_",
    "a\nb\tc",
    "naïve 日本 🙂",
    "/* */ -- #",
    "${x} {y} %s ?",
    "''",
    "nul\x00byte",
]


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    """One image for each nasty text, as its subject, and one without a subject."""
    texts = [*NASTY, None]
    rng = np.random.default_rng(0)
    rows = [
        NewRow(
            text or "none",
            "",
            None,
            None,
            Reference.model_construct(id="x", subject=text),
            rng.normal(size=8).astype(np.float32),
        )
        for text in texts
    ]
    write(folder := tmp_path_factory.mktemp("nasty"), rows)
    return SearchIndex.open(folder)


@pytest.mark.parametrize("text", NASTY)
def test_a_value_is_never_anything_but_a_value(nasty: SearchIndex, text: str) -> None:
    given = f'"{text}"'
    ask = np.ones(8)
    assert [hit.id for hit in nasty.search(ask, 50, Filters(where=[f"subject={given}"]))] == [text]
    assert text in [hit.id for hit in nasty.search(ask, 50, Filters(where=[f"subject~{given}"]))]
    others = {hit.id for hit in nasty.search(ask, 50, Filters(where=[f"subject!={given}"]))}
    assert others == {*NASTY, "none"} - {text}
    assert nasty.get(text).record["subject"] == text
    assert len(nasty) == len(NASTY) + 1


def test_none_is_not_known(nasty: SearchIndex) -> None:
    assert [hit.id for hit in nasty.search(np.ones(8), 50, Filters(where=["subject=none"]))] == ["none"]
    assert len(nasty.search(np.ones(8), 50, Filters(where=["subject!=none"]))) == len(NASTY)
    assert nasty.search(np.ones(8), 50, Filters(where=['subject="none"'])) == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"emotion": "awe"}, lambda r: r["emotion"] == "awe"),
        ({"emotion": ["awe", "Fear "]}, lambda r: r["emotion"] in ("awe", "fear")),
        ({"intensity": "high"}, lambda r: r["intensity"] >= 8),
        ({"intensity": "3-4"}, lambda r: 3 <= r["intensity"] <= 4),
        ({"intensity": 5}, lambda r: r["intensity"] == 5),
        ({"intensity": "<=2"}, lambda r: r["intensity"] <= 2),
        ({"where": ["split=test", "subject~DOG"]}, lambda r: r["split"] == "test" and r["subject"] == "dog"),
        ({"where": ["background!=beach", "intensity > 9"]}, lambda r: r["background"] != "beach" and r["intensity"] == 10),
        ({"where": ["emotion!=fear", "emotion != anger"]}, lambda r: r["emotion"] not in ("fear", "anger")),
        ({"where": ["intensity_level=low"]}, lambda r: r["intensity"] <= 3),
        ({"where": ["id=i7"]}, lambda r: r["id"] == "i7"),
        ({"where": ["description=none"]}, lambda _: True),
    ],
)
def test_what_conditions_mean(index: SearchIndex, given: dict, expected: object) -> None:
    everything = index.search(np.ones(32), 800)
    assert len(everything) == 800
    hits = index.search(np.ones(32), 800, Filters(**given))
    assert {hit.id for hit in hits} == {hit.id for hit in everything if expected(hit.record)}  # type: ignore[operator]
    assert hits


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"emotion": "joy"}, "emotion 'joy'; allowed: amusement, awe, .*sadness"),
        ({"intensity": "huge"}, "intensity 'huge': expected low, medium, high, a number, a range like 7-10"),
        ({"where": ["colour=red"]}, "no field 'colour'; there are: id, file, .*emotion"),
        ({"where": ["1=1 OR id=x"]}, "no field '1'"),
        ({"where": ["split"]}, "'split': expected FIELD=VALUE"),
        ({"where": ["width=wide"]}, "expected a number, found 'wide'"),
        ({"where": ["width=nan"]}, "expected a number, found 'nan'"),
        ({"where": ["width~3"]}, "width is a number; allowed: =, !=, <"),
        ({"where": ["split<test"]}, "split is a text; allowed: =, !=, ~"),
        ({"where": ["intensity_level=lots"]}, "intensity_level 'lots'; allowed: low, medium, high"),
        ({"where": ["des=1"]}, "no field 'des'"),
    ],
)
def test_what_is_refused(given: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Filters(**given)


def test_nothing_is_asked() -> None:
    assert Filters().sql() is None


def test_a_filter_over_a_few_of_many_still_fills_k(tmp_path: Path) -> None:
    write(tmp_path, planted(400))
    hits = SearchIndex.open(tmp_path).search(np.ones(32), 11, Filters(where=["id~i39"]))
    assert {hit.id for hit in hits} == {"i39", *(f"i39{n}" for n in range(10))}
