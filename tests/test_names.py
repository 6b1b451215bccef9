"""Names in the code that a stranger can guess: no private words, and one class a name."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("emo_lightning", "data_prep")

PRIVATE = {
    "heard",
    "hearing",
    "told",
    "asking",
    "lent",
    "trust",
    "hired",
    "honesty",
    "own_answer",
    "item_pass",
    "explain_error",
}
"""Words of one author for what has a name elsewhere: a callback, a reply, a total, a check."""


def trees() -> Iterator[tuple[Path, ast.Module]]:
    """Every module of both packages."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def defined(tree: ast.AST) -> Iterator[str]:
    """Names that a module gives: of classes, functions, arguments, variables and attributes."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.arg(arg=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def snake(name: str) -> str:
    """`ItemPass` as `item_pass`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).strip("_")


def test_no_private_words() -> None:
    found = {f"{path}: {name}" for path, tree in trees() for name in defined(tree) if snake(name) in PRIVATE}
    assert not found


def test_a_figure_is_a_drawing() -> None:
    """And never a number, as the glossary says: a module that names a figure draws one, or holds pages with drawings."""
    drawing = ("matplotlib", "emo_lightning.report.pictures", "PageFigure", "drawn_figure", "Figure 5")
    found = set()
    for path, tree in trees():
        text = (ROOT / path).read_text(encoding="utf-8")
        if "report/page" not in str(path) and not any(word in text for word in drawing):
            found |= {
                f"{path}: {name}"
                for name in defined(tree)
                if "figure" in snake(name).split("_") or "figures" in snake(name).split("_")
            }
    assert not found


def public(tree: ast.Module) -> Iterator[str]:
    """Public classes, constants and aliases of a module; no type variables, which are letters, and no functions."""
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name):
                names = [name]
            case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec"))):
                continue
            case ast.Assign(targets=targets):
                parts = [part for target in targets for part in (target.elts if isinstance(target, ast.Tuple) else [target])]
                names = [part.id for part in parts if isinstance(part, ast.Name)]
            case ast.AnnAssign(target=ast.Name(id=name)):
                names = [name]
            case _:
                continue
        yield from (name for name in names if not name.startswith("_"))


OF_EVERY_MODULE = {
    # Python's own way to log: the logger of the module.
    "log",
    # What a command says of itself, by the same names in all of them.
    "ABOUT",
    "EXAMPLES",
    "HELP",
    # Both command lines look their commands up in one.
    "COMMANDS",
}
"""Names that say by their place of what they are."""


def test_a_public_name_stands_once() -> None:
    """Over both packages: a name in a traceback or a message says which class it is, and a constant or an alias which thing.

    What two modules need is defined in the lower one and imported; what differs is called by what it is.
    """
    places: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees():
        for name in set(public(tree)) - OF_EVERY_MODULE:
            places[name].append(str(path))
    assert not {name: paths for name, paths in places.items() if len(paths) > 1}


def test_exceptions_are_of_several_modules() -> None:
    """One that stands once is no exception any more."""
    known = [name for _, tree in trees() for name in set(public(tree)) & OF_EVERY_MODULE]
    assert {name for name in OF_EVERY_MODULE if known.count(name) < 2} == set()


AMBIGUOUS = {"MARK", "MOST", "LEVEL"}
"""Constants that had several values, each of another thing."""


def test_a_constant_says_of_what_it_is() -> None:
    found = {f"{path}: {name}" for path, tree in trees() for name in defined(tree) if name in AMBIGUOUS}
    assert not found
