"""Files of replies to a suite's questions: ours, and as EmObserver, EmoCaliber and EEmo-Bench publish them.

Ours are JSON lines, one a question: `id` and `reply`, and where there is more to say `confidence` (0–1), `value` (of valence, arousal or
dominance), and what EEmo-Bench's authors add, `verdict`, `invalid` and `judgements`.

    {"id": "…", "reply": "<answer>fear</answer>", "confidence": 0.8}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from emo_lightning.analysis.suites.asked import Asked, Carrier, Reply
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import MAX_OBJECT_BYTES
from emo_lightning.core.foreign import decode_json, json_lines, list_of, number_of, object_of, open_binary, read_capped, text_of

_KEYS = {"id", "reply", "confidence", "value", "verdict", "invalid", "judgements"}


def read_replies(path: Path, questions: Sequence[Asked]) -> dict[str, Reply]:
    """Replies by the questions' ids; those to other questions are among them.

    Args:
        path: JSON lines (ours, EmoCaliber's `merged.jsonl`), or JSON (EmObserver's results, EEmo-Bench's released predictions).
        questions: of the suite: EmoCaliber's rows name no question, and must stand in their order.

    Raises:
        MissingFileError: no such file.
        InputError: it is none of these, or two replies are to one question; names the file, the line and the key.
    """
    path = Path(path)
    if path.suffix.lower() == ".json":
        found = decode_json(read_capped(path, MAX_OBJECT_BYTES), path, half_characters="replace", integers="any float")
        pairs = _of_list(found, path, questions) if isinstance(found, list) else _of_object(object_of(found, path), path)
    else:
        pairs = _of_lines(path, questions)
    replies: dict[str, Reply] = {}
    for where, name, reply in pairs:
        if name in replies:
            msg = f"{where}: a second reply to the question {name!r}"
            raise InputError(msg)
        replies[name] = reply
    if not replies:
        msg = f"{path}: holds no reply"
        raise InputError(msg)
    return replies


def line_of(name: str, reply: Reply) -> str:
    """A reply as a line of our form, without its end."""
    values = {
        "confidence": reply.confidence,
        "value": reply.value,
        "verdict": reply.verdict,
        "invalid": reply.invalid or None,
        "judgements": list(reply.judgements) or None,
    }
    more = {key: value for key, value in values.items() if value is not None}
    return json.dumps({"id": name, "reply": reply.text, **more}, ensure_ascii=False)


def _of_lines(path: Path, questions: Sequence[Asked]) -> Iterator[tuple[str, str, Reply]]:
    with open_binary(path) as lines:
        for number, (where, line) in enumerate(json_lines(lines, path)):
            row = object_of(decode_json(line, where, half_characters="replace", integers="any float"), where)
            if "response" in row and "reply" not in row:
                yield (
                    where,
                    _of_row(row, where, number, questions),
                    Reply(text_of(row["response"], f"{where}: 'response'"), _number(row, "confidence", where)),
                )
            else:
                yield (where, *_own(row, where))


def _own(row: Mapping[str, object], where: str) -> tuple[str, Reply]:
    if unknown := sorted(row.keys() - _KEYS):
        msg = f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(_KEYS))}"
        raise InputError(msg)
    for key in ("id", "reply"):
        if key not in row:
            msg = f"{where}: key {key!r} is missing; expected at least 'id' and 'reply'"
            raise InputError(msg)
    judgements = list_of(row.get("judgements") or [], f"{where}: 'judgements'")
    return text_of(row["id"], f"{where}: 'id'"), Reply(
        text_of(row["reply"], f"{where}: 'reply'"),
        None if row.get("confidence") is None else number_of(row["confidence"], f"{where}: 'confidence'", low=0, high=1),
        _number(row, "value", where),
        _flag(row, "verdict", where),
        _flag(row, "invalid", where) or False,
        tuple(number_of(one, f"{where}: 'judgements'", low=0, high=2) for one in judgements),
    )


def _of_row(row: Mapping[str, object], where: str, number: int, questions: Sequence[Asked]) -> str:
    """The question that a row of EmoCaliber's is about: that of its `id`, else of its place, if task, candidates and truth are the same."""
    if isinstance(row.get("id"), str):
        return str(row["id"])
    asked = questions[number] if number < len(questions) else None
    given = (row.get("task"), row.get("candidates"), row.get("ground_truth"))
    if asked is None or given != (asked.task, list(asked.candidates), asked.truth):
        expected = "there is none" if asked is None else f"it is of {asked.task}, with the truth {asked.truth!r}"
        msg = f"{where}: is of {given[0]}, with the truth {given[2]!r}, and names no question; of the suite's question {number + 1} {expected}"
        raise InputError(msg)
    return asked.id


def _of_object(found: Mapping[str, object], path: Path) -> Iterator[tuple[str, str, Reply]]:
    """EmObserver's results: id -> row with `generations`, of which the first counts."""
    for name, value in found.items():
        where = f"{path}: {name!r}"
        said = list_of(object_of(value, where).get("generations") or [], f"{where}: 'generations'")
        yield where, name, Reply(text_of(said[0], f"{where}: 'generations'") if said else "")


def _of_list(found: Sequence[object], path: Path, questions: Sequence[Asked]) -> Iterator[tuple[str, str, Reply]]:
    """EEmo-Bench's predictions: rows with `response(MODEL)`, `eval_result(MODEL)` and `if_invalid(MODEL)`."""
    by_number = {(asked.carrier, asked.number): asked.id for asked in questions if asked.number is not None}
    for n, value in enumerate(found):
        where = f"{path}: row {n}"
        row = object_of(value, where)
        keys = [key for key in row if key.startswith("response(")]
        if len(keys) != 1:
            msg = f"{where}: {len(keys)} keys 'response(MODEL)'; expected one, as in EEmo-Bench's released predictions"
            raise InputError(msg)
        model = keys[0].removeprefix("response")
        carrier: Carrier = "pair" if "image2_url" in row else "single"
        number = str(row.get("id"))
        verdict, invalid = row.get(f"eval_result{model}"), row.get(f"if_invalid{model}")
        judged = [float(str(one)) for one in verdict if str(one) in ("0", "1", "2")] if isinstance(verdict, list) else []
        said = row[keys[0]]
        yield (
            where,
            by_number.get((carrier, number), f"{carrier}/{number}"),
            Reply(
                said if isinstance(said, str) else "",
                verdict=verdict == 1 if isinstance(verdict, int) else None,
                invalid=invalid == 1,
                judgements=tuple(judged),
            ),
        )


def _number(row: Mapping[str, object], key: str, where: str) -> float | None:
    return None if row.get(key) is None else number_of(row[key], f"{where}: {key!r}")


def _flag(row: Mapping[str, object], key: str, where: str) -> bool | None:
    value = row.get(key)
    if value is None or isinstance(value, bool):
        return value
    msg = f"{where}: {key!r}: found {value!r}; expected true or false"
    raise InputError(msg)
