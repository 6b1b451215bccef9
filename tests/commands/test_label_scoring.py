"""`--label-scoring gated`, as a user gives it to `emo predict` and `emo explain`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from emo_lightning.cli import main
from emo_lightning.core.records import Prediction, read_jsonl
from emo_lightning.inference.bundle import read_bundle, write_bundle
from tests.made import as_json
from tests.worded import worded_qwen  # noqa: F401 - fixture


def test_predict(worded_qwen: Path, world_tars: Path, tmp_path: Path) -> None:  # noqa: F811
    """The most probable emotion stands in the place of the word that was said, which is kept."""

    def predicted(scoring: str) -> list[Prediction]:
        out = tmp_path / f"{scoring}.jsonl"
        options = ["--label-scoring", scoring, "--emotion-scores", "--objectives", "emotion", "--limit", "4"]
        device = ["--max-new-tokens", "4", "--accelerator", "cpu", "--devices", "1", "--num-workers", "0"]
        assert main(["predict", str(worded_qwen), str(world_tars), "--out", str(out), *options, *device]) == 0
        return list(read_jsonl(out, Prediction))

    for plain, gated in zip(predicted("plain"), predicted("gated"), strict=True):
        assert plain.id == gated.id
        assert plain.emotion_scores is not None
        assert gated.emotion_scores is not None
        assert gated.emotion == max(gated.emotion_scores, key=gated.emotion_scores.__getitem__)
        assert as_json(gated.provenance)["label_scoring"]["said"] == plain.emotion
        assert "label_scoring" not in plain.provenance
        # Within a polarity nothing is moved, and between the two everything.
        ratio = [gated.emotion_scores[one] / plain.emotion_scores[one] for one in plain.emotion_scores]
        assert ratio[:4] == pytest.approx([ratio[0]] * 4, rel=1e-4)
        assert ratio[4:] == pytest.approx([ratio[4]] * 4, rel=1e-4)
        assert abs(ratio[0] - ratio[4]) > 1e-3


def test_explain(bundle: Path, worded_qwen: Path, world_tars: Path, tmp_path: Path) -> None:  # noqa: F811
    folder = tmp_path / "model"
    folder.mkdir()
    write_bundle(folder, replace(read_bundle(bundle), backbone=str(worded_qwen)))
    tar = str(next(world_tars.glob("*-test-*.tar")))
    said: dict[str, list[dict[str, object]]] = {}
    for scoring in ("plain", "gated"):
        out = tmp_path / f"{scoring}.jsonl"
        options = ["--label-scoring", scoring, "--max-new-tokens", "4", "--device", "cpu"]
        assert main(["explain", tar, "--model", str(folder), "--out", str(out), *options]) == 0
        said[scoring] = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for plain, gated in zip(said["plain"], said["gated"], strict=True):
        before, after = as_json(plain), as_json(gated)
        assert (
            after["said"]["emotion"]
            == after["emotion"]
            == max(after["emotion_scores"], key=after["emotion_scores"].__getitem__)
        )
        assert after["emotion_scores"] != before["emotion_scores"]
