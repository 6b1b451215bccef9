"""A batch of pictures and all that a model says of them: questions asked, answers read, words and probe put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from emo_lightning.core.errors import InputError
from emo_lightning.inference.results import Explanation, Point, Unlike, said_of

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image
    from torch import Tensor

    from emo_lightning.core.records import Prediction
    from emo_lightning.data.batches import ChatBatch
    from emo_lightning.data.collate import Collator
    from emo_lightning.data.emotion_words import EmotionWords
    from emo_lightning.inference.bundle import Bundle
    from emo_lightning.inference.calibration import ProbeCalibration
    from emo_lightning.models import DESHead
    from emo_lightning.models.backbone import Backbone
    from emo_lightning.models.label_scoring import LabelScoring
    from emo_lightning.models.spread import Seen, Spread

OnPartial: TypeAlias = Callable[[Explanation], None]
"""Is told what is known of an image so far."""
_OnAnswers: TypeAlias = Callable[[list[list[int]], int], None]
"""Is told the tokens of all answers that are being written, (questions × images) of them, and which question is the first of them."""


class _Read(NamedTuple):
    """What one reading of some pictures gives, before anything is answered."""

    batch: ChatBatch
    des: Tensor
    """(N, des_dim) on the device."""
    scores: Tensor | None
    """(N, 8), over the eight."""
    unlike: list[Unlike] | None
    """Of each picture; None where it is not known."""
    polarity: Tensor | None
    """(N, 2), where it was asked for."""
    answer: Callable[[_OnAnswers | None], list[list[str]]]
    """Writes the answers, by question, one a picture."""


class Asked(Protocol):
    """What is asked: as much of an `EmotionModel` as it takes."""

    folder: Path
    bundle: Bundle
    backbone: Backbone
    head: DESHead
    collate: Collator
    spread: Spread | None
    calibration: ProbeCalibration | None

    def batch(self, images: Sequence[Image], *objectives: str) -> ChatBatch:
        """One batch that asks these objectives of every picture."""
        ...

    def embed(self, images: list[Image], batch_size: int, /) -> Tensor:
        """(N, des_dim)."""
        ...

    def look(self, pictures: Sequence[Image]) -> Seen:
        """What tells whether pictures are unlike those of the training."""
        ...

    def seen(self, batch: ChatBatch, des: Tensor, tower: Sequence[Tensor]) -> Seen:
        """The same, of what a batch has given already."""
        ...

    def unlike_of(self, seen: Seen) -> list[Unlike] | None:
        """How unlike each picture is."""
        ...

    def distribution(self, des: Tensor) -> Tensor | None:
        """(N, 8) of the probe, where there is one."""
        ...

    def points(self, des: Tensor) -> list[dict[str, float]] | None:
        """Valence, arousal and dominance of N embeddings, where there is an affect head."""
        ...


class Explaining:
    """Asks a model, and puts together what it says.

    Args:
        model: loaded.
    """

    def __init__(self, model: Asked) -> None:
        self._model = model

    def check_scoring(self, label_scoring: LabelScoring) -> None:
        """Refuse what the model's questions or its tokenizer do not give.

        Raises:
            InputError: says why.
        """
        from emo_lightning.models.label_scoring import check_label_scoring

        check_label_scoring(label_scoring, "label_scoring")
        if label_scoring == "gated" and self.emotion_words is None:
            msg = (
                f"label_scoring: found gated, but the questions of {self._model.folder} have no objective 'emotion', or its tokenizer does not "
                "tell the eight words apart; allowed: plain"
            )
            raise InputError(msg)

    def explain(
        self,
        pictures: Sequence[Image],
        ids: Sequence[str],
        max_new_tokens: int,
        *,
        gated: bool = False,
        on_partial: Mapping[int, OnPartial] | None = None,
    ) -> list[Explanation]:
        """All that the model says of one batch.

        Args:
            pictures: as `as_picture` gives them.
            ids: of each.
            max_new_tokens: of one answer.
            gated: see `EmotionModel.explain`.
            on_partial: see there, by number of a picture of this batch.

        Raises:
            NotFiniteAnswerError: what the model makes of a picture is no number; names its id.
        """
        import torch

        from emo_lightning.models import label_scoring
        from emo_lightning.models.sound import check_rows, naming

        with torch.no_grad(), naming(ids):
            ask = self._read_once if self._model.collate.packed else self._one_by_one
            read = ask(pictures, max_new_tokens, gated=gated)
            if read.scores is not None and read.polarity is not None:
                read = read._replace(scores=label_scoring.gated(read.scores, read.polarity))
            check_rows(read.des)
            put_together = _Together(self._model, read)
            answers = read.answer(self._telling(put_together, ids, on_partial) if on_partial else None)
        return [put_together(n, self._words(read, n, name, [texts[n] for texts in answers])) for n, name in enumerate(ids)]

    def _telling(self, put_together: _Together, ids: Sequence[str], on_partial: Mapping[int, OnPartial]) -> _OnAnswers:
        """Tells every listener what is known of its picture; at once, as the pictures have been read by now."""
        from emo_lightning.inference.unfinished import unfinished

        tokenizer, questions = self._model.collate.tokenizer, self._model.bundle.questions
        texts = {n: [""] * len(questions) for n in on_partial}

        def tell() -> None:
            for n, listener in on_partial.items():
                size = put_together.batch["original_size"][n]
                listener(put_together(n, unfinished(texts[n], questions, ids[n], size)))

        def on_answers(tokens: list[list[int]], first: int) -> None:
            for n, found in texts.items():
                for number, row in enumerate(range(n, len(tokens), len(ids)), first):
                    found[number] = str(tokenizer.decode(tokens[row], skip_special_tokens=True))
            tell()

        tell()
        return on_answers

    def _words(self, read: _Read, n: int, name: str, texts: Sequence[str]) -> Prediction:
        """The answers about one picture."""
        from emo_lightning.data.chat import merge_predictions, parse_answer
        from emo_lightning.models import label_scoring

        original, resized = read.batch["original_size"][n], read.batch["resized_size"][n]
        codec = self._model.collate.codec
        words = merge_predictions(
            [parse_answer(text, id=name, original=original, resized=resized, codec=codec) for text in texts]
        )
        if read.scores is None or read.polarity is None:
            return words
        return label_scoring.relabelled(words, read.scores[n].tolist(), float(read.polarity[n, 0]))

    @cached_property
    def emotion_words(self) -> tuple[int, EmotionWords] | None:
        """Number of the question whose answer begins with the emotion, and the eight in the backbone's tokens; None without one."""
        from emo_lightning.data.emotion_words import EmotionWords, EmotionWordsError

        questions = self._model.bundle.questions
        if "emotion" not in questions:
            return None
        try:
            return questions.index("emotion"), EmotionWords.of_question(self._model.backbone.processor.tokenizer)
        except EmotionWordsError:
            return None

    @cached_property
    def _polarity_words(self) -> EmotionWords:
        from emo_lightning.data.emotion_words import EmotionWords

        return EmotionWords.of_polarity(self._model.backbone.processor.tokenizer)

    def _read_once(self, pictures: Sequence[Image], max_new_tokens: int, *, gated: bool) -> _Read:
        """One forward pass over all pictures and questions; answers go on from its cache, all of them side by side."""
        model, backbone = self._model, self._model.backbone
        questions, features = model.bundle.questions, model.bundle.features
        names = questions if features in questions else [*questions, features]
        number, words = self.emotion_words or (0, None)
        after = {} if words is None else {number: words.before}
        if gated:
            after[len(names)] = self._polarity_words.before
            names = [*names, "polarity"]
        batch = model.batch(pictures, *names)
        with backbone.watching_tower() as tower:
            read = backbone.read(batch, after, model.head.num_layers)
        des: Tensor = model.head(*read.features(names.index(features)))
        scores = None if words is None else backbone.word_scores(read.states[number :: len(names)], words)[0]
        polarity = None
        if gated:
            polarity = backbone.word_scores(read.states[len(names) - 1 :: len(names)], self._polarity_words)[0]
        unlike = None if model.spread is None else model.unlike_of(model.seen(batch, des, tower))

        def answer(on_answers: _OnAnswers | None) -> list[list[str]]:
            on_tokens = None if on_answers is None else lambda tokens: on_answers(tokens, 0)
            return backbone.all_replies(read, range(len(questions)), max_new_tokens, on_tokens)

        return _Read(batch, des, scores, unlike, polarity, answer)

    def _one_by_one(self, pictures: Sequence[Image], max_new_tokens: int, *, gated: bool) -> _Read:
        """A batch for each question, for backbones that cannot hold several in a row."""
        model, backbone = self._model, self._model.backbone
        batches = [model.batch(pictures, question) for question in model.bundle.questions]
        number, words = self.emotion_words or (0, None)
        scores = None if words is None else backbone.emotion_scores(batches[number], words)[0]
        polarity = None
        if gated:
            polarity = backbone.emotion_scores(model.batch(pictures, "polarity"), self._polarity_words)[0]
        seen = None if model.spread is None else model.look(pictures)
        des = model.embed(list(pictures), len(pictures)) if seen is None else seen.des

        def answer(on_answers: _OnAnswers | None) -> list[list[str]]:
            found = []
            for first, batch in enumerate(batches):
                on_tokens = None if on_answers is None else (lambda tokens, first=first: on_answers(tokens, first))
                found.append(backbone.generate(batch, max_new_tokens, on_tokens))
            return found

        return _Read(batches[0], des, scores, None if seen is None else model.unlike_of(seen), polarity, answer)


class _Together:
    """Words, scores and embedding of one picture of a batch, as an explanation."""

    def __init__(self, model: Asked, read: _Read) -> None:
        self.batch, self._model, self._unlike = read.batch, model, read.unlike
        self._scores = None if read.scores is None else read.scores.tolist()
        self._des = read.des.float().cpu()
        self._probabilities = model.distribution(self._des)
        self._points = model.points(self._des)

    def __call__(self, n: int, words: Prediction) -> Explanation:
        """Of picture n, with these words."""
        from emo_lightning.inference.calibration import probed

        said = said_of(words, None if self._scores is None else self._scores[n])
        unlike = None if self._unlike is None else self._unlike[n]
        probe = None
        if self._probabilities is not None:
            far = unlike is not None and unlike.is_unlike
            probe = probed(self._probabilities[n].double().tolist(), self._model.calibration, unlike=far)
        point = None if self._points is None else Point(**self._points[n])
        return Explanation(said, probe, self._des[n].numpy(), words, unlike, point)
