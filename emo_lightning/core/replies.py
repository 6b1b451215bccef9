"""Replies as models write them: the JSON of an answer among thinking, fences and prose, and its values by the keys that were asked for.

Read is what has one meaning. Values are never changed: a number stays the number that was written, a text the text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Literal, get_args

from emo_lightning.core.foreign import MAX_DEPTH, deeper_than

Reason = Literal["empty", "thinking only", "cut off", "no JSON", "no object", "other keys", "ambiguous", "refused", "no reply"]
"""Why an answer cannot be read. `thinking only`: it ends before an answer begins. `cut off`: it ends within the JSON, or the endpoint says
so. `other keys`: an object without any key that was asked for. `ambiguous`: what it says has two meanings. `refused` and `no reply`: the endpoint
gave no text."""
REASONS: tuple[Reason, ...] = get_args(Reason)
UNREADABLE_ANSWERS = "unreadable: "
"""Beginning of the keys that count unreadable answers by reason, in `table5.json`."""
UNREADABLE_KEY = "unreadable"
"""Key of a prediction's provenance (and of each of its `replies`) that holds the reason."""


class UnreadableReplyError(ValueError):
    """A signal to whoever reads replies: this one has no answer that can be read."""

    def __init__(self, *, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Reason = reason


class _Ambiguous:
    """Stands for the value of a key that has two different ones."""

    def __repr__(self) -> str:
        return "two values"


AMBIGUOUS = _Ambiguous()
AmbiguousKeys = Literal["refuse", "mark"]
"""What becomes of an object that says a key twice, with two values: refused as a whole, or the value is `AMBIGUOUS` and the other keys
keep theirs."""

_TAG = re.compile(
    r"<(?P<close>/)?(?:think|thinking|thought|thoughts|reasoning|reflection|scratchpad)(?:\s[^<>]{0,100})?>"
    r"|(?P<open_2><\|begin_of_thought\|>|◁think▷|\[THINK\]|<\|channel\|>analysis<\|message\|>)"
    r"|(?P<close_2><\|end_of_thought\|>|◁/think▷|\[/THINK\]|<\|channel\|>final<\|message\|>)",
    re.IGNORECASE,
)
_TOKEN = re.compile(r'"(?:\\.|[^"\\])*"|[{}\[\]]', re.DOTALL)
_BEGINS = re.compile(r"\{\s*[\"}]|\[\s*[\[{\]\"\-0-9tfnNI]")
"""What may be JSON; a brace in prose goes on otherwise."""
_STARTS = 5_000
"""Beginnings of JSON that are looked at."""


def json_values(text: str, ambiguous_keys: AmbiguousKeys = "refuse") -> list[object]:
    """The complete JSON objects and lists of a reply in the order in which they stand, without those in `<think>…</think>` and its kin.

    A closing tag without an opening one, as templates write it that put the opening tag into the prompt, ends thinking that began with
    the text; thinking without an end goes on to the end of the text. A tag within a text of the JSON is text.

    Args:
        text: of the reply.
        ambiguous_keys: see `AmbiguousKeys`.

    Raises:
        UnreadableReplyError: there is none.
    """
    if not text.strip():
        raise UnreadableReplyError(reason="empty", message="not JSON: the reply is empty")
    # A line break in a text is no JSON, and has one meaning. NaN is told from a number where numbers are read.
    decoder = json.JSONDecoder(strict=False, object_pairs_hook=partial(_object, ambiguous_keys=ambiguous_keys))
    try:
        # A whole reply that is JSON is what it is, whatever its texts look like.
        return [_shallow(decoder.decode(text.strip()))]
    except json.JSONDecodeError as error:
        whole = error
    except (ValueError, RecursionError) as error:
        raise _no_json(error) from None
    try:
        found, reason = _outside_of_thinking(text, decoder)
    except (ValueError, RecursionError) as error:
        raise _no_json(error) from None
    if not found:
        said = {"thinking only": "the reply ends within its thinking", "cut off": f"the reply ends within it: {whole}"}
        raise UnreadableReplyError(reason=reason, message=f"not JSON: {said.get(reason, whole)}")
    return found


def _outside_of_thinking(text: str, decoder: json.JSONDecoder) -> tuple[list[object], Reason]:
    """The JSON that stands outside of thinking; and why there is none, where there is none."""
    found: list[object] = []
    depth = at = 0
    cut = answers = False
    tag = _TAG.search(text)
    for _ in range(_STARTS):
        if tag is not None and tag.start() < at:
            tag = _TAG.search(text, at)
        start = None if depth else _BEGINS.search(text, at)
        if start is not None and (tag is None or start.start() < tag.start()):
            answers = True
            try:
                value, at = decoder.raw_decode(text, start.start())
                found.append(_shallow(value))
                continue
            except json.JSONDecodeError:
                # What lies within JSON that is broken is a fragment, and no answer; a tag in it is a tag.
                end = _span_end(text, start.start(), len(text) if tag is None else tag.start())
                if end is not None:
                    at = end
                    continue
                cut = True
        if tag is None:
            break
        answers = answers or (depth == 0 and bool(text[at : tag.start()].strip()))
        if tag["close"] or tag["close_2"]:
            if depth == 0:
                found.clear()
                cut = answers = False
            depth = max(0, depth - 1)
        else:
            depth += 1
        at = tag.end()
    answers = answers or (depth == 0 and bool(text[at:].strip()))
    return found, "cut off" if cut else "no JSON" if answers else "thinking only"


def _shallow(value: object) -> object:
    if deeper_than(value, MAX_DEPTH):
        msg = f"nested deeper than {MAX_DEPTH}"
        raise ValueError(msg)
    return value


def _no_json(error: Exception) -> UnreadableReplyError:
    """Of a number of thousands of digits, of lists without end; of what was unreadable already, itself."""
    return (
        error
        if isinstance(error, UnreadableReplyError)
        else UnreadableReplyError(reason="no JSON", message=f"not JSON: {error}")
    )


def _object(pairs: list[tuple[str, object]], ambiguous_keys: AmbiguousKeys) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        for key, value in pairs:
            if found[key] != value:
                found[key] = _twice(key, ambiguous_keys)
    return found


def _twice(key: str, ambiguous_keys: AmbiguousKeys) -> _Ambiguous:
    if ambiguous_keys == "refuse":
        raise UnreadableReplyError(reason="ambiguous", message=f"two values of {key[:80]}")
    return AMBIGUOUS


def asked_values(
    values: Iterable[object], keys: Iterable[str], ambiguous_keys: AmbiguousKeys = "refuse", *, in_parts: bool = True
) -> dict[str, object]:
    """The values of the keys that were asked for: of all objects that have any where no two share a key, else of the last.

    Keys may be in another case or spelling (`Intensity Level`, `intensityLevel`), and one level down. Of a draft and an answer, which
    share a key, the answer has the word; what was said in parts is read from all of them.

    Args:
        values: of `json_values`.
        keys: that were asked for.
        ambiguous_keys: see `AmbiguousKeys`.
        in_parts: whether objects that share no key are read together; without, it is the last alone.

    Returns:
        By the keys as asked; those that are not there are left out, and so is everything else.

    Raises:
        UnreadableReplyError: no object, none with such a key, several that might be meant, or a key has two values and is not to be marked.
    """
    names = {_plain(key): key for key in keys}
    everything = list(values)
    for at in reversed(range(len(everything))):
        if fields := _fields(everything[at], names, ambiguous_keys, deeper=True):
            if not in_parts:
                return fields
            try:
                parts = [_fields(value, names, ambiguous_keys, deeper=True) for value in everything[:at]]
            except UnreadableReplyError:  # an earlier one has two meanings: the last has one
                return fields
            return _joined([*parts, fields]) or fields
    last = everything[-1]
    if not any(isinstance(value, dict) for value in everything):
        raise UnreadableReplyError(reason="no object", message=f"JSON {type(last).__name__}, not an object")
    if last == {}:
        return {}
    found = ", ".join(sorted(last))[:100] if isinstance(last, dict) else type(last).__name__
    raise UnreadableReplyError(reason="other keys", message=f"none of the keys that were asked for; found {found}")


def values_said(text: str, key: str) -> list[object]:
    """Every value that a reply gives to a key, of all its objects at any depth; `AMBIGUOUS` where one of them has two.

    Of a draft and an answer `asked_values` takes the answer: this tells that there was a draft, and what it said.

    Args:
        text: of the reply.
        key: that was asked for.
    """
    try:
        values = json_values(text, "mark")
    except UnreadableReplyError:
        return []
    return list(_values_of(_plain(key), values))


def _values_of(name: str, value: object) -> Iterator[object]:
    if isinstance(value, list):
        for one in value:
            yield from _values_of(name, one)
    elif isinstance(value, dict):
        own = [inner for key, inner in value.items() if _plain(key) == name]
        yield from own
        if not own:
            # Where the key stands its value is; what lies deeper is no other one.
            yield from _values_of(name, list(value.values()))


def _fields(value: object, names: Mapping[str, str], ambiguous_keys: AmbiguousKeys, *, deeper: bool) -> dict[str, object]:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, list):
        return _joined([_fields(one, names, ambiguous_keys, deeper=False) for one in value if isinstance(one, dict)]) or {}
    if not isinstance(value, dict):
        return {}
    found: dict[str, object] = {}
    for key, inner in value.items():
        name = names.get(_plain(key))
        if name is None:
            continue
        # The key as it was asked for has the word, where the others say the same.
        found[name] = inner if name not in found or found[name] == inner else _twice(name, ambiguous_keys)
    if found or not deeper:
        return found
    inside = [fields for inner in value.values() if (fields := _fields(inner, names, ambiguous_keys, deeper=False))]
    joined = _joined(inside)
    if joined is None:
        raise UnreadableReplyError(reason="ambiguous", message=f"{len(inside)} objects with keys that were asked for")
    return joined


def _joined(parts: Iterable[Mapping[str, object]]) -> dict[str, object] | None:
    """The values of all; None where two have a key in common."""
    found: dict[str, object] = {}
    for part in parts:
        if not found.keys().isdisjoint(part):
            return None
        found.update(part)
    return found


def _plain(key: str) -> str:
    return re.sub(r"[\s_\-]", "", key).casefold()


def _span_end(text: str, start: int, stop: int) -> int | None:
    """Where the bracket that opens at `start` closes before `stop`, texts in quotes left out; None where it does not."""
    depth = 0
    for token in _TOKEN.finditer(text, start, stop):
        if token[0] in "{[":
            depth += 1
        elif token[0] in "}]":
            depth -= 1
            if depth == 0:
                return token.end()
    return None


def unreadable_reasons(provenance: Mapping[str, object]) -> list[Reason]:
    """Why the answers behind a prediction cannot be read, one for each that cannot.

    Args:
        provenance: of a prediction, perhaps of another program.
    """
    replies = provenance.get("replies")
    parts = [provenance, *(replies if isinstance(replies, list) else [])]
    said = [part.get(UNREADABLE_KEY) for part in parts if isinstance(part, Mapping)]
    return [reason for reason in REASONS for one in said if one == reason]
