"""Imports go one way: schema <- data <- models <- tasks <- evaluation, experiment, stages, runner <- commands, cli."""

from __future__ import annotations

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LAYERS: dict[str, int] = {
    "schema": 0,
    "environment": 0,
    "argument_errors": 0,
    "user_errors": 0,
    "data": 1,
    "models": 2,
    "tasks": 3,
    "evaluation": 4,
    "experiment_files": 4,
    "stage": 4,
    "experiment": 4,
    "stages": 4,
    "runner": 4,
    "sweep": 4,
    "commands": 5,
    "cli": 5,
    "__main__": 5,
}
"""Module or package directly below emo_lightning -> its height; nothing imports from above itself."""


def files(package: str) -> list[Path]:
    """Every module of a package."""
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(absolute dotted name, line) of everything imported, within functions and under `if TYPE_CHECKING` too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            near = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*near, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def layer_of(path: Path) -> str:
    """Key of `LAYERS` for a module of emo_lightning."""
    return path.relative_to(ROOT / "emo_lightning").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", files("emo_lightning"), ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_from_above(path: Path) -> None:
    own = layer_of(path)
    if own == "__init__":
        assert not list(imports(path))
        return
    assert own in LAYERS, f"{path}: say in LAYERS where {own} belongs"
    for name, line in imports(path):
        if name.startswith("emo_lightning."):
            other = name.split(".")[1]
            assert LAYERS[other] <= LAYERS[own], f"{path}:{line}: {own} imports {name}"
        # By name, in `stages.KINDS` and `cli.COMMANDS`, the factory is reached without an import.
        assert not name.startswith("data_prep"), f"{path}:{line}: imports {name}"


@pytest.mark.parametrize("path", files("data_prep"), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_factory_knows_the_schema_alone(path: Path) -> None:
    for name, line in imports(path):
        assert not name.startswith("emo_lightning") or name.startswith("emo_lightning.core.records"), (
            f"{path}:{line}: imports {name}"
        )


@pytest.mark.parametrize("package", ["emo_lightning", "data_prep"])
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    """Not even from within a function, which hides a circle without dissolving it."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files(package)
    }
    before: dict[str, set[str]] = {}
    for module, path in modules.items():
        # A name of a module, or of something in one.
        names = {name if name in modules else name.rpartition(".")[0] for name, _ in imports(path)}
        before[module] = (names & modules.keys()) - {module}
    list(graphlib.TopologicalSorter(before).static_order())


@pytest.mark.parametrize("path", files("emo_lightning/models"), ids=lambda p: p.name)
def test_models_know_no_lightning(path: Path) -> None:
    for name, line in imports(path):
        assert name.split(".")[0] not in ("lightning", "pytorch_lightning", "torchmetrics"), f"{path}:{line}: imports {name}"


@pytest.mark.parametrize(
    "module", ["emo_lightning.core.records", "emo_lightning.cli", "emo_lightning.core.ranks", "data_prep.cli"]
)
def test_light_modules_import_nothing_heavy(module: str) -> None:
    import subprocess
    import sys

    heavy = ("torch", "transformers", "lightning", "matplotlib", "numpy", "openai")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
