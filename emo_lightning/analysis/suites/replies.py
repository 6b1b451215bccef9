"""Files of replies to a suite's questions: ours, and files of results as EmObserver, EmoCaliber and EEmo-Bench publish them.

Ours are JSON lines, one a question: `id` and `reply`, and where there is more to say `confidence` (0–1), `value` (of valence, arousal or
dominance), and what EEmo-Bench's authors add, `verdict`, `invalid` and `judgements`; `judge` names another judge than theirs.

    {"id": "…", "reply": "<answer>fear</answer>", "confidence": 0.8}
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from emo_lightning.analysis.suites.asked import SuiteQuestion, SuiteReply
from emo_lightning.analysis.suites.questions import replies_in
from emo_lightning.core.errors import InputError
from emo_lightning.core.foreign import decode_json, json_lines, list_of, number_of, object_of, open_binary, text_of
from emo_lightning.core.suites import possible_paths
from emo_lightning.core.suites.item import SuiteName

_KEYS = {"id", "reply", "confidence", "value", "verdict", "invalid", "judgements", "judge"}


def read_replies(suite: SuiteName, path: Path, questions: Sequence[SuiteQuestion]) -> dict[str, SuiteReply]:
    """Replies by the questions' ids; those to other questions are among them.

    A row of a file of results without an id is to the question of the same task, picture and words. Rows that hold an error in the place of a
    reply are left out, which is said.

    Args:
        suite: which it is.
        path: JSON lines of ours, or a file of results.
        questions: of the suite.

    Raises:
        MissingFileError: no such file.
        InputError: it is neither, or two replies are to one question; or a file of results has another question under an id of the suite's,
            or with the same picture and words.
    """
    path = Path(path)
    if is_ours(path):
        return _ours(path)
    known = _Known(questions)
    found: dict[str, SuiteReply] = {}
    for asked, reply in replies_in(suite, path):
        own = known.meant(asked, found)
        if own is not None and not _alike(own, asked):
            msg = (
                f"{path}: the question {asked.id!r} is of {asked.task}, with the truth {asked.truth!r}; the suite's is of {own.task}, with the "
                f"truth {own.truth!r}, or has other candidates"
            )
            raise InputError(msg)
        # A line's number means nothing in another file.
        name = own.id if own is not None else f"{path.name}:{asked.id}" if asked.numbered else asked.id
        if name in found:
            msg = f"{path}: a second reply to the question {name!r} (row {asked.id})"
            raise InputError(msg)
        found[name] = reply
    return found


class _Known:
    """The questions of a suite, found by their ids or by what they ask."""

    def __init__(self, questions: Sequence[SuiteQuestion]) -> None:
        self._ids = {asked.id: asked for asked in questions}
        self._contents: defaultdict[tuple[object, ...], list[SuiteQuestion]] = defaultdict(list)
        self._names: defaultdict[tuple[object, ...], list[SuiteQuestion]] = defaultdict(list)
        for asked in questions:
            self._contents[asked.content].append(asked)
            self._names[_by_names(asked)].append(asked)

    def meant(self, asked: SuiteQuestion, answered: Container[str]) -> SuiteQuestion | None:
        """The question of the suite that a row is of; None where it has none such.

        Of several with the same picture and words it is the first that has no reply yet. Paths that begin elsewhere are compared by the
        names of their files, where these tell the questions apart.
        """
        if not asked.numbered and asked.id in self._ids:
            return self._ids[asked.id]
        same = self._contents.get(asked.content) or self._names.get(_by_names(asked), [])
        if len(same) > 1 and asked.content not in self._contents:
            return None
        fits = [one for one in same if _alike(one, asked)] or same
        return next((one for one in fits if one.id not in answered), fits[0] if fits else None)


def _by_names(asked: SuiteQuestion) -> tuple[object, ...]:
    return asked.task, tuple(possible_paths(image)[-1:] for image in asked.images), asked.prompt


def _alike(one: SuiteQuestion, other: SuiteQuestion) -> bool:
    return (one.task, one.truth, one.candidates) == (other.task, other.truth, other.candidates)


def is_ours(path: Path) -> bool:
    """Whether a file is of our form, by its first line."""
    if Path(path).suffix.lower() not in (".jsonl", ".ndjson"):
        return False
    with open_binary(path) as lines:
        for where, line in json_lines(lines, path):
            row = object_of(decode_json(line, where, half_characters="replace", integers="any float"), where)
            return not row.keys() & {"response", "conversations", "original_data"}
    msg = f"{path}: holds no reply"
    raise InputError(msg)


def line_of(name: str, reply: SuiteReply) -> str:
    """A reply as a line of our form, without its end."""
    values = {
        "confidence": reply.confidence,
        "value": reply.value,
        "verdict": reply.verdict,
        "invalid": reply.invalid or None,
        "judgements": list(reply.judgements) or None,
        "judge": reply.judge or None,
    }
    more = {key: value for key, value in values.items() if value is not None}
    return json.dumps({"id": name, "reply": reply.text, **more}, ensure_ascii=False)


def _ours(path: Path) -> dict[str, SuiteReply]:
    replies: dict[str, SuiteReply] = {}
    for where, name, reply in _lines(path):
        if name in replies:
            msg = f"{where}: a second reply to the question {name!r}"
            raise InputError(msg)
        replies[name] = reply
    return replies


def _lines(path: Path) -> Iterator[tuple[str, str, SuiteReply]]:
    with open_binary(path) as lines:
        for where, line in json_lines(lines, path):
            yield (where, *_line(object_of(decode_json(line, where, half_characters="replace"), where), where))


def _line(row: Mapping[str, object], where: str) -> tuple[str, SuiteReply]:
    if unknown := sorted(row.keys() - _KEYS):
        msg = f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(_KEYS))}"
        raise InputError(msg)
    for key in ("id", "reply"):
        if key not in row:
            msg = f"{where}: key {key!r} is missing; expected at least 'id' and 'reply'"
            raise InputError(msg)
    judgements = list_of(row.get("judgements") or [], f"{where}: 'judgements'")
    return text_of(row["id"], f"{where}: 'id'"), SuiteReply(
        text_of(row["reply"], f"{where}: 'reply'"),
        None if row.get("confidence") is None else number_of(row["confidence"], f"{where}: 'confidence'", low=0, high=1),
        None if row.get("value") is None else number_of(row["value"], f"{where}: 'value'"),
        _flag(row, "verdict", where),
        _flag(row, "invalid", where) or False,
        tuple(number_of(one, f"{where}: 'judgements'", low=0, high=2) for one in judgements),
        "" if row.get("judge") is None else text_of(row["judge"], f"{where}: 'judge'"),
    )


def _flag(row: Mapping[str, object], key: str, where: str) -> bool | None:
    value = row.get(key)
    if value is None or isinstance(value, bool):
        return value
    msg = f"{where}: {key!r}: found {value!r}; expected true or false"
    raise InputError(msg)
