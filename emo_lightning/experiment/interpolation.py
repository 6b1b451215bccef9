"""How much settings become once their interpolations are resolved: ten lines that each name the one before twice are a thousand."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from emo_lightning.core.text import allowed_names
from emo_lightning.experiment.files import ExperimentError

MAX_CHARACTERS = 4_000_000
"""Characters of all settings of a stage."""
_NAMES = re.compile(r"\$\{\s*([\w.]+:\s*)?(\.*)([\w.\[\]-]*)(?=(\$\{)?)")
"""Behind `${`: the name of a resolver, points of a relative key, the key, and whether a part of it is interpolated."""

_Path = tuple[str, ...]


def check_size(tree: Mapping[str, object]) -> None:
    """Refuse settings that become larger than any are.

    Args:
        tree: not yet resolved; keys of interpolations begin at its top.

    Raises:
        ExperimentError: names a key.
    """
    try:
        _Sizes(tree).of(())
    except RecursionError:
        msg = "interpolations name one another through too many steps"
        raise ExperimentError(msg) from None


def unknown_name(settings: Mapping[str, object], names: Mapping[str, object]) -> str | None:
    """The first interpolation of a name that there is not: where it stands, and what there is; None where all are known.

    Args:
        settings: not yet resolved.
        names: what interpolations may name, by the words that they begin with: `vars`, `run`, `each`.
    """
    for at, text in (*_texts(settings), *_texts(names.get("vars"), "vars")):
        for resolver, points, key, more in _NAMES.findall(text):
            if not (resolver or points or more) and (said := _missing(key, names)):
                return f"{at}: ${{{key}}}: {said}"
    return None


def _missing(key: str, names: Mapping[str, object]) -> str | None:
    node: object = names
    above = ""
    for part in filter(None, re.split(r"[.\[\]]", key)):
        if isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        elif not isinstance(node, Mapping):
            return f"{above} has no part {part!r}; found {str(node)[:80]!r}"
        elif part not in (inside := {str(name): value for name, value in node.items()}):
            return f"there is no such name; {allowed_names(part, inside, above and f'{above}.')}"
        else:
            node = inside[part]
        above = f"{above}.{part}".lstrip(".")
    return None


def _texts(value: object, at: str = "") -> Iterator[tuple[str, str]]:
    """Every text with its key."""
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _texts(one, f"{at}.{key}".lstrip("."))
    elif isinstance(value, list):
        for n, one in enumerate(value):
            yield from _texts(one, f"{at}[{n}]")
    elif isinstance(value, str):
        yield at, value


class _Sizes:
    def __init__(self, tree: Mapping[str, object]) -> None:
        self._tree = tree
        self._known: dict[_Path, int | None] = {}

    def of(self, path: _Path) -> int:
        """Characters of what stands at a path, at most."""
        if path in self._known:
            if (known := self._known[path]) is None:
                msg = f"{'.'.join(path) or 'the settings'}: an interpolation inside names what it stands in"
                raise ExperimentError(msg)
            return known
        self._known[path] = None
        node = self._at(path)
        if isinstance(node, Mapping):
            size = sum(len(str(key)) + self.of((*path, str(key))) for key in node)
        elif isinstance(node, list):
            size = sum(self.of((*path, str(n))) for n in range(len(node)))
        else:
            text = str(node)
            size = 1 + len(text)
            if isinstance(node, str) and "${" in text:
                size += sum(self._of_named(path, *found) for found in _NAMES.findall(text))
        if size > MAX_CHARACTERS:
            msg = f"{'.'.join(path) or 'the settings'}: becomes more than {MAX_CHARACTERS:,} characters when its interpolations are resolved"
            raise ExperimentError(msg)
        self._known[path] = size
        return size

    def _of_named(self, path: _Path, resolver: str, points: str, key: str, more: str) -> int:
        """Characters of what an interpolation names; of all that lies below, where a part of its key is interpolated itself."""
        if resolver and not key:
            # Its argument is what another one gives, which is counted by itself.
            return 0
        found = path[: -len(points)] if points else ()
        parts = list(filter(None, re.split(r"[.\[\]]", key)))
        for part in parts:
            node = self._at(found)
            there = (
                part in node
                if isinstance(node, Mapping)
                else isinstance(node, list) and part.isdecimal() and int(part) < len(node)
            )
            if not there:
                # OmegaConf says what is missing; a resolver has words for arguments.
                return self.of(found) if more else 0
            found = (*found, part)
        return self.of(found) if parts or more else 0

    def _at(self, path: _Path) -> object:
        node: object = self._tree
        for part in path:
            node = node[int(part)] if isinstance(node, list) else {str(key): value for key, value in node.items()}[part]  # type: ignore[attr-defined]
        return node
