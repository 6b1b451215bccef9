"""The study of attribute guidance: what is gathered, tested and shown of a grid of probes with known accuracies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel

from emo_lightning.analysis.attribute_guidance import ARMS, attribute_guidance
from emo_lightning.analysis.table6 import METRICS
from emo_lightning.analysis.table6_paired import holm
from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.records import SchemaError
from emo_lightning.report.tables.attribute_guidance import guidance_page
from emo_lightning.stages.attribute_guidance import attribute_guidance_stage

SHARES = {"none": 0.0, "half": 0.5, "all": 1.0}
IMAGES, SEEDS = [400, 1600], [0, 1, 2]
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
        for arm in ARMS
        for base in SHARES
        for size in IMAGES
        for seed in SEEDS
    }


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    for (arm, base, size, seed), value in accuracies().items():
        folder = tmp_path / PATTERN.format(arm=arm, base=base, images=size, seed=seed)
        folder.mkdir()
        (folder / "metrics.json").write_text(json.dumps({f"heldout/{name}": value for name in METRICS}))
    return tmp_path


def worlds(arm: str, base: str) -> np.ndarray:
    found = accuracies()
    return np.array([found[arm, base, size, seed] for size in IMAGES for seed in SEEDS])


def test_differences_are_paired_within_worlds_and_adjusted_over_bases(grid: Path) -> None:
    result = attribute_guidance(f"{grid}/{PATTERN}", SHARES, IMAGES, SEEDS)
    tests = [ttest_rel(worlds("attribute", base), worlds("ces", base)) for base in SHARES]
    adjusted = holm([float(test.pvalue) for test in tests])
    for one, test, p_holm in zip(result["bases"], tests, adjusted, strict=True):
        gain = one["contrasts"]["attribute-ces"]
        interval = test.confidence_interval(0.95)
        assert gain["p"] == pytest.approx(test.pvalue)
        assert gain["p_holm"] == pytest.approx(p_holm)
        assert (gain["low"], gain["high"]) == pytest.approx((interval.low, interval.high))
        assert gain["worlds"] == 6
        assert one["accuracy"]["ces"]["mean"] == pytest.approx(worlds("ces", one["base"]).mean())
    assert [one["order"] for one in result["bases"]][:2] == ["base < ces < attribute"] * 2
    assert result["bases"][2]["order"] in ("base < ces ≈ attribute", "base < attribute ≈ ces")
    assert len(result["cells"]) == 6
    assert {one["contrast"]["worlds"] for one in result["cells"]} == {3}


def test_the_trend_is_the_slope_within_worlds(grid: Path) -> None:
    trend = attribute_guidance(f"{grid}/{PATTERN}", SHARES, IMAGES, SEEDS)["trend"]
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
    attribute_guidance_stage(out, f"{grid}/{PATTERN}", ["none", "all"], SHARES, IMAGES, SEEDS)
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
        attribute_guidance(f"{grid}/{PATTERN}", SHARES, IMAGES, [0, 7])
    with pytest.raises(SchemaError, match="none of base 'some'; given: none, half, all"):
        attribute_guidance_stage(tmp_path, f"{grid}/{PATTERN}", ["some"], SHARES, IMAGES, SEEDS)
    (grid / "probe-ces-all-400-0" / "metrics.json").write_text('{"train/accuracy": 50}')
    with pytest.raises(SchemaError, match="key 'heldout/accuracy': found None"):
        attribute_guidance(f"{grid}/{PATTERN}", SHARES, IMAGES, SEEDS)
