"""What is wrong with a stage's arguments, as one clear line: the key, what was found, what is allowed.

jsonargparse says that something is wrong, in prose that is made for a terminal; its exceptions carry no parts. So the message is not
read: the values are walked again, beside the parser's own arguments and types, down to the first one that does not fit. What a type
takes is asked of jsonargparse (`fits`), never decided here. Its text is shown only where this walk finds nothing.

Of its interface this uses `add_argument`, `add_class_arguments` and `parse_object`, and of its insides `_actions`, `required` and
`_typehint`; `tests/experiment/test_argument_errors.py` holds these down.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import importlib
import inspect
import re
import traceback
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from emo_lightning.core.errors import UserError
from emo_lightning.core.text import allowed_names

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_NAMES: dict[object, str] = {
    type(None): "null",
    list: "a list",
    dict: "a mapping",
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}
_ABSENT = object()


def explain_arguments(parser: ArgumentParser, values: Mapping[str, object], error: Exception) -> list[str]:
    """Everything that is wrong with the values that a parser has refused.

    Args:
        parser: of jsonargparse.
        values: nested mappings, as from YAML.
        error: the parser's own.

    Returns:
        A line each, at least one; the parser's own text where the walk finds nothing.
    """
    return list(_problems(parser, values)) or [" ".join(str(error).removeprefix("Validation failed: ").split())]


@contextlib.contextmanager
def own_errors() -> Iterator[None]:
    """Raise what code of ours has raised within jsonargparse, in the place of the text that jsonargparse makes of it.

    A config's `__post_init__` or a type's hook refuses a value with a `UserError`, and all else that it raises is a bug. jsonargparse makes
    one kind of text of both.
    """
    try:
        yield
    except Exception as error:
        cause = raised_by_us(error)
        if cause is None or cause is error:
            raise
        raise cause from None


def raised_by_us(error: BaseException) -> BaseException | None:
    """The exception among an error's causes that code of ours has raised which jsonargparse called; None where jsonargparse alone refuses."""
    at: BaseException | None = error
    while at is not None:
        called = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in traceback.walk_tb(at.__traceback__)]
        inside = called[len(called) - called[::-1].index("jsonargparse") :] if "jsonargparse" in called else []
        if isinstance(at, UserError) or {"emo_lightning", "data_prep"} & set(inside):
            return at
        at = at.__cause__ or at.__context__
    return None


def type_hints(parser: ArgumentParser) -> dict[str, object]:
    """Dotted key -> type, of every argument that takes a value."""
    return {action.dest: action._typehint for action in parser._actions if type(action).__name__ == "ActionTypeHint"}  # type: ignore[attr-defined]


def _problems(parser: ArgumentParser, values: Mapping[str, object], above: str = "", owner: str = "") -> Iterator[str]:
    """What is wrong: unknown keys first, then wrong values, then missing ones.

    Args:
        parser: of these values.
        values: nested.
        above: key of the whole mapping.
        owner: name of the class whose arguments these are, if they are not the stage's own.
    """
    hints = type_hints(parser)
    yield from _unknown(hints, values, above, owner)
    for key, hint in hints.items():
        value = _value(values, key)
        if value is not _ABSENT and not fits(hint, value):
            yield _misfit(hint, value, _joined(above, key))
    for action in parser._actions:
        if action.required and _value(values, action.dest) is _ABSENT:
            yield f"key {_joined(above, action.dest)} is missing"


def _joined(above: str, key: str) -> str:
    return f"{above}.{key}" if above else key


def _value(values: Mapping[str, object], key: str) -> object:
    found: object = values
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return _ABSENT
        found = found[part]
    return found


def _unknown(hints: Mapping[str, object], values: Mapping[str, object], above: str, owner: str) -> Iterator[str]:
    """Keys that nothing takes, each with its siblings."""

    def walk(tree: Mapping[str, object], prefix: str) -> Iterator[str]:
        for name, value in tree.items():
            key = f"{prefix}{name}"
            if key in hints:
                continue
            if not any(hint.startswith(f"{key}.") for hint in hints):
                siblings = {hint.removeprefix(prefix).split(".")[0] for hint in hints if hint.startswith(prefix)}
                if owner:
                    yield f"{above}: {owner} has no argument {key!r}; {allowed_names(str(name), sorted(siblings))}"
                else:
                    yield f"unknown key {_joined(above, key)}; {allowed_names(str(name), sorted(siblings))}"
            elif isinstance(value, Mapping):
                yield from walk(value, f"{key}.")
            elif value is not None:
                yield f"{_joined(above, key)}: found {value}; allowed: a mapping"

    yield from walk(values, "")


def fits(hint: object, value: object) -> bool:
    """Whether jsonargparse takes the value for this type."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        parser.parse_object({"value": value})
    except Exception as error:
        # Whatever jsonargparse raises, it refuses; what a hook of ours raises may be a bug.
        cause = raised_by_us(error)
        if cause is not None and not isinstance(cause, UserError):
            raise cause from None
        return False
    return True


def _misfit(hint: object, value: object, key: str) -> str:
    """What is wrong with a value that does not fit, as deep in it as can be told."""
    options = _options(hint)
    if isinstance(value, list):
        for option in options:
            item = next(iter(get_args(option)), None)
            if _is_list(option) and item is not None:
                for n, one in enumerate(value):
                    if not fits(item, one):
                        return _misfit(item, one, f"{key}[{n}]")
    if isinstance(value, Mapping):
        for option in options:
            if get_origin(option) is dict or get_origin(option) in (Mapping, typing.Mapping):
                item = get_args(option)[1]
                for name, one in value.items():
                    if not fits(item, one):
                        return _misfit(item, one, f"{key}.{name}")
        classes = [option for option in options if _is_class(option)]
        if classes:
            return _wrong_class(classes[0], value, key)
    allowed = " or ".join(dict.fromkeys(_name(option) for option in options))
    return f"{key}: found {'null' if value is None else value}; allowed: {allowed}"


def _wrong_class(base: type, value: Mapping[str, object], key: str) -> str:
    """What is wrong with a mapping that is to make an object: its class, or one of that class's arguments."""
    wanted = f"expected class_path, and init_args, of a {base.__name__}"
    path = value.get("class_path")
    if path is None and dataclasses.is_dataclass(base):
        return _wrong_arguments(base, value, key)
    if path is None:
        return f"{key}: found {', '.join(map(repr, value))}; {wanted}"
    module, _, name = str(path).rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, ValueError):
        return f"{key}: there is no {path!r}"
    except AttributeError:
        classes = [n for n in dir(importlib.import_module(module)) if n[:1].isupper()]
        near = difflib.get_close_matches(name, classes, 3)
        return f"{key}: there is no {path!r}" + (f"; did you mean {' or '.join(near)}?" if near else "")
    if not (isinstance(found, type) and issubclass(found, base)):
        return f"{key}: found {path}; {wanted}"
    if unknown := next((k for k in value if k not in ("class_path", "init_args", "dict_kwargs")), None):
        return f"{key}: found {unknown!r}; {wanted}"
    arguments = value.get("init_args") or {}
    if not isinstance(arguments, Mapping):
        return f"{key}.init_args: found {arguments}; allowed: a mapping"
    return _wrong_arguments(found, arguments, key)


def _wrong_arguments(kind: type, values: Mapping[str, object], key: str) -> str:
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, as_group=False)
    refused = f"{key}: {kind.__name__} cannot be made of {dict(values)}"
    return next(_problems(parser, values, key, kind.__name__), refused)


def _options(hint: object) -> list[object]:
    """A union's types; any other is its own only one."""
    if get_origin(hint) in (typing.Union, types.UnionType):
        return [one for option in get_args(hint) for one in _options(option)]
    return [hint]


def _is_list(hint: object) -> bool:
    origin = get_origin(hint)
    return isinstance(origin, type) and issubclass(origin, Iterable) and not issubclass(origin, Mapping | str)


def _is_class(hint: object) -> typing.TypeGuard[type]:
    return (
        inspect.isclass(hint)
        and hint not in _NAMES
        and get_origin(hint) is None
        and hint.__module__ not in ("pathlib", "builtins")
    )


def _name(hint: object) -> str:
    """A type in a reader's words."""
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    plain = get_origin(hint) or hint
    if plain in _NAMES:
        return _NAMES[plain]
    if _is_list(hint):
        return "a list"
    if inspect.isclass(plain):
        return "a path" if plain.__module__.startswith("pathlib") else plain.__name__
    return re.sub(r"\b(\w+\.)+", "", str(hint))
