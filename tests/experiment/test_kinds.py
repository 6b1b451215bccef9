"""The table of kinds: every row names something of the right sort."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from emo_lightning.experiment.execution import Summarised
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.kinds import STAGE_KINDS, FunctionKind, TrainerKind, find_kind


@pytest.mark.parametrize("name", STAGE_KINDS)
def test_every_kind_is_what_its_row_says(name: str) -> None:
    kind = find_kind(name)
    if isinstance(kind, TrainerKind):
        assert kind.task_class().__name__ == kind.task.partition(":")[2]
        kind.preload()
        assert kind.data_class().__name__ == kind.data.partition(":")[2]
        assert issubclass(kind.data_class(), Summarised), "the runner writes its summary into training.json"
        return
    function = kind.function()
    parameters = inspect.signature(function, eval_str=True).parameters
    assert parameters["out"].annotation is Path
    assert function.__name__.endswith("_stage")
    assert function.__doc__, "its docstring is the stage's reference"


def test_a_row_that_names_another_thing_is_a_bug() -> None:
    with pytest.raises(TypeError, match="expected a function whose first argument is out"):
        FunctionKind("emo_lightning.core.files:write_json").function()
    with pytest.raises(TypeError, match="expected a LightningModule"):
        TrainerKind("pathlib:Path", "pathlib:Path").task_class()


def test_an_unknown_kind_lists_all() -> None:
    with pytest.raises(ExperimentError, match=r"'fit' is unknown; allowed: world, world_tars, "):
        find_kind("fit")
