"""Soft labels and the distribution loss at the emotion's word, and the model's own distribution over the eight, on a real tiny backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from emo_lightning.core.records import EMOTIONS
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.chat import target_answer
from emo_lightning.data.collate import IGNORE_INDEX, Collator, ImageQuestion
from emo_lightning.data.conversation_dataset import ConversationDataset
from emo_lightning.data.emotion_words import EmotionWords, EmotionWordsError
from emo_lightning.data.sampler import Slot
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.loading import load_backbone
from tests.worded import worded_qwen  # noqa: F401 - fixture


@pytest.fixture(scope="module")
def backbone(worded_qwen: Path) -> Backbone:  # noqa: F811
    return load_backbone(BackboneConfig(str(worded_qwen), tuning="frozen")).eval()


@pytest.fixture(scope="module")
def questions(world_tars: Path) -> list[ImageQuestion]:
    """Three emotion questions and one without an emotion, last a filler."""
    index = TarIndex.open(str(world_tars / "*-test-*.tar"))
    asked = ConversationDataset(index, {"emotion": 1.0}, 0)
    shown = ConversationDataset(index, {"caption": 1.0}, 0)
    filler = asked[Slot(4, True)]
    return [asked[Slot(0, False)], shown[Slot(1, False)], asked[Slot(2, False)], asked[Slot(3, False)], filler]


def collated(backbone: Backbone, questions: list[ImageQuestion], side: str | None = None) -> ChatBatch:
    return Collator(backbone.processor, backbone.model_type, answers=True, distributions=True, padding_side=side)(questions)


@pytest.mark.parametrize("side", ["right", "left"])
def test_the_place_of_the_word_is_found(backbone: Backbone, questions: list[ImageQuestion], side: str) -> None:
    batch = collated(backbone, questions, side)
    for row, question in enumerate(questions):
        at = int(batch["emotion_at"][row])
        if row in (1, 4):
            assert at == -1
            continue
        assert question.record is not None
        assert question.record.emotion is not None
        first = batch["emotion_first"][row, question.record.emotion.position]
        assert batch["labels"][row, at] == first
        rest = batch["labels"][row, at:]
        text = backbone.processor.tokenizer.decode(rest[rest != IGNORE_INDEX])
        assert isinstance(text, str)
        assert text.startswith(str(question.record.emotion))
        assert batch["emotion_target"][row].tolist() == pytest.approx(question.record.emotion_distribution(), abs=1e-6)


def test_soft_labels_are_the_mean_of_hard_ones(backbone: Backbone, questions: list[ImageQuestion]) -> None:
    """Every word in turn as the hard label, weighed by the distribution; the rest of the answer stays as annotated."""
    batch = collated(backbone, questions)
    tensors: dict[str, Any] = dict(batch)
    total, count = backbone.answer_loss(batch)
    soft, again = backbone.answer_loss(batch, soft=True)
    assert count == again
    expected = torch.zeros(())
    for e in EMOTIONS:
        # The words of this tokenizer are single tokens: only the one at the place changes, and the words after it must see the
        # annotated one, so their loss is taken from the unchanged batch.
        changed = tensors | {"labels": batch["labels"].clone()}
        for row in (0, 2, 3):
            changed["labels"][row, batch["emotion_at"][row]] = batch["emotion_first"][row, e.position]
            one = changed | {k: v[row : row + 1] for k, v in changed.items() if k in ("input_ids", "attention_mask", "labels")}
            one |= single_image(changed, row)
            hard, _ = backbone.answer_loss(cast(ChatBatch, one))
            expected = expected + batch["emotion_target"][row, e.position] * hard
    one = single_image(tensors, 1) | {k: tensors[k][1:2] for k in ("input_ids", "attention_mask", "labels")}
    expected = expected + backbone.answer_loss(cast(ChatBatch, one))[0]
    assert float(soft) == pytest.approx(float(expected), rel=1e-4)
    assert abs(float(soft) - float(total)) > 1e-3


def single_image(batch: dict[str, Any], row: int) -> dict[str, Any]:
    """The image part of one row."""
    grid = batch["image_grid_thw"]
    patches = grid.prod(-1)
    start = int(patches[:row].sum())
    return {
        "pixel_values": batch["pixel_values"][start : start + int(patches[row])],
        "image_grid_thw": grid[row : row + 1],
        "mm_token_type_ids": batch["mm_token_type_ids"][row : row + 1],
    }


def test_the_distribution_loss_is_the_divergence_from_the_models_own_scores(
    backbone: Backbone, questions: list[ImageQuestion]
) -> None:
    batch = collated(backbone, questions)
    plain, _ = backbone.answer_loss(batch)
    weighed, _ = backbone.answer_loss(batch, distribution_weight=0.5)
    asked = [q for row, q in enumerate(questions) if row in (0, 2, 3)]
    left = Collator(backbone.processor, backbone.model_type, answers=False)(asked)
    words = EmotionWords.of_question(backbone.processor.tokenizer)
    scores, share = backbone.emotion_scores(left, words)
    assert scores.sum(-1).tolist() == pytest.approx([1, 1, 1])
    assert all(0 < s < 1 for s in share.tolist())
    target = batch["emotion_target"][[0, 2, 3]]
    divergence = float((target * (target.clamp(min=1e-30).log() - scores.log())).sum())
    assert float(weighed - plain) == pytest.approx(0.5 * divergence, rel=1e-3)


def test_scores_are_the_probability_of_what_is_written_next(backbone: Backbone, questions: list[ImageQuestion]) -> None:
    """Against the teacher-forced answers themselves, one image at a time, without padding."""
    asked = [q for row, q in enumerate(questions) if row in (0, 2, 3)]
    left = Collator(backbone.processor, backbone.model_type, answers=False)(asked)
    words = EmotionWords.of_question(backbone.processor.tokenizer)
    scores, share = backbone.emotion_scores(left, words)
    for row, question in enumerate(asked):
        batch = collated(backbone, [question])
        at = int(batch["emotion_at"][0])
        logits = backbone.base.lm_head(backbone.last_hidden_state(batch))[0, at - 1].float()
        p = logits.softmax(-1)[batch["emotion_first"][0]]
        assert (p / p.sum()).tolist() == pytest.approx(scores[row].tolist(), abs=1e-5)
        assert float(p.sum()) == pytest.approx(float(share[row]), abs=1e-5)


def test_nothing_supervised_adds_nothing(backbone: Backbone, questions: list[ImageQuestion]) -> None:
    batch = collated(backbone, [questions[1]])
    plain, both = backbone.answer_loss(batch), backbone.answer_loss(batch, soft=True, distribution_weight=3.0)
    assert (float(plain[0]), plain[1]) == (float(both[0]), both[1])


def test_a_tokenizer_that_cannot_tell_the_words_apart_is_refused(backbone: Backbone) -> None:
    class Letters:
        def __call__(self, texts: list[str], **_: object) -> dict[str, Any]:
            return {"input_ids": [[ord(c) for c in text] for text in texts]}

    # Letter by letter: amusement, awe and anger begin alike.
    with pytest.raises(EmotionWordsError, match="begins amusement, awe, anger with the same token"):
        EmotionWords.of_question(cast(PreTrainedTokenizerBase, Letters()))


def test_words_of_several_tokens(questions: list[ImageQuestion], backbone: Backbone) -> None:
    class Halves:
        """Splits every word after three letters, but the first letters of the eight differ."""

        def __call__(self, texts: list[str], **_: object) -> dict[str, Any]:
            return {"input_ids": [[hash(t[i : i + 3]) for i in range(0, len(t), 3)] for t in texts]}

    record = questions[0].record
    assert record is not None
    codec = Collator(backbone.processor, backbone.model_type, answers=True).codec
    texts = [
        target_answer(("emotion", "intensity"), record.model_copy(update={"emotion": e}), codec, (28, 28)) for e in EMOTIONS
    ]
    words = EmotionWords.of_answers(cast(PreTrainedTokenizerBase, Halves()), texts)
    assert len(words.before) == len('{"emotion": "') // 3
    assert len(set(words.first)) == 8


@pytest.mark.parametrize("packed", [False, True])
def test_logits_a_chunk_at_a_time(
    worded_qwen: Path,  # noqa: F811
    questions: list[ImageQuestion],
    packed: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same loss and gradients, whatever the chunks, and never more than a chunk's logits."""
    from emo_lightning.models import loss

    backbone = load_backbone(BackboneConfig(str(worded_qwen), tuning="full", dtype="float32")).eval()
    batch = Collator(backbone.processor, backbone.model_type, answers=True, distributions=True, packed=packed)(questions)
    made: list[int] = []
    words = len(backbone.processor.tokenizer)
    backbone.lm_head.register_forward_hook(lambda _module, _inputs, out: made.append(len(out)))
    found = []
    for most in (loss.MAX_LOGITS, 3 * words):
        monkeypatch.setattr(loss, "MAX_LOGITS", most)
        backbone.zero_grad()
        made.clear()
        total, count = backbone.answer_loss(batch, soft=True, distribution_weight=0.5)
        total.backward()
        found.append((float(total), int(count), [p.grad for p in backbone.parameters() if p.grad is not None]))
    assert max(made) == 3
    whole, parts = found
    assert parts[0] == pytest.approx(whole[0], rel=1e-6)
    assert parts[1] == whole[1]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(parts[2], whole[2], strict=True))


def test_a_sum_that_float16_does_not_hold_leaves_the_loss_finite() -> None:
    from emo_lightning.models.loss import supervised_loss

    hidden = torch.ones(1, 1024, 128, dtype=torch.float16)
    labels = torch.full((1, 1024), IGNORE_INDEX)
    labels[0, 5] = 3
    total, count = supervised_loss(hidden, labels, torch.nn.Linear(128, 7, dtype=torch.float16))
    assert (bool(total.isfinite()), int(count)) == (True, 1)
