"""Conditions on the fields of an index, as SQL in which a value is never anything but a value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, INTENSITY_LEVELS
from emo_lightning.core.text import shown
from emo_lightning.search.schema import FILTER_FIELDS

_CONDITION = re.compile(r"\s*([^\s!<>=~]+)\s*(!=|<=|>=|=|<|>|~)\s*(.*?)\s*", re.DOTALL)
_RANGE = re.compile(r"(\d+(?:\.\d+)?)\s*-\s*(\d+(?:\.\d+)?)")
_NONE = "none"
"""As a value: the field is not known. In quotes it is the word."""
_ONE_OF = {
    "emotion": tuple(map(str, EMOTIONS)),
    "probe_emotion": tuple(map(str, EMOTIONS)),
    "intensity_level": INTENSITY_LEVELS,
}
"""Fields with few values. What a model's words say as `emotion` is stored only where it is one of the eight."""
_OF_TEXT = ("=", "!=", "~")


@dataclass(frozen=True)
class Filters:
    """Which images of an index may be found; all conditions hold at once.

    Args:
        emotion: one of the eight, or several, of which one holds.
        intensity: `low`, `medium` or `high`; a number 1–10; a range `7-10`; or `>=7`.
        where: conditions `FIELD=VALUE`; also `!=`, `~` (contains, whatever the case), and for numbers `<`, `<=`, `>`, `>=`. The value
            `none` stands for "not known".

    Raises:
        InputError: a field, relation or value that there is not; says which there are.

    Examples:
        >>> Filters(emotion="awe", intensity="high", where=["subject~dog", "split=test"]).sql()
        "emotion IN ('awe') AND intensity_level = 'high' AND contains(lower(subject), 'dog') AND split = 'test'"
    """

    emotion: str | Sequence[str] | None = None
    intensity: str | float | None = None
    where: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.sql()

    def sql(self) -> str | None:
        """As LanceDB takes it; None where nothing is asked."""
        return " AND ".join(self._parts()) or None

    def _parts(self) -> Iterator[str]:
        if self.emotion is not None:
            names = [self.emotion] if isinstance(self.emotion, str) else list(self.emotion)
            yield f"emotion IN ({', '.join(quoted(_named(name, 'emotion')) for name in names)})"
        if self.intensity is not None:
            yield _intensity(str(self.intensity).strip())
        yield from (_condition(text) for text in self.where)


def quoted(text: str) -> str:
    """A text as an SQL literal. In standard SQL the quote alone has a meaning inside of one; it is doubled."""
    return "'" + text.replace("'", "''") + "'"


def one_of(field: str, values: Sequence[str]) -> str:
    """That a field of texts has one of some values."""
    return f"{field} IN ({', '.join(map(quoted, values))})"


def both(*conditions: str | None) -> str | None:
    """All of some conditions."""
    return " AND ".join(f"({one})" for one in conditions if one) or None


def _intensity(text: str) -> str:
    if text in INTENSITY_LEVELS:
        return f"intensity_level = {quoted(text)}"
    if found := _RANGE.fullmatch(text):
        low, high = float(found[1]), float(found[2])
        return f"intensity BETWEEN {low!r} AND {high!r}"
    try:
        return _condition(f"intensity{text}" if text[:1] in ("<", ">", "=", "!") else f"intensity={text}")
    except InputError:
        msg = f"intensity {shown(text)}: expected {', '.join(INTENSITY_LEVELS)}, a number, a range like 7-10, or a comparison like >=7"
        raise InputError(msg) from None


def _condition(text: str) -> str:
    found = _CONDITION.fullmatch(text)
    if found is None:
        msg = f"condition {shown(text)}: expected FIELD=VALUE, e.g. split=test; also !=, ~ (contains), <, <=, >, >="
        raise InputError(msg)
    field, relation, value = found[1], found[2], found[3]
    if field not in FILTER_FIELDS:
        msg = f"condition {shown(text)}: no field {shown(field)}; there are: {', '.join(FILTER_FIELDS)}"
        raise InputError(msg)
    if value == _NONE and relation in ("=", "!="):
        return f"{field} IS {'' if relation == '=' else 'NOT '}NULL"
    if FILTER_FIELDS[field] == "number":
        return _compared(f"{field} {'<>' if relation == '!=' else relation} {_number(value, text)!r}", field, relation, text)
    if relation not in _OF_TEXT:
        msg = f"condition {shown(text)}: {field} is a text; allowed: {', '.join(_OF_TEXT)}"
        raise InputError(msg)
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = value[1:-1]
    if relation == "~":
        return f"contains(lower({field}), {quoted(value.lower())})"
    value = _named(value, field) if field in _ONE_OF else value
    # An image of which it is not known is none of which it is that value.
    return f"{field} = {quoted(value)}" if relation == "=" else f"({field} IS NULL OR {field} <> {quoted(value)})"


def _compared(sql: str, field: str, relation: str, text: str) -> str:
    if relation == "~":
        msg = f"condition {shown(text)}: {field} is a number; allowed: =, !=, <, <=, >, >="
        raise InputError(msg)
    return f"({field} IS NULL OR {sql})" if relation == "!=" else sql


def _number(value: str, text: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if not abs(number) < float("inf"):
        msg = f"condition {shown(text)}: expected a number, found {shown(value)}"
        raise InputError(msg)
    return number


def _named(value: str, field: str) -> str:
    allowed = _ONE_OF[field]
    value = value.strip().lower()
    if value not in allowed:
        msg = f"{field} {shown(value)}; allowed: {', '.join(allowed)}"
        raise InputError(msg)
    return value
