"""How fast a training is: tokens and images a second, share of the device's peak, waiting for data, memory."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from typing_extensions import override

from emo_lightning.core.devices import peak_flops, peak_memory
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.models.backbone import Backbone

_STATE = "emo_throughput"
"""In a checkpoint: what went through the first rank so far, of how many ranks, and its memory."""


@dataclass
class Passed:
    """What went through a rank."""

    seconds: float = 0.0
    """Of the training loop, without validation."""
    waited: float = 0.0
    """Of these, for batches."""
    tokens: int = 0
    """Of samples; padding is none, and fillers have none."""
    places: int = 0
    """That there was room for: tokens, fillers and padding, and what is left free in a planned row."""
    images: int = 0
    """Pictures; fillers are none."""
    flops: float = 0.0
    """That were needed (`Backbone.step_flops`)."""

    def since(self, before: Passed) -> Passed:
        """The difference."""
        return Passed(**{f.name: getattr(self, f.name) - getattr(before, f.name) for f in fields(self)})

    def of_ranks(self, before: int, now: int) -> Passed:
        """What would have gone through a rank if another number of ranks had done the same steps; operations stay those of one device."""
        share = before / now
        return replace(
            self, tokens=round(self.tokens * share), places=round(self.places * share), images=round(self.images * share)
        )

    def see(self, backbone: Backbone, batch: ChatBatch) -> None:
        """Count a batch; it is on the CPU."""
        lengths = batch["lengths"] if "lengths" in batch else batch["attention_mask"].sum(1).tolist()
        real = (~batch["filler"]).tolist()
        self.tokens += sum(length for length, counts in zip(lengths, real, strict=True) if counts)
        self.places += batch.get("room", batch["input_ids"].numel())
        self.images += sum(real)
        self.flops += backbone.step_flops(batch, lengths)

    def rates(self, device: torch.device, ranks: int = 1) -> dict[str, float]:
        """What is logged below `perf/`; empty where no time went by.

        Args:
            device: that it went through.
            ranks: with as much as this one.
        """
        if self.seconds <= 0 or not self.places:
            return {}
        found = {
            "tokens_per_s": self.tokens / self.seconds * ranks,
            "images_per_s": self.images / self.seconds * ranks,
            "data_wait": min(1.0, self.waited / self.seconds),
            "fill": self.tokens / self.places,
        }
        if (memory := peak_memory(device)) is not None:
            found["memory"] = memory / 2**30
        if device.type == "cuda" and (peak := peak_flops(torch.cuda.get_device_name(device))):
            found["mfu"] = self.flops / self.seconds / peak
        return found


class Throughput(Callback):
    """Logs `perf/…` with the other metrics of training, over the steps since it did so last.

    `tokens_per_s` and `images_per_s` are of all ranks together, taken as this one times their number. `mfu` is the share of the
    device's peak, where that is known (`peak_flops`). `data_wait` is a share of the time, `fill` the share of the places in batches, free ones
    of planned rows among them, that samples take, `memory` the most GiB that were allocated on the GPU; on a CPU the most that this
    process had. A training that was killed goes on counting where its checkpoint stands.
    """

    def __init__(self) -> None:
        self._all, self._logged = Passed(), Passed()
        self._before = Passed()
        """Of earlier starts, until training begins."""
        self._memory = 0.0
        """GiB; the most of earlier starts."""
        self._began: float | None = None
        self._waited = 0.0
        self._ranks, self._device = 1, torch.device("cpu")

    def see(self, backbone: Backbone, batch: ChatBatch) -> None:
        """Count a batch that will be trained on; it is still on the CPU."""
        self._all.see(backbone, batch)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock starts when the first batch is asked for."""
        self._ranks, self._device = trainer.world_size, pl_module.device
        before, self._before = self._before, Passed()
        memory = self._memory
        self.restart(trainer)
        self._all, self._logged, self._memory = before, replace(before), memory

    def restart(self, trainer: Trainer) -> None:
        """Forget what was seen: the first steps, perhaps, in which much is built that later ones have."""
        self._all, self._logged, self._memory = Passed(), Passed(), 0.0
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        self._waited = _waited(trainer)
        self._began = time.perf_counter()

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """Log where the Trainer logs its own."""
        step = trainer.global_step
        if batch_idx % trainer.accumulate_grad_batches == trainer.accumulate_grad_batches - 1 and step % _every(trainer) == 0:
            self._count(trainer)
            found = self._rates(self._all.since(self._logged))
            self._logged = replace(self._all)
            for name, value in found.items():
                pl_module.log(f"perf/{name}", value, on_step=True, batch_size=1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 (Lightning's)
        """The clock stands still."""
        if self._began is not None:
            self._count(trainer)
            self._began = None

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 (Lightning's)
        """The clock goes on."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._began = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002 (Lightning's)
        """Everything is counted."""
        self._count(trainer)
        self._began = None

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what was counted so far."""
        if self._began is not None:
            self._count(trainer)
        memory = max(self._memory, (peak_memory(self._device) or 0.0) / 2**30)
        # A checkpoint is read as plain numbers; NumPy's are none.
        passed = {
            name: int(value) if isinstance(value, Integral) else float(value) for name, value in asdict(self._all).items()
        }
        checkpoint[_STATE] = {"passed": passed, "ranks": self._ranks, "memory": memory}

    @override
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with it; one of an earlier version has none."""
        if (state := checkpoint.get(_STATE)) is not None:
            self._ranks, self._device = trainer.world_size, trainer.strategy.root_device
            self._before = Passed(**state["passed"]).of_ranks(state["ranks"], self._ranks)
            # Where nothing is left to train, training does not begin.
            self._all, self._memory = replace(self._before), state["memory"]

    def summary(self) -> dict[str, object]:
        """`perf` of the whole training, for `training.json`."""
        found = self._rates(self._all)
        if "memory" in found:
            found["memory"] = max(found["memory"], self._memory)
        return {"perf": {name: float(f"{value:.4g}") for name, value in found.items()}}

    def _rates(self, seen: Passed) -> dict[str, float]:
        return seen.rates(self._device, self._ranks)

    def _count(self, trainer: Trainer) -> None:
        now = time.perf_counter()
        if self._began is not None:
            self._all.seconds += now - self._began
            self._began = now
        waited = _waited(trainer)
        self._all.waited += max(0.0, waited - self._waited)
        self._waited = waited


def _waited(trainer: Trainer) -> float:
    """Seconds that the loader has waited for batches, in this and earlier trainings."""
    loader = trainer.train_dataloader
    return loader.waited if isinstance(loader, ResumableLoader) else 0.0


def _every(trainer: Trainer) -> int:
    return max(1, int(getattr(trainer, "log_every_n_steps", 1)))
