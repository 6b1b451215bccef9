"""Types of arguments as plain values, and what is wrong with a value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Anything:
    """An annotation that is not understood."""


@dataclass(frozen=True)
class Scalar:
    """`int`, `float`, `str`, `bool` or `null`."""

    name: str


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Union:
    """One of several types."""

    options: tuple[Type, ...]


@dataclass(frozen=True)
class Many:
    """A list (`keyed` false) or a mapping of one type."""

    item: Type
    keyed: bool = False


@dataclass(frozen=True)
class Group:
    """Named arguments, and those of them that have no default."""

    members: dict[str, Type] = field(hash=False)
    required: frozenset[str] = frozenset()


Type = Anything | Scalar | Choice | Union | Many | Group


def at(type_: Type, key: str) -> Type | None:
    """The type at a dotted key, or None where nothing takes it."""
    head, _, rest = key.partition(".")
    match type_:
        case Group():
            below = type_.members.get(head)
        case Many(keyed=True):
            # Keys of a mapping are free.
            below = type_.item
        case Union():
            return next((found for option in type_.options if (found := at(option, key)) is not None), None)
        case Anything():
            return type_
        case _:
            below = None
    return below if below is None or not rest else at(below, rest)


def keys(type_: Type, prefix: str = "") -> Iterator[str]:
    """All dotted keys that can be named beforehand."""
    match type_:
        case Group():
            for name, below in type_.members.items():
                yield prefix + name
                yield from keys(below, f"{prefix}{name}.")
        case Union():
            for option in type_.options:
                yield from keys(option, prefix)
        case _:
            pass


def problems(type_: Type, value: Any, where: str = "") -> list[str]:
    """What is wrong with a value, each as `KEY: found …; allowed: …`."""
    match type_:
        case Group() if isinstance(value, dict):
            inside = f"{where}." if where else ""
            found = [f"{inside}{key}: nothing takes this key" for key in value if key not in type_.members]
            found += [f"{inside}{key} is missing" for key in sorted(type_.required - value.keys())]
            for key, below in type_.members.items():
                found += problems(below, value[key], inside + key) if key in value else []
            return found
        case Many() if isinstance(value, dict if type_.keyed else list | tuple):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            return [text for key, item in items for text in problems(type_.item, item, f"{where}.{key}")]
        case Union():
            answers = [problems(option, value, where) for option in type_.options]
            if not all(answers):
                return []
            # What is wrong inside a mapping says more than that it is no null.
            deep = [a for o, a in zip(type_.options, answers, strict=True) if isinstance(o, Group | Many) and _shaped(o, value)]
            if deep:
                return deep[0]
        case Anything():
            return []
        case Scalar() if _is(type_.name, value):
            return []
        case Choice() if any(value == v and type(value) is type(v) for v in type_.values):
            return []
    return [f"{where}: found {value!r}; allowed: {' or '.join(dict.fromkeys(_names(type_)))}"]


def _shaped(type_: Type, value: Any) -> bool:
    keyed = isinstance(type_, Group) or (isinstance(type_, Many) and type_.keyed)
    return isinstance(value, dict) if keyed else isinstance(value, list | tuple)


def _is(name: str, value: Any) -> bool:
    match name:
        case "int":
            # jsonargparse reads a number from text that YAML took for text.
            return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdecimal())
        case "float":
            return (isinstance(value, int | float) and not isinstance(value, bool)) or _number(value)
        case "bool":
            return isinstance(value, bool)
        case "null":
            return value is None
        case _:
            return isinstance(value, str)


def _number(value: Any) -> bool:
    """YAML 1.1 takes 1e-4 for text; jsonargparse reads it as the number that is meant."""
    try:
        return isinstance(value, str) and float(value) == float(value)
    except ValueError:
        return False


def _names(type_: Type) -> Iterator[str]:
    words = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "null": "null"}
    match type_:
        case Scalar():
            yield words[type_.name]
        case Choice():
            yield ", ".join(map(str, type_.values))
        case Union():
            for option in type_.options:
                yield from _names(option)
        case Many():
            yield "a mapping" if type_.keyed else "a list"
        case Group():
            yield "a mapping with " + ", ".join(type_.members)
        case _:
            yield "anything"
