from __future__ import annotations

import doctest
from pathlib import Path

import pytest
import torch
from PIL import Image

from emo_lightning.core.devices import DeviceError
from emo_lightning.core.records import EMOTIONS, Prediction
from emo_lightning.inference.model import EmotionModel, Explanation


def test_the_example_runs(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "model").symlink_to(bundle)
    Image.new("RGB", (90, 60), "orange").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(str(EmotionModel.__doc__), {}, "EmotionModel", None, None)
    done = doctest.DocTestRunner().run(example)
    assert (done.attempted > 6, done.failed) == (True, 0)


def test_a_picture_of_any_mode_is_embedded_and_nothing_can_be_trained(bundle: Path) -> None:
    model = EmotionModel(bundle, device="cpu")
    grey = Image.new("L", (64, 64), 90)
    des = model.embed([grey, grey.convert("RGB")])
    assert des.shape == (2, model.des_dim)
    assert torch.allclose(des[0], des[1])
    assert not any(parameter.requires_grad for net in (model.backbone, model.head) for parameter in net.parameters())
    probabilities = model.distribution(des)
    assert probabilities is not None
    assert torch.allclose(probabilities.sum(-1), torch.ones(2), atol=1e-6)
    with pytest.raises(DeviceError, match="device 'gpu' cannot be used"):
        EmotionModel(bundle, device="gpu")


def test_an_explanation_is_a_record_in_json() -> None:
    said = Prediction(id="a", emotion="awe", intensity=8.0, confidence=0.1)
    probabilities = {str(e): (0.3 if e == "fear" else 0.1) for e in EMOTIONS}
    value = Explanation(said, probabilities, [1.0, 2.0]).as_json()
    assert (value["emotion"], value["intensity_level"], value["confidence"]) == ("awe", "high", 0.3)
    assert (value["emotion_scores"], value["des"]) == (probabilities, [1.0, 2.0])
    off_scale = Explanation(Prediction(id="a", intensity=40.0), None, []).as_json()
    assert off_scale["intensity_level"] is off_scale["confidence"] is None
