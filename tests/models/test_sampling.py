"""Replies are drawn from the policy that learns: the same numbers, whatever they are drawn beside, and none that it cannot say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from torch import Tensor

from emo_lightning.core.errors import InputError
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import CollateError, Collator, ImageQuestion
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.loading import load_backbone
from emo_lightning.models.policy_loss import allowed_log_probs
from emo_lightning.models.reply_rows import reply_log_probs, with_replies
from emo_lightning.models.sampling import (
    Replies,
    Sampling,
    check_replies,
    drawing_numbers,
    never_drawn,
    own_engine,
    without_distribution,
)
from tests.models.test_packing import questions, tuned  # noqa: F401 - fixture
from tests.worded import worded_model, worded_qwen  # noqa: F401 - fixtures

HOW = Sampling(replies=3, temperature=0.9, max_new_tokens=12)
ASKED = ("emotion", "intensity")


def head_of(backbone: Backbone) -> Tensor:
    weight = backbone.lm_head.weight
    assert isinstance(weight, Tensor)
    return weight


def asked(backbone: Backbone, some: list[ImageQuestion]) -> ChatBatch:
    collate = Collator(backbone.processor, backbone.model_type, answers=False, packed=True)
    return collate([replace(one, keys=ASKED, record=None) for one in some])


def drawn(backbone: Backbone, batch: ChatBatch, how: Sampling = HOW, attempt: int = 0) -> Replies:
    numbers = drawing_numbers(0, 0, batch["key"], how, attempt)
    return own_engine(backbone, batch, range(len(batch["key"])), numbers, how)


def again(backbone: Backbone, batch: ChatBatch, replies: Replies, how: Sampling = HOW) -> Tensor:
    banned = torch.tensor(never_drawn(backbone))
    with torch.no_grad():
        return reply_log_probs(backbone, with_replies(batch, replies.tokens), banned, how.temperature)[0]


def with_ends(backbone: Backbone) -> Backbone:
    """So that some replies end before others: of a random model's tokens one in eight is an end mark."""
    assert backbone.base.generation_config is not None
    words = backbone.base.config.get_text_config().vocab_size
    backbone.base.generation_config.eos_token_id = [*backbone.end_token_ids, *range(40, words - 40, 8)]
    return backbone


@pytest.mark.parametrize(
    "tuning",
    [
        pytest.param({"tuning": "full"}, id="full"),
        pytest.param(
            {"tuning": "lora", "lora": LoRA(rank=2, dropout=0.0), "gradient_checkpointing": True}, id="lora, checkpointing"
        ),
    ],
)
def test_what_is_drawn_is_as_probable_when_it_is_read_again(
    worded_model: Path,  # noqa: F811
    questions: list[ImageQuestion],  # noqa: F811
    tuning: dict[str, object],
) -> None:
    backbone = with_ends(tuned(worded_model, tuning))
    batch = asked(backbone, questions[:5])
    # A penalty on repetition, as Qwen2.5-VL's own settings have it, is no part of the distribution.
    backbone.base.generation_config.repetition_penalty = 1.3
    replies = drawn(backbone, batch)
    lengths = [len(tokens) for tokens in replies.tokens]
    assert len(lengths) == 15
    assert min(lengths) < max(lengths) == HOW.max_new_tokens, "the test needs replies of several lengths"
    assert [
        len(tokens) < HOW.max_new_tokens or int(tokens[-1]) in backbone.end_token_ids for tokens in replies.tokens
    ] == replies.ended
    sampled = torch.cat(replies.log_p)
    assert float((again(backbone, batch, replies) - sampled).abs().max()) <= 1e-5
    backbone.train()
    learning = reply_log_probs(
        backbone, with_replies(batch, replies.tokens), torch.tensor(never_drawn(backbone)), HOW.temperature
    )[0]
    assert learning.requires_grad
    assert float((learning.detach() - sampled).abs().max()) <= 1e-5


@pytest.mark.gpu
def test_on_a_gpu_both_sides_agree(worded_model: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    backbone = with_ends(tuned(worded_model)).to("cuda")
    batch = move_data_to_device(asked(backbone, questions[:5]), torch.device("cuda"))
    replies = drawn(backbone, batch)
    banned = torch.tensor(never_drawn(backbone), device="cuda")
    with torch.no_grad():
        found = reply_log_probs(backbone, with_replies(batch, replies.tokens), banned, HOW.temperature)[0]
    assert float((found - torch.cat(replies.log_p)).abs().max()) <= 1e-4


def test_a_reply_is_the_same_whatever_is_drawn_beside_it(worded_model: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    """Pictures of other sizes in the batch mean other padding where generation goes on, and other positions."""
    backbone = with_ends(tuned(worded_model))
    together = asked(backbone, questions[:5])
    replies, of_all = drawn(backbone, together), again(backbone, together, drawn(backbone, together))
    parts = of_all.split([len(tokens) for tokens in replies.tokens])
    for n in range(5):
        single = asked(backbone, questions[n : n + 1])
        alone = drawn(backbone, single)
        own = slice(3 * n, 3 * n + 3)
        for one, other in zip(replies.tokens[own], alone.tokens, strict=True):
            assert one.tolist() == other.tolist()
        assert torch.allclose(torch.cat(list(parts[own])), again(backbone, single, alone), atol=1e-5)
    some = own_engine(backbone, together, [3, 1], drawing_numbers(0, 0, [together["key"][n] for n in (3, 1)], HOW), HOW)
    assert [t.tolist() for t in some.tokens] == [t.tolist() for t in (*replies.tokens[9:12], *replies.tokens[3:6])]


def test_prompts_with_no_picture_one_and_two_are_each_as_alone(worded_model: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    """In one batch: what is recomputed is what was sampled, and each is drawn as it is drawn alone."""
    backbone = with_ends(tuned(worded_model))
    batch = asked(backbone, questions[:3])
    lengths, ids = batch["lengths"], batch["input_ids"]
    positions = cast("dict[str, Tensor]", batch)["positions"]
    one, first, second = (slice(sum(lengths[:n]), sum(lengths[: n + 1])) for n in range(3))
    # A question about two pictures goes on where the first one's positions end.
    later = positions[..., second] + positions[..., first].max() + 1
    words = torch.tensor([backbone.processor.tokenizer("Answer with one JSON object.", add_special_tokens=False)["input_ids"]])
    text = torch.arange(words.shape[1]).expand(*positions.shape[:-1], -1)
    row = torch.cat([ids[:, one], words, ids[:, first], ids[:, second]], 1)
    image = backbone.family.image_token_id(backbone.processor)
    mixed: dict[str, object] = {
        **batch,
        "input_ids": row,
        "image_at": (row[0] == image).nonzero()[:, 0],
        "positions": torch.cat([positions[..., one], text, positions[..., first], later], -1),
        "lengths": [lengths[0], words.shape[1], lengths[1] + lengths[2]],
    }
    numbers = drawing_numbers(0, 0, ["one", "none", "two"], HOW)
    replies = own_engine(backbone, mixed, range(3), numbers, HOW)
    recomputed = again(backbone, cast(ChatBatch, mixed), replies)
    assert float((recomputed - torch.cat(replies.log_p)).abs().max()) <= 1e-5
    # Alone: the words by transformers' own pass, the one picture as it is drawn by itself.
    said = replies.tokens[3:6]
    with torch.no_grad():
        logits = [
            backbone.base(input_ids=torch.cat([words, reply[None]], 1)).logits[0, words.shape[1] - 1 : -1] for reply in said
        ]
    banned = torch.tensor(never_drawn(backbone))
    plain = [
        allowed_log_probs(own, banned, HOW.temperature).gather(1, reply[:, None])[:, 0]
        for own, reply in zip(logits, said, strict=True)
    ]
    assert torch.allclose(torch.cat(plain), torch.cat(replies.log_p[3:6]), atol=1e-5)
    alone = own_engine(backbone, asked(backbone, questions[:1]), range(1), numbers[:1], HOW)
    assert [t.tolist() for t in alone.tokens] == [t.tolist() for t in replies.tokens[:3]]
    assert torch.allclose(torch.cat(alone.log_p), torch.cat(replies.log_p[:3]), atol=1e-5)


def test_the_row_marks_its_pictures_where_they_stand(worded_model: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    backbone = tuned(worded_model)
    batch = asked(backbone, questions[:4])
    row = with_replies(batch, drawn(backbone, batch).tokens)
    marked = (row.row["input_ids"][0] == backbone.family.image_token_id(backbone.processor)).nonzero()[:, 0]  # type: ignore[index]
    assert torch.equal(marked, row.row["image_at"])  # type: ignore[arg-type]
    backbone.family.check_images(backbone.processor, row.row)
    with pytest.raises(ValueError, match="as many to each"):
        with_replies(batch, row.tokens.split(1)[:5])


def test_numbers_are_a_function_of_seed_epoch_image_and_attempt() -> None:
    found = drawing_numbers(1, 2, ["a", "b"], HOW)
    assert found.shape == (2, 3, 12)
    assert np.array_equal(drawing_numbers(1, 2, ["b"], HOW)[0], found[1])
    for other in (drawing_numbers(2, 2, ["a"], HOW), drawing_numbers(1, 3, ["a"], HOW), drawing_numbers(1, 2, ["a"], HOW, 1)):
        assert not np.isclose(other[0], found[0]).any()
    assert 0 <= found.min() < found.max() < 1


def test_replies_follow_the_distribution(worded_qwen: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    """The first token of 4,000 replies, against its probability."""
    backbone = tuned(worded_qwen)
    with torch.no_grad():
        head_of(backbone).mul_(4)
    how = Sampling(replies=4000, temperature=1.3, max_new_tokens=1)
    batch = asked(backbone, questions[:1])
    replies = drawn(backbone, batch, how)
    first = torch.cat(replies.tokens)
    with torch.no_grad():
        logits = backbone.lm_head(backbone.last_hidden_state(batch)[0, -1]).float() / 1.3
    logits[never_drawn(backbone)] = -torch.inf
    expected = logits.softmax(-1)
    counted = torch.bincount(first, minlength=len(expected)) / 4000
    assert float((counted - expected).abs().max()) < 0.03
    assert float(expected.max()) > 0.03


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|vision_start|>"])
def test_a_token_that_stands_for_a_picture_is_never_drawn(
    worded_model: Path,  # noqa: F811
    questions: list[ImageQuestion],  # noqa: F811
    token: str,
) -> None:
    """A policy that likes to say it is counted, and both passes know that it cannot."""
    backbone = tuned(worded_model)
    wanted = backbone.processor.tokenizer.convert_tokens_to_ids(token)
    batch = asked(backbone, questions[:2])
    with torch.no_grad():
        head_of(backbone)[wanted] = 50 * backbone.last_hidden_state(batch)[0, -1]
    replies = drawn(backbone, batch)
    assert wanted in never_drawn(backbone)
    assert wanted not in torch.cat(replies.tokens)
    assert replies.wanted == 6
    assert float((again(backbone, batch, replies) - torch.cat(replies.log_p)).abs().max()) <= 1e-5
    said = [replies.tokens[0], torch.tensor([5, wanted]), *replies.tokens[2:]]
    foreign = replies._replace(tokens=said, log_p=[torch.zeros(len(one)) for one in said])
    with pytest.raises(ValueError, match=rf"reply 1 of the engine holds a token that stands for a picture \({wanted}\)"):
        check_replies(foreign, 6, never_drawn(backbone), 12)


def test_an_engine_that_gives_other_than_was_asked_is_refused() -> None:
    whole = Replies([torch.tensor([4, 5])] * 2, [torch.zeros(2)] * 2, [True, True], 0)
    check_replies(whole, 2, [7], 2)
    for wrong, expected, most in (
        (whole, 3, 2),
        (whole, 2, 1),
        (whole._replace(log_p=[torch.zeros(3)] * 2), 2, 2),
        (whole._replace(tokens=[torch.zeros(0, dtype=torch.int64)] * 2, log_p=[torch.zeros(0)] * 2), 2, 2),
    ):
        with pytest.raises(ValueError, match="the engine gave"):
            check_replies(wrong, expected, [7], most)


def test_a_picture_that_an_engine_sees_otherwise_shows_in_the_gap(worded_model: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    """As many image tokens, other pixels: nothing but the log-probabilities can tell."""
    backbone = tuned(worded_model)
    batch = asked(backbone, questions[:1])
    other = {**batch, "pixel_values": batch["pixel_values"].flip(0)}  # type: ignore[typeddict-item]
    replies = drawn(backbone, other)  # type: ignore[arg-type]
    assert float((again(backbone, batch, replies) - torch.cat(replies.log_p)).abs().max()) > 1e-3


def test_a_long_question_is_refused_and_never_cut(worded_model: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    backbone = tuned(worded_model)
    collate = Collator(backbone.processor, backbone.model_type, answers=False, packed=True, max_length=20)
    with pytest.raises(CollateError, match=r"tokens .* of the image.*allowed: data\.max_length=20"):
        collate([replace(questions[4], keys=ASKED, record=None)])


def test_in_4_bits_both_sides_have_the_same_logits(worded_qwen: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    """Nothing is merged for those who draw. The layers compute in bfloat16, a token at a time or all at once: that rounds otherwise."""
    pytest.importorskip("bitsandbytes")
    config = BackboneConfig(str(worded_qwen), tuning="qlora", lora=LoRA(rank=2, dropout=0.0), dtype="float32")
    backbone = load_backbone(config).eval()
    batch = asked(backbone, questions[:2])
    replies = drawn(backbone, batch)
    apart = (again(backbone, batch, replies) - torch.cat(replies.log_p)).abs()
    assert float(apart.max()) <= 0.05
    assert float(apart.median()) <= 1e-5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replies": 1}, r"sampling\.replies: found 1; expected at least 2"),
        ({"max_new_tokens": 0}, r"sampling\.max_new_tokens: found 0"),
        ({"temperature": 0.0}, r"sampling\.temperature: found 0\.0; expected above 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**changes)  # type: ignore[arg-type]


def test_a_policy_that_is_nan_is_known_by_its_log_probabilities(worded_qwen: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    """No index is out of the vocabulary, which on a device could not even be caught."""
    backbone = tuned(worded_qwen, {"tuning": "full"})
    batch = asked(backbone, questions[:2])
    assert without_distribution(drawn(backbone, batch)) == []
    with torch.no_grad():
        head_of(backbone).fill_(float("nan"))
    replies = drawn(backbone, batch)
    assert without_distribution(replies) == list(range(6))
    check_replies(replies, 6, never_drawn(backbone), HOW.max_new_tokens)
    some = replies._replace(log_p=[torch.zeros(2), torch.tensor([0.0, float("inf")]), *replies.log_p[2:]])
    assert without_distribution(some) == [1, 2, 3, 4, 5]
