"""Labels gated by polarity: what the gate computes, and that predictions and explanations both use it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, Prediction
from emo_lightning.data.collate import Collator, Question
from emo_lightning.data.emotion_words import EmotionWords
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone import BackboneConfig, load_frozen
from emo_lightning.models.label_scoring import gated, relabelled
from emo_lightning.tasks.predict import PredictTask
from tests.tasks.test_sft import trainer
from tests.worded import worded_qwen  # noqa: F401 - fixture


def test_a_gate_weighs_each_emotion_by_its_polarity() -> None:
    scores = torch.tensor([[0.3, 0.05, 0.05, 0.1, 0.1, 0.1, 0.28, 0.02]])
    found = gated(scores, torch.tensor([[0.2, 0.8]]))
    assert torch.allclose(found.sum(1), torch.ones(1))
    assert torch.allclose(found[0, :4] / found[0, 0], scores[0, :4] / scores[0, 0])
    assert float(found[0, 6] / found[0, 0]) == pytest.approx(0.28 * 0.8 / (0.3 * 0.2))
    assert torch.allclose(gated(scores, torch.tensor([[0.5, 0.5]])), scores)
    assert [str(e) for e in EMOTIONS if e.polarity == "positive"] == ["amusement", "awe", "contentment", "excitement"]


def test_where_polarity_and_word_contradict_each_other_it_is_a_distribution_all_the_same() -> None:
    certain = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0], [0.5, 0, 0, 0, 0.5, 0, 0, 0], [1.0, 0, 0, 0, 1e-30, 0, 0, 0]])
    found = gated(certain, torch.tensor([[0.0, 1.0], [0.0, 1.0], [1e-30, 1.0]]))
    expected = torch.tensor([[1.0, 0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1.0, 0, 0, 0], [0.5, 0, 0, 0, 0.5, 0, 0, 0]])
    assert torch.allclose(found, expected)


def test_the_word_that_was_said_is_kept() -> None:
    scores = gated(torch.tensor([[0.3, 0.05, 0.05, 0.1, 0.1, 0.1, 0.28, 0.02]]), torch.tensor([[0.2, 0.8]]))[0].tolist()
    found = relabelled(Prediction(id="a", emotion="amusement", provenance={"reply": "x"}), scores, 0.2)
    assert found.emotion == "fear"
    scoring = {"label_scoring": "gated", "said": "amusement", "positive": 0.2}
    assert found.provenance == {"reply": "x", "label_scoring": scoring}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_predictions_are_gated_by_the_models_own_polarity(
    worded_qwen: Path,  # noqa: F811
    world_tars: Path,
    tmp_path: Path,
    attention: str,
) -> None:
    """In rows, and padded; against both questions asked alone."""
    paths = [str(world_tars / "*-val-*.tar")]
    config = BackboneConfig(str(worded_qwen), tuning="frozen", attention=attention)
    said: dict[str, list[Prediction]] = {}
    for scoring in ("plain", "gated"):
        out = tmp_path / scoring
        task = PredictTask(config, 8, out=str(out), emotion_scores=True, label_scoring=scoring)
        trainer(out).test(
            task, datamodule=QuestionDataModule({"val": paths}, ["attributes", "emotion"], 4, limit=4), verbose=False
        )
        lines = (out / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
        said[scoring] = [Prediction.from_json(line, "made") for line in lines]
    backbone, index = load_frozen(config), TarIndex.open(paths)
    words = EmotionWords.of_polarity(backbone.processor.tokenizer)
    collate = Collator(backbone.processor, backbone.model_type, answers=False)
    for plain, found in zip(said["plain"], said["gated"], strict=True):
        row = next(row for row in range(len(index)) if index.id(row) == found.id)
        polarity = backbone.emotion_scores(collate([Question("a", index.image(row), ("polarity",))]), words)[0]
        assert plain.emotion_scores is not None
        assert found.emotion_scores is not None
        expected = gated(torch.tensor([list(plain.emotion_scores.values())]), polarity)[0]
        assert list(found.emotion_scores.values()) == pytest.approx(expected.tolist(), abs=1e-5)
        assert found.emotion == max(found.emotion_scores, key=found.emotion_scores.__getitem__)
        assert found.confidence == found.emotion_scores[found.emotion]
        noted = found.provenance["label_scoring"]
        assert isinstance(noted, dict)
        assert noted["said"] == plain.emotion
        assert plain.model_dump(include={"subject", "objects"}) == found.model_dump(include={"subject", "objects"})
        assert "label_scoring" not in json.dumps(plain.provenance)


def test_an_unknown_scoring_is_refused(worded_qwen: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match=r"model\.label_scoring: found 'hard'; allowed: plain, gated"):
        PredictTask(BackboneConfig(str(worded_qwen)), label_scoring="hard")  # type: ignore[arg-type]
