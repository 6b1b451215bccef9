"""What a user writes below `model` for round 3: the algorithm, and what replies are worth."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from emo_lightning.core.errors import InputError
from emo_lightning.metrics.emotion_space import Anchors
from emo_lightning.models.policy_loss import ALGORITHM_RULES, TOLERANCE, Rule

Algorithm = Literal["grpo", "dr_grpo", "dapo", "gspo"]


@dataclass
class GRPOConfig:
    """Group-relative policy optimisation. What is null is as the algorithm was published (`models.policy_loss.ALGORITHM_RULES`)."""

    algorithm: Algorithm = "grpo"
    """`grpo`, `dr_grpo`, `dapo` or `gspo`."""
    kl_weight: float = 0.01
    """Of the KL to the policy that the round began with: round 2's, its adapters among it, and not the base model's."""
    clip_low: float | None = None
    """The ratio to the policy that has sampled counts down to 1 minus this."""
    clip_high: float | None = None
    """And up to 1 plus this."""
    clip_dual: float | None = None
    """With a negative advantage a token costs at most this often its advantage; null sets no bound."""
    divide: bool | None = None
    """Divide advantages by the standard deviation of the group's rewards."""
    sample_every: int = 1
    """Optimiser steps after which the policy that samples is renewed. 1: it is the one that learns, and no ratio is ever clipped."""
    tolerance: float = TOLERANCE
    """Replies to an image whose rewards lie no further apart are worth the same, and none has an advantage."""
    retries: int = 0
    """How often replies to an image are drawn again while all are right or all wrong (where the reward has no part `emotion`: worth the
    same)."""
    alike: Literal["keep", "leave_out"] | None = None
    """Images whose replies are all right or all wrong (or worth the same): `keep` leaves them what the other parts of the reward say, and the
    KL's pull; `leave_out` leaves them out of the step and of its divisor, as DAPO does. Null: `leave_out` for `dapo`, else `keep`."""
    cut: Literal["keep", "leave_out"] = "keep"
    """Replies that were cut at `sampling.max_new_tokens`: `leave_out` leaves them out of the step and of its divisor; they are in their
    group's mean all the same."""
    entropy_floor: float = 0.0
    """In nats a token: training stops where the policy's mean entropy of a step falls below."""
    labels_floor: float = 0.0
    """0 to 1: training stops where the labels that the replies of a step name are less evenly spread (`metrics.rewards.spread_of_labels`)."""

    def __post_init__(self) -> None:
        if self.algorithm not in get_args(Algorithm):
            msg = f"grpo.algorithm: found {self.algorithm!r}; allowed: {', '.join(get_args(Algorithm))}"
            raise InputError(msg)
        if self.alike not in (None, "keep", "leave_out") or self.cut not in ("keep", "leave_out"):
            msg = f"grpo.alike, grpo.cut: found {self.alike!r} and {self.cut!r}; allowed: keep, leave_out"
            raise InputError(msg)
        for name, least in (
            ("kl_weight", 0.0),
            ("clip_low", 0.0),
            ("clip_high", 0.0),
            ("clip_dual", 1.0),
            ("tolerance", 0.0),
            ("entropy_floor", 0.0),
        ):
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                msg = f"grpo.{name}: found {value}; expected at least {least:g}"
                raise InputError(msg)
        for name, fewest in (("sample_every", 1), ("retries", 0)):
            if not fewest <= getattr(self, name) <= 1000:
                msg = f"grpo.{name}: found {getattr(self, name)}; expected {fewest} to 1000"
                raise InputError(msg)
        if not 0 <= self.labels_floor <= 1 or (self.clip_low or 0) >= 1:
            msg = (
                f"grpo.labels_floor, grpo.clip_low: found {self.labels_floor} and {self.clip_low}; expected 0 to 1, and below 1"
            )
            raise InputError(msg)

    @property
    def rule(self) -> Rule:
        """Of the loss."""
        own = ALGORITHM_RULES[self.algorithm]
        return replace(
            own,
            kl_weight=self.kl_weight,
            clip_low=own.clip_low if self.clip_low is None else self.clip_low,
            clip_high=own.clip_high if self.clip_high is None else self.clip_high,
            clip_dual=own.clip_dual if self.clip_dual is None else self.clip_dual,
            divide=own.divide if self.divide is None else self.divide,
        )

    @property
    def leaves_out_alike(self) -> bool:
        """Whether images whose replies are worth the same count nowhere."""
        return self.algorithm == "dapo" if self.alike is None else self.alike == "leave_out"


@dataclass
class Rewards:
    """What a reply is worth: a sum of parts, each of them 0 to 1 (`counterfactual`: -1 to 1) times its weight. 0 leaves a part out."""

    emotion: float = 1.0
    """The emotion is the annotated one."""
    valence_arousal: float = 0.0
    """Closeness in valence and arousal (`anchors`) of the emotion that is said to the annotated distribution."""
    embedding: float = 0.0
    """The same in the space of emotion embeddings (`embeddings`)."""
    format: float = 0.1
    """One JSON object, nothing around it, of exactly the keys that were asked for, all of them readable."""
    box: float = 0.0
    """Intersection over union with the annotated boxes."""
    intensity: float = 0.0
    """1 minus the difference of the intensities over ten."""
    counterfactual: float = 0.0
    """By how much the probability of the emotion that is said falls when the box that is said is covered, less for a larger box (DSPO)."""
    divergence: float = 0.0
    """Candidate words (objective `candidates`) that surround what is annotated and differ from each other (DSPO)."""
    anchors: Anchors | None = None
    """The eight emotions as points, with their source: a stage takes those of DDES by `defaults: [anchors/ddes.yaml]`."""
    embeddings: str | None = None
    """Parquet file of emotion embeddings with the columns `emotion` and `des`: a probe stage's `des.parquet`."""
    lexicon: str | None = None
    """Table of words with valence, arousal and dominance."""
    tau: float = 1.0
    """Of the divergence, in Mahalanobis distances."""

    def __post_init__(self) -> None:
        for name, weight in self.parts.items():
            if not 0 <= weight < math.inf:
                msg = f"rewards.{name}: found {weight}; expected 0 or more"
                raise InputError(msg)
        if not any(self.parts.values()):
            msg = f"rewards: every weight is 0; set one of {', '.join(self.parts)}"
            raise InputError(msg)
        if not 0 < self.tau < math.inf:
            msg = f"rewards.tau: found {self.tau}; expected above 0"
            raise InputError(msg)
        for part, file in (("valence_arousal", "anchors"), ("embedding", "embeddings"), ("divergence", "lexicon")):
            if self.parts[part] > 0 and getattr(self, file) is None:
                msg = f"rewards.{part}: found {self.parts[part]} without rewards.{file}, which it is measured by"
                raise InputError(msg)

    @property
    def parts(self) -> dict[str, float]:
        """Part -> weight."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.type == "float" and one.name != "tau"}

    def check_tolerance(self, tolerance: float) -> None:
        """Refuse one within which everything lies: nothing would be learnt, in silence.

        Raises:
            InputError: names both keys.
        """
        if tolerance >= (most := max(self.parts.values())):
            msg = f"model.grpo.tolerance: found {tolerance:g}, and no weight of model.rewards is above {most:g}; all replies would be worth the same"
            raise InputError(msg)

    def check_keys(self, keys: tuple[str, ...], objective: str) -> None:
        """Refuse parts that judge what is not asked for: they would be 0 for every reply, in silence.

        Raises:
            InputError: names the part and the key.
        """
        needs = {
            "emotion": ("emotion",),
            "valence_arousal": ("emotion",),
            "embedding": ("emotion",),
            "box": ("bbox_2d",),
            "intensity": ("intensity",),
            "counterfactual": ("bbox_2d", "emotion"),
            "divergence": ("words",),
        }
        for part, wanted in needs.items():
            if self.parts[part] > 0 and (missing := [key for key in wanted if key not in keys]):
                msg = (
                    f"model.rewards.{part}: found {self.parts[part]}, but the objective {objective!r} asks for no {missing[0]!r} "
                    f"(keys: {', '.join(keys)}); set the weight to 0, or data.objective to one that does"
                )
                raise InputError(msg)
