"""The one decoder for JSON that others wrote: a server, a model, another program, a person.

Python's own reader believes what a text claims: it nests until the stack ends, takes numbers that no float or column can hold, NaN, half
characters and doubled keys, and what it gives back fails later, in another file. `decode_json` refuses all that at the door, in one error
of the caller's type; `object_of`, `list_of`, `text_of`, `number_of` and `integer_of` check the types of what it gives.

    reply = object_of(decode_json(body, "chat reply", ReplyError, half_characters="replace"), "chat reply", ReplyError)
    cost = number_of(reply.get("cost"), "chat reply: 'cost'", ReplyError)
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from emo_lightning.core.errors import InputError, MissingFileError, UserError

__all__ = [
    "MAX_DEPTH",
    "MAX_JSON_BYTES",
    "MAX_LINE_BYTES",
    "MAX_PIXELS",
    "LargestIntegers",
    "as_number",
    "decode_json",
    "deeper_than",
    "integer_of",
    "json_lines",
    "list_of",
    "number_of",
    "object_of",
    "open_binary",
    "read_capped",
    "text_of",
    "whole_characters",
]

MAX_DEPTH = 64
"""Lists and objects inside one another; what we write nests 8 deep."""
MAX_JSON_BYTES = 1 << 30
"""Of a whole file: the captions of a large data set are hundreds of MiB. Readers of small files give a limit of their own."""
MAX_LINE_BYTES = 16 << 20
"""Of one line, record, reply or settings file; a record with a hundred masks has less than 1 MiB."""
MAX_PIXELS = 100_000_000
"""Of a picture, a record or a mask: above any camera of today; a small file that claims more is a decompression bomb."""

_HALF = re.compile("[\ud800-\udfff]")
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_LARGEST = 1 << 63

LargestIntegers = Literal["64 bits", "any float"]
"""`64 bits`: what a database and an array can hold. `any float`: up to 1.8e308, for envelopes whose numbers nobody uses."""


def decode_json(
    data: str | bytes,
    where: object,
    error: type[UserError] = InputError,
    *,
    max_bytes: int = MAX_JSON_BYTES,
    max_depth: int = MAX_DEPTH,
    integers: LargestIntegers = "64 bits",
    half_characters: Literal["refuse", "replace", "keep"] = "refuse",
    repeated_keys: Literal["refuse", "last"] = "refuse",
    on_constant: Callable[[str], object] | None = None,
) -> object:
    """The value of a JSON text that somebody else has written.

    Args:
        data: the text. Bytes are UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.
        where: file and line, member or sender, for the message.
        error: what is raised, for whatever is wrong.
        max_bytes: longest text (characters of a `str`).
        max_depth: most lists and objects inside one another.
        integers: largest whole numbers.
        half_characters: `refuse` a lone surrogate, which no file can hold, `replace` it by U+FFFD, as a decoder of bytes does, or `keep` it, for a
            caller that tells what has one from what has none.
        repeated_keys: `refuse` an object that says one key twice, or take the `last`, as Python does.
        on_constant: gives the value that stands for NaN, Infinity and -Infinity (and for numbers over 1.8e308); None refuses them.

    Returns:
        None, bool, int, float, str, list or dict; floats are finite (unless `on_constant` gives others), strings can be encoded.

    Raises:
        UserError: of the type `error`; says `where`, and what is wrong.
    """
    if len(data) > max_bytes:
        msg = f"{where}: {len(data):,} bytes of JSON; at most {max_bytes:,} are read"
        raise error(msg)
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        text = text.removeprefix("\ufeff")
        value: object = json.loads(
            text,
            parse_int=partial(_integer, largest=integers),
            parse_float=partial(_float, on_constant=on_constant),
            parse_constant=on_constant or _no_constant,
            object_pairs_hook=_object if repeated_keys == "refuse" else None,
        )
    except RecursionError:
        msg = f"{where}: JSON nested deeper than {max_depth}"
        raise error(msg) from None
    except (ValueError, _RefusedError) as failure:
        # JSONDecodeError and UnicodeDecodeError are ValueErrors.
        prefix = "" if isinstance(failure, _RefusedError) else "not JSON: "
        msg = f"{where}: {prefix}{failure}"
        raise error(msg) from None
    if text.count("[") + text.count("{") > max_depth and deeper_than(value, max_depth):
        msg = f"{where}: JSON nested deeper than {max_depth}"
        raise error(msg)
    if half_characters == "keep":
        return value
    if _ESCAPED_HALF.search(text) or (isinstance(data, str) and _HALF.search(text)):
        if half_characters == "replace":
            return _mended(value)
        if half := _half_in(value):
            msg = f"{where}: holds half a character (a lone surrogate, {half}), which no text file can hold"
            raise error(msg)
    return value


class _RefusedError(Exception):
    """Raised by the hooks below, for `decode_json`."""


def _integer(digits: str, largest: LargestIntegers) -> int:
    # Of more than 308 digits no float can be made, of more than 4,300 no int.
    if len(digits) <= 309:
        value = int(digits)
        if -_LARGEST <= value < _LARGEST or (largest == "any float" and abs(value) < 1 << 1023):
            return value
    msg = f"a whole number of {len(digits.lstrip('-'))} digits; expected {'64 bits' if largest == '64 bits' else 'fewer than 308 digits'}"
    raise _RefusedError(msg)


def _float(digits: str, on_constant: Callable[[str], object] | None) -> object:
    value = float(digits)
    if math.isfinite(value):
        return value
    if on_constant is not None:
        return on_constant("Infinity" if value > 0 else "-Infinity")
    msg = f"the number {digits[:40]} is larger than a float can be"
    raise _RefusedError(msg)


def _no_constant(name: str) -> object:
    msg = f"{name} is no number of JSON; expected a finite one, or null"
    raise _RefusedError(msg)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        msg = f"the key {key[:80]!r} stands twice in one object"
        raise _RefusedError(msg)
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


# --- types -----------------------------------------------------------------------------------------------------------------------------


def object_of(value: object, where: object, error: type[UserError] = InputError) -> dict[str, object]:
    """The value, which must be an object; `error` with `where` and what was found otherwise."""
    if isinstance(value, dict):
        return value
    raise error(_wrong(where, value, "an object"))


def list_of(value: object, where: object, error: type[UserError] = InputError) -> list[object]:
    """As `object_of`, for a list."""
    if isinstance(value, list):
        return value
    raise error(_wrong(where, value, "a list"))


def text_of(value: object, where: object, error: type[UserError] = InputError) -> str:
    """As `object_of`, for a text."""
    if isinstance(value, str):
        return value
    raise error(_wrong(where, value, "a text"))


def as_number(value: object) -> float | None:
    """The value as a finite float, or None where it is none; true and false, and texts of digits, are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def number_of(
    value: object, where: object, error: type[UserError] = InputError, *, low: float = -math.inf, high: float = math.inf
) -> float:
    """As `object_of`, for a finite number from `low` to `high`; true and false are none."""
    number = as_number(value)
    if number is not None and low <= number <= high:
        return number
    raise error(_wrong(where, value, f"a finite number{_bounds(low, high)}"))


def integer_of(
    value: object, where: object, error: type[UserError] = InputError, *, low: int = -_LARGEST, high: int = _LARGEST - 1
) -> int:
    """As `object_of`, for a whole number from `low` to `high`; true, false and 3.0 are none."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    bounds = _bounds(low if low > -_LARGEST else -math.inf, high if high < _LARGEST - 1 else math.inf)
    raise error(_wrong(where, value, f"a whole number{bounds}"))


def _bounds(low: float, high: float) -> str:
    if math.isinf(low) and math.isinf(high):
        return ""
    return (
        f" of at least {low:,g}"
        if math.isinf(high)
        else f" of at most {high:,g}"
        if math.isinf(low)
        else f" from {low:,g} to {high:,g}"
    )


def _wrong(where: object, value: object, expected: str) -> str:
    names = {"dict": "an object", "list": "a list", "str": "the text", "NoneType": "nothing"}
    found = names.get(type(value).__name__, "")
    if isinstance(value, str):
        found += f" {value[:60]!r}"
    elif not found:
        # Not repr: Python writes no int of more than 4,300 digits.
        found = "a whole number of too many digits" if isinstance(value, int) and abs(value) >= 1 << 1024 else str(value)[:60]
    return f"{where}: found {found}; expected {expected}"


# --- files -----------------------------------------------------------------------------------------------------------------------------


def open_binary(path: str | Path, error: type[UserError] = InputError) -> BinaryIO:
    """A file opened to be read, which the caller closes.

    Raises:
        MissingFileError: no such file.
        UserError: of the type `error`: it cannot be read.
    """
    try:
        return open(path, "rb")
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise MissingFileError(msg) from None
    except OSError as failure:
        msg = f"{path}: cannot be read: {failure.strerror or failure}"
        raise error(msg) from failure


_LFS = b"version https://git-lfs.github.com/spec/"


def refuse_pointer(beginning: bytes, path: str | Path, error: type[UserError]) -> None:
    """Refuse what Git LFS leaves in the place of a file that it has not fetched.

    Args:
        beginning: of the file, 64 bytes or more.
        path: of it.
        error: what is raised.
    """
    if beginning.startswith(_LFS):
        msg = f"{path}: a Git LFS pointer, not the file that it stands for; fetch that one (`git lfs pull`)"
        raise error(msg)


def read_capped(path: str | Path, max_bytes: int = MAX_LINE_BYTES, error: type[UserError] = InputError) -> bytes:
    """A whole file of at most `max_bytes`; a longer one (or a device that never ends) is refused after that many.

    Raises:
        MissingFileError: no such file.
        UserError: of the type `error`: it cannot be read, or is too long.
    """
    with open_binary(path, error) as file:
        try:
            data = file.read(max_bytes + 1)
        except OSError as failure:
            msg = f"{path}: cannot be read: {failure.strerror or failure}"
            raise error(msg) from failure
    refuse_pointer(data, path, error)
    if len(data) > max_bytes:
        msg = f"{path}: longer than {max_bytes:,} bytes, which is the most that a file of this kind may have"
        raise error(msg)
    return data


def json_lines(
    file: BinaryIO, name: object, error: type[UserError] = InputError, *, max_bytes: int = MAX_LINE_BYTES
) -> Iterator[tuple[str, bytes]]:
    """The lines of an open file that are not blank, each with its place `NAME:NUMBER`.

    Raises:
        UserError: of the type `error`: a line is longer than `max_bytes`, or the file cannot be read.
    """
    number = 0
    while True:
        number += 1
        try:
            line = file.readline(max_bytes + 1)
        except OSError as failure:
            msg = f"{name}:{number}: cannot be read: {failure.strerror or failure}"
            raise error(msg) from None
        if not line:
            return
        if len(line) > max_bytes:
            msg = f"{name}:{number}: a line of more than {max_bytes:,} bytes"
            raise error(msg)
        if line.strip():
            yield f"{name}:{number}", line
