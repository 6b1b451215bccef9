"""Imports go one way, in both packages: one table of allowed arrows between rooms, and no circle anywhere."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

CORE = "emo_lightning.core"

ARROWS: dict[str, set[str]] = {
    # Rooms of emo_lightning, from the ground up.
    "emo_lightning.core": set(),
    "emo_lightning.models.families": {CORE},
    "emo_lightning.data": {CORE, "emo_lightning.models.families"},
    "emo_lightning.models": {CORE, "emo_lightning.models.families", "emo_lightning.data"},
    "emo_lightning.metrics": {CORE},
    "emo_lightning.tasks": {
        CORE,
        "emo_lightning.models.families",
        "emo_lightning.data",
        "emo_lightning.models",
        "emo_lightning.metrics",
    },
    "emo_lightning.inference": {
        CORE,
        "emo_lightning.models.families",
        "emo_lightning.data",
        "emo_lightning.models",
        # Temperature and conformal sets of a probe.
        "emo_lightning.metrics",
    },
    # A place to search; it knows LanceDB, and nothing of how its answers are shown.
    "emo_lightning.search": {
        CORE,
        "emo_lightning.data",
        "emo_lightning.models",
        "emo_lightning.inference",
    },
    "emo_lightning.analysis": {
        CORE,
        "emo_lightning.models.families",
        "emo_lightning.data",
        "emo_lightning.models",
        "emo_lightning.metrics",
        "emo_lightning.inference",
        # The embeddings of an index are measured as they are searched.
        "emo_lightning.search",
    },
    "emo_lightning.report": {CORE, "emo_lightning.data", "emo_lightning.metrics", "emo_lightning.analysis"},
    # Knows the index of images by what it asks of it: the command opens one.
    "emo_lightning.serve": {CORE, "emo_lightning.data", "emo_lightning.inference", "emo_lightning.analysis"},
    # Knows stages and tasks by the names in `experiment.kinds.KINDS`: an experiment is checked before torch is loaded.
    # Of the data it asks what tars hold, which is part of what a stage is.
    "emo_lightning.experiment": {CORE, "emo_lightning.data"},
    "emo_lightning.stages": {
        CORE,
        "emo_lightning.models.families",
        "emo_lightning.data",
        "emo_lightning.models",
        "emo_lightning.metrics",
        "emo_lightning.tasks",
        "emo_lightning.inference",
        "emo_lightning.analysis",
        "emo_lightning.report",
    },
    "emo_lightning.sweep": {CORE, "emo_lightning.data", "emo_lightning.experiment"},
    "emo_lightning.schema": {CORE},
    # Rooms of data_prep, from the ground up; each may use the core.
    "data_prep.settings": {CORE},
    "data_prep.store": {CORE, "data_prep.settings"},
    "data_prep.local_models": {CORE},
    "data_prep.provider": {CORE, "data_prep.settings", "data_prep.store"},
    "data_prep.config": {CORE, "data_prep.settings", "data_prep.provider"},
    "data_prep.sources": {CORE, "data_prep.settings", "data_prep.store", "data_prep.provider", "data_prep.config"},
    "data_prep.engine": {CORE, "data_prep.settings", "data_prep.config", "data_prep.provider", "data_prep.store"},
    "data_prep.dedup": {CORE, "data_prep.engine", "data_prep.local_models", "data_prep.store"},
    "data_prep.review": {CORE, "data_prep.settings", "data_prep.config", "data_prep.store"},
    "data_prep.emovit": {CORE, "data_prep.config", "data_prep.engine", "data_prep.local_models", "data_prep.store"},
    "data_prep.grounding": {
        CORE,
        "data_prep.config",
        "data_prep.engine",
        "data_prep.local_models",
        "data_prep.review",
        "data_prep.store",
    },
    "data_prep.annotate": {
        CORE,
        "data_prep.settings",
        "data_prep.config",
        "data_prep.provider",
        "data_prep.engine",
        "data_prep.emovit",
        "data_prep.grounding",
        "data_prep.store",
    },
    "data_prep.stats": {
        CORE,
        "data_prep.settings",
        "data_prep.config",
        "data_prep.provider",
        "data_prep.emovit",
        "data_prep.annotate",
        "data_prep.grounding",
        "data_prep.review",
        "data_prep.store",
    },
    "data_prep.expand": {
        CORE,
        "data_prep.settings",
        "data_prep.config",
        "data_prep.provider",
        "data_prep.sources",
        "data_prep.annotate",
        "data_prep.stats",
        "data_prep.store",
    },
    "data_prep.export": {
        CORE,
        "data_prep.config",
        "data_prep.review",
        "data_prep.sources",
        "data_prep.stats",
        "data_prep.store",
    },
    # Drives the whole factory on a drawn world; nothing but its commands knows it.
    "data_prep.demo": {
        CORE,
        "data_prep.settings",
        "data_prep.config",
        "data_prep.provider",
        "data_prep.sources",
        "data_prep.engine",
        "data_prep.annotate",
        "data_prep.grounding",
        "data_prep.expand",
        "data_prep.export",
        "data_prep.store",
    },
}
"""Room -> the rooms that it may import. What stands above all rooms (`TOP`) may import any."""

TOP = {
    "emo_lightning",
    "emo_lightning.__main__",
    "emo_lightning.cli",
    "emo_lightning.commands",
    "data_prep",
    "data_prep.cli",
    "data_prep.commands",
}

NAMED_BY_STRING = {"emo_lightning/cli.py", "emo_lightning/experiment/kinds.py", "data_prep/cli.py"}
"""The tables that name modules as text, so that nothing heavy is imported before a command or a stage is chosen."""


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


def module_of(path: Path) -> str:
    """Dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def room_of(module: str) -> str:
    """Room of a module, or of something in one: the longest key that it begins with."""
    keys = [key for key in (*ARROWS, *TOP) if module == key or module.startswith(f"{key}.")]
    assert keys, f"{module}: say in ARROWS which room that is"
    return max(keys, key=len)


ALL = [*files("emo_lightning"), *files("data_prep")]


@pytest.mark.parametrize("path", ALL, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_import_is_an_allowed_arrow(path: Path) -> None:
    room = room_of(module_of(path))
    if room in TOP:
        return
    for name, line in imports(path):
        if name.split(".")[0] in ("emo_lightning", "data_prep"):
            other = room_of(name)
            assert other == room or other in ARROWS[room], f"{path}:{line}: {room} imports {name}"


def test_no_two_rooms_may_import_each_other() -> None:
    """The table itself allows no circle of rooms."""
    list(graphlib.TopologicalSorter(ARROWS).static_order())


@pytest.mark.parametrize("path", ALL, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_are_named_by_text_in_three_tables_only(path: Path) -> None:
    """A string `package.module:name` is an import that no checker sees."""
    if str(path.relative_to(ROOT)) in NAMED_BY_STRING:
        return
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not re.fullmatch(r"(emo_lightning|data_prep)(\.\w+)*:\w+", node.value), (
                f"{path}:{node.lineno}: names {node.value!r} as text"
            )


@pytest.mark.parametrize("path", files("emo_lightning/data"), ids=lambda p: p.name)
def test_data_modules_do_not_reach_up_into_their_task(path: Path) -> None:
    """What a data module needs to know of its task stands in a typed contract; a misspelt `getattr(task, …)` would mean "off"."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            subject = ast.unparse(node.args[0])
            assert not re.search(r"\b(task|trainer|lightning_module|model|net)\b", subject), (
                f"{path}:{node.lineno}: {ast.unparse(node)}"
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
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"
