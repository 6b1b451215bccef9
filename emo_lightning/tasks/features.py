"""A frozen backbone's hidden states, into a feature cache; an interrupted pass goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

import torch
from torch import Tensor
from typing_extensions import override

from emo_lightning.core.errors import InputError
from emo_lightning.data.batches import ChatBatch, QuestionBatch
from emo_lightning.data.features import FeatureWriter
from emo_lightning.data.leaks import Origin, check_leaks
from emo_lightning.data.supervision import Supervision
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.fingerprints import weights_fingerprint
from emo_lightning.models.generated_states import generated_states
from emo_lightning.models.sound import naming
from emo_lightning.tasks.base import refuse_limits
from emo_lightning.tasks.frozen import FrozenTask

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class FeatureTask(FrozenTask):
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
        if source not in ("prompt", "generated"):
            msg = f"model.source={source!r}; allowed: prompt, generated"
            raise InputError(msg)
        if max_new_tokens < 1:
            msg = f"model.max_new_tokens: found {max_new_tokens}; expected at least 1"
            raise InputError(msg)
        self.source, self.max_new_tokens = source, max_new_tokens
        # `dtype` of a LightningModule is its own.
        self.num_layers, self.cache_dtype = num_layers, DTYPES[dtype]
        self.writers: dict[str, FeatureWriter] = {}

    def longest_first(self) -> bool:
        """No: the order of the tars is the order of the cache's parts."""
        return False

    def done(self, name: str) -> set[str]:
        """Ids of the set `name` that the cache holds already."""
        return self.writers[name].done

    @override
    def setup(self, stage: str) -> None:
        """Open the caches and find what they already hold."""
        refuse_limits(self.trainer, "use data.limit")
        check_leaks({name: self.data.index(name) for name in self.data.sets}, allowed=self.data.allow_leaks)
        # The Trainer calls `configure_model` after `setup`, but the caches need the backbone's width and pixel limits.
        self.configure_model()
        if len(self.data.objectives) != 1:
            msg = f"data.objectives={self.data.objectives}: features are taken at one prompt; name one objective"
            raise InputError(msg)
        weights = weights_fingerprint(self.backbone_config.path)
        for name in self.data.sets:
            self.writers[name] = FeatureWriter(
                self.folder / name,
                self.num_layers,
                self.net.hidden_size,
                self.cache_dtype,
                self._fingerprint(weights, self.data.index(name).content),
                earlier=self._fingerprint(weights, self.data.index(name).named_content),
                rank=self.global_rank,
                world_size=self.trainer.world_size,
                made_of=self._made_of(),
                # `auto` and the type that it stands for are the same.
                computed=self.computed() | {"dtype": str(self.net.base.dtype).removeprefix("torch.")},
            )
        if not any(self.data.rows_left(name) for name in self.data.sets):
            # Without an image the Trainer starts no loop that would end.
            self.on_test_end()

    def _made_of(self) -> dict[str, str]:
        """What decides the features of an image, as heads and probes on them name it."""
        (objective,) = self.data.objectives
        generated = {"source": f"generated, at most {self.max_new_tokens} tokens"} if self.source == "generated" else {}
        return {**self.net.sources(self.backbone_config.path), "prompt": objective, "source": "prompt", **generated}

    def _fingerprint(self, weights: str, content: str) -> str:
        limits = self.net.family.pixel_limits(self.net.processor)
        parts: list[object] = [weights, limits.lowest, limits.highest, self.data.objectives, content]
        if self.source == "generated":
            parts += [self.source, self.max_new_tokens]
        return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()

    @override
    def test_step(self, batch: QuestionBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """One batch of images."""
        name = self.data.pending[dataloader_idx]
        (inputs,) = batch["inputs"].values()
        with naming(inputs["key"]):
            hidden, mask = self._states(inputs)
        for i, row in enumerate(batch["rows"]):
            if not batch["filler"][i]:
                record = self.data.record(name, row)
                self.writers[name].append(
                    inputs["key"][i], hidden[:, i, mask[i]].cpu(), Supervision.of(record), Origin.of(record)
                )

    @torch.no_grad()
    def _states(self, inputs: ChatBatch) -> tuple[Tensor, Tensor]:
        """(num_layers, B, T, H), and which tokens count, (B, T) bool."""
        if self.source == "generated":
            return generated_states(self.net, inputs, self.num_layers, self.max_new_tokens)
        return self.net.features(inputs, self.num_layers)

    def on_test_end(self) -> None:
        """Mark this rank's share complete."""
        for writer in self.writers.values():
            writer.close()
        if self.trainer.is_global_zero:
            self.say_skipped("features")
