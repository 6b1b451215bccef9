"""What a stage's arguments may be, read from the source of its function or class: nothing is imported, so no torch is.

The true check is jsonargparse's, when a run starts. This one answers in a moment and without the training libraries, and what it
cannot tell (an annotation that it does not understand) it lets pass.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from emo_lightning.experiment.kinds import FunctionKind, TrainerKind, find_kind
from emo_lightning.sweep.argument_types import Anything, Choice, Group, Many, Scalar, Type, Union

_SCALARS = {"int": "int", "float": "float", "str": "str", "bool": "bool", "None": "null", "Path": "str", "PathLike": "str"}
_LISTS = ("list", "List", "Sequence", "Iterable", "tuple", "Tuple", "Collection")
_MAPPINGS = ("dict", "Dict", "Mapping")


@cache
def arguments(name: str) -> Group:
    """The arguments of a kind of stage, as its YAML has them.

    Raises:
        ExperimentError: there is no such kind.
    """
    found = find_kind(name)
    match found:
        case FunctionKind():
            return _callable(found.target, {"out"})
        case TrainerKind():
            return Group(
                {
                    "seed_everything": Union((Scalar("bool"), Scalar("int"))),
                    "trainer": Group(_callable("lightning.pytorch.trainer.trainer:Trainer", set()).members),
                    "model": _callable(found.task, set()),
                    "data": _callable(found.data, set()),
                },
                frozenset({"model", "data"}),
            )


@dataclass(frozen=True)
class _Module:
    """A module's source: its top-level definitions and where its imports come from."""

    name: str
    definitions: dict[str, ast.AST] = field(hash=False)
    imported: dict[str, tuple[str, str]] = field(hash=False)


def _callable(target: str, without: set[str]) -> Group:
    """Arguments of `module:function` or of `module:Class`."""
    name, _, attribute = target.partition(":")
    module = _module(name)
    node = module.definitions.get(attribute) if module else None
    if isinstance(node, ast.ClassDef):
        node = next((n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"), None)
        without = without | {"self"}
    if module is None or not isinstance(node, ast.FunctionDef):
        msg = f"{target}: no function or class with an __init__ of its own in the source"
        raise LookupError(msg)
    spec = node.args
    positional = [*spec.posonlyargs, *spec.args]
    defaulted = {a.arg for a in positional[len(positional) - len(spec.defaults) :]}
    defaulted |= {a.arg for a, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if default is not None}
    chosen = [a for a in (*positional, *spec.kwonlyargs) if a.arg not in without]
    return Group(
        {a.arg: _type(a.annotation, module) for a in chosen}, frozenset(a.arg for a in chosen if a.arg not in defaulted)
    )


@cache
def _module(name: str) -> _Module | None:
    top, *rest = name.split(".")
    # Of the top package alone: to find one below it, its parents would be imported.
    found = importlib.util.find_spec(top)
    if found is None or not found.submodule_search_locations:
        return None
    base = Path(next(iter(found.submodule_search_locations))).joinpath(*rest)
    path = next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)
    if path is None:
        return None
    definitions: dict[str, ast.AST] = {}
    imported: dict[str, tuple[str, str]] = {}
    for node in _statements(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                definitions[node.name] = node
            case ast.Assign(targets=[ast.Name(id=alias)], value=value):
                definitions[alias] = value
            case ast.AnnAssign(target=ast.Name(id=alias), value=ast.expr() as value):
                definitions[alias] = value
            case ast.ImportFrom(module=str(origin), level=0):
                imported |= {alias.asname or alias.name: (origin, alias.name) for alias in node.names}
    return _Module(name, definitions, imported)


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """At the top, and under `if TYPE_CHECKING`."""
    for node in tree.body:
        if isinstance(node, ast.If):
            yield from node.body
        else:
            yield node


def _type(node: ast.AST | None, module: _Module) -> Type:
    match node:
        case ast.Constant(value=None):
            return Scalar("null")
        case ast.Constant(value=str(text)):
            return _type(ast.parse(text, mode="eval").body, module)
        case ast.Name(id=name):
            return _named(name, module)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _union([_type(left, module), _type(right, module)])
        case ast.Subscript(value=ast.Name(id=name), slice=inside):
            return _subscripted(name, inside.elts if isinstance(inside, ast.Tuple) else [inside], module)
        case _:
            return Anything()


def _subscripted(name: str, inside: list[ast.expr], module: _Module) -> Type:
    if name == "Literal":
        return Choice(tuple(n.value for n in inside if isinstance(n, ast.Constant)))
    if name in ("Union", "Optional"):
        return _union([*(_type(n, module) for n in inside), *([Scalar("null")] if name == "Optional" else [])])
    if name in _LISTS:
        items = [_type(n, module) for n in inside if not (isinstance(n, ast.Constant) and n.value is ...)]
        return Many(items[0] if len(set(map(repr, items))) == 1 else Anything())
    return Many(_type(inside[-1], module), keyed=True) if name in _MAPPINGS else Anything()


def _union(types: list[Type]) -> Type:
    flat = [o for t in types for o in (t.options if isinstance(t, Union) else (t,))]
    return Anything() if any(isinstance(t, Anything) for t in flat) else Union(tuple(flat))


def _named(name: str, module: _Module) -> Type:
    if name in _SCALARS:
        return Scalar(_SCALARS[name])
    if name in module.imported:
        origin, original = module.imported[name]
        other = _module(origin)
        return _named(original, other) if other else Anything()
    node = module.definitions.get(name)
    if isinstance(node, ast.ClassDef):
        return _dataclass(node, module)
    return _type(node, module) if isinstance(node, ast.Subscript | ast.BinOp) else Anything()


def _dataclass(node: ast.ClassDef, module: _Module) -> Type:
    marks = [d.func if isinstance(d, ast.Call) else d for d in node.decorator_list]
    if node.bases or not any(isinstance(d, ast.Name) and d.id == "dataclass" for d in marks):
        return Anything()
    fields = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    named = {n.target.id: n for n in fields if isinstance(n.target, ast.Name)}
    return Group(
        {name: _type(n.annotation, module) for name, n in named.items()},
        frozenset(k for k, n in named.items() if n.value is None),
    )
