"""jsonargparse's error texts as one clear line: the key, what was found, what is allowed."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable

_KEY = re.compile(r'^Parser key "(?P<key>[^"]+)": (?P<rest>.*)$')
_PROBLEM = re.compile(r"Problem with given class_path '(?P<path>[^']+)': (?P<what>.*?)(?= - | Given value type: |$)")
_EXPECTED = re.compile(
    r"Expected an? (?P<type>typing\.Literal\[[^\]]*\]|<class '[^']+'>|[^.]+?)(?=\.? Got value|\.? - | Given |\.?$)"
)
_VALUE = re.compile(r"(?:Got value|Given value): (?P<value>.*)$")
_NAMES = {
    "NoneType": "null",
    "list": "a list",
    "dict": "a mapping",
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
}


def plain(text: str, known: Iterable[str]) -> str:
    """The error in our form, or as it is where its form is new.

    Args:
        text: of a jsonargparse error.
        known: dotted keys that the parser takes.
    """
    text = re.sub(r"\s+", " ", text).strip().removeprefix("Validation failed: ")
    if match := re.fullmatch(r"Group '([^']+)' does not accept option '([^']+)'", text):
        return _unknown(f"{match[1]}.{match[2]}", known)
    if match := re.fullmatch(r"Option '([^']+)' is not accepted", text):
        return _unknown(match[1], known)
    if match := re.fullmatch(r"the following arguments are required: (.+)", text):
        return f"key {match[1]} is missing"
    if match := _KEY.match(text):
        return _wrong_value(match["key"], match["rest"])
    return text


def _unknown(key: str, known: Iterable[str]) -> str:
    """A key that nothing takes, with its siblings."""
    known = list(known)
    parts = key.split(".")
    # The first part that is unknown: what stands before it is right.
    depth = next((n for n in range(1, len(parts) + 1) if not _below(known, parts[:n])), len(parts))
    start = [*parts[: depth - 1], ""]
    siblings = {name.removeprefix(".".join(start)).split(".")[0] for name in known if name.startswith(".".join(start))}
    return f"unknown key {'.'.join(parts[:depth])}{_allowed(parts[depth - 1], siblings)}"


def _below(known: list[str], parts: list[str]) -> bool:
    key = ".".join(parts)
    return any(name == key or name.startswith(key + ".") for name in known)


def _allowed(wrong: str, names: Iterable[str]) -> str:
    names = sorted(name for name in names if name and name not in ("help", "config", "print_config"))
    near = difflib.get_close_matches(wrong, names, 3)
    guess = f"did you mean {' or '.join(near)}? " if near else ""
    return f"; {guess}allowed: {', '.join(names)}"


def _wrong_value(key: str, rest: str) -> str:
    problem = _PROBLEM.search(rest)
    if problem is not None:
        return _wrong_class(key, problem["path"], problem["what"])
    value = _VALUE.search(rest)
    found = value["value"] if value else "?"
    if subclass := re.search(r"Not a valid subclass of (\w+)(?:\. Got value: (.*?))?(?= Subclass types| - |$)", rest):
        return f"{key}: found {subclass[2] or found}; expected class_path, and init_args, of a {subclass[1]}"
    types = [_type(match["type"]) for match in _EXPECTED.finditer(rest)]
    if not types:
        return f"{key}: {rest}"
    return f"{key}: found {found}; allowed: {' or '.join(dict.fromkeys(types))}"


def _wrong_class(key: str, path: str, what: str) -> str:
    module, _, name = path.rpartition(".")
    if match := re.fullmatch(r"Option '([^']+)' is not accepted", what.strip()):
        try:
            parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
        except (ImportError, AttributeError, ValueError):
            return f"{key}: {name} has no argument {match[1]!r}"
        names = set(parameters) - {"args", "kwargs"}
        if not names:  # A base class, as `class_path` is missing or misspelt.
            return f"{key}: found {match[1]!r}; expected class_path, and init_args, of a {name}"
        return f"{key}: {name} has no argument {match[1]!r}{_allowed(match[1], names)}"
    if "has no attribute" in what:
        classes = [n for n in dir(importlib.import_module(module)) if n[:1].isupper()]
        near = difflib.get_close_matches(name, classes, 3)
        return f"{key}: there is no {path!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")
    if match := _KEY.match(what):
        return _wrong_value(f"{key}.{match['key']}", match["rest"])
    return f"{key}: {path}: {what}"


def _type(text: str) -> str:
    if match := re.fullmatch(r"typing\.Literal\[(.*)\]", text):
        return ", ".join(part.strip().strip("'\"") for part in match[1].split(","))
    if match := re.fullmatch(r"<class '(?:.*\.)?(\w+)'>", text):
        return _NAMES.get(match[1], match[1])
    return text
