"""The study of attribute guidance: what is gathered, tested and shown of a grid of probes with known accuracies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from emo_lightning.analysis.attribute_guidance import TABLE6_ARMS, Guidance, attribute_guidance
from emo_lightning.analysis.table6 import TABLE6_METRICS
from emo_lightning.analysis.table6_paired import holm
from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.records import EMOTIONS, SchemaError
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.report.tables.attribute_guidance import guidance_page
from emo_lightning.stages.attribute_guidance import attribute_guidance_stage

SHARES = {"none": 0.0, "half": 0.5, "all": 1.0}
IMAGES, SEEDS = [400, 1600], [0, 1]
PATTERN = "probe-{arm}-{base}-{images}-{seed}"


def accuracies() -> dict[tuple[str, str, int, int], float]:
    """The attribute arm gains ten points where captions never name the attribute, five at half, none at all."""
    rng = np.random.default_rng(0)
    gains = {
        "base": dict.fromkeys(SHARES, 0.0),
        "ces": dict.fromkeys(SHARES, 4.0),
        "attribute": {"none": 14.0, "half": 9.0, "all": 4.0},
    }
    return {
        (arm, base, size, seed): round(40 + gains[arm][base] + float(rng.normal(0, 0.8)), 3)
        for arm in TABLE6_ARMS
        for base in SHARES
        for size in IMAGES
        for seed in SEEDS
    }


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    return write_grid(tmp_path)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Guidance:
    """Of the whole grid. The ids of each probe are read by a process of its own, so that tests that only look share one reading."""
    return attribute_guidance(f"{write_grid(tmp_path_factory.mktemp('grid'))}/{PATTERN}", SHARES, IMAGES, SEEDS)


def write_grid(grid: Path) -> Path:
    for (arm, base, size, seed), value in accuracies().items():
        folder = grid / PATTERN.format(arm=arm, base=base, images=size, seed=seed)
        folder.mkdir()
        write_probe(folder, value, [f"{size}-{seed}-{n}" for n in range(4)])
    return grid


def write_probe(folder: Path, accuracy: float, ids: list[str]) -> None:
    """Of what a probe stage writes, what the study reads."""
    (folder / "metrics.json").write_text(json.dumps({f"heldout/{name}": accuracy for name in TABLE6_METRICS}))
    emotions: list[str | None] = [str(emotion) for emotion in EMOTIONS[: len(ids)]]
    EmbeddingTable(ids, emotions, ["heldout"] * len(ids), np.zeros((len(ids), 2), np.float32)).write(folder / "des.parquet")


def worlds(arm: str, base: str, images: Sequence[int] = IMAGES) -> np.ndarray:
    known = accuracies()
    return np.array([known[arm, base, size, seed] for size in images for seed in SEEDS])


def test_differences_are_paired_within_worlds_and_adjusted_over_bases(found: Guidance) -> None:
    tests = [ttest_rel(worlds("attribute", base), worlds("ces", base)) for base in SHARES]
    adjusted = holm([float(test.pvalue) for test in tests])
    for one, test, p_holm in zip(found["bases"], tests, adjusted, strict=True):
        gain = one["contrasts"]["attribute-ces"]
        interval = test.confidence_interval(0.95)
        assert gain["p"] == pytest.approx(test.pvalue)
        assert gain["p_holm"] == pytest.approx(p_holm)
        assert (gain["low"], gain["high"]) == pytest.approx((interval.low, interval.high))
        assert gain["worlds"] == 4
        assert one["accuracy"]["ces"]["mean"] == pytest.approx(worlds("ces", one["base"]).mean())
    assert [one["order"] for one in found["bases"]][:2] == ["base < ces < attribute"] * 2
    assert found["bases"][2]["order"] in ("base < ces ≈ attribute", "base < attribute ≈ ces")
    assert len(found["cells"]) == 6
    assert {one["contrast"]["worlds"] for one in found["cells"]} == {2}


def test_the_trend_is_the_slope_within_worlds(found: Guidance) -> None:
    trend = found["trend"]
    gains = np.stack([worlds("attribute", base) - worlds("ces", base) for base in SHARES])
    slopes = np.polyfit(list(SHARES.values()), gains, 1)[0]
    assert trend is not None
    assert trend["mean"] == pytest.approx(slopes.mean())
    assert trend["p"] == pytest.approx(ttest_1samp(slopes, 0).pvalue)
    assert -12 < trend["mean"] < -8


def test_one_world_has_no_test(grid: Path) -> None:
    result = attribute_guidance(f"{grid}/{PATTERN}", {"half": 0.5}, [400], [1])
    assert result["trend"] is None
    assert result["seen"] is None
    assert result["bases"][0]["contrasts"]["attribute-ces"]["p_holm"] is None


def test_the_stage_writes_tables_and_a_figure(grid: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    attribute_guidance_stage(out, f"{grid}/{PATTERN}", ["none", "all"], SHARES, [400], SEEDS)
    page = json.loads((out / "page.json").read_text())
    assert [table["key"] for table in page["tables"]] == ["guidance-bases", "guidance-pairs", "guidance-sizes"]
    assert [row[0] for row in page["tables"][0]["rows"]] == ["0 %", "100 %"]
    assert "points" in page["notes"][0]
    assert "attribute − CES" in (out / "attribute_guidance.svg").read_text()
    result = json.loads((out / "attribute_guidance.json").read_text())
    assert len(result["bases"]) == 2
    assert result["confidence_level"] == 0.95
    del result["confidence_level"]
    before = guidance_page(result | {"level": 95})
    assert before.text == page["text"]
    assert "Intervals hold 95 %." in before.text


def test_what_is_missing_is_named(grid: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"lacks \{seed\}"):
        attribute_guidance(f"{grid}/probe-{{arm}}-{{base}}-{{images}}", SHARES, IMAGES, SEEDS)
    with pytest.raises(InputError, match="expected at least one of each"):
        attribute_guidance(f"{grid}/{PATTERN}", SHARES, IMAGES, [])
    with pytest.raises(MissingFileError, match="probe-base-none-400-7"):
        attribute_guidance(f"{grid}/{PATTERN}", SHARES, [400], [7])
    with pytest.raises(SchemaError, match="none of base 'some'; given: none, half, all"):
        attribute_guidance_stage(tmp_path, f"{grid}/{PATTERN}", ["some"], SHARES, IMAGES, SEEDS)
    (grid / "probe-ces-all-400-0" / "metrics.json").write_text('{"train/accuracy": 50}')
    with pytest.raises(SchemaError, match="key 'heldout/accuracy': found None"):
        attribute_guidance(f"{grid}/{PATTERN}", SHARES, [400], [0])


def test_what_cannot_be_tested_counts_as_one_in_holm(grid: Path) -> None:
    """A base with no spread has no p; the others are judged as strictly as with it. What is left by rounding is no spread."""
    for seed in SEEDS:
        for arm, value in (("ces", 40 + seed / 10), ("attribute", 42.3 + seed / 10)):
            folder = grid / PATTERN.format(arm=arm, base="all", images=400, seed=seed)
            (folder / "metrics.json").write_text(json.dumps({f"heldout/{name}": value for name in TABLE6_METRICS}))
    none, half, whole = (
        one["contrasts"]["attribute-ces"] for one in attribute_guidance(f"{grid}/{PATTERN}", SHARES, [400], SEEDS)["bases"]
    )
    assert (whole["sd"], whole["p"], whole["p_holm"]) == (0.0, None, None)
    assert whole["mean"] == pytest.approx(2.3)
    p = [float(ttest_rel(worlds("attribute", base, [400]), worlds("ces", base, [400])).pvalue) for base in ("none", "half")]
    # The smaller is taken three times, though one of the three was not tested.
    least, other = (none, half) if p[0] < p[1] else (half, none)
    assert least["p_holm"] == pytest.approx(3 * min(p))
    assert other["p_holm"] == pytest.approx(max(3 * min(p), 2 * max(p)))


def test_probes_of_a_world_have_the_same_images(grid: Path) -> None:
    folder = grid / PATTERN.format(arm="ces", base="half", images=1600, seed=1)
    write_probe(folder, 50, ["1600-1-0", "1600-1-1", "1600-1-2", "elsewhere"])
    with pytest.raises(
        SchemaError, match=r"probe-ces-half-1600-1 and .*probe-base-none-1600-1 were evaluated on different images"
    ):
        attribute_guidance(f"{grid}/{PATTERN}", SHARES, [1600], [1])
    EmbeddingTable(["a"], ["fear"], ["test"], np.zeros((1, 2), np.float32)).write(folder / "des.parquet")
    with pytest.raises(SchemaError, match="no image of the set 'heldout'"):
        attribute_guidance(f"{grid}/{PATTERN}", SHARES, [1600], [1])
    (folder / "des.parquet").unlink()
    with pytest.raises(MissingFileError, match=r"probe-ces-half-1600-1/des\.parquet"):
        attribute_guidance(f"{grid}/{PATTERN}", SHARES, [1600], [1])


@pytest.mark.parametrize("share", [150, -0.1, float("nan"), "half", None, True])
def test_a_share_is_a_number_from_0_to_1(grid: Path, share: object) -> None:
    shares = cast("dict[str, float]", {"none": 0.0, "all": share})
    with pytest.raises(InputError, match=r"shares: found .* for base 'all'; expected a number from 0 to 1"):
        attribute_guidance(f"{grid}/{PATTERN}", shares, IMAGES, SEEDS)


def test_nothing_is_counted_twice(grid: Path) -> None:
    with pytest.raises(InputError, match=r"images: found \[400, 400\]; expected each once"):
        attribute_guidance(f"{grid}/{PATTERN}", SHARES, [400, 400], SEEDS)
    with pytest.raises(InputError, match=r"seeds: found \[0, 1, 1\]"):
        attribute_guidance(f"{grid}/{PATTERN}", SHARES, IMAGES, [0, 1, 1])
    with pytest.raises(SchemaError, match=r"bases: found \['none', 'none'\]"):
        attribute_guidance_stage(grid, f"{grid}/{PATTERN}", ["none", "none"], SHARES, IMAGES, SEEDS)


def test_other_braces_of_a_path_are_its_own(grid: Path) -> None:
    moved = grid.rename(grid.parent / "a {run} of {0}")
    assert len(attribute_guidance(f"{moved}/{PATTERN}", SHARES, [400], [0])["bases"]) == 3
