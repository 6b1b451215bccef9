"""MVEI by EmObserver's rules and by ours. The program of MVEI's first paper is announced, and was not published."""

from __future__ import annotations

from emo_lightning.analysis.suites.scored import QuestionReplyPairs, Scorer, every, flags, of_tasks
from emo_lightning.core.suites.mvei import MVEI_TASKS
from emo_lightning.metrics.arrays import Flags
from emo_lightning.metrics.suites import emobserver, own
from emo_lightning.metrics.suites.resampled import share


def scorers(pairs: QuestionReplyPairs) -> list[Scorer]:
    """All that score the suite."""
    return [by_emobserver(pairs), by_own(pairs)]


def by_emobserver(pairs: QuestionReplyPairs) -> Scorer:
    """Accuracy over all statements and by class; how many replies it reads as "correct", and how many it gives up."""
    said = [emobserver.verdict(reply.text) for _, reply in pairs]
    right = flags([emobserver.verdict_is_right(v, asked.truth) for v, (asked, _) in zip(said, pairs, strict=True)])
    found = Scorer("EmObserver", emobserver.__name__, right, every(pairs), unreadable=said.count("C"))
    _add_metrics(found, pairs, right, flags([v == "A" for v in said]), flags([v == "C" for v in said]))
    return found


def by_own(pairs: QuestionReplyPairs) -> Scorer:
    """The same, of replies that can be read in one way."""
    said = [own.verdict(reply.text) for _, reply in pairs]
    right = flags([v == asked.truth.strip().lower() for v, (asked, _) in zip(said, pairs, strict=True)])
    found = Scorer("ours", own.__name__, right, every(pairs), unreadable=said.count(None))
    _add_metrics(found, pairs, right, flags([v == "correct" for v in said]), flags([v is None for v in said]))
    return found


def _add_metrics(found: Scorer, pairs: QuestionReplyPairs, right: Flags, positive: Flags, given_up: Flags) -> None:
    whole_suite = every(pairs)
    found.add("total", "total", share(right, whole_suite), whole_suite)
    for name in MVEI_TASKS:
        of = of_tasks(pairs, name)
        found.add(name.replace(" ", "-"), name, share(right, of), of)
    found.add("positive", "read as correct", share(positive, whole_suite), whole_suite)
    found.add("given-up", "read as nothing", share(given_up, whole_suite), whole_suite)
