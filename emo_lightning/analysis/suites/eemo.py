"""EEmo-Bench: perception by its authors' verdicts, by EmObserver's rules and by ours; rankings by EEmo-Logic's; valence, arousal, dominance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from emo_lightning.analysis.suites.asked import RANKING_TASK, SuiteQuestion, SuiteReply
from emo_lightning.analysis.suites.scored import QuestionReplyPairs, Scorer, flags, of_tasks
from emo_lightning.core.records import DIMENSIONS
from emo_lightning.core.suites.eemo_bench import CHOICE_TASKS, EEMO_EMOTIONS, OPEN_TASK
from emo_lightning.metrics.arrays import Array, Flags
from emo_lightning.metrics.suites import eemo_bench, eemo_logic, emobserver, own
from emo_lightning.metrics.suites.resampled import correlation, mean_of, mean_of_items, share

CARRIERS = {"single": "one image", "pair": "two images"}
_KEYS = {"Yes-or-No": "yes-no", "What/How": "what-how"}


def scorers(pairs: QuestionReplyPairs) -> list[Scorer]:
    """Those that have something to score in these questions and replies."""
    found = [by_authors(pairs), by_emobserver(pairs), by_eemo_logic(pairs), by_own(pairs)]
    return [one for one in found if one.metrics]


def by_authors(pairs: QuestionReplyPairs) -> Scorer:
    """Perception by the verdicts that came with the replies, invalid questions left out; descriptions by their judgements."""
    known = flags([reply.verdict is not None and not reply.invalid for _, reply in pairs])
    right = flags([bool(reply.verdict) for _, reply in pairs]) & known
    found = Scorer("EEmo-Bench", eemo_bench.__name__, right, of_choices(pairs) & known)
    if (of_choices(pairs) & known).any():
        _perception(found, pairs, right, known)
        _pooled(found, pairs, right, known)
        lacking = int((of_choices(pairs) & flags([reply.verdict is None for _, reply in pairs])).sum())
        if lacking:
            found.notes.append(
                f"EEmo-Bench: {lacking} questions of perception have no verdict of its authors, and are left out"
            )
    _descriptions(found, pairs, flags([not reply.judge for _, reply in pairs]), "DeepSeek")
    _attributes(found, pairs, lambda _, reply: reply.value)
    return found


def by_emobserver(pairs: QuestionReplyPairs) -> Scorer:
    """Perception; what is overall is the mean of the two kinds of questions."""
    said = [emobserver.option(reply.text, asked.truth, asked.prompt, asked.options) for asked, reply in pairs]
    choices = of_choices(pairs)
    right = flags([a == asked.truth.strip() for a, (asked, _) in zip(said, pairs, strict=True)]) & choices
    found = Scorer("EmObserver", emobserver.__name__, right, choices)
    _perception(found, pairs, right, choices)
    return found


def by_eemo_logic(pairs: QuestionReplyPairs) -> Scorer:
    """Rankings and attributes as it reads them from its own form of answer."""
    nothing = np.zeros(len(pairs), dtype=bool)
    found = Scorer("EEmo-Logic", eemo_logic.__name__, nothing, nothing)
    of = of_tasks(pairs, RANKING_TASK)
    said = [eemo_logic.ranking(reply.text) if asked.task == RANKING_TASK else [] for asked, reply in pairs]
    scores = [100 * eemo_logic.ranking_score(asked.ranking, s) for s, (asked, _) in zip(said, pairs, strict=True)]
    found.add("ranking", "ranking", mean_of_items(np.array(scores), of), of)
    _attributes(found, pairs, lambda _, reply: eemo_logic.attribute(reply.text) if reply.value is None else None)
    if of.any():
        found.unreadable = sum(not s and asked.task == RANKING_TASK for s, (asked, _) in zip(said, pairs, strict=True))
    return found


def by_own(pairs: QuestionReplyPairs) -> Scorer:
    """Perception by answers that can be read in one way, rankings by places, attributes as stated or as given."""
    choices, rankings = of_choices(pairs), of_tasks(pairs, RANKING_TASK)
    said = [own.option(reply.text, asked.options) if asked.task in CHOICE_TASKS else None for asked, reply in pairs]
    right = flags([a is not None and a == asked.truth.strip() for a, (asked, _) in zip(said, pairs, strict=True)])
    ranked = [own.ranking(reply.text, EEMO_EMOTIONS) if asked.task == RANKING_TASK else [] for asked, reply in pairs]
    found = Scorer("ours", own.__name__, right, choices)
    unread = [a is None and not r for a, r in zip(said, ranked, strict=True)]
    found.unreadable = int((flags(unread) & (choices | rankings)).sum())
    _perception(found, pairs, right, choices)
    _pooled(found, pairs, right, choices)
    scores = [100 * own.ranking_score(asked.ranking, r) for r, (asked, _) in zip(ranked, pairs, strict=True)]
    found.add("ranking", "ranking", mean_of_items(np.array(scores), rankings), rankings)
    own_judge = flags([bool(reply.judge) for _, reply in pairs])
    _descriptions(found, pairs, own_judge, " and ".join(sorted({reply.judge for _, reply in pairs if reply.judge})))
    _attributes(found, pairs, lambda _, reply: own.number(reply.text) if reply.value is None else reply.value)
    return found


def of_choices(pairs: QuestionReplyPairs) -> Flags:
    """(N,): the questions with options."""
    return of_tasks(pairs, *CHOICE_TASKS)


def of_carrier(pairs: QuestionReplyPairs, carrier: str) -> Flags:
    """(N,): the questions about one image, or about two."""
    return flags([asked.carrier == carrier for asked, _ in pairs])


def _perception(found: Scorer, pairs: QuestionReplyPairs, right: Flags, among: Flags) -> None:
    """Both kinds of questions about one image and about two, and their means."""
    for carrier, title in CARRIERS.items():
        kinds = []
        for task in CHOICE_TASKS:
            of = of_tasks(pairs, task) & of_carrier(pairs, carrier) & among
            if of.any():
                kinds.append(found.add(f"{carrier}-{_KEYS[task]}", f"{title}, {task}", share(right, of), of))
        if len(kinds) == len(CHOICE_TASKS):
            of = of_choices(pairs) & of_carrier(pairs, carrier) & among
            found.add(f"{carrier}-overall", f"{title}, mean of both kinds", mean_of(kinds), of)


def _pooled(found: Scorer, pairs: QuestionReplyPairs, right: Flags, among: Flags) -> None:
    """All questions together, and by what is perceived."""
    of = of_choices(pairs) & among
    both = all((of & of_carrier(pairs, carrier)).any() for carrier in CARRIERS)
    if not both:
        return
    for name in sorted({asked.dimension for asked, _ in pairs if asked.dimension}):
        here = of & flags([asked.dimension == name for asked, _ in pairs])
        found.add(name.lower().replace(" ", "-"), name.lower(), share(right, here), here)
    found.add("overall", "perception, all questions", share(right, of), of)


def _descriptions(found: Scorer, pairs: QuestionReplyPairs, among: Flags, judge: str) -> None:
    """Descriptions by their judgements, of one image and of two; a reply that was judged less often than five times has no value."""
    open_ended = of_tasks(pairs, OPEN_TASK) & among
    judged = flags([len(reply.judgements) == eemo_bench.NUM_JUDGEMENTS for _, reply in pairs]) & open_ended
    scores = np.array([eemo_bench.description_score(reply.judgements) for _, reply in pairs])
    for carrier, title in CARRIERS.items():
        of = judged & of_carrier(pairs, carrier)
        found.add(f"{carrier}-description", f"description, {title} (judged by {judge})", mean_of_items(scores, of), of)
    lacking = int((open_ended & ~judged & flags([bool(reply.judgements) for _, reply in pairs])).sum())
    if lacking:
        found.notes.append(
            f"{found.name}: {lacking} descriptions have fewer than {eemo_bench.NUM_JUDGEMENTS} judgements, and no value"
        )


def _attributes(found: Scorer, pairs: QuestionReplyPairs, read: Callable[[SuiteQuestion, SuiteReply], float | None]) -> None:
    """SRCC and PLCC of valence, arousal and dominance, over the replies that give a number, and how many do."""
    for name in DIMENSIONS:
        asked_for = of_tasks(pairs, name) & flags([asked.value is not None for asked, _ in pairs])
        said = [read(asked, reply) if there else None for there, (asked, reply) in zip(asked_for, pairs, strict=True)]
        of = flags([value is not None for value in said])
        if not of.any():
            continue
        x: Array = np.array([0.0 if value is None else value for value in said])
        y: Array = np.array([0.0 if asked.value is None else asked.value for asked, _ in pairs])
        found.add(f"{name}-srcc", f"{name}, SRCC", correlation(x, y, of, ranks=True), of, "intensity")
        found.add(f"{name}-plcc", f"{name}, PLCC", correlation(x, y, of, ranks=False), of, "intensity")
        found.add(f"{name}-answered", f"{name}, replies with a number (%)", share(of, asked_for), asked_for, "intensity")
