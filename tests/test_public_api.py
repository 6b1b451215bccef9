"""What `import emo_lightning` offers: documented, complete, and nothing heavy until it is asked for."""

from __future__ import annotations

import doctest
import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

import emo_lightning
from emo_lightning import schema
from emo_lightning.core import records


def test_importing_it_loads_nothing() -> None:
    code = """
import sys, time
before, start = set(sys.modules), time.process_time()
import emo_lightning
took, new = time.process_time() - start, set(sys.modules) - before
dir(emo_lightning)
print(took < 0.1, sorted(new & {"torch", "numpy", "pydantic", "transformers", "PIL", "scipy"}))
print(sorted(name for name in new if name.startswith("emo_lightning")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.splitlines() == ["True []", "['emo_lightning']"]


@pytest.mark.parametrize("name", emo_lightning.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(emo_lightning, name) is not None
    assert name in dir(emo_lightning)
    assert name == "__version__" or f"`{name}`" in (emo_lightning.__doc__ or "")
    assert name == "__version__" or name == "EMOTIONS" or getattr(emo_lightning, name).__doc__


def test_names_are_those_of_their_modules() -> None:
    from emo_lightning.core.records import Record
    from emo_lightning.inference.model import EmotionModel

    assert emo_lightning.Record is Record
    assert emo_lightning.EmotionModel is EmotionModel
    assert emo_lightning.__version__ == importlib.metadata.version("emo-lightning")
    with pytest.raises(AttributeError, match="no attribute 'Recrod'"):
        _ = emo_lightning.Recrod
    assert set(emo_lightning._MODULES) == set(emo_lightning.__all__) - {"__version__"}


def test_what_type_checkers_see_is_what_is_imported() -> None:
    """The names under TYPE_CHECKING are the table's, from the same modules."""
    import ast

    tree = ast.parse(Path(str(emo_lightning.__file__)).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: (node.module or "").removeprefix("emo_lightning.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == emo_lightning._MODULES


def test_the_package_example_runs() -> None:
    assert doctest.testmod(emo_lightning).attempted == 3
    assert doctest.testmod(emo_lightning).failed == 0


def test_schema_is_the_records_under_their_public_name() -> None:
    for name in records.__all__:
        assert getattr(schema, name) is getattr(records, name)
    defined = {
        name
        for name, value in vars(records).items()
        if not name.startswith("_") and getattr(value, "__module__", "").startswith(f"{records.__name__}.")
    }
    assert defined <= set(records.__all__)
