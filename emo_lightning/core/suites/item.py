"""What every suite's file is read to: one item for each thing that is asked of a model, or known of an image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from emo_lightning.core.errors import InputError
from emo_lightning.core.foreign import as_number
from emo_lightning.core.records.ratings import Rating

SuiteName = Literal["mvei", "vecbench", "eemo_bench"]
SUITE_TITLES: Mapping[SuiteName, str] = {"mvei": "MVEI", "vecbench": "VECBench", "eemo_bench": "EEmo-Bench"}


class SuiteError(InputError):
    """A suite's file, or a row of it, is not as it is published; the message names the place, what was found and what is expected."""


@dataclass(frozen=True)
class SuiteItem:
    """One row of a suite."""

    id: str
    """Unique within its file."""
    task: str
    """What is asked, by the suite's own name where it has one: `EmoSet-8`, `Yes-or-No`, a class of statements."""
    images: tuple[str, ...]
    """Paths as they are written; `find_image` finds the files."""
    prompt: str | None = None
    """As a model is given it; None where the file holds none."""
    question: str | None = None
    """What is asked, without the instructions around it, where the file has it alone."""
    candidates: tuple[str, ...] = ()
    """Answers that may be chosen, in the order of the file."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Letter -> answer, where answers have letters."""
    truth: str | None = None
    """The right answer: one of the candidates, a letter, a verdict, or a text; None where there is none."""
    scored_emotions: Mapping[str, float] = field(default_factory=dict)
    """Emotion -> how strongly people felt it, the strongest first."""
    ratings: Mapping[str, Rating] = field(default_factory=dict)
    """Of valence, arousal and dominance."""
    replies: tuple[str, ...] = ()
    """What a model answered, in a file of results; published scorers take the first."""
    judged: Mapping[str, object] = field(default_factory=dict)
    """What the file itself says of the reply: `eval_result`, `if_invalid`."""
    extra: Mapping[str, object] = field(default_factory=dict)
    """Everything else of the row, by its own names."""
    numbered: bool = field(default=False, compare=False)
    """Whether its id is the number of its line, since the row has none: in another file the same question may have another."""


@dataclass(frozen=True)
class BadRow:
    """A row that is no item, and why."""

    where: str
    """File and row."""
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class FailedRow(BadRow):
    """A row of a file of results that says that the model gave no reply."""


SuiteRows = Iterator[SuiteItem | BadRow]
SuiteReader = Callable[[Path], SuiteRows]
"""Reads a file of a suite; raises `SuiteError` where the file as a whole is not one."""


class RowError(Exception):
    """Why a row is no item; without the place, which the reader of the file knows."""


def attempt(where: str, make: Callable[[], SuiteItem]) -> SuiteItem | BadRow:
    """The item, or why there is none."""
    try:
        return make()
    except RowError as fault:
        return BadRow(where, str(fault))


def need(row: Mapping[str, object], key: str) -> object:
    """What a row has under a key.

    Raises:
        RowError: nothing, or null; says what keys there are.
    """
    if key in row and row[key] is None:
        msg = f"key {key!r} is null; expected a value"
        raise RowError(msg)
    if key not in row:
        msg = f"no key {key!r}; found: {', '.join(map(str, row))[:200] or 'no keys'}"
        raise RowError(msg)
    return row[key]


def text(row: Mapping[str, object], key: str) -> str:
    """A text that is not empty; `RowError` otherwise."""
    value = need(row, key)
    if not isinstance(value, str) or not value.strip():
        msg = f"key {key!r} is {str(value)[:60]!r}; expected text"
        raise RowError(msg)
    return value


def texts(row: Mapping[str, object], key: str) -> tuple[str, ...]:
    """A list of texts, or one; at least one, none of them empty; `RowError` otherwise."""
    value = need(row, key)
    found = value if isinstance(value, list) else [value]
    if not found or not all(isinstance(one, str) and one.strip() for one in found):
        msg = f"key {key!r} is {str(value)[:60]!r}; expected a text or a list of texts"
        raise RowError(msg)
    return tuple(map(str, found))


def choices(row: Mapping[str, object], key: str) -> tuple[str, ...]:
    """What may be chosen from: a list of texts; `RowError` where it is one text, or empty, or not of texts."""
    if isinstance(value := need(row, key), str):
        msg = f"key {key!r} is {value[:60]!r}; expected a list of texts"
        raise RowError(msg)
    return texts(row, key)


def answerable(item: SuiteItem, key: str) -> SuiteItem:
    """The item, its truth spelt as the candidate that it is: one that no reply can be right of would count as wrong for every model.

    Args:
        item: with a truth, and options or candidates.
        key: of the truth in its row.

    Raises:
        RowError: the truth is none of the options' letters; or, where answers have no letters, none of the candidates, or two of these are one.
    """
    truth = (item.truth or "").strip()
    if item.options:
        if truth not in item.options:
            msg = f"{key} {truth[:60]!r} is none of the options {', '.join(item.options)[:200]}"
            raise RowError(msg)
        return replace(item, truth=truth)
    spelt: dict[str, str] = {}
    for one in item.candidates:
        if one.strip().lower() in spelt:
            msg = f"candidates hold {one[:60]!r} twice"
            raise RowError(msg)
        spelt[one.strip().lower()] = one
    if truth.lower() not in spelt:
        msg = f"{key} {truth[:60]!r} is none of the candidates {', '.join(item.candidates)[:200]}"
        raise RowError(msg)
    return replace(item, truth=spelt[truth.lower()])


def optional_object(row: Mapping[str, object], key: str) -> dict[str, object]:
    """An object; empty where there is none; `RowError` where it is something else."""
    value = row.get(key)
    if value is None:
        return {}
    return as_object(value, key)


def as_object(value: object, what: str) -> dict[str, object]:
    """An object; `RowError` otherwise."""
    if not isinstance(value, dict):
        msg = f"{what} is {str(value)[:60]!r}; expected an object"
        raise RowError(msg)
    return value


def number(value: object, what: str, low: float, high: float) -> float:
    """A number from `low` to `high`; `RowError` otherwise."""
    found = as_number(value)
    if found is None or not low <= found <= high:
        msg = f"{what} is {str(value)[:60]!r}; expected a number from {low:g} to {high:g}"
        raise RowError(msg)
    return found


def rest(row: Mapping[str, object], *used: str) -> dict[str, object]:
    """What a row has beside the keys that were read."""
    return {key: value for key, value in row.items() if key not in used}
