from __future__ import annotations

from pathlib import Path

from PIL import Image

from emo_lightning.core.records import EMOTIONS, PredictedObject, Prediction
from emo_lightning.inference.model import Explanation
from emo_lightning.inference.overlay import save_overlay


def test_overlay_draws_what_was_said(tmp_path: Path) -> None:
    image = Image.new("RGB", (100, 80), "gray")
    nothing = Explanation(Prediction(id="a"), None, [])
    region = PredictedObject(bbox=(10, 10, 60, 60), phrase="$_^$")
    said = Prediction(id="b", subject="dog $x^$", emotion="$^$", intensity=7.0, objects=[region])
    full = Explanation(said, {str(e): 1 / 8 for e in EMOTIONS}, [])
    save_overlay(image, nothing, tmp_path / "a.png")
    save_overlay(image, full, tmp_path / "b.png")
    far = PredictedObject(bbox=(-9e5, -9e5, 60, 60), phrase="dog")
    gone = PredictedObject(bbox=(4e5, 4e5, 9e5, 9e5), phrase="dog")
    save_overlay(image, Explanation(Prediction(id="c", objects=[gone]), None, []), tmp_path / "c.png")
    save_overlay(image, Explanation(Prediction(id="d", objects=[far]), None, []), tmp_path / "d.png")
    grey = [Image.open(tmp_path / name).convert("RGB").tobytes().count(b"\x80\x80\x80") for name in ("a.png", "c.png", "d.png")]
    assert grey[0] == grey[1], "what is outside of the picture leaves it as it is"
    assert grey[2] > grey[0] / 2, "nor does a label shrink it"
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()
