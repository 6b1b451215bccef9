"""The JSON objects of a body, however they came: alone, in a list, as an event stream, one a line, one inside another."""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_prep.provider.received import BodyOutcome, NotFromApi, TransientError, Unusable, body_excerpt, body_text, foreign_json

_FIELDS = ("data:", "event:", "id:", "retry:", ":")
"""With which a line of an event stream begins."""


def unreadable(text: str, signs: Sequence[str], filled: re.Pattern[str]) -> BodyOutcome:
    """What a body is that is neither JSON nor a stream of it.

    Args:
        text: of the body.
        signs: what only a reply has in it, also where it begins like an error.
        filled: found in a reply that has something in it, whatever stands around it.
    """
    begins = re.match(r'(?:\[\s*)?\{\s*("\w+")?', text) or re.search(r'^data:\s*\{\s*("\w+")?', text, re.MULTILINE)
    if begins is None and has_reply(text, filled):
        return Unusable("a reply is in it, cut off, with something around it that is no JSON")
    if begins is None:
        return NotFromApi(f"no JSON: {body_excerpt(text)}" if text else "an empty body")
    if begins[1] == '"error"' and not any(sign in text for sign in signs):
        return TransientError(body_excerpt(text))
    return Unusable("the reply is cut off, or no JSON")


def has_reply(text: str, filled: re.Pattern[str]) -> bool:
    """Whether there is a reply somewhere in a body, and not on a page about replies.

    Args:
        text: of the body.
        filled: see `unreadable`.
    """
    return not text.startswith("<") and filled.search(text) is not None


def json_objects(text: str) -> list[dict[str, object]] | None:
    """The JSON objects of a body in order; None where it is no JSON, or breaks off."""
    if is_stream(text):
        found, unread = _events(text)
        return found or (None if unread else [])
    try:
        value = foreign_json(text)
    except ValueError:
        return _lines(text) or _inside(text)
    if isinstance(value, str) and value.lstrip().startswith("{"):
        # JSON of JSON, as a proxy writes it that takes the body for a text.
        try:
            value = foreign_json(value)
        except ValueError:
            return None
    match value:
        case dict():
            return [value]
        case list() if value and all(isinstance(one, dict) for one in value):
            return value
    return []


def _inside(text: str) -> list[dict[str, object]] | None:
    """The object with something around it: a guard against scripts, the call of a function, zeros, a comment. None where there is none."""
    start, end = text.find("{"), text.rfind("}") + 1
    if text.startswith("<") or not 0 <= start < end or (start, end) == (0, len(text)):
        return None
    try:
        value = foreign_json(text[start:end])
    except ValueError:
        return None
    return [value] if isinstance(value, dict) else None


def is_stream(text: str) -> bool:
    """Whether a body is an event stream."""
    return text.startswith(_FIELDS)


def has_broken_event(text: str) -> bool:
    """Whether an event of a stream is an object that cannot be read: what it said is missing."""
    return any(payload.startswith("{") for payload in _events(text)[1])


def has_end(text: str) -> bool:
    """Whether a stream says that it has ended."""
    return any(re.fullmatch(r"data:\s*\[DONE\]\s*", line) for line in _split(text))


def is_complete(raw: bytes) -> bool:
    """Whether a body that broke off is whole all the same: JSON from end to end, or a stream that says that it has ended."""
    text = body_text(raw)
    if is_stream(text):
        return has_end(text)
    try:
        return isinstance(foreign_json(text), dict | list)
    except ValueError:
        return False


def _split(text: str) -> list[str]:
    """Lines as streams have them. `splitlines` knows other ends (U+2028, U+0085), which a text in JSON may hold as they are."""
    return re.split("\r\n|\n|\r", text)


def _lines(text: str) -> list[dict[str, object]] | None:
    """One object a line; None where a line is none, or there is only one."""
    found: list[dict[str, object]] = []
    filled = [line for line in _split(text) if line.strip()]
    for line in filled:
        try:
            one = foreign_json(line)
        except ValueError:
            return None
        if not isinstance(one, dict):
            return None
        found.append(one)
    return found if len(found) > 1 else None


def _events(text: str) -> tuple[list[dict[str, object]], list[str]]:
    """The objects of an event stream, and what else it says that is no JSON."""
    found: list[dict[str, object]] = []
    unread: list[str] = []
    data: list[str] = []
    for line in [*_split(text), ""]:
        if line.startswith("data:"):
            data.append(line[5:].strip())
            continue
        # The end of an event, as its specification has it; some servers send one a line and no blank one between.
        for payload in _payloads(data) if not line.strip() else []:
            try:
                one = foreign_json(payload)
            except ValueError:
                unread.append(payload)
                continue
            if isinstance(one, dict):
                found.append(one)
        if not line.strip():
            data = []
    return found, unread


def _payloads(data: list[str]) -> list[str]:
    """The JSON texts of an event's lines: one over several lines, or one a line."""
    data = [line for line in data if line and line != "[DONE]"]
    if len(data) > 1 and all(line.startswith("{") and line.endswith("}") for line in data):
        return data
    return ["\n".join(data)] if data else []
