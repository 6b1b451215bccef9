"""Which classes an experiment may name: a file that someone else wrote must not run what it likes.

Lightning's Trainer is told its callbacks, loggers and strategies by `class_path`, a name that is imported and called. Three things stand
before that:

1. `named_classes` walks the settings as they are written, at every depth, and refuses what is not below an allowed package. Nothing is
   imported before.
2. `set_policy` has jsonargparse refuse the same at its one place of imports: strings that stand for a class or a function, short names,
   and what an allowed module merely re-exports (`emo_lightning.core.errors.os.system` is `posix.system`). It also no longer makes objects
   of a mapping with `class_path` where an argument takes anything.
3. `parsed_classes` looks at what the parser has found, before any of it is made: classes of the kinds that a Trainer takes, no functions.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import re
from collections.abc import Iterator, Mapping, Sequence

from emo_lightning.experiment.files import ExperimentError

ALLOWED_PACKAGES = ("lightning", "torch", "torchmetrics", "emo_lightning")
"""Packages whose classes an experiment may name."""
ALLOW_CLASSES = "EMO_ALLOW_CLASSES"
"""Environment variable that `--allow-classes` sets: further packages, with commas. Processes of stages and sweeps have it as well."""
ALLOW_HELP = "also allow classes below this package in class_path: its code will run (may be given again)"

_SERVICES = re.compile(
    r"(^|[_.-])(api_?key|tokens?|passwords?|secrets?|credentials?|headers?|urls?|uris?|hosts?|proxy|proxies|endpoints?|executable|command)([_.-]|$)",
    re.IGNORECASE,
)
"""Arguments that would say where a class sends what it has (the user's key, weights, the run), by what key, or what it starts."""
_ADDRESS = re.compile(r"(?:^|::)(?!(?:file|env)://)[a-z][\w+.-]*://", re.IGNORECASE)
"""How a text begins that names a place elsewhere: loggers and checkpoints write wherever fsspec has a package for."""
_LOGGER_SETTINGS = frozenset(
    {"console", "disable_code", "disable_git", "init_timeout", "mode", "quiet", "silent", "x_disable_meta", "x_disable_stats"}
)
"""Of W&B's own settings, a hundred of which read, send or start something."""
_given_before: set[str] = set()


def allowed_packages() -> tuple[str, ...]:
    """Those of ours, and what `--allow-classes` names."""
    return (*ALLOWED_PACKAGES, *filter(None, os.environ.get(ALLOW_CLASSES, "").split(",")))


@contextlib.contextmanager
def allowing(packages: Sequence[str]) -> Iterator[None]:
    """Allow classes below further packages inside, here and in child processes.

    Args:
        packages: import paths, each alone or several with commas.

    Raises:
        ExperimentError: one is no import path.
    """
    names = [name.strip() for package in packages for name in package.split(",")]
    for name in names:
        if not _is_path(name) or name.split(".")[0] == "jsonargparse":
            msg = f"--allow-classes {name}: expected a package or module as Python imports it, e.g. my_callbacks"
            raise ExperimentError(msg)
    before = os.environ.get(ALLOW_CLASSES)
    if names:
        os.environ[ALLOW_CLASSES] = ",".join([*([before] if before else []), *names])
    try:
        yield
    finally:
        if before is not None:
            os.environ[ALLOW_CLASSES] = before
        elif names:
            del os.environ[ALLOW_CLASSES]


def named_classes(value: object, at: str = "", closed: bool = False) -> Iterator[str]:
    """What is wrong with the classes that settings name, and with what these are given; imports nothing.

    Args:
        value: settings, as from YAML.
        at: their key.
        closed: whether they are given to the Trainer, or to a class of the packages that are always allowed.

    Yields:
        A line for each class that is not allowed, and for each value that names a service, with its key.
    """
    if isinstance(value, Mapping):
        closed = _is_closed(value.get("class_path"), closed)
        for key, one in value.items():
            where = f"{at}.{key}" if at else str(key)
            if key == "class_path":
                if not isinstance(one, str) or not _is_path(one) or ("." in one and not _is_below(one, allowed_packages())):
                    yield f"{where}: found {one!r}; {_what_is_allowed()}"
                continue
            if closed:
                yield from _of_services(key, one, at, where)
            yield from named_classes(one, where, closed or where == "trainer")
    elif isinstance(value, list | tuple):
        for n, one in enumerate(value):
            yield from named_classes(one, f"{at}[{n}]", closed)
    elif closed:
        yield from _of_places(value, at)


def dotted_keys(value: object, at: str = "") -> Iterator[str]:
    """Keys with a point: the parser would take `a.b` for `b` inside of `a`, past everything that looks at settings by their keys."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            where = f"{at}.{key}" if at else str(key)
            if "." in str(key):
                yield f"{where}: found the key {str(key)!r}; write it as a mapping, without points"
            yield from dotted_keys(one, where)
    elif isinstance(value, list | tuple):
        for n, one in enumerate(value):
            yield from dotted_keys(one, f"{at}[{n}]")


def _is_closed(path: object, closed: bool) -> bool:
    """Whether what stands beside a `class_path` may name no service; of packages that a person trusts he knows what they do with it."""
    return closed if path is None else not _is_below(str(path), allowed_packages()[len(ALLOWED_PACKAGES) :])


def _of_services(key: object, value: object, at: str, where: str) -> Iterator[str]:
    """What is wrong with the name of an argument."""
    if value is None or isinstance(value, bool):
        return
    settings = at.rpartition(".")[2] == "settings"
    if _SERVICES.search(str(key)) or (settings and key not in _LOGGER_SETTINGS):
        yield f"{where}: keys and addresses of a service stand in its environment variables, not in an experiment"


def _of_places(value: object, at: str) -> Iterator[str]:
    """What is wrong with a value, by itself."""
    if isinstance(value, str) and _ADDRESS.search(value):
        yield f"{at}: found {value[:80]!r}; what a run writes goes to files of this machine, and services have their environment variables"


def set_policy() -> None:
    """Have jsonargparse import nothing for a value but what is allowed now. Its settings are the process's."""
    from jsonargparse import set_parsing_settings

    now = set(allowed_packages())
    set_parsing_settings(
        instantiate_subclass_spec_in_any=False,
        import_path_denylist=["*", *sorted(_given_before - now)],
        import_path_allowlist=sorted(now),
    )
    _given_before.update(now)


def parsed_classes(parsed: object, raw: object, at: str = "", closed: bool = False) -> Iterator[str]:
    """What is wrong with the classes that a parser has found in settings, also in texts that it has read as JSON; makes none of them.

    Args:
        parsed: jsonargparse's result.
        raw: the settings as they were given, where these values stand in them; `...` for a default.
        at: their key.
        closed: as for `named_classes`.

    Yields:
        A line for each that is a function, no class of a kind that a Trainer takes, or the name of a service.
    """
    from jsonargparse import Namespace

    if isinstance(parsed, Namespace | Mapping):
        fields = vars(parsed) if isinstance(parsed, Namespace) else parsed
        path = fields.get("class_path")
        if path is not None and raw is not ...:
            if not isinstance(parsed, Namespace):
                yield f"{at}: found class_path {path!r}; this argument takes no class"
                return
            if wrong := _unsuited(path):
                yield f"{at}: found {path}; {wrong}"
                return
        closed = _is_closed(path, closed)
        for key, one in fields.items():
            inside = raw.get(key, ...) if isinstance(raw, Mapping) else raw
            where = f"{at}.{key}" if at else str(key)
            if closed and inside is not ...:
                yield from _of_services(key, one, at, where)
            yield from parsed_classes(one, inside, where, closed)
    elif isinstance(parsed, list | tuple):
        for n, one in enumerate(parsed):
            inside = raw[n] if isinstance(raw, list | tuple) and n < len(raw) else raw
            yield from parsed_classes(one, inside, f"{at}[{n}]", closed)
    elif raw is not ... and callable(parsed):
        yield f"{at}: found {raw}; an experiment names no functions"
    elif raw is not ... and closed:
        yield from _of_places(parsed, at)


def _unsuited(path: object) -> str:
    from jsonargparse._util import import_object

    found: object = import_object(str(path))
    if not inspect.isclass(found):
        return "an experiment names classes, no functions"
    if _is_below(str(path), allowed_packages()[len(ALLOWED_PACKAGES) :]):
        return ""
    if not issubclass(found, _trainer_classes()) and not (dataclasses.is_dataclass(found) and not callable(found)):
        kinds = ", ".join(kind.__name__ for kind in _trainer_classes())
        return f"allowed: a {kinds}"
    return ""


def _trainer_classes() -> tuple[type, ...]:
    """What a Trainer, or a task, is told by `class_path`."""
    import torch
    from lightning.fabric.plugins import CheckpointIO, ClusterEnvironment
    from lightning.fabric.plugins.precision import Precision
    from lightning.pytorch import Callback
    from lightning.pytorch.accelerators import Accelerator
    from lightning.pytorch.loggers import Logger
    from lightning.pytorch.plugins import LayerSync
    from lightning.pytorch.profilers import Profiler
    from lightning.pytorch.strategies import Strategy
    from torch.optim.lr_scheduler import LRScheduler

    own = (Callback, Logger, Strategy, Profiler, Accelerator, Precision, ClusterEnvironment, CheckpointIO, LayerSync)
    return (*own, torch.nn.Module, torch.optim.Optimizer, LRScheduler)


def _is_path(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _is_below(path: str, packages: Sequence[str]) -> bool:
    return any(path.startswith(f"{package}.") for package in packages)


def _what_is_allowed() -> str:
    packages = ", ".join(f"{package}." for package in allowed_packages())
    return f"allowed: a class below {packages} (of a package that you trust: --allow-classes PACKAGE)"
