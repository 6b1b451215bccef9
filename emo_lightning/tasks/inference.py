"""A frozen backbone at work: replies into a predictions file, hidden states into a feature cache. Both resume.

They run as `Trainer.test`, so that devices, DDP, torchrun and SLURM work as in training (`Trainer.predict` would rebuild our
loaders and lose their exact share of samples per rank).
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from emo_lightning.data.boxes import codec_for
from emo_lightning.data.chat import merge_predictions, parse_reply
from emo_lightning.data.features import FeatureWriter
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.data.supervision import Supervision
from emo_lightning.models.backbone import Backbone, BackboneConfig, load_backbone
from emo_lightning.schema import Prediction, read_jsonl, write_jsonl

PREDICTIONS_FILE = "predictions.jsonl"


class _Frozen(LightningModule):
    """Loads a backbone that learns nothing."""

    def __init__(self, backbone: BackboneConfig, out: str | None) -> None:
        super().__init__()
        backbone.tuning = "qlora" if backbone.tuning == "qlora" else "frozen"
        self.backbone_config = backbone
        self.backbone: Backbone | None = None
        self.out = out

    def configure_model(self) -> None:
        """Load the backbone, once, on every rank."""
        if self.backbone is None:
            self.backbone = load_backbone(self.backbone_config).requires_grad_(False).eval()

    @property
    def net(self) -> Backbone:
        """The backbone, loaded."""
        if self.backbone is None:
            raise RuntimeError("the backbone is loaded in configure_model, which the Trainer has not called yet")
        return self.backbone

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

    Args:
        backbone: model or adapter under test.
        max_new_tokens: of one reply; a reply that is cut there is unparsable, and counts as such.
        out: folder for the results; null is the trainer's default_root_dir.
    """

    def __init__(self, backbone: BackboneConfig, max_new_tokens: int = 256, out: str | None = None) -> None:
        super().__init__(backbone, out)
        self.max_new_tokens = max_new_tokens

    def _part(self, rank: int) -> Path:
        return self.folder / f"predictions-{rank:05d}.jsonl.part"

    def setup(self, stage: str) -> None:
        """Find what an interrupted run has already answered."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.trainer.is_global_zero:
            self._gather().keep()
        self.trainer.strategy.barrier()
        done = {p.id for p in self._answered()}
        self.data.done = dict.fromkeys(self.data.sets, done)

    def _answered(self) -> list[Prediction]:
        kept = self.folder / (PREDICTIONS_FILE + ".part")
        return list(read_jsonl(kept, Prediction)) if kept.exists() else []

    def _gather(self) -> _Answers:
        """All complete lines of all ranks' parts, in one file; torn last lines of a killed run are dropped."""
        answers = {p.id: p for p in self._answered()}
        parts = sorted(self.folder.glob("predictions-*.jsonl.part"))
        for part in parts:
            for line in part.read_bytes().split(b"\n")[:-1]:
                prediction = Prediction.from_json(line, str(part))
                answers[prediction.id] = prediction
        return _Answers(answers, parts, self.folder / (PREDICTIONS_FILE + ".part"))

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """One batch of images: all its questions."""
        name = self.data.pending[dataloader_idx]
        replies: dict[str, list[str]] = {o: self.net.generate(b, self.max_new_tokens) for o, b in batch["inputs"].items()}
        sizes = next(iter(batch["inputs"].values()))
        codec = codec_for(self.net.model_type)
        with open(self._part(self.global_rank), "a", encoding="utf-8") as out:
            for i, row in enumerate(batch["rows"]):
                if batch["filler"][i]:
                    continue
                record = self.data.record(name, row)
                parts = [
                    parse_reply(
                        texts[i],
                        id=record.id,
                        original=sizes["original_size"][i],
                        resized=sizes["resized_size"][i],
                        codec=codec,
                    )
                    for texts in replies.values()
                ]
                prediction = merge_predictions(parts).model_copy(
                    update={"source": record.source, "split": record.split, "sha256": record.sha256}
                )
                out.write(json.dumps(prediction.model_dump(mode="json"), ensure_ascii=False) + "\n")

    def on_test_end(self) -> None:
        """Rank 0 writes the one file and removes the parts."""
        self.trainer.strategy.barrier()
        if self.trainer.is_global_zero:
            answers = self._gather()
            count = write_jsonl(self.folder / PREDICTIONS_FILE, sorted(answers.by_id.values(), key=lambda p: p.id))
            unreadable = sum(any("problems" in r for r in p.provenance.get("replies", [])) for p in answers.by_id.values())
            answers.remove()
            print(f"{count} predictions, {unreadable} with something unreadable: {self.folder / PREDICTIONS_FILE}")


class _Answers:
    def __init__(self, by_id: dict[str, Prediction], parts: list[Path], kept: Path) -> None:
        self.by_id, self.parts, self.kept = by_id, parts, kept

    def keep(self) -> None:
        if self.by_id:
            write_jsonl(self.kept, self.by_id.values())
        for part in self.parts:
            part.unlink()

    def remove(self) -> None:
        for path in (*self.parts, self.kept):
            path.unlink(missing_ok=True)


class FeatureTask(_Frozen):
    """Hidden states of the last layers, real tokens only, into one feature cache per set (`OUT/SET/`).

    Args:
        backbone: model or adapter that is read.
        num_layers: last layers that are kept (paper section 3.3: four).
        dtype: on disk; float32 keeps a cached training equal to an online one.
        out: folder for the caches; null is the trainer's default_root_dir.
    """

    def __init__(
        self, backbone: BackboneConfig, num_layers: int = 4, dtype: Literal["float32", "bfloat16", "float16"] = "float32",
        out: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(backbone, out)
        # `dtype` of a LightningModule is its own.
        self.num_layers, self.cache_dtype = num_layers, getattr(torch, dtype)
        self.writers: dict[str, FeatureWriter] = {}

    def setup(self, stage: str) -> None:
        """Open the caches and find what they already hold."""
        # The Trainer calls `configure_model` after `setup`, but the caches need the backbone's width and pixel limits.
        self.configure_model()
        if len(self.data.objectives) != 1:
            raise ValueError(f"data.objectives={self.data.objectives}: features are taken at one prompt; name one objective")
        for name in self.data.sets:
            self.writers[name] = FeatureWriter(
                self.folder / name, self.num_layers, self.net.hidden_size, self.cache_dtype, self._fingerprint(name),
                rank=self.global_rank, world_size=self.trainer.world_size,
            )  # fmt: skip
            self.data.done[name] = self.writers[name].done

    def _fingerprint(self, name: str) -> str:
        size = dict(self.net.processor.image_processor.size)
        parts = [
            self.backbone_config.path,
            size["shortest_edge"],
            size["longest_edge"],
            self.data.objectives,
            self.data.index(name).fingerprint,
        ]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()

    def test_step(self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0) -> None:
        """One batch of images."""
        name = self.data.pending[dataloader_idx]
        (inputs,) = batch["inputs"].values()
        with torch.no_grad():
            hidden: Tensor = self.net.hidden_states(inputs, self.num_layers)
        mask = inputs["attention_mask"].bool()
        for i, row in enumerate(batch["rows"]):
            if not batch["filler"][i]:
                self.writers[name].append(
                    inputs["key"][i], hidden[:, i, mask[i]].cpu(), Supervision.of(self.data.record(name, row))
                )

    def on_test_end(self) -> None:
        """Mark this rank's share complete."""
        for writer in self.writers.values():
            writer.close()
