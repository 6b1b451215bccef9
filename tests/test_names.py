"""Names in the code that a stranger can guess: no private words."""

from __future__ import annotations

import ast
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
