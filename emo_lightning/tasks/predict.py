"""A frozen backbone answers questions about images, into a predictions file; an interrupted pass goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor
from typing_extensions import override

from emo_lightning.core.emotions import named_emotion
from emo_lightning.core.errors import InputError
from emo_lightning.core.file_names import PREDICTIONS_FILE
from emo_lightning.core.model_folders import files_of, locate, weights_hash
from emo_lightning.core.records import EMOTIONS, Prediction
from emo_lightning.core.terminal import say
from emo_lightning.data.batches import ChatBatch, QuestionBatch
from emo_lightning.data.chat import merge_predictions, objective, parse_answer, prompt
from emo_lightning.data.emotion_words import EmotionWords
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.fingerprints import weights_fingerprint
from emo_lightning.models.label_scoring import LabelScoring, check_label_scoring, gated, relabelled
from emo_lightning.models.sound import naming
from emo_lightning.tasks.base import refuse_limits
from emo_lightning.tasks.frozen import FrozenTask
from emo_lightning.tasks.predict_affect import AffectReader
from emo_lightning.tasks.prediction_files import PredictionFiles, summary_line, with_image_identity


class _Asked(NamedTuple):
    """What is found of the images of a batch."""

    texts: list[list[str]]
    """Answers by objective and image."""
    scores: tuple[Tensor, Tensor] | None
    """Distribution over the eight (B, 8), and the share of probability that they hold (B,)."""
    polarity: Tensor | None
    """(B, 2)."""
    affect: list[dict[str, float]] | None
    """Dimension -> value, of B images."""


class PredictTask(FrozenTask):
    """Greedy answers to every objective, one prediction per image; writes `predictions.jsonl` (all sets, ordered by id).

    What an interrupted pass has answered is not asked again, by any number of ranks. Images with many tokens come first, so that the
    rows of a batch are about equally long.

    Args:
        backbone: model or adapter under test.
        max_new_tokens: of one answer; an answer that is cut there is unparsable, and counts as such.
        out: folder for the results; null is the trainer's default_root_dir.
        file: name of the predictions file in it.
        emotion_scores: also write the model's own distribution over the eight, at the place where its answer names the emotion, and
            that of the emotion that it said as `confidence`; needs the objective `emotion`.
        label_scoring: `gated` asks for the polarity besides, weighs the distribution by it, and takes its most probable emotion for the
            one that is said (`models.label_scoring`); it writes the distribution, too.
        des_head: folder of a DES head that was trained on this backbone with `va_weight`: the valence, arousal and dominance that the affect
            head beside it gives stand in the predictions. Null: none.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        max_new_tokens: int = 256,
        out: str | None = None,
        file: str = PREDICTIONS_FILE,
        emotion_scores: bool = False,
        label_scoring: LabelScoring = "plain",
        des_head: str | None = None,
    ) -> None:
        super().__init__(backbone, out)
        check_label_scoring(label_scoring, "model.label_scoring")
        if max_new_tokens < 1:
            msg = f"model.max_new_tokens: found {max_new_tokens}; expected at least 1"
            raise InputError(msg)
        self.max_new_tokens, self.file = max_new_tokens, file
        self.gated = label_scoring == "gated"
        self.emotion_scores = emotion_scores or self.gated
        # The heads are no part of the task: a frozen backbone is all that it is made of.
        self.affect = None if des_head is None else AffectReader(des_head)
        self._left = 0
        self._done: dict[str, set[str]] = {}

    def longest_first(self) -> bool:
        """Yes: the rows of a batch are then about equally long."""
        return True

    def also_asks(self) -> tuple[str, ...]:
        """The polarity, where it gates; what the DES head reads at."""
        asked = ("polarity",) if self.gated else ()
        return asked if self.affect is None else (*asked, self.affect.objective)

    def done(self, name: str) -> set[str]:
        """Ids of the set `name` that are answered already."""
        return self._done[name]

    @property
    def files(self) -> PredictionFiles:
        """The file and its parts."""
        return PredictionFiles(self.folder / self.file)

    def about(self) -> dict[str, object]:
        """What decides the answers."""
        config = self.backbone_config
        return {
            "_model": config.path,
            "weights": weights_hash(config.path),
            "tuning": config.tuning,
            "pixels": [config.min_pixels, config.max_pixels],
            "max_new_tokens": self.max_new_tokens,
            "prompts": {name: prompt(objective(name).keys) for name in self.data.objectives},
            "blind": self.data.blind,
            "emotion_scores": self.emotion_scores,
            **({"label_scoring": "gated"} if self.gated else {}),
            **({} if self.affect is None else {"affect": self.affect.about}),
            **self.computed(),
        }

    @override
    def setup(self, stage: str) -> None:
        """Find what an interrupted run has already answered."""
        refuse_limits(self.trainer, "use data.limit")
        if self.emotion_scores and "emotion" not in self.data.objectives:
            key = "label_scoring" if self.gated else "emotion_scores"
            msg = f"model.{key}: needs the objective 'emotion'; data.objectives has {', '.join(self.data.objectives)}"
            raise InputError(msg)
        self._check_ids()
        base, _ = locate(self.backbone_config.path)
        if files_of(base) is None:
            # Its content is known once the hub has given it.
            super().configure_model()
        if self.trainer.is_global_zero:
            # What older versions did not note is taken as it is.
            unknown = dict.fromkeys(self.computed().keys() - {"dtype"})
            self.files.begin(self.about(), {"weights": weights_fingerprint(self.backbone_config.path), **unknown})
        self.trainer.strategy.barrier()
        answered = {(p.id, p.sha256) for p in self.files.answered()}
        self._left = 0
        for name in self.data.sets:
            index = self.data.index(name)
            keys = [(r.id, r.sha256) for r in map(index.record, range(len(index)))]
            # An image that has changed under its id is asked again.
            self._done[name] = {key[0] for key in keys if key in answered}
            self._left += len(keys) - len(self._done[name])
        if answered and self.trainer.is_global_zero:
            say(f"{len(answered)} images are answered already, {self._left} are left")
        if not self._left:
            # Without an image the Trainer starts no loop that would end.
            self._finish()

    def _check_ids(self) -> None:
        """Refuse one id in two sets: the one file has one answer to an id, and whose it is could not be told from it."""
        homes: dict[str, str] = {}
        for name in self.data.sets:
            index = self.data.index(name)
            for key in map(index.id, np.flatnonzero(~index.nameless).tolist()):
                if (home := homes.setdefault(key, name)) != name:
                    msg = (
                        f"data.sets: the sets {home!r} and {name!r} both have an image {key!r}, and a predictions file has one answer to an "
                        "id: ask each set in a stage of its own, or give their images other ids"
                    )
                    raise InputError(msg)

    def configure_model(self) -> None:
        """Load the backbone, unless there is nothing to ask it."""
        if self._left:
            super().configure_model()
            if self.affect is not None:
                self.affect.check(self.net, self.backbone_config.path)

    @override
    def test_step(self, batch: QuestionBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """One batch of images: all its questions.

        Raises:
            NotFiniteAnswerError: what the model makes of an image is no number; names it.
        """
        with naming(next(iter(batch["inputs"].values()))["key"]):
            self._answer(batch, dataloader_idx)

    def _answer(self, batch: QuestionBatch, dataloader_idx: int) -> None:
        name = self.data.pending[dataloader_idx]
        sizes = next(iter(batch["inputs"].values()))
        codec = self.net.family.codec
        answers: list[list[str]] = []
        scores: tuple[Tensor, Tensor] | None = None
        polarity: Tensor | None = None
        points: list[dict[str, float]] | None = None
        for names, inputs in batch["inputs"].items():
            found = self._asked(names, inputs)
            answers += found.texts
            scores = scores if found.scores is None else found.scores
            polarity = polarity if found.polarity is None else found.polarity
            points = points if found.affect is None else found.affect
        if scores is not None and polarity is not None:
            scores = gated(scores[0], polarity), scores[1]
        predictions = []
        for i, row in enumerate(batch["rows"]):
            if batch["filler"][i]:
                continue
            record = self.data.record(name, row)
            original, resized = sizes["original_size"][i], sizes["resized_size"][i]
            parts = [parse_answer(texts[i], id=record.id, original=original, resized=resized, codec=codec) for texts in answers]
            prediction = with_image_identity(merge_predictions(parts), record)
            if scores is not None:
                if polarity is not None:
                    prediction = relabelled(prediction, scores[0][i].tolist(), float(polarity[i, 0]))
                prediction = add_emotion_scores(prediction, scores[0][i].tolist(), float(scores[1][i]))
            if points is not None:
                prediction = prediction.model_copy(update=points[i])
            predictions.append(prediction)
        self.files.append(self.global_rank, predictions)

    def _asked(self, names: tuple[str, ...], inputs: ChatBatch) -> _Asked:
        tokenizer = self.net.processor.tokenizer
        scored = {
            name: words
            for name, words in (("emotion", EmotionWords.of_question), ("polarity", EmotionWords.of_polarity))
            if name in names and (self.emotion_scores if name == "emotion" else self.gated)
        }
        words = {name: of(tokenizer) for name, of in scored.items()}
        found: dict[str, tuple[Tensor, Tensor]] = {}
        answered = [number for number, name in enumerate(names) if name in self.data.objectives]
        # Where the embedding is read: of all the questions that one row or one batch holds.
        reader = self.affect if self.affect is not None and self.affect.objective in names else None
        points: list[dict[str, float]] | None = None
        if "lengths" in inputs:
            layers = 0 if reader is None else reader.head.num_layers
            read = self.net.read(inputs, {names.index(name): one.before for name, one in words.items()}, layers)
            if reader is not None:
                points = reader.values(*read.features(names.index(reader.objective)))
            texts = [self.net.replies(read, number, self.max_new_tokens) for number in answered]
            for name, one in words.items():
                found[name] = self.net.word_scores(read.states[names.index(name) :: len(names)], one)
        else:
            texts = [self.net.generate(inputs, self.max_new_tokens)] if answered else []
            found = {name: self.net.emotion_scores(inputs, one) for name, one in words.items()}
            if reader is not None:
                points = reader.values(*self.net.features(inputs, reader.head.num_layers))
        return _Asked(texts, found.get("emotion"), found["polarity"][0] if "polarity" in found else None, points)

    def on_test_end(self) -> None:
        """Rank 0 writes the one file and removes the parts."""
        self._finish()

    def _finish(self) -> None:
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            say(f"{summary_line(self.files.finish())}: {self.files.out}")
            self.say_skipped("predictions")


def add_emotion_scores(prediction: Prediction, scores: Sequence[float], share: float) -> Prediction:
    """The prediction with the model's distribution over `EMOTIONS`; the share of probability that it stands for goes to `provenance`.

    Its confidence is that of the emotion that stands beside it; where the words name none of the eight there is none.
    """
    named = {str(emotion): score for emotion, score in zip(EMOTIONS, scores, strict=True)}
    category = named_emotion(prediction.emotion)
    provenance = {**prediction.provenance, "emotion_scores": {"share_of_vocabulary": share}}
    return prediction.model_copy(
        update={
            "emotion_scores": named,
            "confidence": None if category is None else named[category],
            "provenance": provenance,
        }
    )
