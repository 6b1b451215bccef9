"""JSON that others wrote, decoded or refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, TypedDict, Unpack

from emo_lightning.core.errors import InputError, UserError

MAX_DEPTH = 64
"""Lists and objects inside one another; what we write nests 8 deep."""
MAX_JSON_BYTES = 1 << 30
"""Of a whole file: the captions of a large data set are hundreds of MiB. Readers of small files give a limit of their own."""

_HALF = re.compile("[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
INT64_LIMIT = 1 << 63
"""Whole numbers from minus this one to below it have 64 bits."""

LargestIntegers = Literal["64 bits", "any float"]
"""`64 bits`: what a database and an array can hold. `any float`: up to 1.8e308, for envelopes whose numbers nobody uses."""


class JsonOptions(TypedDict, total=False):
    """What a caller lets through."""

    max_bytes: int
    """Longest text (characters of a `str`); default `MAX_JSON_BYTES`."""
    max_depth: int
    """Most lists and objects inside one another; default `MAX_DEPTH`."""
    integers: LargestIntegers
    """Largest whole numbers; default 64 bits."""
    half_characters: Literal["refuse", "replace", "keep"]
    """`refuse` a lone surrogate, which no file can hold (the default), `replace` it by U+FFFD, as a decoder of bytes does, or `keep` it, for a
    caller that tells what has one from what has none."""
    repeated_keys: Literal["refuse", "last"]
    """`refuse` an object that says one key twice (the default), or take the `last`, as Python does."""
    on_constant: Callable[[str], object] | None
    """Gives the value that stands for NaN, Infinity and -Infinity (and for numbers over 1.8e308); None, the default, refuses them."""


class RefusedJsonError(Exception):
    """Why a text is not taken.

    Args:
        reason: for the message, without the place.
        syntax: the text is no JSON at all, so that its end is a guess.
        line: of the text, from 1, where it has several and the fault stands in one.
    """

    def __init__(self, reason: str, *, syntax: bool = False, line: int | None = None) -> None:
        super().__init__(reason)
        self.syntax = syntax
        self.line = line


def decode_json(
    data: str | bytes, where: object, error: type[UserError] = InputError, **options: Unpack[JsonOptions]
) -> object:
    """The value of a JSON text that somebody else has written.

    Args:
        data: the text. Bytes are UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.
        where: file and line, member or sender, for the message; the line of a text of several lines is added to it.
        error: what is raised, for whatever is wrong.
        **options: see `JsonOptions`.

    Returns:
        None, bool, int, float, str, list or dict; floats are finite (unless `on_constant` gives others), strings can be encoded.

    Raises:
        UserError: of the type `error`; says `where`, and what is wrong.
    """
    try:
        return read_json(data, **options)
    except RefusedJsonError as fault:
        msg = f"{where}: {fault}" if fault.line is None else f"{where}:{fault.line}: {fault}"
        raise error(msg) from None


def read_json(
    data: str | bytes,
    *,
    max_bytes: int = MAX_JSON_BYTES,
    max_depth: int = MAX_DEPTH,
    integers: LargestIntegers = "64 bits",
    half_characters: Literal["refuse", "replace", "keep"] = "refuse",
    repeated_keys: Literal["refuse", "last"] = "refuse",
    on_constant: Callable[[str], object] | None = None,
) -> object:
    """As `decode_json`, for a caller that names the place itself.

    Raises:
        RefusedJsonError: with the reason.
    """
    if len(data) > max_bytes:
        msg = f"{len(data):,} bytes of JSON; at most {max_bytes:,} are read"
        raise RefusedJsonError(msg)
    too_deep = f"JSON nested deeper than {max_depth}"
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        # The end of a line is no line of its own.
        text = text.removeprefix("\ufeff").rstrip(" \t\r\n")
        value: object = json.loads(
            text,
            parse_int=partial(_integer, largest=integers),
            parse_float=partial(_float, on_constant=on_constant),
            parse_constant=on_constant or _no_constant,
            object_pairs_hook=_object if repeated_keys == "refuse" else None,
        )
    except RecursionError:
        raise RefusedJsonError(too_deep) from None
    except json.JSONDecodeError as failure:
        msg = f"not JSON: {failure.msg} at column {failure.colno}"
        raise RefusedJsonError(msg, syntax=True, line=failure.lineno if "\n" in text else None) from None
    except ValueError as failure:
        # A UnicodeDecodeError is one.
        msg = f"not JSON: {failure}"
        raise RefusedJsonError(msg, syntax=True) from None
    if text.count("[") + text.count("{") > max_depth and deeper_than(value, max_depth):
        raise RefusedJsonError(too_deep)
    if half_characters == "keep":
        return value
    if _ESCAPED_HALF.search(text) or (isinstance(data, str) and _HALF.search(text)):
        if half_characters == "replace":
            return _mended(value)
        if half := _half_in(value):
            msg = f"holds half a character (a lone surrogate, {half}), which no text file can hold"
            raise RefusedJsonError(msg)
    return value


def _integer(digits: str, largest: LargestIntegers) -> int:
    # Of more than 308 digits no float can be made, of more than 4,300 no int.
    if len(digits) <= 309:
        value = int(digits)
        if -INT64_LIMIT <= value < INT64_LIMIT or (largest == "any float" and abs(value) < 1 << 1023):
            return value
    msg = f"a whole number of {len(digits.lstrip('-'))} digits; expected {'64 bits' if largest == '64 bits' else 'fewer than 308 digits'}"
    raise RefusedJsonError(msg)


def _float(digits: str, on_constant: Callable[[str], object] | None) -> object:
    value = float(digits)
    if math.isfinite(value):
        return value
    if on_constant is not None:
        return on_constant("Infinity" if value > 0 else "-Infinity")
    msg = f"the number {digits[:40]} is larger than a float can be"
    raise RefusedJsonError(msg)


def _no_constant(name: str) -> object:
    msg = f"{name} is no number of JSON; expected a finite one, or null"
    raise RefusedJsonError(msg)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        msg = f"the key {key[:80]!r} stands twice in one object"
        raise RefusedJsonError(msg)
    return found


def deeper_than(value: object, depth: int) -> bool:
    """Whether lists and objects stand more than `depth` inside one another."""
    level = [value] if isinstance(value, list | dict) else []
    for _ in range(depth):
        if not level:
            return False
        level = [child for parent in level for child in _children(parent) if isinstance(child, list | dict)]
    return bool(level)


def _children(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, list):
        yield from value


def _half_in(value: object) -> str | None:
    """The escape of the first lone surrogate in any string or key."""
    if isinstance(value, str):
        return f"\\u{ord(found[0]):04x}" if (found := _HALF.search(value)) else None
    below = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, list) else []
    return next((half for child in below if (half := _half_in(child))), None)


def whole_characters(text: str) -> str:
    """The text with U+FFFD, the sign for what could not be decoded, for each half of a character."""
    return _HALF.sub("\ufffd", text)


def _mended(value: object) -> object:
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, list):
        return [_mended(child) for child in value]
    if isinstance(value, dict):
        return {whole_characters(key): _mended(child) for key, child in value.items()}
    return value
