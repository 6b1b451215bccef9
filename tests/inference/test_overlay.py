from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from emo_lightning.core.records import PredictedObject, Prediction
from emo_lightning.inference.calibration import probed
from emo_lightning.inference.overlay import save_overlay
from emo_lightning.inference.results import Explanation, said_of


def explained(words: Prediction, probe: bool = False) -> Explanation:
    return Explanation(said_of(words, None), probed([1 / 8] * 8, None) if probe else None, np.zeros(1, np.float32), words)


def test_overlay_draws_what_was_said(tmp_path: Path) -> None:
    image = Image.new("RGB", (100, 80), "gray")
    region = PredictedObject(bbox=(10, 10, 60, 60), phrase="$_^$")
    said = Prediction(id="b", subject="dog $x^$", emotion="$^$", intensity=7.0, objects=[region])
    save_overlay(image, explained(Prediction(id="a")), tmp_path / "a.png")
    save_overlay(image, explained(said, probe=True), tmp_path / "b.png")
    far = PredictedObject(bbox=(-9e5, -9e5, 60, 60), phrase="dog")
    gone = PredictedObject(bbox=(4e5, 4e5, 9e5, 9e5), phrase="dog")
    save_overlay(image, explained(Prediction(id="c", objects=[gone])), tmp_path / "c.png")
    save_overlay(image, explained(Prediction(id="d", objects=[far])), tmp_path / "d.png")
    grey = [Image.open(tmp_path / name).convert("RGB").tobytes().count(b"\x80\x80\x80") for name in ("a.png", "c.png", "d.png")]
    assert grey[0] == grey[1], "what is outside of the picture leaves it as it is"
    assert grey[2] > grey[0] / 2, "nor does a label shrink it"
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
