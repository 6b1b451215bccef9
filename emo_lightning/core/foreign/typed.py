"""The types of decoded JSON, checked one value at a time."""

from __future__ import annotations

import math

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.foreign.json_text import INT64_LIMIT


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
    value: object, where: object, error: type[UserError] = InputError, *, low: int = -INT64_LIMIT, high: int = INT64_LIMIT - 1
) -> int:
    """As `object_of`, for a whole number from `low` to `high`; true, false and 3.0 are none."""
    if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
        return value
    bounds = _bounds(low if low > -INT64_LIMIT else -math.inf, high if high < INT64_LIMIT - 1 else math.inf)
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
