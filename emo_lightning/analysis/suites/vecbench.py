"""VECBench by EmoCaliber's rules, by EmObserver's, and by ours."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from emo_lightning.analysis.suites.scored import QuestionReplyPairs, Scorer, every, flags, of_tasks
from emo_lightning.metrics.arrays import Array, Flags
from emo_lightning.metrics.calibration import CALIBRATION_BINS
from emo_lightning.metrics.suites import emobserver, emocaliber, own
from emo_lightning.metrics.suites.resampled import Metric, auroc, brier, ece, half_open_ece, mean_of, share, weighted_f1

EMOBSERVER_TASKS = (*emobserver.ID_VER, *emobserver.ID_VSA, *emobserver.OOD_VER)
GROUPS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "id-ver": ("emotions, in domain", emobserver.ID_VER),
    "id-vsa": ("polarity, in domain", emobserver.ID_VSA),
    "ood-ver": ("emotions, out of domain", emobserver.OOD_VER),
}
"""Key -> title and tasks, as both published scorers group them."""


def scorers(pairs: QuestionReplyPairs) -> list[Scorer]:
    """All that score the suite."""
    return [by_emocaliber(pairs), by_emobserver(pairs), by_own(pairs)]


def by_emocaliber(pairs: QuestionReplyPairs) -> Scorer:
    """Accuracy and weighted F1; groups pooled, over the replies that state a confidence; "overall" by the whole reply."""
    answers = [emocaliber.choice(reply.text, asked.candidates) for asked, reply in pairs]
    truth = [asked.truth.lower() for asked, _ in pairs]
    right = flags([a == t for a, t in zip(answers, truth, strict=True)])
    found = Scorer("EmoCaliber", emocaliber.__name__, right, every(pairs), unreadable=answers.count(emocaliber.UNKNOWN_ANSWER))
    for task in EMOBSERVER_TASKS:
        of = of_tasks(pairs, task)
        found.add(task, task, share(right, of), of)
        found.add(f"{task}-f1", f"{task}, weighted F1", weighted_f1(truth, answers, of), of)
    whole = [emocaliber.overall_choice(reply.text, asked.candidates) for asked, reply in pairs]
    whole_suite = every(pairs)
    found.add("overall", "overall", share(flags([a == t for a, t in zip(whole, truth, strict=True)]), whole_suite), whole_suite)
    found.add("overall-f1", "overall, weighted F1", weighted_f1(truth, whole, whole_suite), whole_suite)
    stated, kept, no_number = _stated(pairs)
    if no_number:
        found.notes.append(
            f"EmoCaliber: replies whose confidence is no number, which its second program leaves out of its groups: {no_number}"
        )
    sure = ~np.isnan(stated)
    clipped = np.clip(np.nan_to_num(stated), 0, 1)
    for key, (title, tasks) in GROUPS.items():
        of, of_group = of_tasks(pairs, *tasks) & sure, of_tasks(pairs, *tasks) & kept
        if not of.any():
            continue
        found.add(key, f"{title} (pooled)", share(right, of), of)
        found.add(f"{key}-f1", f"{title} (pooled), weighted F1", weighted_f1(truth, answers, of_group), of_group)
        found.add(
            f"{key}-ece", f"ECE, {title}", half_open_ece(clipped, right, of, emocaliber.EMOCALIBER_BINS), of, "calibration"
        )
        found.add(f"{key}-brier", f"Brier score, {title}", brier(clipped, right, of), of, "calibration")
        found.add(f"{key}-auroc", f"AUROC, {title}", auroc(clipped, right, of), of, "calibration")
        found.add(f"{key}-coverage", f"replies with a confidence, {title}", share(sure, of_group), of_group, "calibration")
    return found


def _stated(pairs: QuestionReplyPairs) -> tuple[Array, Flags, int]:
    """(N,) confidence, NaN where none is stated; (N,) which replies its second program keeps; how many it drops."""
    stated, kept = np.full(len(pairs), np.nan), np.ones(len(pairs), dtype=bool)
    for n, (_, reply) in enumerate(pairs):
        try:
            value = emocaliber.confidence(reply.text) if reply.confidence is None else reply.confidence
        except emocaliber.NoNumberError:
            kept[n] = False
            continue
        stated[n] = np.nan if value is None else value
    return stated, kept, int((~kept).sum())


def by_emobserver(pairs: QuestionReplyPairs) -> Scorer:
    """Accuracy; groups and total as means of means."""
    answers = [emobserver.candidate(reply.text, asked.candidates) for asked, reply in pairs]
    right = flags([a == asked.truth for a, (asked, _) in zip(answers, pairs, strict=True)])
    found = Scorer("EmObserver", emobserver.__name__, right, every(pairs))
    _macro(found, pairs, right)
    return found


def by_own(pairs: QuestionReplyPairs) -> Scorer:
    """Accuracy by answers that can be read in one way; groups as means of tasks; calibration as everywhere in the project."""
    answers = [own.candidate(reply.text, asked.candidates) for asked, reply in pairs]
    right = flags([a is not None and a == asked.truth for a, (asked, _) in zip(answers, pairs, strict=True)])
    found = Scorer("ours", own.__name__, right, every(pairs), unreadable=answers.count(None))
    _macro(found, pairs, right)
    found.add("pooled", "all questions (pooled)", share(right, every(pairs)), every(pairs))
    stated = [own.confidence(reply.text) if reply.confidence is None else reply.confidence for _, reply in pairs]
    sure = flags([c is not None and 0 <= c <= 1 for c in stated])
    confidence = np.array([c if c is not None and s else 0.0 for c, s in zip(stated, sure, strict=True)])
    for key, (title, tasks) in GROUPS.items():
        of, of_group = of_tasks(pairs, *tasks) & sure, of_tasks(pairs, *tasks)
        if not of.any():
            continue
        found.add(f"{key}-ece", f"ECE, {title}", ece(confidence, right, of, CALIBRATION_BINS), of, "calibration")
        found.add(f"{key}-brier", f"Brier score, {title}", brier(confidence, right, of), of, "calibration")
        found.add(f"{key}-auroc", f"AUROC, {title}", auroc(confidence, right, of), of, "calibration")
        found.add(f"{key}-coverage", f"replies with a confidence, {title}", share(sure, of_group), of_group, "calibration")
    return found


def _macro(found: Scorer, pairs: QuestionReplyPairs, right: Flags) -> None:
    """Tasks, groups and total; of a group only where all its tasks are there, so that no mean is of other tasks than its name says."""
    tasks: dict[str, Metric] = {}
    for task in EMOBSERVER_TASKS:
        of = of_tasks(pairs, task)
        if of.any():
            tasks[task] = found.add(task, task, share(right, of), of)
    groups: list[Metric] = []
    for key, (title, names) in GROUPS.items():
        if all(name in tasks for name in names):
            groups.append(
                found.add(key, f"{title} (mean of tasks)", mean_of([tasks[name] for name in names]), of_tasks(pairs, *names))
            )
    if len(groups) == len(GROUPS):
        found.add("total", "total (mean of groups)", mean_of(groups), every(pairs))
