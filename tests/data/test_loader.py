"""The loader under a real Lightning Trainer: a run that was stopped goes on with exactly the next batch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset

from emo_lightning.data.loader import LoaderState, ResumableLoader
from emo_lightning.data.sampler import EpochBatches, Slot
from tests.ranks import run_ranks

SIZE, BATCH, STEPS = 23, 3, 8


class Rows(Dataset[torch.Tensor]):
    """Gives the row itself."""

    def __getitem__(self, slot: Slot) -> torch.Tensor:
        return torch.tensor([float(slot.index)])


class Recorder(pl.LightningModule):
    """Notes the rows of every training batch; stops, as a kill would, after `stop` batches."""

    def __init__(self, stop: int | None = None) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.seen: list[tuple[int, list[int]]] = []
        self.stop = stop

    def training_step(self, batch: torch.Tensor, _: int) -> torch.Tensor:
        if self.stop is not None and len(self.seen) == self.stop:
            raise KeyboardInterrupt
        self.seen.append((self.current_epoch, batch.flatten().int().tolist()))
        loss: torch.Tensor = self.layer(batch / SIZE).square().mean()
        return loss

    def validation_step(self, batch: torch.Tensor, _: int) -> None:
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def loader(
    workers: int = 0, *, persistent_workers: bool = False, prefetch_factor: int | None = None
) -> ResumableLoader[torch.Tensor]:
    return ResumableLoader(
        Rows(),
        EpochBatches(SIZE, BATCH, seed=3),
        num_workers=workers,
        collate_fn=torch.stack,
        persistent_workers=persistent_workers,
        prefetch_factor=prefetch_factor,
    )


def fit(
    tmp_path: Path,
    model: Recorder,
    *,
    every: int | None = None,
    resume: Path | None = None,
    workers: int = 0,
    options: Mapping[str, Any] | None = None,
    **trainer: object,
) -> list[tuple[int, list[int]]]:
    callbacks: list[pl.Callback] = []
    if every:
        callbacks = [ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=every, save_top_k=-1)]
    settings: dict[str, Any] = {"max_epochs": 3, **trainer}
    run = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=bool(every),
        callbacks=callbacks,
        default_root_dir=tmp_path,
        **settings,
    )
    val = None if settings.get("limit_val_batches", 0) == 0 else DataLoader(TensorDataset(torch.arange(2)))
    try:
        run.fit(model, loader(workers, **(options or {})), val, ckpt_path=resume)
    except (KeyboardInterrupt, SystemExit):
        assert model.stop is not None
    return model.seen


def expected(epochs: int = 3) -> list[tuple[int, list[int]]]:
    batches = EpochBatches(SIZE, BATCH, seed=3)
    rows = []
    for epoch in range(epochs):
        batches.set_epoch(epoch)
        rows += [(epoch, [slot.index for slot in step]) for step in batches]
    return rows


CASES = [
    pytest.param({}, id="plain"),
    pytest.param({"accumulate_grad_batches": 2}, id="accumulate"),
    pytest.param({"max_steps": 3 * STEPS, "max_epochs": -1}, id="max_steps"),
    pytest.param({"val_check_interval": 3, "limit_val_batches": 1.0}, id="validation in mid-epoch"),
]


@pytest.mark.parametrize("trainer", CASES)
def test_resume_goes_on_with_the_next_batch(tmp_path: Path, trainer: dict[str, Any]) -> None:
    assert fit(tmp_path, Recorder(), **trainer) == expected()
    steps_per_epoch = STEPS // trainer.get("accumulate_grad_batches", 1)
    fit(tmp_path, Recorder(stop=2 * STEPS), every=1, **trainer)
    saved = sorted(tmp_path.glob("*.ckpt"), key=lambda path: int(path.stem.partition("=")[2]))
    assert len(saved) == 2 * steps_per_epoch
    for number, path in enumerate(saved, 1):  # in the middle, at the end and at the beginning of an epoch
        done = number * trainer.get("accumulate_grad_batches", 1)
        assert fit(tmp_path, Recorder(), resume=path, **trainer) == expected()[done:], path.name


def test_resume_with_workers_counts_batches_handed_out_not_fetched(tmp_path: Path) -> None:
    fit(tmp_path, Recorder(stop=STEPS + 4), every=1, workers=2, options={"prefetch_factor": 4})
    for step in (3, STEPS, STEPS + 2):
        state = torch.load(tmp_path / f"step={step}.ckpt", weights_only=True)["loops"]["fit_loop"]["state_dict"]
        saved = state["combined_loader"][0]
        assert (saved["epoch"] * STEPS + saved["step"]) == step
        seen = fit(tmp_path, Recorder(), resume=tmp_path / f"step={step}.ckpt", workers=2)
        assert seen == expected()[step:]


def test_persistent_workers(tmp_path: Path) -> None:
    assert fit(tmp_path, Recorder(), workers=1, options={"persistent_workers": True}) == expected()


def test_end_of_epoch_checkpoint(tmp_path: Path) -> None:
    callback = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    arguments: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    pl.Trainer(max_epochs=2, callbacks=[callback], **arguments).fit(Recorder(), loader())
    for epoch in (0, 1):
        seen = fit(tmp_path, Recorder(), resume=tmp_path / f"epoch={epoch}.ckpt")
        assert seen == expected()[(epoch + 1) * STEPS :]


def test_limited_epochs_change_their_order(tmp_path: Path) -> None:
    seen = fit(tmp_path, Recorder(), limit_train_batches=2)
    whole = expected()
    assert seen == [whole[epoch * STEPS + step] for epoch in range(3) for step in range(2)]


class Divided(Recorder):
    """Makes its loader itself, where the rank is known."""

    def train_dataloader(self) -> ResumableLoader[torch.Tensor]:
        batches = EpochBatches(SIZE, 2, seed=3, rank=self.global_rank, world_size=self.trainer.world_size)
        return ResumableLoader(Rows(), batches, collate_fn=torch.stack)


def see_rows(out: Path) -> None:
    """One rank's part of two epochs."""
    model = Divided()
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(model)
    (out / f"rank{trainer.global_rank}.json").write_text(json.dumps(model.seen))


@pytest.mark.slow
def test_two_processes_see_every_row_once(tmp_path: Path) -> None:
    """DDP on CPU with Lightning's own sampler injection left on: our batches stay in place."""
    run_ranks(partial(see_rows, tmp_path))
    ranks = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1]) == 2 * 6
    for epoch in (0, 1):
        assert sorted(row for rank in ranks for e, rows in rank for row in rows if e == epoch) == list(range(SIZE))


def test_draws_nothing_from_the_global_random_state() -> None:
    before = torch.get_rng_state()
    assert len(list(loader())) == STEPS
    assert torch.equal(torch.get_rng_state(), before)


def test_state_without_lightning() -> None:
    one = loader()
    assert len(one) == STEPS
    one.set_epoch(5)
    iterator = iter(one)
    head = [next(iterator) for _ in range(3)]
    state = one.state_dict()
    assert (state["epoch"], state["step"]) == (5, 3)
    tail = list(iterator)
    two = loader()
    two.load_state_dict(state)
    assert two.state_dict() == state
    assert [batch.tolist() for batch in two] == [batch.tolist() for batch in tail]
    assert [batch.tolist() for batch in two] == [batch.tolist() for batch in head + tail]  # the next pass is whole again
    three = loader()
    three.load_state_dict(state)
    three.set_epoch(6)
    assert len(list(three)) == STEPS  # another epoch begins at its beginning


@pytest.mark.parametrize(("key", "value"), [("size", 24), ("global_batch", 4), ("seed", 4), ("shuffle", False)])
def test_state_of_another_order_is_refused(key: str, value: int) -> None:
    state = cast(LoaderState, {**loader().state_dict(), key: value})
    with pytest.raises(ValueError, match=rf"loader state has {key} {value}, this run has"):
        loader().load_state_dict(state)
