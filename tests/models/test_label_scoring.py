"""Labels gated by polarity: what the gate computes, and that predictions and explanations both use it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, Prediction
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.emotion_words import EmotionWords
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.label_scoring import gated, relabelled
from emo_lightning.models.loading import load_frozen
from emo_lightning.models.sound import NotFiniteAnswerError, WatchedScores, check_rows, naming
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
        polarity = backbone.emotion_scores(collate([ImageQuestion("a", index.image(row), ("polarity",))]), words)[0]
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


@pytest.fixture(scope="module")
def too_large(worded_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """A model with a weight that float32 holds and float16 does not."""
    folder = tmp_path_factory.mktemp("large") / "model"
    shutil.copytree(worded_qwen, folder)
    (file,) = folder.glob("*.safetensors")
    weights = load_file(file)
    name = next(name for name in weights if name.endswith("language_model.norm.weight") or name == "model.norm.weight")
    weights[name].fill_(1e5)
    save_file(weights, file, {"format": "pt"})
    return folder


@pytest.mark.parametrize(("attention", "options"), [("sdpa", {"label_scoring": "gated"}), ("sdpa", {}), ("eager", {})], ids=str)
def test_what_is_no_number_is_no_answer(
    too_large: Path, world_tars: Path, tmp_path: Path, attention: str, options: dict[str, Any]
) -> None:
    """Of NaN the first emotion would be the most probable one, and the first token of the vocabulary the likeliest."""
    paths = [str(world_tars / "*-val-*.tar")]
    config = BackboneConfig(str(too_large), tuning="frozen", attention=attention)

    def predict(precision: str) -> Path:
        out = tmp_path / precision
        source = QuestionDataModule({"val": paths}, ["emotion"], 2, limit=2)
        trainer(out, precision=precision).test(
            PredictTask(config, 8, out=str(out), **options), datamodule=source, verbose=False
        )
        return out / "predictions.jsonl"

    assert predict("32-true").is_file()
    index = TarIndex.open(paths)
    with pytest.raises(NotFiniteAnswerError, match=r"is not finite, so that it is no answer.*float16 ends at 65504") as refused:
        predict("16-true")
    assert set(refused.value.ids) <= {index.id(row) for row in range(len(index))}
    assert len(refused.value.ids) == 2
    assert refused.value.ids[0] in str(refused.value)
    assert not (tmp_path / "16-true/predictions.jsonl").exists()


def test_images_are_named_by_their_row() -> None:
    """The rows of two questions about three images."""
    with pytest.raises(NotFiniteAnswerError, match=r"^b: what the model") as refused, naming(["a", "b", "c"]):
        check_rows(torch.tensor([[0.0], [0.0], [0.0], [0.0], [torch.nan], [0.0]]))
    assert (refused.value.rows, refused.value.ids) == ([1], ["b"])


def test_what_follows_an_answer_is_nobodys() -> None:
    watched = WatchedScores([7])
    fine, bad = [0.0, -torch.inf], [torch.nan, 0.0]
    for last, scores in (([1, 1], [fine, fine]), ([7, 1], [bad, fine]), ([7, 1], [bad, fine])):
        watched(torch.tensor(last)[:, None], torch.tensor(scores))
    watched.check()
    watched(torch.tensor([[7], [1]]), torch.tensor([bad, bad]))
    with pytest.raises(NotFiniteAnswerError, match="rows 1 of"):
        watched.check()


def test_an_unknown_scoring_is_refused(worded_qwen: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match=r"model\.label_scoring: found 'hard'; allowed: plain, gated"):
        PredictTask(BackboneConfig(str(worded_qwen)), label_scoring="hard")  # type: ignore[arg-type]
