"""Questions in free words about one picture or several, as suites put them: greedy answers of a model, in batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from emo_lightning.core.errors import InputError

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from emo_lightning.models.backbone import Backbone


class FreeQuestion(NamedTuple):
    """Pictures, and what is asked about them."""

    pictures: Sequence[Image.Image]
    """As `as_picture` gives them, in the order in which the model sees them."""
    words: str
    """The question, as it stands in the chat behind the pictures."""


def answers(backbone: Backbone, questions: Sequence[FreeQuestion], max_new_tokens: int) -> list[str]:
    """What a backbone says, greedily, to each; all in one batch.

    Args:
        backbone: in eval mode; asked by its own chat template.
        questions: one batch.
        max_new_tokens: of one answer.

    Raises:
        InputError: a question without a picture, or with the token of one in its words.
    """
    return backbone.generate(_batch(backbone, questions), max_new_tokens)


def _batch(backbone: Backbone, questions: Sequence[FreeQuestion]) -> dict[str, object]:
    """Padded on the left, as `Backbone.answer_tokens` takes it; the model works out the positions."""
    import torch

    family, processor, device = backbone.family, backbone.processor, backbone.base.device
    vision = family.vision_inputs(processor, [picture for one in questions for picture in one.pictures])
    image, fill = family.image_token_id(processor), processor.tokenizer.pad_token_id
    counts = iter(vision.tokens)
    rows = [
        [token for each in _tokens(backbone, one) for token in ([each] * next(counts) if each == image else [each])]
        for one in questions
    ]
    width = max(map(len, rows))
    ids = torch.tensor([[fill] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    found = {"input_ids": ids, "attention_mask": mask, **family.position_inputs(ids, image), **vision.tensors}
    return {name: _moved(value, device) for name, value in found.items()}


def _tokens(backbone: Backbone, question: FreeQuestion) -> list[int]:
    family, processor = backbone.family, backbone.processor
    special = (family.image_token, *family.picture_tokens, family.end_of_turn)
    if not question.pictures or any(token in question.words for token in special):
        msg = f"question {question.words[:60]!r}: expected a picture at least, and no token of the chat ({', '.join(special)}) in its words"
        raise InputError(msg)
    content: list[dict[str, object]] = [{"type": "image"} for _ in question.pictures]
    chat: list[dict[str, object]] = [{"role": "user", "content": [*content, {"type": "text", "text": question.words}]}]
    text = processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    ids: list[int] = processor.tokenizer(family.prompt_text(text), add_special_tokens=False)["input_ids"]
    return family.framed(processor, ids, len(question.pictures))


def _moved(value: object, device: torch.device) -> object:
    move = getattr(value, "to", None)
    return value if move is None else move(device)
