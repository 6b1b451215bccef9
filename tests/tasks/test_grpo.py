"""Round 3 on a small model that has learnt to speak our JSON: what it is compared with, what counts, and that it goes on to the bit."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS
from emo_lightning.data.batches import RolloutBatch
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.rollouts import RolloutDataModule
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, BackboneError, LoRA
from emo_lightning.models.loading import load_backbone, load_frozen
from emo_lightning.models.policies import Policy
from emo_lightning.models.policy_loss import Loss, policy_loss
from emo_lightning.models.sampling import Replies, Sampling, own_engine
from emo_lightning.tasks import grpo as grpo_module
from emo_lightning.tasks.base import TrainingError
from emo_lightning.tasks.finite import NotFiniteError, not_finite
from emo_lightning.tasks.grpo import GRPOTask
from emo_lightning.tasks.grpo_config import GRPOConfig, Rewards
from emo_lightning.tasks.grpo_rewards import emotion_probabilities
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sft import SFTTask
from tests.made import stir_adapters
from tests.ranks import run_ranks
from tests.tasks.test_sft import trainer
from tests.worded import worded_qwen  # noqa: F401 - fixture

STEPS = 60


@pytest.fixture(scope="module")
def speaking(worded_qwen: Path, world_tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Folder of a small model after a round 2: it says our JSON, and names emotions of which some are right."""
    out = tmp_path_factory.mktemp("round2")
    torch.manual_seed(0)
    task = SFTTask(BackboneConfig(str(worded_qwen), tuning="full"), OptimConfig(lr=3e-3))
    source = ConversationDataModule(tars(world_tars, "train"), tars(world_tars, "val"), {"emotion": 1.0}, batch_size=8)
    trainer(out, max_steps=STEPS, max_epochs=-1, limit_val_batches=0).fit(task, datamodule=source)
    return out / "model"


@pytest.fixture(scope="module")
def adapted(speaking: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on it, which changes what it says."""
    backbone = load_backbone(BackboneConfig(str(speaking), tuning="lora", lora=LoRA(rank=2, dropout=0.1)))
    torch.manual_seed(3)
    stir_adapters(backbone, 0.02)
    return backbone.save(tmp_path_factory.mktemp("adapted"))


def tars(folder: Path, split: str) -> list[str]:
    return [str(folder / f"*-{split}-*.tar")]


def data(folder: Path, **changes: Any) -> RolloutDataModule:  # noqa: ANN401
    defaults: dict[str, Any] = {"others": {"elsewhere": tars(folder, "test")}, "batch_size": 4, "limit": 12}
    return RolloutDataModule(tars(folder, "train"), tars(folder, "val"), **(defaults | changes))


class Seen(pl.Callback):
    """What is logged at each step, and losses to the bit."""

    def __init__(self) -> None:
        self.logged: list[dict[str, float]] = []

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})

    def of(self, name: str) -> list[float]:
        return [step[name] for step in self.logged]


def task_of(model: Path, **changes: Any) -> GRPOTask:  # noqa: ANN401
    tuning = {"tuning": "lora"} if (model / "adapter_config.json").exists() else {"tuning": "full"}
    defaults: dict[str, Any] = {
        "backbone": BackboneConfig(str(model), **tuning),  # type: ignore[arg-type]
        "optim": OptimConfig(lr=1e-3, warmup=0.0, schedule="constant", weight_decay=0.0),
        "grpo": GRPOConfig(),
        "sampling": Sampling(replies=4, max_new_tokens=16),
        "rewards": Rewards(emotion=1.0, format=0.1, intensity=0.3),
    }
    return GRPOTask(**(defaults | changes))


def fit(task: GRPOTask, source: RolloutDataModule, out: Path, **options: Any) -> tuple[Seen, pl.Trainer]:  # noqa: ANN401
    seen = Seen()
    checkpoint = options.pop("ckpt_path", None)
    options = {"max_steps": 2, "max_epochs": -1, "limit_val_batches": 0, "gradient_clip_val": 1.0, **options}
    run = trainer(out, **(options | {"callbacks": [seen, *options.get("callbacks", [])]}))
    run.fit(task, datamodule=source, ckpt_path=checkpoint, weights_only=True)
    return seen, run


def test_without_a_reference_no_kl_is_logged(speaking: Path, world_tars: Path, tmp_path: Path) -> None:
    seen, _ = fit(task_of(speaking, grpo=GRPOConfig(kl_weight=0.0)), data(world_tars, limit=4), tmp_path, max_steps=1)
    assert "policy/kl" not in seen.logged[0]
    assert "policy/clipped" in seen.logged[0]


# Where it begins


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_the_reference_is_round_two(speaking: Path, adapted: Path, world_tars: Path, tmp_path: Path, kind: str) -> None:
    """At step 0 its KL is 0, the ratio is 1, and what was drawn is as probable when it is read again: dropout is off."""
    task = task_of(speaking if kind == "model" else adapted, grpo=GRPOConfig(kl_weight=0.1))
    seen, _ = fit(task, data(world_tars), tmp_path, max_steps=3)
    assert seen.of("policy/kl")[0] == 0
    assert seen.of("policy/kl")[-1] > 0
    assert max(seen.of("rollout/gap")) <= 1e-5
    assert seen.of("policy/clipped") == [0, 0, 0]
    assert 0 < seen.of("policy/entropy")[0] < 5
    assert (tmp_path / kind).is_dir()
    if kind == "adapter":
        # The base model, which adapters off would give, says otherwise.
        own, base = (load_frozen(BackboneConfig(str(path))) for path in (adapted, speaking))
        picture = Image.new("RGB", (56, 56), (200, 30, 30))
        assert np.abs(emotion_probabilities(own, [picture]) - emotion_probabilities(base, [picture])).max() > 1e-3


def test_in_4_bits_too(adapted: Path, world_tars: Path, tmp_path: Path) -> None:
    """The policies differ in their adapters alone; nothing is merged for the one that samples."""
    pytest.importorskip("bitsandbytes")
    task = task_of(adapted, backbone=BackboneConfig(str(adapted), tuning="qlora"))
    seen, _ = fit(task, data(world_tars, limit=4), tmp_path)
    assert seen.of("policy/kl")[0] == 0 < seen.of("policy/kl")[1]
    # Its layers compute in bfloat16.
    assert max(seen.of("rollout/gap")) < 0.1


def test_in_mixed_precision_policies_are_not_mixed_up(speaking: Path, world_tars: Path, tmp_path: Path) -> None:
    """torch would keep rounded weights for a whole step, whichever policy has used them first, did Lightning not switch that off."""
    config = GRPOConfig(kl_weight=0.1, sample_every=2, clip_low=1e-4, clip_high=1e-4)
    seen, _ = fit(task_of(speaking, grpo=config), data(world_tars), tmp_path, max_steps=3, precision="bf16-mixed")
    assert seen.of("policy/kl")[0] == 0
    assert min(seen.of("policy/kl")[1:]) > 0
    assert [share > 0 for share in seen.of("policy/clipped")] == [False, True, False]


def test_a_policy_is_put_in_and_taken_out(speaking: Path) -> None:
    backbone = load_backbone(BackboneConfig(str(speaking), tuning="full"))
    weight = next(p for p in backbone.parameters() if p.requires_grad)
    before = weight.detach().clone()
    start = Policy(backbone)
    with torch.no_grad():
        weight.add_(1.0)
    with start.within(backbone):
        assert torch.equal(weight, before)
    assert torch.equal(weight, before + 1)
    start.renew(backbone)
    with start.within(backbone):
        assert torch.equal(weight, before + 1)
    with pytest.raises(ValueError, match="do not fit this model"):
        start.load({"no": before})


# It learns


@pytest.mark.parametrize("algorithm", ["dapo", "gspo"])
def test_rewards_rise(speaking: Path, world_tars: Path, tmp_path: Path, algorithm: Any) -> None:  # noqa: ANN401
    config = GRPOConfig(algorithm=algorithm, kl_weight=0.001)
    task = task_of(speaking, grpo=config, sampling=Sampling(replies=6, max_new_tokens=16))
    seen, _ = fit(task, data(world_tars, others={}, limit=8, batch_size=8), tmp_path, max_steps=8)
    worth = seen.of("reward/total")
    assert np.mean(worth[-3:]) > np.mean(worth[:3]) + 0.05
    assert min(seen.of("rollout/labels")) > 0.1
    parts = (
        1.0 * seen.logged[0]["reward/emotion"]
        + 0.1 * seen.logged[0]["reward/format"]
        + 0.3 * seen.logged[0]["reward/intensity"]
    )
    assert worth[0] == pytest.approx(parts)
    assert sum(seen.logged[0][f"said/{name}"] for name in (*EMOTIONS, "none")) == pytest.approx(1)
    assert seen.of("rollout/unjudged") == [0] * 8


# What counts


def watched(task: GRPOTask) -> list[tuple[int, list[list[int]]]]:
    """Each draw to come: of how many images, and its replies."""
    drawn: list[tuple[int, list[list[int]]]] = []

    def engine(
        backbone: Backbone, row: Mapping[str, object], images: Sequence[int], numbers: NDArray[np.float64], sampling: Sampling
    ) -> Replies:
        replies = own_engine(backbone, row, images, numbers, sampling)
        drawn.append((len(images), [tokens.tolist() for tokens in replies.tokens]))
        return replies

    task.rollouts.engine = engine
    return drawn


def test_dapo_goes_by_what_is_right_whatever_else_replies_are_worth(speaking: Path, world_tars: Path, tmp_path: Path) -> None:
    """All wrong, or all right, with intensities that differ: drawn again, and left out if that did not help."""
    task = task_of(speaking, grpo=GRPOConfig(algorithm="dapo", retries=1))
    drawn = watched(task)
    seen, _ = fit(task, data(world_tars, limit=8, batch_size=8), tmp_path, max_steps=1)
    logged = seen.logged[0]
    assert [images for images, _ in drawn] == [8, drawn[-1][0]]
    assert 0 < drawn[-1][0] / 8 >= logged["rollout/alike"] > 0
    assert logged["rollout/counted"] == pytest.approx(1 - logged["rollout/alike"])
    # It is more than the drawing of the same words: what they say of intensity is seldom the same.
    assert 0 < logged["reward/intensity"] < 1


def test_where_all_replies_are_worth_the_same_nothing_is_learnt(speaking: Path, world_tars: Path, tmp_path: Path) -> None:
    """They are drawn again a bounded number of times, otherwise each time; the share is logged."""
    # Nothing is worth anything: no box is asked for, so that none is said.
    task = task_of(speaking, grpo=GRPOConfig(algorithm="dapo", retries=2), rewards=Rewards(emotion=0.0, format=0.0, box=1.0))
    drawn = watched(task)
    before = {name: value.clone() for name, value in load_backbone(task.backbone_config).state_dict().items()}
    seen, _ = fit(task, data(world_tars, objective="grounding", limit=4), tmp_path, max_steps=1)
    assert [images for images, _ in drawn] == [4, 4, 4]
    assert drawn[0][1] != drawn[1][1] != drawn[2][1]
    assert seen.logged[0]["rollout/alike"] == 1
    assert seen.logged[0]["rollout/counted"] == 0
    assert seen.logged[0]["train/loss"] == 0
    after = task.net.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_replies_that_were_cut_can_be_left_out(speaking: Path, world_tars: Path, tmp_path: Path) -> None:
    """All of them, here: the loss is finite and the gradient zero."""
    task = task_of(speaking, grpo=GRPOConfig(cut="leave_out"), sampling=Sampling(replies=4, max_new_tokens=3))
    seen, run = fit(task, data(world_tars), tmp_path, max_steps=1)
    assert (seen.logged[0]["rollout/cut"], seen.logged[0]["rollout/counted"], seen.logged[0]["rollout/length"]) == (1, 0, 3)
    assert seen.logged[0]["train/loss"] == 0
    assert run.global_step == 1


@pytest.mark.parametrize(("floor", "what"), [({"entropy_floor": 50.0}, "entropy"), ({"labels_floor": 1.0}, "labels")])
def test_a_policy_that_collapses_is_stopped(
    speaking: Path, world_tars: Path, tmp_path: Path, floor: dict[str, float], what: str
) -> None:
    task = task_of(speaking, grpo=GRPOConfig(**floor))  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=rf"step 0: the policy collapses: {what} .* below model\.grpo\.{what}_floor="):
        fit(task, data(world_tars), tmp_path)


def saver(out: Path) -> dict[str, Any]:
    """Options of a training that keeps its newest checkpoint."""
    newest = ModelCheckpoint(dirpath=out, every_n_train_steps=1, save_top_k=0, save_last=True)
    return {"enable_checkpointing": True, "callbacks": [newest]}


def test_a_policy_that_becomes_nan_ends_the_training(speaking: Path, world_tars: Path, tmp_path: Path) -> None:
    """Before it is asked anything more; the checkpoint before is kept, and what was asked is named."""
    task = task_of(speaking, optim=OptimConfig(lr=1e30, warmup=0.0, schedule="constant"))
    with pytest.raises(NotFiniteError) as stopped:
        fit(task, data(world_tars), tmp_path, max_steps=3, **saver(tmp_path))
    said = str(stopped.value)
    assert said.startswith(
        "step 1: the policy's log-probabilities are not finite, so that no reply can be drawn from it. Samples"
    )
    assert sum(key in said for key in keys_of(world_tars)) == 4
    saved = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert saved["global_step"] == 1
    assert not not_finite(saved["state_dict"].items())
    assert not (tmp_path / "model").exists()


def keys_of(folder: Path) -> list[str]:
    index = TarIndex.open(tars(folder, "train"))
    return [f" {index.id(row)}" for row in range(len(index))]


class Breaks(GRPOTask):
    """After the first step the second rank's policy is NaN."""

    def on_train_batch_start(self, batch: RolloutBatch, batch_idx: int) -> None:
        """As ever, and then."""
        super().on_train_batch_start(batch, batch_idx)
        if self.global_step == 1 and self.global_rank == 1:
            next(iter(self.net.parameters())).data.fill_(math.nan)


def both_stop(model: Path, folder: Path, out: Path) -> None:
    task = Breaks(BackboneConfig(str(model), tuning="full"), sampling=Sampling(replies=2, max_new_tokens=8))
    with pytest.raises(NotFiniteError, match=r"step 1: the policy's log-probabilities are not finite.* Samples of this step: "):
        fit(task, data(folder), out, devices=2, strategy="ddp", max_steps=3)


def test_all_ranks_stop_where_the_policy_of_one_is_nan(speaking: Path, world_tars: Path, tmp_path: Path) -> None:
    run_ranks(partial(both_stop, speaking, world_tars, tmp_path))


def test_a_policy_of_nan_is_not_validated(speaking: Path, world_tars: Path, tmp_path: Path) -> None:
    """Its greedy answers would be scored as wrong ones, and no loss would say so."""
    task = task_of(speaking, optim=OptimConfig(lr=1e30, warmup=0.0, schedule="constant"))
    with pytest.raises(NotFiniteError, match=r"step 1: the policy's log-probabilities are not finite.* Samples of this step: "):
        fit(task, data(world_tars, limit=4), tmp_path, max_steps=-1, max_epochs=1, limit_val_batches=1.0)
    assert not (tmp_path / "model").exists()


# What it costs elsewhere


def test_every_set_is_answered_at_each_validation(speaking: Path, world_tars: Path, tmp_path: Path) -> None:
    """Greedily, and compared with where the round began; a rate of 0 changes nothing, so that nothing is gained or lost."""
    whole = {"limit_val_batches": 1.0, "max_steps": -1, "max_epochs": 1}
    still = task_of(speaking, optim=OptimConfig(lr=0.0, warmup=0.0))
    _, run = fit(still, data(world_tars, limit=8), tmp_path / "still", **whole)
    found = dict(run.callback_metrics)
    logged = {f"{name}/{what}" for name in ("val", "elsewhere") for what in ("accuracy", "gain", "over_constant", "labels")}
    assert logged <= found.keys()
    assert found["elsewhere/gain"] == found["val/gain"] == 0
    assert float(found["val/loss"]) == pytest.approx(1 - float(found["val/accuracy"]))
    moved = task_of(speaking, optim=OptimConfig(lr=0.05, warmup=0.0))
    _, run = fit(moved, data(world_tars, limit=8), tmp_path / "moved", **whole)
    after = run.callback_metrics
    # Far too high a rate: it says no word any more.
    for name in ("val", "elsewhere"):
        began = float(found[f"{name}/accuracy"])
        assert float(after[f"{name}/gain"]) == pytest.approx(float(after[f"{name}/accuracy"]) - began)


# Going on


def states(losses: Seen) -> list[dict[str, float]]:
    return [{name: value for name, value in step.items() if not name.startswith("perf")} for step in losses.logged]


def test_resume_in_mid_epoch_is_exact(adapted: Path, world_tars: Path, tmp_path: Path) -> None:
    """To the last bit, within the steps for which one policy samples: what it was is in the checkpoint."""

    def run(out: Path, checkpoint: Path | None = None) -> tuple[list[dict[str, float]], dict[str, Tensor]]:
        task = task_of(adapted, grpo=GRPOConfig(sample_every=3, kl_weight=0.05))
        saver = ModelCheckpoint(dirpath=out, every_n_train_steps=2, save_top_k=-1, filename="{step}")
        options = {"enable_checkpointing": True, "callbacks": [saver], "accumulate_grad_batches": 2, "max_steps": 5}
        torch.manual_seed(len(str(out)))
        seen, _ = fit(task, data(world_tars, batch_size=2), out, ckpt_path=checkpoint, **options)
        return states(seen), {n: p.detach().clone() for n, p in task.named_parameters() if p.requires_grad}

    whole, weights = run(tmp_path / "whole")
    resumed, again = run(tmp_path / "resumed", tmp_path / "whole" / "step=2.ckpt")
    assert resumed == whole[4:]
    assert all(torch.equal(weight, again[name]) for name, weight in weights.items())
    # The policy that samples is left behind between its renewals: 0, 0, 0, 3, 3.
    assert max(step["rollout/gap"] for step in whole) <= 1e-5


def test_what_the_last_validation_found_outlives_a_kill_after_it(speaking: Path, world_tars: Path, tmp_path: Path) -> None:
    """Nobody validates again, and the report asks for it."""
    saver = ModelCheckpoint(dirpath=tmp_path / "kept", every_n_epochs=1, save_top_k=0, save_last=True, monitor="val/loss")
    options = {"enable_checkpointing": True, "max_steps": 1, "val_check_interval": 1, "limit_val_batches": 1}
    whole = task_of(speaking)
    fit(whole, data(world_tars, limit=4), tmp_path, callbacks=[saver], **options)
    again = task_of(speaking)
    fit(again, data(world_tars, limit=4), tmp_path, ckpt_path=tmp_path / "kept/last.ckpt", **options)
    assert again.summary() == whole.summary() != {}


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_a_checkpoint_goes_on_with_the_policy_that_the_round_began_with(
    speaking: Path, adapted: Path, world_tars: Path, tmp_path: Path, kind: str
) -> None:
    """It is read again from where it was: other weights there would be another reference, in silence."""
    began = tmp_path / "began"
    shutil.copytree(speaking if kind == "model" else adapted, began)
    saver = ModelCheckpoint(dirpath=tmp_path / "kept", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    options = {"enable_checkpointing": True, "callbacks": [saver], "max_steps": 1}
    source = {"limit": 8}
    fit(task_of(began), data(world_tars, **source), tmp_path / "first", **options)
    checkpoint = tmp_path / "kept/step=1.ckpt"
    seen, _ = fit(task_of(began), data(world_tars, **source), tmp_path / "again", ckpt_path=checkpoint)
    assert len(seen.logged) == 1
    written = tmp_path / "first" / kind
    for file in written.iterdir():
        shutil.copy(file, began)
    with pytest.raises(BackboneError, match=rf"checkpoint of a training that began with {began} was made with another "):
        fit(task_of(began), data(world_tars, **source), tmp_path / "other", ckpt_path=checkpoint)
    # One from before this was kept says nothing.
    old = torch.load(checkpoint, weights_only=True)
    del old["emo_made_of"]
    torch.save(old, tmp_path / "old.ckpt")
    fit(task_of(began), data(world_tars, **source), tmp_path / "old", ckpt_path=tmp_path / "old.ckpt")


def train_on(model: Path, folder: Path, out: Path, devices: int) -> None:
    """Two steps of eight images in float64, whatever the number of ranks."""
    task = task_of(model, grpo=GRPOConfig(algorithm="dapo", sample_every=2))
    strategy = "ddp" if devices > 1 else "auto"
    options = {"precision": "64-true", "devices": devices, "strategy": strategy, "accumulate_grad_batches": 2 // devices}
    options |= {"limit_val_batches": 1.0, "max_steps": -1, "max_epochs": 1}
    _, run = fit(task, data(folder, limit=16), out / str(devices), **options)
    if run.is_global_zero:
        kept = {n: p.detach() for n, p in task.named_parameters() if p.requires_grad}
        torch.save((kept, {name: float(value) for name, value in run.callback_metrics.items()}), out / f"{devices}.pt")


@pytest.mark.slow
def test_two_ranks_equal_one(speaking: Path, world_tars: Path, tmp_path: Path) -> None:
    """With the environment that torchrun gives its workers."""
    run_ranks(partial(train_on, speaking, world_tars, tmp_path, 2))
    train_on(speaking, world_tars, tmp_path, 1)
    (one, said), (two, heard) = (torch.load(tmp_path / f"{devices}.pt") for devices in (1, 2))
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-6), name
    for name in ("val/accuracy", "elsewhere/accuracy", "elsewhere/gain"):
        assert said[name] == heard[name]


# What is refused


def test_an_attention_that_cannot_share_a_reading_is_refused(speaking: Path, world_tars: Path, tmp_path: Path) -> None:
    task = task_of(speaking, backbone=BackboneConfig(str(speaking), tuning="full", attention="eager"))
    with pytest.raises(InputError, match=r"set model\.backbone\.attention to sdpa"):
        fit(task, data(world_tars), tmp_path)


def test_what_is_clipped_is_counted(speaking: Path, world_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a policy samples for several steps, ratios leave 1, and tight bounds clip."""
    losses: list[Loss] = []

    def kept(*arguments: Any) -> Loss:  # noqa: ANN401
        losses.append(policy_loss(*arguments))
        return losses[-1]

    monkeypatch.setattr(grpo_module, "policy_loss", kept)
    task = task_of(speaking, grpo=GRPOConfig(sample_every=2, clip_low=1e-3, clip_high=1e-3))
    seen, _ = fit(task, data(world_tars), tmp_path)
    assert seen.of("policy/clipped")[0] == 0
    assert seen.of("policy/clipped")[1] == pytest.approx(float(losses[1].clipped)) != 0
