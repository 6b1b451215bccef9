"""The same world in another style: other colours and lines, the same combinations and truth, keys of its own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data_prep.demo.world import World
from data_prep.demo.world.style import STYLES
from emo_lightning.cli import main
from emo_lightning.data.tar_index import TarIndex


def test_styles_share_combinations_and_nothing_of_the_look() -> None:
    flat, dusk = World(), World(style="dusk")
    for index in range(12):
        a, b = flat.sample("test", index), dusk.sample("test", index)
        assert (a.truth.triplet, a.truth.emotion, a.truth.emotion_scores) == (
            b.truth.triplet,
            b.truth.emotion,
            b.truth.emotion_scores,
        )
        assert (a.key, b.key) == (f"world-test-{index:06d}", f"world-dusk-test-{index:06d}")
        assert a.image != b.image
        truth = b.truth.provenance["truth"]
        assert isinstance(truth, dict)
        assert truth["style"] == "dusk"
    for name, palette in STYLES["flat"].backdrops.items():
        gaps = [abs(np.subtract(palette[part], STYLES["dusk"].backdrops[name][part])).max() for part in palette]
        assert np.median(gaps) > 25, name


def test_the_command_and_the_stage_write_the_same_tars(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["prep", "world", str(tmp_path / "a"), "--split", "heldout", "--count", "4", "--style", "dusk"]
    assert main(words) == 0
    experiment = tmp_path / "e.yaml"
    experiment.write_text("name: e\nstages:\n  tars: {run: world_tars, split: heldout, count: 4, style: dusk}\n")
    assert main(["run", str(experiment), "--runs", str(tmp_path)]) == 0
    a, b = (sorted((tmp_path / place).glob("*.tar")) for place in ("a", "e/tars"))
    assert [p.read_bytes() for p in a] == [p.read_bytes() for p in b]
    assert len(TarIndex.open(str(tmp_path / "a"))) == 4
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["created_from"]["world"]["style"] == "dusk"
    capfd.readouterr()
    assert main([*words[:-1], "oil"]) == 2
    assert "--style oil: allowed are flat, dusk" in capfd.readouterr().err
    experiment.write_text("name: f\nstages:\n  tars: {run: world_tars, split: dev, count: 4}\n")
    assert main(["run", str(experiment), "--runs", str(tmp_path)]) == 2
    assert "split 'dev', count 4: allowed are backbone, pretrain" in capfd.readouterr().err
