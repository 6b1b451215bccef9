"""What of this machine's environment an experiment may read, so that no key of the user's gets into the files of a run.

A resolved experiment is written to the run's folder, printed, and sent to W&B. `${oc.env:OPENAI_API_KEY}` would carry a key there, and so
would a shell that puts it on the command line.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterator, Mapping

from omegaconf import OmegaConf

READABLE_VARIABLES = ("HOME", "USER", "TMPDIR", "SCRATCH", "WORK", "SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_TMPDIR")
"""Variables that `${oc.env:NAME}` may name."""
OWN_PREFIX = "EMO_VAR_"
"""What the name of a variable of the user's own begins with."""
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)(_|$)", re.IGNORECASE)
_SHORTEST = 12
"""Characters of a key: shorter values of such variables are switches, and could be part of any text."""


@contextlib.contextmanager
def guarded_resolvers() -> Iterator[None]:
    """Inside, OmegaConf's `oc.env` reads the allowed variables alone, and `oc.coerce`, which imports what it names, nothing."""
    from omegaconf.resolvers import oc

    guarded: dict[str, Callable[..., object]] = {"oc.env": _env, "oc.coerce": _coerce}
    for name, resolver in guarded.items():
        OmegaConf.register_resolver(name, resolver, replace=True, annotation_validation="off")
    try:
        yield
    finally:
        for name in guarded:
            own = getattr(oc, name.removeprefix("oc."), None)
            if own is None:
                OmegaConf.clear_resolver(name)
            else:
                OmegaConf.register_resolver(name, own, replace=True, annotation_validation="off")


def unresolved(value: object, at: str = "") -> Iterator[str]:
    """Interpolations that are still there when all have been resolved, as after a backslash: the parser would resolve them unguarded."""
    for key, text in leaves(value, at):
        if isinstance(text, str) and "${" in text:
            yield f"{key}: found {text!r}; a setting cannot hold '${{' as text"


def secrets(value: object, at: str = "") -> Iterator[str]:
    """Settings that hold the value of a variable whose name says that it is secret."""
    held = {
        name: secret
        for name, secret in os.environ.items()
        if _SECRET.search(name) and len(secret) >= _SHORTEST and not secret.startswith(("/", "~", "."))
    }
    for key, text in leaves(value, at):
        for name, secret in held.items():
            if isinstance(text, str) and secret in text:
                yield f"{key}: holds the value of ${name}, and would be written to the run's files; programs read that variable themselves"


def leaves(value: object, at: str = "") -> Iterator[tuple[str, object]]:
    """Every value of some settings that is no mapping and no list, with its key; and every name in a mapping, with the mapping's key."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield at, str(key)
            yield from leaves(one, f"{at}.{key}" if at else str(key))
    elif isinstance(value, list | tuple):
        for n, one in enumerate(value):
            yield from leaves(one, f"{at}[{n}]")
    else:
        yield at, value


def _env(name: str, *default: object) -> object:
    if name not in READABLE_VARIABLES and not name.startswith(OWN_PREFIX):
        msg = (
            f"variable {name}: what an experiment reads of the environment is written to the run's files; "
            f"allowed: {', '.join(READABLE_VARIABLES)}, and names that begin with {OWN_PREFIX}"
        )
        raise ValueError(msg)
    if name not in os.environ and not default:
        msg = f"variable {name} is not set, and oc.env has no default"
        raise ValueError(msg)
    value = os.environ.get(name, default[0] if default else None)
    return None if value is None else str(value)


def _coerce(*_: object) -> object:
    msg = "oc.coerce imports what it names; an experiment cannot use it"
    raise ValueError(msg)
