"""One scorer's metrics on one model's replies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from emo_lightning.analysis.suites.asked import SuiteQuestion, SuiteReply
from emo_lightning.metrics.arrays import Flags
from emo_lightning.metrics.suites.resampled import Metric

QuestionReplyPairs: TypeAlias = Sequence[tuple[SuiteQuestion, SuiteReply]]
"""Every question of a suite, with the reply to it."""

MetricTopic = Literal["accuracy", "calibration", "intensity"]


class ScoredMetric(NamedTuple):
    """One metric of one scorer."""

    title: str
    metric: Metric
    of: Flags
    """(N,): the questions that it is of."""
    topic: MetricTopic = "accuracy"


@dataclass
class Scorer:
    """What one scorer makes of all replies."""

    name: str
    source: str
    right: Flags
    """(N,): by it; of questions that it does not score, false."""
    scores: Flags
    """(N,): the questions that it calls right or wrong."""
    metrics: dict[str, ScoredMetric] = field(default_factory=dict)
    unreadable: int | None = None
    """Replies from which it reads nothing; None where it always reads something."""
    notes: list[str] = field(default_factory=list)

    def add(self, key: str, title: str, metric: Metric, of: Flags, topic: MetricTopic = "accuracy") -> Metric:
        """Keep a metric, unless no question is of it; returns it."""
        if of.any():
            self.metrics[key] = ScoredMetric(title, metric, of, topic)
        return metric


def flags(values: Sequence[bool]) -> Flags:
    """(N,) bool, also of none."""
    return np.array(values, dtype=bool)


def every(pairs: QuestionReplyPairs) -> Flags:
    """(N,): all questions."""
    return np.ones(len(pairs), dtype=bool)


def of_tasks(pairs: QuestionReplyPairs, *tasks: str) -> Flags:
    """(N,): the questions of these tasks."""
    return flags([asked.task in tasks for asked, _ in pairs])
