"""Imports go one way, in both packages: one table of allowed arrows between rooms, and no circle anywhere."""

from __future__ import annotations

import ast
import graphlib
import re
from collections.abc import Iterator
from functools import cache
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
    # Knows stages and tasks by the names in `experiment.kinds.STAGE_KINDS`: an experiment is checked before torch is loaded.
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

NAMED_BY_STRING = {
    # Nothing heavy is imported before a command, a stage, a source or a public name is chosen.
    "emo_lightning/cli.py",
    "data_prep/cli.py",
    "emo_lightning/experiment/kinds.py",
    "data_prep/sources/__init__.py",
    "emo_lightning/__init__.py",
    "emo_lightning/models/__init__.py",
    # What the Trainer is told is a class by name, as in YAML; `experiment` knows no task by import.
    "emo_lightning/experiment/execution.py",
    # Names of classes in runs that older versions have made.
    "emo_lightning/experiment/stage.py",
    # `python -m` and the start of a process name a module of ours.
    "emo_lightning/experiment/processes.py",
    "data_prep/demo/simulation/serve.py",
    # What the user's YAML names.
    "emo_lightning/experiment/argument_errors.py",
}
"""Files that name modules of ours as text, or import what a text names."""

OLD_NAMES = {"emo_lightning.tasks.samples.SampleLogger"}
"""Of classes that are called otherwise now (`RENAMED_CLASSES`)."""


def files(package: str) -> list[Path]:
    """Every module of a package."""
    return sorted((ROOT / package).rglob("*.py"))


@cache
def tree_of(path: Path) -> ast.Module:
    """Each file is looked at by several tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """(absolute dotted name, line) of everything imported, within functions and under `if TYPE_CHECKING` too."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(tree_of(path)):
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
MODULES = {module_of(path): path for path in ALL}


def test_every_import_is_an_allowed_arrow() -> None:
    wrong = []
    for path in ALL:
        if (room := room_of(module_of(path))) in TOP:
            continue
        for name, line in imports(path):
            other = room_of(name) if name.split(".")[0] in ("emo_lightning", "data_prep") else room
            if other != room and other not in ARROWS[room]:
                wrong.append(f"{path}:{line}: {room} imports {name}")
    assert not wrong


def test_no_two_rooms_may_import_each_other() -> None:
    """The table itself allows no circle of rooms."""
    list(graphlib.TopologicalSorter(ARROWS).static_order())


def names_by_text(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """(what, line) of every import that no checker sees: a text that names a module of ours or something in one, and a call that imports
    what a text names.

    Args:
        tree: of a module.
    """
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            if re.fullmatch(r"(emo_lightning|data_prep)(\.\w+)*:\w+", node.value) or (
                re.fullmatch(r"(emo_lightning|data_prep)(\.\w+)+", node.value) and names_something(node.value)
            ):
                yield node.value, node.lineno
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "import_module",
            "importlib.import_module",
            "__import__",
        ):
            given = node.args[0]
            # Packages of others, where they may be absent.
            if not (isinstance(given, ast.Constant) and not str(given.value).startswith(("emo_lightning", "data_prep"))):
                yield ast.unparse(node), node.lineno


def names_something(dotted: str) -> bool:
    """Whether a dotted name is a module of ours, a class or function in one, or a name that one of them had."""
    if dotted in MODULES or dotted in OLD_NAMES:
        return True
    module, _, name = dotted.rpartition(".")
    return module in MODULES and any(
        isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name
        for node in ast.parse(MODULES[module].read_text(encoding="utf-8")).body
    )


def test_modules_are_named_by_text_in_a_few_files_only() -> None:
    """By `package.module:name`, by a class path with points, or by a name that is put together and imported: no checker sees it.

    What is read from a file of the user's and imported elsewhere than by `import_module` (jsonargparse's `class_path`) is not seen here
    either; `experiment.classes` says what may stand there.
    """
    wrong = []
    for path in ALL:
        found = list(names_by_text(tree_of(path)))
        if str(path.relative_to(ROOT)) not in NAMED_BY_STRING:
            wrong += [f"{path}:{line}: names {name!r} as text" for name, line in found]
        elif not found:
            wrong.append(f"{path}: names nothing by text any more: take it off NAMED_BY_STRING")
    assert not wrong


def test_names_by_text_are_found() -> None:
    """Each form is seen; words that only look like one are not."""
    seen = {
        'x = "emo_lightning.tasks.sft:SFTTask"',
        'x = {"class_path": "emo_lightning.tasks.fsdp.ShardedStrategy"}',
        'x = "data_prep.cli"',
        'importlib.import_module(f"data_prep.sources.{name}")',
        "import_module(name)",
    }
    assert [line for line in seen if not list(names_by_text(ast.parse(line)))] == []
    unseen = ['"""emo_lightning.cli"""', 'x = "emo_lightning.tasks"', 'import_module("vllm")', 'x = "emo_lightning.png"']
    assert [line for line in unseen if list(names_by_text(ast.parse(line)))] == ['x = "emo_lightning.tasks"']


@pytest.mark.parametrize(
    "path", [path for path in ALL if str(path.relative_to(ROOT)) in NAMED_BY_STRING], ids=lambda p: str(p.relative_to(ROOT))
)
def test_what_is_named_by_text_is_there(path: Path) -> None:
    for name, line in names_by_text(tree_of(path)):
        if re.fullmatch(r"[\w.:]+", name):
            assert names_something(name.replace(":", ".")), f"{path}:{line}: there is no {name}"


def test_nothing_asks_a_task_or_a_loader_for_what_it_may_lack() -> None:
    """What one part needs to know of another stands in a class or a contract; a misspelt `getattr(task, …)` would mean "off"."""
    owners = re.compile(r"\b(\w*task|lightning_module|pl_module|\w*dataloader|\w*loader|datamodule|net)\b")
    wrong = [
        f"{path}:{node.lineno}: {ast.unparse(node)}"
        for path in ALL
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr")
        and owners.search(ast.unparse(node.args[0]))
    ]
    assert not wrong


@pytest.mark.parametrize("path", [*files("emo_lightning/tasks"), *files("emo_lightning/stages")], ids=lambda p: p.name)
def test_tasks_do_not_write_into_their_data_module(path: Path) -> None:
    """By an attribute, an item or `setattr`; what a method of the data module takes, it has in its signature."""
    for node in ast.walk(tree_of(path)):
        targets: list[ast.expr] = []
        match node:
            case ast.Assign() | ast.Delete():
                targets = node.targets
            case ast.AugAssign() | ast.AnnAssign():
                targets = [node.target]
            case ast.Call(func=ast.Name(id="setattr" | "delattr")):
                targets = [ast.Attribute(node.args[0], "", ast.Store())]
        for target in (part for one in targets for part in (one.elts if isinstance(one, ast.Tuple | ast.List) else [one])):
            if isinstance(target, ast.Attribute | ast.Subscript):
                owner = ast.unparse(target.value)
                assert not re.search(r"(^|\.)(data|datamodule|data_module)(\.|\[|$)", owner), (
                    f"{path}:{node.lineno}: writes into {owner}"  # type: ignore[attr-defined]  # all of these have a line
                )


@pytest.mark.parametrize("path", files("emo_lightning/data"), ids=lambda p: p.name)
def test_data_modules_do_not_reach_up_into_their_task(path: Path) -> None:
    """What a data module needs to know of its task stands in a typed contract; a misspelt `getattr(task, …)` would mean "off"."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr"):
            subject = ast.unparse(node.args[0])
            assert not re.search(r"\b(task|trainer|lightning_module|model|net)\b", subject), (
                f"{path}:{node.lineno}: {ast.unparse(node)}"
            )


@pytest.mark.parametrize("package", ["emo_lightning", "data_prep"])
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    """Not even from within a function, which hides a circle without dissolving it."""
    modules = {module_of(path): path for path in files(package)}
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
