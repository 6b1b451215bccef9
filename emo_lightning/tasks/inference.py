"""A frozen backbone at work: replies into a predictions file, hidden states into a feature cache. Both resume.

They run as `Trainer.test`, so that devices, DDP, torchrun and SLURM work as in training (`Trainer.predict` would rebuild our
loaders and lose their exact share of samples per rank).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from emo_lightning.core.records import EMOTIONS, Prediction
from emo_lightning.data.batches import ChatBatch, QuestionBatch
from emo_lightning.data.chat import merge_predictions, objective, parse_answer, prompt
from emo_lightning.data.emotion_words import EmotionWords
from emo_lightning.data.features import FeatureWriter
from emo_lightning.data.protocols import BackboneInputs
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.data.supervision import Supervision
from emo_lightning.models.backbone import Backbone, BackboneConfig, load_frozen
from emo_lightning.models.fingerprints import weights_fingerprint
from emo_lightning.models.generated_states import generated_states
from emo_lightning.tasks.prediction_files import AnswerFiles, counts_line, of_record

PREDICTIONS_FILE = "predictions.jsonl"


class _Frozen(LightningModule):
    """Loads a backbone that learns nothing."""

    def __init__(self, backbone: BackboneConfig, out: str | None) -> None:
        super().__init__()
        self.backbone_config = backbone.frozen()
        self.backbone: Backbone | None = None
        self.out = out

    def configure_model(self) -> None:
        """Load the backbone, once, on every rank."""
        if self.backbone is None:
            self.backbone = load_frozen(self.backbone_config)

    @property
    def net(self) -> Backbone:
        """The backbone, loaded."""
        if self.backbone is None:
            msg = "the backbone is loaded in configure_model, which the Trainer has not called yet"
            raise RuntimeError(msg)
        return self.backbone

    def backbone_inputs(self) -> BackboneInputs:
        """For the data module (`AsksQuestions`)."""
        return BackboneInputs(self.net.processor, self.net.model_type)

    @property
    def folder(self) -> Path:
        """Where the results go."""
        return Path(self.out or self.trainer.default_root_dir)

    @property
    def data(self) -> QuestionDataModule:
        """The trainer's data module."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def configure_optimizers(self) -> None:
        """Nothing trains."""


class PredictTask(_Frozen):
    """Greedy replies to every objective, one prediction per image; writes `predictions.jsonl` (all sets, ordered by id).

    What an interrupted pass has answered is not asked again, by any number of ranks. Images with many tokens come first, so that the
    rows of a batch are about equally long.

    Args:
        backbone: model or adapter under test.
        max_new_tokens: of one reply; a reply that is cut there is unparsable, and counts as such.
        out: folder for the results; null is the trainer's default_root_dir.
        file: name of the predictions file in it.
        emotion_scores: also write the model's own distribution over the eight, at the place where its answer names the emotion, and
            its largest as `confidence`; needs the objective `emotion`.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        max_new_tokens: int = 256,
        out: str | None = None,
        file: str = PREDICTIONS_FILE,
        emotion_scores: bool = False,
    ) -> None:
        super().__init__(backbone, out)
        if max_new_tokens < 1:
            msg = f"model.max_new_tokens: found {max_new_tokens}; expected at least 1"
            raise ValueError(msg)
        self.max_new_tokens, self.file, self.emotion_scores = max_new_tokens, file, emotion_scores
        self._left = 0
        self._done: dict[str, set[str]] = {}

    def longest_first(self) -> bool:
        """Yes: the rows of a batch are then about equally long."""
        return True

    def done(self, name: str) -> set[str]:
        """Ids of the set `name` that are answered already."""
        return self._done[name]

    @property
    def answers(self) -> AnswerFiles:
        """The file and its parts."""
        return AnswerFiles(self.folder / self.file)

    def about(self) -> dict[str, Any]:
        """What decides the answers."""
        config = self.backbone_config
        return {
            "_model": config.path,
            "weights": weights_fingerprint(config.path),
            "tuning": config.tuning,
            "dtype": config.dtype,
            "pixels": [config.min_pixels, config.max_pixels],
            "max_new_tokens": self.max_new_tokens,
            "prompts": {name: prompt(objective(name).keys) for name in self.data.objectives},
            "blind": self.data.blind,
            "emotion_scores": self.emotion_scores,
        }

    def setup(self, stage: str) -> None:
        """Find what an interrupted run has already answered."""
        if self.emotion_scores and "emotion" not in self.data.objectives:
            msg = f"model.emotion_scores: needs the objective 'emotion'; data.objectives has {', '.join(self.data.objectives)}"
            raise ValueError(msg)
        if self.trainer.is_global_zero:
            self.answers.begin(self.about())
        self.trainer.strategy.barrier()
        answered = {(p.id, p.sha256) for p in self.answers.answered()}
        self._left = 0
        for name in self.data.sets:
            index = self.data.index(name)
            keys = [(r.id, r.sha256) for r in map(index.record, range(len(index)))]
            # An image that has changed under its id is asked again.
            self._done[name] = {key[0] for key in keys if key in answered}
            self._left += len(keys) - len(self._done[name])
        if answered and self.trainer.is_global_zero:
            print(f"{len(answered)} images are answered already, {self._left} are left")
        if not self._left:
            # Without an image the Trainer starts no loop that would end.
            self._finish()

    def configure_model(self) -> None:
        """Load the backbone, unless there is nothing to ask it."""
        if self._left:
            super().configure_model()

    def test_step(self, batch: QuestionBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """One batch of images: all its questions."""
        name = self.data.pending[dataloader_idx]
        replies: dict[str, list[str]] = {o: self.net.generate(b, self.max_new_tokens) for o, b in batch["inputs"].items()}
        sizes = next(iter(batch["inputs"].values()))
        codec = self.net.family.codec
        scores = self._emotion_scores(batch["inputs"]) if self.emotion_scores else None
        predictions = []
        for i, row in enumerate(batch["rows"]):
            if batch["filler"][i]:
                continue
            record = self.data.record(name, row)
            original, resized = sizes["original_size"][i], sizes["resized_size"][i]
            parts = [
                parse_answer(texts[i], id=record.id, original=original, resized=resized, codec=codec)
                for texts in replies.values()
            ]
            prediction = of_record(merge_predictions(parts), record)
            predictions.append(prediction if scores is None else with_scores(prediction, *scores[i]))
        self.answers.append(self.global_rank, predictions)

    def _emotion_scores(self, inputs: dict[str, ChatBatch]) -> list[tuple[list[float], float]]:
        """For each row: the distribution over the eight, and the share of all probability that they hold."""
        words = EmotionWords.of_question(self.net.processor.tokenizer)
        scores, share = self.net.emotion_scores(inputs["emotion"], words)
        return list(zip(scores.tolist(), share.tolist(), strict=True))

    def on_test_end(self) -> None:
        """Rank 0 writes the one file and removes the parts."""
        self._finish()

    def _finish(self) -> None:
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            print(f"{counts_line(self.answers.finish())}: {self.answers.out}")


def with_scores(prediction: Prediction, scores: Sequence[float], share: float) -> Prediction:
    """The prediction with the model's distribution over `EMOTIONS`; the share of probability that it stands for goes to `provenance`."""
    named = {str(emotion): score for emotion, score in zip(EMOTIONS, scores, strict=True)}
    provenance = {**prediction.provenance, "emotion_scores": {"share_of_vocabulary": share}}
    return prediction.model_copy(update={"emotion_scores": named, "confidence": max(scores), "provenance": provenance})


class FeatureTask(_Frozen):
    """Hidden states of the last layers, real tokens only, into one feature cache per set (`OUT/SET/`).

    Args:
        backbone: model or adapter that is read.
        num_layers: last layers that are kept (paper section 3.3: four).
        dtype: on disk; float32 keeps a cached training equal to an online one.
        source: `prompt` takes the states at image and question; `generated` those at the model's own greedy answer, an ablation:
            the online DES task, `emo embed` and `emo explain` read the prompt.
        max_new_tokens: of an answer, with `generated`.
        out: folder for the caches; null is the trainer's default_root_dir.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        num_layers: int = 4,
        dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        source: Literal["prompt", "generated"] = "prompt",
        max_new_tokens: int = 128,
        out: str | None = None,
    ) -> None:
        super().__init__(backbone, out)
        self.source, self.max_new_tokens = source, max_new_tokens
        # `dtype` of a LightningModule is its own.
        self.num_layers, self.cache_dtype = num_layers, getattr(torch, dtype)
        self.writers: dict[str, FeatureWriter] = {}

    def longest_first(self) -> bool:
        """No: the order of the tars is the order of the cache's parts."""
        return False

    def done(self, name: str) -> set[str]:
        """Ids of the set `name` that the cache holds already."""
        return self.writers[name].done

    def setup(self, stage: str) -> None:
        """Open the caches and find what they already hold."""
        # The Trainer calls `configure_model` after `setup`, but the caches need the backbone's width and pixel limits.
        self.configure_model()
        if len(self.data.objectives) != 1:
            msg = f"data.objectives={self.data.objectives}: features are taken at one prompt; name one objective"
            raise ValueError(msg)
        weights = weights_fingerprint(self.backbone_config.path)
        for name in self.data.sets:
            self.writers[name] = FeatureWriter(
                self.folder / name,
                self.num_layers,
                self.net.hidden_size,
                self.cache_dtype,
                self._fingerprint(name, weights),
                rank=self.global_rank,
                world_size=self.trainer.world_size,
            )
        if not any(self.data.rows_left(name) for name in self.data.sets):
            # Without an image the Trainer starts no loop that would end.
            self.on_test_end()

    def _fingerprint(self, name: str, weights: str) -> str:
        size = dict(self.net.processor.image_processor.size)
        parts = [
            weights,
            size["shortest_edge"],
            size["longest_edge"],
            self.data.objectives,
            self.data.index(name).fingerprint,
        ]
        if self.source == "generated":
            parts += [self.source, self.max_new_tokens]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()

    def test_step(self, batch: QuestionBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """One batch of images."""
        name = self.data.pending[dataloader_idx]
        (inputs,) = batch["inputs"].values()
        hidden, mask = self._states(inputs)
        for i, row in enumerate(batch["rows"]):
            if not batch["filler"][i]:
                self.writers[name].append(
                    inputs["key"][i], hidden[:, i, mask[i]].cpu(), Supervision.of(self.data.record(name, row))
                )

    @torch.no_grad()
    def _states(self, inputs: ChatBatch) -> tuple[Tensor, Tensor]:
        """(num_layers, B, T, H), and which tokens count, (B, T) bool."""
        match self.source:
            case "prompt":
                return self.net.hidden_states(inputs, self.num_layers), inputs["attention_mask"].bool()
            case "generated":
                return generated_states(self.net, inputs, self.num_layers, self.max_new_tokens)
            case _:
                msg = f"model.source={self.source!r}; allowed: prompt, generated"
                raise ValueError(msg)

    def on_test_end(self) -> None:
        """Mark this rank's share complete."""
        for writer in self.writers.values():
            writer.close()
