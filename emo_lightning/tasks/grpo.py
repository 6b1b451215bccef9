"""Round 3: the backbone answers, and learns from what its replies are worth (group-relative policy optimisation).

Hard-label fine-tuning gains much on its own data set and loses what the model knew of others; a reward that can be checked is known to
gain nearly as much and to lose less. See docs/how-to/round3.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from typing_extensions import override

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS
from emo_lightning.data.batches import RolloutBatch
from emo_lightning.data.module import DataModule
from emo_lightning.data.rollouts import RolloutDataModule
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.data.vision_cache import VisionCache
from emo_lightning.metrics.rewards import constant_label, right_emotion, spread_of_labels
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.policies import Policy, without_dropout
from emo_lightning.models.policy_loss import ReplyTokens, policy_loss
from emo_lightning.models.reply_rows import reply_log_probs
from emo_lightning.models.sampling import Sampling, never_drawn, own_engine
from emo_lightning.models.sound import NotFiniteAnswerError
from emo_lightning.models.vllm_engine import VLLMEngine
from emo_lightning.models.vllm_server import EngineConfig, check_vllm
from emo_lightning.tasks.backbone import BackboneTask
from emo_lightning.tasks.base import TrainingError
from emo_lightning.tasks.finite import Fault, NotFiniteError, first_of_ranks
from emo_lightning.tasks.grpo_config import GRPOConfig, Rewards
from emo_lightning.tasks.grpo_rewards import Judge
from emo_lightning.tasks.grpo_rollouts import Rollout, Rollouts, read_answers
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.tallies import AnswerTally, Means
from emo_lightning.tasks.zero_shot import ZeroShot

_NO_POLICY = "the policy's log-probabilities are not finite, so that no reply can be drawn from it"
_STATE = "emo_grpo"
"""In a checkpoint: the policy that samples, accuracies of the one that the round began with, and what the last validation has found."""


class GRPOTask(BackboneTask[RolloutBatch]):
    """Group-relative policy optimisation of the answers; writes `adapter/` or `model/`, as fine-tuning does.

    Dropout is off: a policy is one distribution, for those who draw from it and those who learn.

    Args:
        backbone: where the round begins (round 2's adapter or model), and what of it trains. The KL is to this policy.
        optim: optimiser and schedule; the vision tower and the merger may have their own rates.
        seed: of what is drawn: a reply is a function of seed, epoch, image and its number.
        grpo: the algorithm.
        sampling: how replies are drawn.
        rewards: what they are worth.
        engine: what draws the replies that are learnt from.
        zero_shot: model that no round has trained, whose greedy answers `NAME/zero_shot_gain` is over; None takes the base of the adapter that
            the round begins with, and measures nothing where it begins with none.
    """

    def __init__(
        self,
        backbone: BackboneConfig,
        optim: OptimConfig | None = None,
        seed: int = 0,
        grpo: GRPOConfig | None = None,
        sampling: Sampling | None = None,
        rewards: Rewards | None = None,
        engine: EngineConfig | None = None,
        zero_shot: str | None = None,
    ) -> None:
        super().__init__(backbone, optim, seed)
        self.engine = engine or EngineConfig()
        if self.engine.name == "vllm":
            _check_engine(backbone)
        self.grpo, self.sampling, self.rewards = grpo or GRPOConfig(), sampling or Sampling(), rewards or Rewards()
        self.rewards.check_tolerance(self.grpo.tolerance)
        self.rule = self.grpo.rule
        draws = own_engine if self.engine.name == "own" else VLLMEngine(self.engine)
        self.rollouts = Rollouts(self.grpo, self.sampling, Judge(self.rewards), seed, draws)
        self._start: Policy | None = None
        self._sampler: Policy | None = None
        self._renewed_at = -1
        self._zero_shot = ZeroShot(zero_shot, backbone)
        self._answered: dict[str, dict[str, float]] = {}
        """What the last validation has found of each set."""
        self._began_with: dict[str, float] = {}
        """Set -> accuracy of the policy that the round began with."""
        self._tallies: dict[str, AnswerTally] = {}
        self._of_step = Means()
        """Entropies and labels since the last optimiser step, of all ranks."""

    def configure_model(self) -> None:
        """Load the backbone, and keep the policy that it is now.

        Raises:
            InputError: the weights are divided among ranks.
        """
        if self.device_mesh is not None:
            msg = "trainer.strategy: found fsdp, under which no rank holds a whole policy; allowed for this kind of stage: auto, ddp"
            raise InputError(msg)
        if self._start is None:
            super().configure_model()
            without_dropout(self.net)
            self._start = Policy(self.net)
            self._sampler = Policy(self.net) if self.grpo.sample_every > 1 else None

    @property
    def data(self) -> RolloutDataModule:
        """The trainer's data module."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, RolloutDataModule):
            msg = f"{type(self).__name__} needs a RolloutDataModule, got {type(data).__name__}"
            raise TypeError(msg)
        return data

    @override
    def setup(self, stage: str) -> None:
        """Refuse rewards for what is not asked, and an engine that cannot run here."""
        self.rewards.check_keys(self.data.keys, self.data.objective)
        if self.engine.name == "vllm":
            self._check_vllm()

    def _check_vllm(self) -> None:
        if self.trainer.world_size > 1:
            msg = f"model.engine.name: found 'vllm' with {self.trainer.world_size} processes; it stands beside one; allowed with several: own"
            raise InputError(msg)
        if (needed := self.data.max_length + self.sampling.max_new_tokens) > self.engine.max_length:
            msg = f"model.engine.max_length: found {self.engine.max_length}; data.max_length and sampling.max_new_tokens need {needed}"
            raise InputError(msg)
        check_vllm()

    def wants_images(self) -> bool:
        """Whether a reward looks at the pictures again, or the engine reads them itself."""
        return self.rollouts.judge.looks_again or self.engine.name == "vllm"

    def pictures(self, index: TarIndex, data: DataModule[Any]) -> VisionCache | None:
        """See `ReadsImages`; a reward that covers a part of a picture needs the picture, and so does what reads it with another tower."""
        live = self.wants_images() or self._zero_shot.sees_otherwise(self.net)
        return None if live else super().pictures(index, data)

    @override
    def on_fit_start(self) -> None:
        """Refuse a zero-shot model that cannot be asked what this one is asked."""
        self._zero_shot.check(self.net)

    @override
    def on_before_batch_transfer(self, batch: RolloutBatch, dataloader_idx: int) -> RolloutBatch:
        """Check the batch while it is on the CPU."""
        self.net.family.check_images(self.net.processor, batch)
        return batch

    @override
    def on_train_batch_start(self, batch: RolloutBatch, batch_idx: int) -> None:
        """Renew the policy that samples, where that is due."""
        super().on_train_batch_start(batch, batch_idx)
        step = self.global_step
        if self._sampler is not None and step % self.grpo.sample_every == 0 and step != self._renewed_at:
            self._sampler.renew(self.net)
            self._renewed_at = step

    @contextmanager
    def _as(self, policy: Policy | None) -> Iterator[None]:
        """Be another policy, that nothing is learnt of; None is the one that learns."""
        self.net.eval()
        try:
            with torch.no_grad():
                if policy is None:
                    yield
                else:
                    with policy.within(self.net):
                        yield
        finally:
            self.net.train(self.trainer.training)

    # Training

    def _step(self, batch: RolloutBatch, stage: str) -> tuple[Tensor, Tensor]:  # noqa: ARG002 - validation has no loss
        means = Means()
        rollout = self._rollout(batch, means)
        banned = torch.tensor(never_drawn(self.net), device=self.device)

        def of(policy: Policy) -> Tensor:
            with self._as(policy):
                return reply_log_probs(self.net, rollout.asked, banned, self.sampling.temperature)[0]

        before = None if self._sampler is None else of(self._sampler)
        reference = of(self._started) if self.rule.kl_weight > 0 else None
        log_p, entropy = reply_log_probs(self.net, rollout.asked, banned, self.sampling.temperature)
        # The policy that samples is the one that learns: what it said is as probable as it was, to the last bit.
        before = log_p.detach() if before is None else before
        said = ReplyTokens(log_p, before, reference, rollout.asked.lengths)
        loss = policy_loss(said, rollout.advantage, rollout.counts, self.rule, self.sampling.max_new_tokens)
        means.add("policy/entropy", float(entropy.sum()), len(entropy))
        if reference is not None:
            # Without a reference there is none: 0 would say that the policy has not moved.
            means.add("policy/kl", float(loss.kl))
        means.add("policy/clipped", float(loss.clipped))
        means.add("rollout/gap", float((before - rollout.sampled).abs().max()))
        self._log_means(means)
        return loss.total, loss.divisor

    def _rollout(self, batch: RolloutBatch, means: Means) -> Rollout:
        """Replies to a batch, drawn by the policy that samples, and what they are worth.

        Raises:
            NotFiniteError: the policy of a rank has become NaN; of all ranks, as the others would wait for one that stopped alone.
        """
        drawn, fault = None, None
        with self._as(self._sampler):
            try:
                drawn = self.rollouts.draw(self.net, batch, self.data.keys, self.current_epoch)
            except NotFiniteAnswerError as error:
                fault = Fault(_NO_POLICY, error.ids or batch["key"])
        if (found := first_of_ranks(fault)) is not None:
            raise NotFiniteError.at(found, self.global_step)
        assert drawn is not None
        return self.rollouts.compare(drawn, batch, means).to(self.device)

    def _log_means(self, means: Means) -> None:
        """Log means over the replies of all ranks."""
        names, totals = means.vector()
        whole = Means.of(names, self.trainer.strategy.reduce(totals.to(self.device), reduce_op="sum").cpu())
        self._of_step.join(whole)
        for name, value in whole.values().items():
            self.log(name, value, on_step=True, batch_size=1)
        self.log("rollout/labels", spread_of_labels(whole.labels[: len(EMOTIONS)]), on_step=True, batch_size=1)
        for emotion, count in zip((*map(str, EMOTIONS), "none"), whole.labels, strict=True):
            self.log(f"said/{emotion}", float(count / max(1.0, whole.labels.sum())), on_step=True, batch_size=1)

    @override
    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Stop where the policy says always the same.

        Raises:
            TrainingError: entropy or labels of the step are below their floor.
        """
        entropy = self._of_step.values().get("policy/entropy", 0.0)
        spread = spread_of_labels(self._of_step.labels[: len(EMOTIONS)])
        self._of_step = Means()
        # The same on all ranks: none waits for another.
        for name, found, floor in (
            ("entropy", entropy, self.grpo.entropy_floor),
            ("labels", spread, self.grpo.labels_floor),
        ):
            if found < floor:
                msg = (
                    f"step {self.global_step}: the policy collapses: {name} {found:.3g} is below model.grpo.{name}_floor={floor:g}. The last "
                    "checkpoint before it is kept. Raise model.grpo.kl_weight or clip_high, or take a lower rate (model.optim.lr)"
                )
                raise TrainingError(msg)
        super().on_before_optimizer_step(optimizer)

    # Validation

    @property
    def _started(self) -> Policy:
        if self._start is None:
            msg = "the policy that the round began with is kept in configure_model, which the Trainer has not called yet"
            raise RuntimeError(msg)
        return self._start

    @override
    def validation_step(self, batch: RolloutBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Greedy answers to a batch of one of the sets; the first time also those of the policies that it is compared with."""
        name = self.data.evaluated[dataloader_idx]
        tally = self._tallies.setdefault(name, AnswerTally())
        try:
            self._count(batch, name, tally)
        except NotFiniteAnswerError as error:
            # All ranks stop together, at the end of the sets.
            self._bad_validation = self._bad_validation or Fault(_NO_POLICY, [batch["key"][row] for row in error.rows])

    def _count(self, batch: RolloutBatch, name: str, tally: AnswerTally) -> None:
        with self._as(None):
            tally.now(*self._greedy(batch, self.net))
        if name not in self._began_with:
            with self._as(self._started):
                tally.before(self._greedy(batch, self.net)[0])
        if self._zero_shot.asked_for(name, self.net):
            with self._as(None), self._zero_shot.within(self.net) as base:
                tally.zero_shot(self._greedy(batch, base)[0])

    def _greedy(self, batch: RolloutBatch, policy: Backbone) -> tuple[Any, Any, Any]:
        """Of the images that count: whether each is right, (N,); its annotated emotion, and the one that is said (8: none)."""
        texts = policy.replies(policy.read(batch), 0, self.sampling.max_new_tokens)
        answers = read_answers(policy, batch, texts, list(range(len(texts))), self.data.keys)
        real = (~batch["filler"]).cpu().numpy()
        truth = [0 if record.emotion is None else record.emotion.position for record in answers.records]
        said = [len(EMOTIONS) if one is None else one for one in answers.said]
        return right_emotion(answers)[real], np.array(truth)[real], np.array(said)[real]

    def on_validation_epoch_end(self) -> None:
        """Log accuracy of every set, what it has gained since the round began and since zero-shot, and what it is above a constant answer.

        Raises:
            NotFiniteError: a rank's policy has become NaN.
        """
        self.check_validation()
        for name in self.data.evaluated:
            tally = self._tallies.pop(name, AnswerTally())
            tally.take(self.trainer.strategy.reduce(tally.vector().to(self.device), reduce_op="sum").cpu())
            if not tally.images:
                continue
            before = self._began_with.get(name, tally.accuracy_before)
            zero_shot = self._zero_shot.accuracies.get(name, tally.accuracy_zero_shot)
            if zero_shot is None and self._zero_shot.is_start(self.net):
                zero_shot = before
            if not self.trainer.sanity_checking:
                self._began_with[name] = before
                if zero_shot is not None:
                    self._zero_shot.accuracies[name] = zero_shot
            accuracy = tally.accuracy
            found = {"accuracy": accuracy, "gain": accuracy - before}
            if zero_shot is not None:
                found["zero_shot_gain"] = accuracy - zero_shot
            found["over_constant"] = accuracy - constant_label(tally.truth)
            found["labels"] = spread_of_labels(tally.said[: len(EMOTIONS)])
            for what, value in found.items():
                self.log(f"{name}/{what}", value, prog_bar=what == "accuracy")
            if name == "val":
                self.log("val/loss", 1 - accuracy)
            self._answered[name] = found
        self._zero_shot.close()

    def summary(self) -> dict[str, object]:
        """What the last validation has found, set by set, as JSON for `training.json`."""
        return {"answered": self._answered} if self._answered else {}

    # Checkpoints

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        """Also keep the policy that samples, where it is another, what the round began with, and what was found last."""
        super().on_save_checkpoint(checkpoint)
        sampler = {} if self._sampler is None else self._sampler.weights()
        checkpoint[_STATE] = {
            "sampler": sampler,
            "began_with": dict(self._began_with),
            # Of a round that is killed after its last validation, nobody validates again.
            "answered": {name: {what: float(value) for what, value in found.items()} for name, found in self._answered.items()},
            "zero_shot": self._zero_shot.state(self.net),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with them."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint.get(_STATE, {})
        self._began_with = dict(state.get("began_with", {}))
        self._answered = dict(state.get("answered", {}))
        self._zero_shot.restore(state.get("zero_shot", {}), self.net)
        if self._sampler is not None and state.get("sampler"):
            self._sampler.load(state["sampler"])


def _check_engine(backbone: BackboneConfig) -> None:
    if backbone.tuning == "qlora":
        msg = "model.engine.name: found 'vllm' with model.backbone.tuning qlora, whose 4 bits no other engine has; allowed: own"
        raise InputError(msg)
