"""Several models on one suite: every scorer's metrics with intervals, and gain and collapse against the untuned base."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np

from emo_lightning.analysis.cross_dataset import Collapse, gain, mean_gain
from emo_lightning.analysis.suites import eemo, mvei, vecbench
from emo_lightning.analysis.suites.asked import NO_REPLY, OUT_OF_DOMAIN, SuiteQuestion, SuiteReply
from emo_lightning.analysis.suites.scored import MetricTopic, QuestionReplyPairs, Scorer, of_tasks
from emo_lightning.core.errors import InputError
from emo_lightning.core.suites.item import SuiteName
from emo_lightning.metrics.arrays import Array, Flags
from emo_lightning.metrics.bootstrap import RESAMPLES, Difference, Estimate, draws
from emo_lightning.metrics.suites.resampled import estimate

SCORERS: Mapping[SuiteName, Callable[[QuestionReplyPairs], list[Scorer]]] = {
    "mvei": mvei.scorers,
    "vecbench": vecbench.scorers,
    "eemo_bench": eemo.scorers,
}


class MetricResult(Estimate):
    """One metric, its value and interval in percent (correlations: -1 to 1)."""

    title: str
    topic: MetricTopic
    items: int
    """Questions behind it."""


class ScorerResult(TypedDict):
    """One model by one scorer."""

    source: str
    """The module that holds its rules."""
    unreadable: int | None
    metrics: dict[str, MetricResult]
    collapse: NotRequired[Collapse]
    """Mean gain over the tasks out of the domain."""
    gains: NotRequired[dict[str, Difference]]
    """Task -> gain over the base; `p` is McNemar's, of questions as if each had an image of its own."""


class ArmResult(TypedDict):
    """One model."""

    answered: int
    missing: int
    """Questions without a reply; they count as wrong."""
    unknown: int
    """Replies to questions that the suite does not have; left out."""
    scorers: dict[str, ScorerResult]
    notes: list[str]


class Benchmark(TypedDict):
    """`benchmark.json`."""

    suite: SuiteName
    questions: int
    images: int
    tasks: dict[str, int]
    """Task -> questions."""
    out_of_domain: list[str]
    bases: dict[str, str]
    """Model -> the untuned one that it is set against."""
    arms: dict[str, ArmResult]
    seed: int


def benchmark(
    suite: SuiteName,
    questions: Sequence[SuiteQuestion],
    arms: Mapping[str, Mapping[str, SuiteReply]],
    bases: Mapping[str, str] | None = None,
    in_domain: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Benchmark:
    """Score every model's replies.

    Args:
        suite: which it is.
        questions: all of it, or a part.
        arms: model -> question's id -> reply.
        bases: model -> the one that it was fine-tuned from.
        in_domain: tasks like what the models were trained on; None: what the suite calls so.
        seed: of the resamples, which all models meet.
        resamples: of the bootstrap.

    Raises:
        InputError: no question, two of one id, an unknown base or task, or a model that answers no question of the suite.
    """
    bases = bases or {}
    _check(questions, arms, bases, in_domain)
    units = sorted({asked.unit for asked in questions})
    row = {unit: n for n, unit in enumerate(units)}
    weights = draws(units, resamples, seed)[[row[asked.unit] for asked in questions]]
    places = np.array([row[asked.unit] for asked in questions])
    tasks = [asked.task for asked in questions]
    outside = [task for task in OUT_OF_DOMAIN[suite] if task in tasks]
    if in_domain is not None:
        outside = [task for task in dict.fromkeys(tasks) if task not in in_domain]
    found: dict[str, ArmResult] = {}
    scorers: dict[str, list[Scorer]] = {}
    for name, replies in arms.items():
        pairs = [(asked, replies.get(asked.id, NO_REPLY)) for asked in questions]
        scorers[name] = SCORERS[suite](pairs)
        found[name] = _arm(scorers[name], replies, questions, weights, places)
    for name, base in bases.items():
        _gains(found[name], scorers[name], scorers[base], questions, (weights, places), outside)
    return {
        "suite": suite,
        "questions": len(questions),
        "images": len(units),
        "tasks": {task: tasks.count(task) for task in dict.fromkeys(tasks)},
        "out_of_domain": outside,
        "bases": dict(bases),
        "arms": found,
        "seed": seed,
    }


def _check(
    questions: Sequence[SuiteQuestion],
    arms: Mapping[str, Mapping[str, SuiteReply]],
    bases: Mapping[str, str],
    in_domain: Sequence[str] | None,
) -> None:
    ids = {asked.id for asked in questions}
    if not questions or len(ids) < len(questions):
        msg = "the suite holds no question" if not questions else "two questions of the suite have one id"
        raise InputError(msg)
    tasks = {asked.task for asked in questions}
    if unknown := [task for task in in_domain or () if task not in tasks]:
        msg = f"in domain: {unknown[0]!r} is no task of the suite; allowed: {', '.join(sorted(tasks))}"
        raise InputError(msg)
    for name in (name for pair in bases.items() for name in pair):
        if name not in arms:
            msg = f"base: the model {name!r} is unknown; allowed: {', '.join(arms)}"
            raise InputError(msg)
    for name, replies in arms.items():
        if not ids & replies.keys():
            other = next(iter(replies), None)
            msg = f"{name}: answers no question of the suite (its first id: {other!r}, the suite's: {questions[0].id!r})"
            raise InputError(msg)


def _arm(
    scorers: Sequence[Scorer],
    replies: Mapping[str, SuiteReply],
    questions: Sequence[SuiteQuestion],
    weights: Array,
    places: Array,
) -> ArmResult:
    answered = sum(asked.id in replies for asked in questions)
    return {
        "answered": answered,
        "missing": len(questions) - answered,
        "unknown": len(replies) - answered,
        "scorers": {one.name: _metrics(one, weights, places) for one in scorers},
        "notes": [note for one in scorers for note in one.notes],
    }


def _metrics(scorer: Scorer, weights: Array, places: Array) -> ScorerResult:
    metrics: dict[str, MetricResult] = {}
    for key, (title, metric, of, topic) in scorer.metrics.items():
        found = estimate(metric, weights, _images(places, of))
        metrics[key] = {**found, "title": title, "topic": topic, "items": int(of.sum())}
    return {"source": scorer.source, "unreadable": scorer.unreadable, "metrics": metrics}


def _images(places: Array, of: Flags) -> int:
    return len(np.unique(places[of]))


def _gains(
    arm: ArmResult,
    scorers: Sequence[Scorer],
    base: Sequence[Scorer],
    questions: Sequence[SuiteQuestion],
    resamples: tuple[Array, Array],
    outside: Sequence[str],
) -> None:
    """Add to the arm what it gained over the base by each scorer that both have, task by task."""
    weights, places = resamples
    pairs = [(asked, NO_REPLY) for asked in questions]
    others = {one.name: one for one in base}
    for scorer in scorers:
        other = others.get(scorer.name)
        gains: dict[str, Difference] = {}
        gaps: dict[str, Array] = {}
        images: dict[str, int] = {}
        for task in dict.fromkeys(asked.task for asked in questions):
            of = of_tasks(pairs, task) & scorer.scores & (other.scores if other is not None else False)
            if other is not None and of.any():
                gains[task], gaps[task] = gain(scorer.right[of], other.right[of], weights[of])
                images[task] = _images(places, of)
        felt = [task for task in outside if task in gains]
        if gains:
            arm["scorers"][scorer.name]["gains"] = gains
        if felt:
            found = mean_gain([gains[t] for t in felt], [gaps[t] for t in felt], min(images[t] for t in felt))
            arm["scorers"][scorer.name]["collapse"] = found
