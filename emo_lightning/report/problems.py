"""What pydantic says of a file, in the words of the other messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pydantic import ValidationError

_EXPECTED = {
    "string_type": "a text",
    "list_type": "a list",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "finite_number": "a finite number",
    "float_type": "a finite number",
    "int_type": "a whole number",
}
"""Kinds of pydantic's errors -> what is allowed, in the words of the other messages."""


def problem(error: ValidationError, fields: Callable[[str, tuple[int | str, ...]], set[str]] | None = None) -> str:
    """The first problem in one line: key, what was found, what is allowed; an unknown key comes before what is missing for it.

    Args:
        error: of pydantic.
        fields: names what may stand in the object that the last part of a place is in, of the class that was asked; None where keys that are
            not named are let through.
    """
    first = min(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    kind, loc, found = first["type"], first["loc"], first["input"]
    if kind == "json_invalid":
        return f"not JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    if kind == "missing" and fields is None:
        return f"key {dotted(loc)} is missing"
    if kind in ("extra_forbidden", "missing") and fields is not None:
        allowed = ", ".join(sorted(fields(error.title, loc)))
        where = f"key {dotted(loc[:-1])}" if len(loc) > 1 else "the file"
        if kind == "missing":
            return f"{where}: key {loc[-1]!r} is missing; expected {allowed}"
        return f"{where}: unknown key {loc[-1]!r}; allowed: {allowed}"
    where = f"key {dotted(loc)}" if loc else "the file"
    if kind == "value_error":
        said = str(first["ctx"]["error"])
        return where + (said if said.startswith((":", "[", ".")) else f": {said}")
    if loc and loc[-1] == "digits":
        return f"{where}: found {found!r}; expected a whole number from 0 to 10"
    shown = repr(found) if isinstance(found, str | int | float | None) else type(found).__name__
    shown = type(found).__name__ if kind in ("list_type", "model_type") else shown
    return f"{where}: found {shown}; expected {_EXPECTED.get(kind, first['msg'])}"


def dotted(loc: Iterable[int | str]) -> str:
    """A place in a file in words: `tables[0].rows[0]`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc]
    return "".join(parts).removeprefix(".")
