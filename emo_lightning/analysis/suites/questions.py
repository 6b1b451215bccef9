"""From a suite's files, as `core.suites` reads them, to questions; and the replies that stand in a file of results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from emo_lightning.analysis.suites.asked import RANKING_TASK, ImageCarrier, SuiteQuestion, SuiteReply
from emo_lightning.core.errors import InputError
from emo_lightning.core.foreign import as_number
from emo_lightning.core.model_folders import warn_once
from emo_lightning.core.records import DIMENSIONS
from emo_lightning.core.suites import SuiteItem, read_results, read_suite
from emo_lightning.core.suites.eemo_bench import ASSESSMENT_TASK, RANKING_PROMPT
from emo_lightning.core.suites.item import SuiteName

MAX_CANDIDATES = 200
"""Of a question; WebEmo has 25."""


def read_questions(suite: SuiteName, files: Sequence[str | Path]) -> list[SuiteQuestion]:
    """All questions of a suite's files.

    Args:
        suite: which it is.
        files: as published; EEmo-Bench has several.

    Raises:
        SuiteError: a file or a row is not as published; names the place.
        InputError: two questions have one id.
    """
    found = [asked for file in files for item in read_suite(suite, file) for asked in questions_of(suite, item)]
    seen: set[str] = set()
    for asked in found:
        if asked.id in seen:
            msg = f"{', '.join(map(str, files))}: two questions have the id {asked.id!r}; give each file once"
            raise InputError(msg)
        seen.add(asked.id)
    return found


def questions_of(suite: SuiteName, item: SuiteItem) -> Iterator[SuiteQuestion]:
    """What is asked about one row: mostly one question; of what is known of an image of EEmo-Bench, a ranking and three attributes."""
    if max(len(item.candidates), len(item.options)) > MAX_CANDIDATES:
        msg = f"question {item.id!r}: {len(item.candidates):,} candidates; at most {MAX_CANDIDATES} are read"
        raise InputError(msg)
    asked = SuiteQuestion(
        item.id,
        item.task,
        item.truth or "",
        item.candidates,
        item.options,
        item.prompt or "",
        item.images,
        dimension=str(item.extra.get("perceptual_dimension") or ""),
        question=item.question or "",
        numbered=item.numbered,
    )
    if suite != "eemo_bench":
        yield asked
    elif item.task != ASSESSMENT_TASK:
        carrier: ImageCarrier = "pair" if len(item.images) == 2 else "single"
        yield replace(asked, id=f"{carrier}/{item.id}", carrier=carrier)
    else:
        image = item.images[0]
        if len(item.scored_emotions) >= 3:
            ranking = tuple(item.scored_emotions)[:3]
            yield replace(asked, id=f"ranking/{image}", task=RANKING_TASK, prompt=RANKING_PROMPT, ranking=ranking)
        for name in DIMENSIONS:
            if name in item.ratings:
                yield replace(asked, id=f"{name}/{image}", task=name, value=item.ratings[name].mean)


def one_of_each(files: Mapping[str, Sequence[SuiteQuestion]]) -> list[SuiteQuestion]:
    """The questions of several files of results, each once: the same id, or where a file has no ids the same picture and words, is the same.

    Args:
        files: name -> questions; of those of one id the first file's are taken.
    """
    found: dict[str, SuiteQuestion] = {}
    copies: Counter[tuple[object, ...]] = Counter()
    for file, questions in files.items():
        here: Counter[tuple[object, ...]] = Counter()
        for asked in questions:
            here[asked.content] += 1
            if not asked.numbered:
                found.setdefault(asked.id, asked)
            elif here[asked.content] > copies[asked.content]:
                name = asked.id if asked.id not in found else f"{file}:{asked.id}"
                found[name] = replace(asked, id=name)
        copies |= here
    return list(found.values())


def replies_in(suite: SuiteName, path: Path) -> list[tuple[SuiteQuestion, SuiteReply]]:
    """What stands in a file of results, in any form that the suite's reader knows: questions, and the first reply to each.

    Raises:
        SuiteError: it is none, or a row is not as published.
        InputError: no row has a reply.
    """
    found = []
    items, failed = read_results(suite, path)
    for item in items:
        asked = next(questions_of(suite, item), None)
        if asked is not None and item.replies:
            found.append((asked, _reply(item)))
    if failed:
        warn_once(
            f"{path}: {len(failed):,} rows hold an error in the place of a reply and are left out (first: {failed[0]}); a question of the "
            "suite without a reply counts as wrong"
        )
    if not found:
        msg = f"{path}: no row holds a reply"
        raise InputError(msg)
    return found


def _reply(item: SuiteItem) -> SuiteReply:
    judged = _judged(item.judged)
    return replace(judged, text=item.replies[0], confidence=as_number(item.extra.get("confidence")))


def _judged(said: Mapping[str, object]) -> SuiteReply:
    """What EEmo-Bench's authors say of a reply: 0 or 1, or five judgements of a description, as texts."""
    result, invalid = said.get("eval_result"), said.get("if_invalid")
    judgements = [float(str(one)) for one in result if str(one) in ("0", "1", "2")] if isinstance(result, list) else []
    verdict = result == 1 if isinstance(result, int) and not isinstance(result, bool) else None
    return SuiteReply("", verdict=verdict, invalid=invalid == 1, judgements=tuple(judgements))
