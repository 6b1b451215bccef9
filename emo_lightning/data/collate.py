"""Images and questions -> the tensors that a backbone takes. Nothing here depends on what else is in the batch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import accumulate
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, Record
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.branches import Branches, branches_of, flat, laid_out, positions_laid_out
from emo_lightning.data.chat import prompt, target_answer
from emo_lightning.data.emotion_words import EmotionWords
from emo_lightning.models.families import Processor, Size, VisionInputs, family_of
from emo_lightning.models.families.base import CachedPicture

IGNORE_INDEX = -100
"""Label of a position that carries no loss (PyTorch's cross-entropy default)."""


class CollateError(InputError):
    """A sample cannot become model input as configured; the message names the sample and what to change."""


@dataclass(frozen=True)
class ImageQuestion:
    """One image and what is asked about it.

    Args:
        key: the record's id; of an image that cannot be read what it is counted by (`TarIndex.name`).
        image: RGB, or what a cache holds of it.
        keys: keys of the answer that is asked for.
        record: the annotation, for training targets only; None at inference.
        filler: a repeated sample that only keeps ranks in step: it gets no loss and counts nowhere.
        more: keys of further answers that are asked for, in a question of their own each; the image is read once (packed alone).
        shares: what a target counts in each of these questions; empty: 1.
        fault: why the image is none (`data.on_error: skip`): it is grey, and a filler.
    """

    key: str
    image: Image.Image | CachedPicture
    keys: tuple[str, ...]
    record: Record | None = None
    filler: bool = False
    more: tuple[tuple[str, ...], ...] = ()
    shares: tuple[float, ...] = ()
    fault: str | None = None

    @property
    def asked(self) -> tuple[tuple[str, ...], ...]:
        """Keys of every question."""
        return (self.keys, *self.more)

    @property
    def pixels(self) -> Image.Image:
        """The image, of a question that has it.

        Raises:
            TypeError: it comes out of a cache.
        """
        if isinstance(self.image, CachedPicture):
            msg = f"the picture of {self.key!r} comes out of a cache, which has no pixels"
            raise TypeError(msg)
        return self.image


def faults_in(questions: Iterable[ImageQuestion]) -> list[tuple[str, str]]:
    """(id, why) of those whose image cannot be read."""
    return [(question.key, question.fault) for question in questions if question.fault is not None]


@dataclass
class Collator:
    """Callable that turns questions into one batch, padded or packed.

    With `answers`, the target follows the prompt, labels are set on the answer and its end mark alone, and padding is on the
    right; without, the batch ends at the generation prompt and padding is on the left, so that all rows end together.

    Args:
        processor: of the backbone (`Backbone.processor`), with the pixel limits set.
        model_type: of the backbone's config; its family decides the inputs and the coordinates of boxes.
        answers: append targets (training) or not (generation, features).
        max_length: tokens; a longer sample is an error, never cut (a cut run of image tokens misaligns the image).
        padding_side: None takes the side described above.
        packed: no padding: all samples stand in one row, and `lengths` says where each ends (`Family.packed_states`).
        max_tokens: that a row of the plan has room for (packed alone); a longer one is an error. None: whatever is given goes into it.
        distributions: with `answers`, also say where each answer names its emotion, and the annotated distribution over the eight.
    """

    processor: Processor
    model_type: str
    answers: bool
    max_length: int = 4096
    padding_side: str | None = None
    distributions: bool = False
    packed: bool = False
    max_tokens: int | None = None
    _prompt_ids: Callable[[tuple[str, ...]], list[int]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.family = family_of(self.model_type)
        self.codec = self.family.codec
        self.tokenizer = self.processor.tokenizer
        self.image_token = self.family.image_token_id(self.processor)
        self.end = self.family.end_of_turn_id(self.processor)
        self._prompt_ids = lru_cache(maxsize=256)(self._tokenize_prompt)

    def __getstate__(self) -> dict[str, object]:
        # The cache holds a bound method, which does not travel to worker processes.
        return self.__dict__ | {"_prompt_ids": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._prompt_ids = lru_cache(maxsize=256)(self._tokenize_prompt)

    def __call__(self, questions: Sequence[ImageQuestion]) -> ChatBatch:
        """One batch; with answers it has `labels`, with `distributions` also `emotion_at`, `_first` and `_target`.

        Raises:
            CollateError: a sample is longer than `max_length`, a row than `max_tokens`, or a sample has no answer token to learn from.
        """
        vision = self._vision([q.image for q in questions])
        if not self.packed and any(question.more for question in questions):
            msg = "several questions share an image in packed rows alone"
            raise ValueError(msg)
        samples = [
            [self._sample(question, keys, resized, image_tokens) for keys in question.asked]
            for question, resized, image_tokens in zip(questions, vision.sizes, vision.tokens, strict=True)
        ]
        rows = [[ids for ids, _ in of_image] for of_image in samples]
        labels = [[targets for _, targets in of_image] for of_image in samples]
        images = [branches_of(each, self._shared(each[0], n)) for each, n in zip(rows, vision.tokens, strict=True)]
        if self.max_tokens is not None:
            self._check_room(questions, images, self.max_tokens)
        inputs = self._packed(rows, images, vision) if self.packed else self._padded([row for (row,) in rows], vision)
        batch = {
            **inputs,
            "key": [q.key for q in questions],
            "original_size": [q.image.size for q in questions],
            "resized_size": vision.sizes,
            "filler": torch.tensor([q.filler for q in questions]),
            **vision.tensors,
        }
        if self.max_tokens is not None:
            batch["room"] = self.max_tokens
        if faults := faults_in(questions):
            batch["faults"] = faults
        if self.answers:
            if self.packed:
                batch |= self._packed_labels(questions, labels, images)
            else:
                batch["labels"] = self._pad([row for (row,) in labels], IGNORE_INDEX)
            if self.distributions:
                batch |= self._distributions(questions, vision.sizes, labels, images)
        # A TypedDict cannot say "and what the family needs".
        return cast(ChatBatch, batch)

    def _vision(self, images: Sequence[Image.Image | CachedPicture]) -> VisionInputs:
        seen = [image for image in images if isinstance(image, CachedPicture)]
        if not seen:
            return self.family.vision_inputs(self.processor, cast("Sequence[Image.Image]", images))
        if len(seen) < len(images):
            msg = f"{len(seen)} of {len(images)} pictures of a batch come out of a cache; expected all or none"
            raise ValueError(msg)
        return self.family.cached_inputs(self.processor, seen)

    def _sample(
        self, question: ImageQuestion, keys: tuple[str, ...], resized: Size, image_tokens: int
    ) -> tuple[list[int], list[int]]:
        """Tokens and labels of one question, with its answer."""
        asked = self._expand(self._prompt_ids(keys), image_tokens)
        target = self._target(question, keys, resized) if self.answers else []
        if len(asked) + len(target) > self.max_length:
            msg = (
                f"sample {question.key!r} has {len(asked) + len(target)} tokens ({image_tokens} of the image); "
                f"allowed: data.max_length={self.max_length}. Lower the backbone's max_pixels or raise max_length"
            )
            raise CollateError(msg)
        return asked + target, [IGNORE_INDEX] * len(asked) + ([IGNORE_INDEX] * len(target) if question.filler else target)

    def _check_room(self, questions: Sequence[ImageQuestion], images: Sequence[Branches], most: int) -> None:
        """Refuse a row that is longer than was planned: it would take memory that was never asked for."""
        lengths = [sum(image.pieces) for image in images]
        if sum(lengths) > most:
            each = ", ".join(f"{question.key!r} ({length})" for question, length in zip(questions, lengths, strict=True))
            msg = (
                f"a row has {sum(lengths)} tokens: {each}; it was planned for data.max_tokens={most}. Their records are other than the "
                "lengths that were counted: delete the folder `lengths` in $EMO_CACHE (~/.cache/emo-lightning), and begin again"
            )
            raise CollateError(msg)

    def _shared(self, ids: list[int], image_tokens: int) -> int:
        return ids.index(self.image_token) + image_tokens

    def prompt_ids(self, keys: tuple[str, ...]) -> list[int]:
        """Tokens of the prompt that asks for these keys, with one for the picture."""
        return self._prompt_ids(keys)

    def shared_length(self, image_tokens: int) -> int:
        """Tokens up to the end of a picture, which all questions about it begin with."""
        # Whatever is asked.
        return self._prompt_ids(("description",)).index(self.image_token) + image_tokens

    def question_length(self, keys: tuple[str, ...], image_tokens: int) -> int:
        """Tokens of a sample up to where its answer begins."""
        return len(self._prompt_ids(keys)) - 1 + image_tokens

    def length(self, keys: tuple[str, ...], image_tokens: int, target: int) -> int:
        """Tokens of a sample, without its picture.

        Args:
            keys: that are asked for.
            image_tokens: of its picture.
            target: tokens of its answer's text.
        """
        return self.question_length(keys, image_tokens) + target + 1

    def _padded(self, rows: list[list[int]], vision: VisionInputs) -> dict[str, object]:
        input_ids = self._pad(rows, self.tokenizer.pad_token_id)
        mask = self._pad([[1] * len(row) for row in rows], 0)
        image_at = [row.index(self.image_token) for row in rows]
        return {
            "input_ids": input_ids,
            "attention_mask": mask,
            **self.family.position_inputs(input_ids, self.image_token),
            **self.family.padded_positions(self.processor, mask, image_at, vision.sizes),
        }

    def _packed(self, rows: list[list[list[int]]], images: Sequence[Branches], vision: VisionInputs) -> dict[str, object]:
        """All samples in one row, with the positions that each has alone."""
        places: list[int] = []
        positions: list[Tensor] = []
        begin = 0
        for samples, image, resized, image_tokens in zip(rows, images, vision.sizes, vision.tokens, strict=True):
            at = samples[0].index(self.image_token)
            places += range(begin + at, begin + at + image_tokens)
            alone = [self.family.packed_positions(self.processor, length, at, resized) for length in image.lengths]
            positions += positions_laid_out(alone, image)
            begin += sum(image.pieces)
        return {
            "input_ids": torch.tensor([flat([laid_out(*one) for one in zip(rows, images, strict=True)])]),
            "lengths": [sum(image.pieces) for image in images],
            "image_at": torch.tensor(places),
            "positions": torch.cat(positions, 1)[:, None],
            **({"branches": [image.pieces for image in images]} if any(image.shared for image in images) else {}),
        }

    def _packed_labels(
        self, questions: Sequence[ImageQuestion], labels: list[list[list[int]]], images: Sequence[Branches]
    ) -> dict[str, object]:
        row = torch.tensor([flat([laid_out(*one) for one in zip(labels, images, strict=True)])])
        found: dict[str, object] = {"labels": row, "answer_at": (row[0] != IGNORE_INDEX).nonzero()[:, 0]}
        found["answer_ends"] = flat(
            [
                [*([0] if image.shared else []), *(_end(targets) for targets in of_image)]
                for of_image, image in zip(labels, images, strict=True)
            ]
        )
        if any(question.shares for question in questions):
            found["label_weights"] = torch.cat(
                [
                    torch.full((length,), share)
                    for question, image in zip(questions, images, strict=True)
                    for share, length in zip(
                        [*([0.0] if image.shared else []), *(question.shares or (1.0,) * len(image.lengths))],
                        image.pieces,
                        strict=True,
                    )
                ]
            )[None]
        return found

    def _tokenize_prompt(self, keys: tuple[str, ...]) -> list[int]:
        return self._question_tokens(prompt(keys))

    def _question_tokens(self, words: str) -> list[int]:
        """Token ids of a chat that asks this about one picture, up to where its answer begins."""
        chat: list[dict[str, object]] = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": words}]}]
        text = self.processor.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids: list[int] = self.tokenizer(self.family.prompt_text(text), add_special_tokens=False)["input_ids"]
        return self.family.framed(self.processor, ids)

    def _expand(self, ids: list[int], image_tokens: int) -> list[int]:
        """Repeat the one image token of the template as often as the image asks for."""
        at = ids.index(self.image_token)
        return ids[:at] + [self.image_token] * image_tokens + ids[at + 1 :]

    def _target(self, question: ImageQuestion, keys: tuple[str, ...], resized: Size) -> list[int]:
        if question.record is None:
            msg = f"sample {question.key!r} has no record to learn from"
            raise CollateError(msg)
        text = target_answer(keys, question.record, self.codec, resized)
        ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not keys or not ids:
            msg = f"sample {question.key!r} has zero supervised tokens: its record has none of the keys asked for"
            raise CollateError(msg)
        return [*ids, self.end]

    def _distributions(
        self,
        questions: Sequence[ImageQuestion],
        sizes: Sequence[Size],
        labels: Sequence[Sequence[Sequence[int]]],
        images: Sequence[Branches],
    ) -> dict[str, Tensor]:
        places, tokens, targets = [], [], []
        width = max(len(row) for of_image in labels for row in of_image)
        begins = accumulate((sum(image.pieces) for image in images), initial=0)
        each = [
            (question, keys, resized, row, begin + shift)
            for question, resized, of_image, image, begin in zip(questions, sizes, labels, images, begins, strict=False)
            for keys, row, shift in zip(question.asked, of_image, image.shifts, strict=True)
        ]
        for question, keys, resized, row, begin in each:
            record = question.record
            distribution = record.emotion_distribution() if record is not None and "emotion" in keys else None
            if record is None or distribution is None or question.filler:
                places.append(-1)
                tokens.append([0] * len(EMOTIONS))
                targets.append([0.0] * len(EMOTIONS))
            else:
                variants = [
                    target_answer(keys, record.model_copy(update={"emotion": e}), self.codec, resized) for e in EMOTIONS
                ]
                words = EmotionWords.of_answers(self.tokenizer, variants)
                # The first supervised token is the answer's first.
                first = next(place for place, label in enumerate(row) if label != IGNORE_INDEX)
                places.append((begin if self.packed else self._shift(width - len(row))) + first + len(words.before))
                tokens.append(list(words.first))
                targets.append(distribution)
        return {
            "emotion_at": torch.tensor(places),
            "emotion_rows": torch.tensor([row for row, place in enumerate(places) if place > 0], dtype=torch.int64),
            "emotion_first": torch.tensor(tokens),
            "emotion_target": torch.tensor(targets, dtype=torch.float32),
        }

    def _shift(self, fill: int) -> int:
        """How far a row is moved by that much padding."""
        return 0 if self._pads_right else fill

    @property
    def _pads_right(self) -> bool:
        return (self.padding_side or ("right" if self.answers else "left")) == "right"

    def _pad(self, rows: list[list[int]], value: int) -> Tensor:
        """(B, T) int64: `value` fills the shorter rows, on the side that was asked for."""
        width = max(len(row) for row in rows)
        fills = [[value] * (width - len(row)) for row in rows]
        pairs = zip(rows, fills, strict=True)
        return torch.tensor([row + fill if self._pads_right else fill + row for row, fill in pairs])


def _end(targets: Sequence[int]) -> int:
    """Tokens from the one before the first target to the end of a sample; 1 where there is none."""
    first = next((place for place, target in enumerate(targets) if target != IGNORE_INDEX), len(targets))
    return len(targets) - first + 1
