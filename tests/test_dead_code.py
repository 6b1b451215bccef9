"""What is public is used by the product, or stands in a list that says who else calls it: what tests alone call is dead."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("emo_lightning", "data_prep")

CALLED_FROM_OUTSIDE = {
    "lightning_main": "the entry point `lightning` of pyproject.toml",
    "Paced": "benchmarks/rate_grid.py: an endpoint that refuses what comes too fast",
    "drive": "benchmarks/rate_grid.py",
    "serving": "whoever shows the page of a review from code of their own, and its tests",
    "read_parquet": "whoever reads what `emo prep graph` has written",
}
"""Name -> who calls it, of what nothing in the two packages does."""

_PLAIN = {
    "staticmethod",
    "classmethod",
    "property",
    "cached_property",
    "cache",
    "lru_cache",
    "contextmanager",
    "contextlib.contextmanager",
}
"""Decorators that call nothing by themselves; what has another one (a route, a validator, an override) is called by whose it is."""
_BARE = {"Protocol", "Generic", "ABC", "NamedTuple", "TypedDict", "object"}
"""Bases that call no method of a class by its name."""


@cache
def trees() -> dict[Path, ast.Module]:
    """Every module of the product."""
    found = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in found}


def used_names() -> set[str]:
    """Every name that code reads, every part of a text that may name something, and the words of templates."""
    used: set[str] = set()
    for tree in trees().values():
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name):
                used.add(node.id)
            elif isinstance(node, ast.Attribute):
                used.add(node.attr)
            elif (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and id(node) not in docstrings
                and re.fullmatch(r"[\w.:\[\], |]+", node.value)
            ):
                used |= set(re.findall(r"\w+", node.value))
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.j2"):
            used |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    return used


def own_classes() -> set[str]:
    """Classes whose methods nobody else calls: none of their bases, however far up, is of a library."""
    bases: dict[str, set[str]] = {}
    for tree in trees().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                # Two of one name count as one.
                bases.setdefault(node.name, set()).update(_name(base) for base in node.bases)
    own = set(bases)
    while strangers := {name for name in own if not bases[name] <= own | _BARE}:
        own -= strangers
    return own


def public_functions() -> Iterator[tuple[str, str]]:
    """(`path:line`, name) of functions, classes, and methods that no framework calls."""
    own = own_classes()
    for path, tree in trees().items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and _is_public(node):
                yield f"{path.relative_to(ROOT)}:{node.lineno}", node.name
            if isinstance(node, ast.ClassDef) and node.name in own:
                for one in node.body:
                    if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and _is_public(one):
                        yield f"{path.relative_to(ROOT)}:{one.lineno}", one.name


def _is_public(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> bool:
    plain = isinstance(node, ast.ClassDef) or all(_name(one) in _PLAIN for one in node.decorator_list)
    return plain and not node.name.startswith("_")


def _name(node: ast.expr) -> str:
    """Of a base or a decorator, without what it is called with."""
    match node:
        case ast.Call():
            return _name(node.func)
        case ast.Subscript():
            return _name(node.value)
        case _:
            return ast.unparse(node)


def test_nothing_public_is_called_by_tests_alone() -> None:
    """By name: a function that is called like another one that is used is not found."""
    used = used_names()
    dead = [f"{where}: {name}" for where, name in public_functions() if name not in used and name not in CALLED_FROM_OUTSIDE]
    assert dead == []


def test_the_list_holds_only_what_needs_it() -> None:
    used = used_names()
    there = {name for _, name in public_functions()}
    assert [name for name in CALLED_FROM_OUTSIDE if name in used or name not in there] == []
