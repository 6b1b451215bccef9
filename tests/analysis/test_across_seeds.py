"""Differences of arms on data sets over several seeds: against plain counting, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scipy.stats import t

from emo_lightning.analysis.across_seeds import AcrossSeeds, across_seeds
from emo_lightning.analysis.cross_dataset import cross_dataset
from emo_lightning.analysis.label_spaces import SpaceName
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, Prediction, Record, SchemaError
from emo_lightning.report.page import read_page, write_page
from emo_lightning.report.tables.across_seeds import across_seeds_page
from tests.made import make_prediction, make_record

IMAGES = 200
Answers = dict[str, Prediction]


def records() -> list[Record]:
    return [make_record(f"i{n:03}", emotion=str(EMOTIONS[n % 8])) for n in range(IMAGES)]


def answers(right: np.ndarray) -> Answers:
    """Of images that are right where the flag says so, and say the next emotion elsewhere."""
    said = [EMOTIONS[n % 8] if good else EMOTIONS[(n + 1) % 8] for n, good in enumerate(right)]
    return {f"i{n:03}": make_prediction(f"i{n:03}", emotion=str(emotion)) for n, emotion in enumerate(said)}


def flags(share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(IMAGES) < share


RIGHT = {
    "base": [flags(0.4, 0)],
    "sft": [flags(0.5, 1), flags(0.5, 2), flags(0.5, 3)],
    "rewards": [flags(0.8, 4), flags(0.7, 5), flags(0.75, 6)],
}


@pytest.fixture(scope="module")
def result() -> AcrossSeeds:
    predictions = {arm: [answers(one) for one in runs] for arm, runs in RIGHT.items()}
    return across_seeds(predictions, {"test": (records(), "eight")}, ["base", "sft"])


def test_each_seed_is_compared_with_its_own(result: AcrossSeeds) -> None:
    found = result["arms"]["rewards"]["test"]
    own, other = (np.array([100 * one.mean() for one in RIGHT[arm]]) for arm in ("rewards", "sft"))
    assert found["accuracy"]["values"] == pytest.approx(own)
    assert found["accuracy"]["std"] == pytest.approx(own.std(ddof=1))
    gain = found["gains"]["sft"]
    assert gain["values"] == pytest.approx(own - other)
    assert gain["difference"] == pytest.approx((own - other).mean())
    assert found["gains"]["base"]["values"] == pytest.approx(own - 100 * RIGHT["base"][0].mean())
    assert set(result["arms"]["base"]["test"]["gains"]) == {"sft"}
    assert result["seeds"] == 3


def test_intervals_are_those_of_the_formulas(result: AcrossSeeds) -> None:
    gain = result["arms"]["rewards"]["test"]["gains"]["sft"]
    values = np.array(gain["values"])
    half = t.ppf(0.975, 2) * values.std(ddof=1) / np.sqrt(3)
    assert gain["seeds"] == pytest.approx([values.mean() - half, values.mean() + half])
    each = np.mean([100.0 * a - 100.0 * b for a, b in zip(RIGHT["rewards"], RIGHT["sft"], strict=True)], axis=0)
    half = 1.96 * each.std(ddof=1) / np.sqrt(IMAGES)
    assert gain["images"] == pytest.approx([each.mean() - half, each.mean() + half], abs=1.0)


def test_one_seed_gives_what_one_table_gives() -> None:
    said = {arm: answers(runs[0]) for arm, runs in RIGHT.items()}
    sets: dict[str, tuple[list[Record], SpaceName]] = {"test": (records(), "eight")}
    alone = cross_dataset(said, sets, "base", "test")["arms"]["rewards"]["test"]["gain"]
    result = across_seeds({arm: [one] for arm, one in said.items()}, sets, ["base"])
    gain = result["arms"]["rewards"]["test"]["gains"]["base"]
    assert gain["difference"] == pytest.approx(alone["difference"])
    assert gain["images"] == pytest.approx(alone["interval"])
    assert gain["seeds"] is None
    assert any("One seed" in note for note in across_seeds_page(result).notes)


def test_a_model_that_says_one_thing_is_seen() -> None:
    same = {one.id: make_prediction(one.id, emotion="awe") for one in records()}
    result = across_seeds({"same": [same], "base": [answers(RIGHT["base"][0])]}, {"test": (records(), "eight")}, ["base"])
    assert result["arms"]["same"]["test"]["most_said"]["mean"] == 100
    assert result["arms"]["same"]["test"]["accuracy"]["mean"] == pytest.approx(12.5)


def test_what_cannot_be_paired_is_refused() -> None:
    sets: dict[str, tuple[list[Record], SpaceName]] = {"test": (records(), "eight")}
    said = answers(RIGHT["base"][0])
    with pytest.raises(InputError, match=r"found 2 of 'a', 3 of 'b'; allowed: 1, or as many for all arms"):
        across_seeds({"a": [said] * 2, "b": [said] * 3}, sets, ["a"])
    with pytest.raises(InputError, match="found 0 of 'a'"):
        across_seeds({"a": [], "b": [said]}, sets, ["b"])
    with pytest.raises(SchemaError, match="against: 'c' is unknown; allowed: a, b"):
        across_seeds({"a": [said], "b": [said]}, sets, ["c"])
    nothing = cast("list[Record]", [make_record("a")])
    with pytest.raises(SchemaError, match="set 'test': none of 1 references has a class"):
        across_seeds({"a": [said], "b": [said]}, {"test": (nothing, "eight")}, ["a"])


def test_the_page_has_a_table_for_each_arm_that_is_compared_with(result: AcrossSeeds, tmp_path: Path) -> None:
    write_page(tmp_path, across_seeds_page(result))
    page = read_page(tmp_path / "page.json")
    assert [table.key for table in page.tables] == [
        "across-seeds-accuracy",
        "across-seeds-gain-base",
        "across-seeds-each-base",
        "across-seeds-gain-sft",
        "across-seeds-each-sft",
        "across-seeds-most-said",
    ]
    assert [row[0] for row in page.tables[3].rows] == ["base", "rewards"]
    assert page.tables[4].rows[1][:2] == ["rewards", "test"]
