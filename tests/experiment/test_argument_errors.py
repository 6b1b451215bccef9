"""A wrong argument is named with what was found and what is allowed, in one short line, wherever in the tree it stands."""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FunctionType
from typing import Any, cast

import pytest
import yaml
from jsonargparse import ArgumentParser

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.experiment.argument_errors import explain_arguments, fits, type_hints
from emo_lightning.experiment.arguments import check, parsed, parser_of
from emo_lightning.experiment.classes import ALLOW_CLASSES, set_policy
from emo_lightning.experiment.execution import execute
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.kinds import STAGE_KINDS, FunctionKind
from emo_lightning.experiment.stage import Stage
from emo_lightning.models.backbone_config import BackboneConfig

SAVER = "lightning.pytorch.callbacks.ModelCheckpoint"
CASES = [
    (
        "model.backbone.tunin",
        "lora",
        "unknown key model.backbone.tunin; did you mean tuning? allowed: adapter_dtype, attention, compile, dtype, ",
    ),
    ("model.backbone.tuning", "half", "model.backbone.tuning: found half; allowed: full, lora, qlora, frozen"),
    (
        "model.backbone.lora.rnk",
        3,
        "model.backbone.lora: LoRA has no argument 'rnk'; did you mean rank? allowed: alpha, dropout, rank, targets",
    ),
    ("model.backbone.lora.rank", "many", "model.backbone.lora.rank: found many; allowed: a whole number"),
    ("model.optim.schedule", "step", "model.optim.schedule: found step; allowed: cosine, linear, constant"),
    ("model.optim.lr", "big", "model.optim.lr: found big; allowed: a number"),
    ("data.batchsize", 8, "unknown key data.batchsize; did you mean batch_size"),
    ("data.train", "a.tar", "data.train: found a.tar; allowed: a list"),
    ("data.train", None, "key data.train is missing"),
    ("data.objectives", {"emotion": "many"}, "data.objectives.emotion: found many; allowed: a number"),
    ("trainer.precision", "bf17", "trainer.precision: found bf17; allowed: "),
    (
        "trainer.callbacks",
        [{"class_path": SAVER, "init_args": {"dirpat": "x"}}],
        "trainer.callbacks[0]: ModelCheckpoint has no argument 'dirpat'; did you mean dirpath? allowed: auto_insert_metric_name, ",
    ),
    (
        "trainer.callbacks",
        [{"class_path": SAVER, "init_args": {"save_top_k": "many"}}],
        "trainer.callbacks[0].save_top_k: found many; allowed: a whole number",
    ),
    (
        "trainer.callbacks",
        [{"class_path": SAVER[:-1]}],
        f"trainer.callbacks[0]: there is no '{SAVER[:-1]}'; did you mean ModelCheckpoint",
    ),
    (
        "trainer.callbacks",
        [{"class_pat": SAVER}],
        "trainer.callbacks[0]: found 'class_pat'; expected class_path, and init_args, of a Callback",
    ),
    (
        "modl",
        {"backbone": 1},
        "unknown key modl; did you mean model? allowed: data, model, save_every, seed_everything, trainer",
    ),
]


@pytest.mark.parametrize(("key", "value", "message"), CASES, ids=[f"{key}={value}" for key, value, _ in CASES])
def test_wrong_arguments(key: str, value: object, message: str) -> None:
    config: dict[str, Any] = {
        "model": {"backbone": {"path": "m"}},
        "data": {"train": ["a"], "val": ["b"], "objectives": {"emotion": 1.0}},
        "trainer": {},
    }
    *parents, last = key.split(".")
    place = config
    for parent in parents:
        place = place.setdefault(parent, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    with pytest.raises(ExperimentError) as caught:
        check(Stage("s", "sft", "s", yaml.safe_load(yaml.safe_dump(config)), Path("nowhere")))
    found = str(caught.value)
    assert found.startswith(f"stage 's' (sft): {message}")
    assert "\n" not in found
    assert "<class" not in found
    assert "Union" not in found


def test_values_of_a_function() -> None:
    stage = Stage(
        "t", "table5", "t", {"predictions": {"a": "x.jsonl"}, "references": ["r"], "resamples": "many"}, Path("nowhere")
    )
    with pytest.raises(ExperimentError, match=r"stage 't' \(table5\): resamples: found many; allowed: a whole number$"):
        check(stage)
    stage.config["resamples"] = 10
    stage.config["seeds"] = 1
    with pytest.raises(
        ExperimentError, match=r"unknown key seeds; did you mean seed\? allowed: about, against, anchors, clip, "
    ):
        check(stage)


def test_what_the_walk_does_not_find_is_said_as_jsonargparse_says_it() -> None:
    assert explain_arguments(ArgumentParser(), {}, TypeError("Validation failed: Something  else\n happened")) == [
        "Something else happened"
    ]


# What code of ours raises while jsonargparse parses or makes objects


def of_ours(function: FunctionType) -> FunctionType:
    """The function as if it stood in the package: where a line of code stands tells whose it is."""
    ours = FunctionType(function.__code__, {**function.__globals__, "__name__": "emo_lightning.made_up"}, function.__name__)
    ours.__module__ = __name__
    return ours


def hooked(text: str) -> int:
    """A type of ours, with a bug."""
    return {"one": 1}[text]


def refusing(text: str) -> int:
    """A type of ours that refuses a value in words of its own."""
    msg = f"{text}: expected another"
    raise InputError(msg)


@dataclass
class Guarded:
    """A config with a check of its own."""

    rank: int = 1

    def __post_init__(self) -> None:
        if self.rank == 0:
            msg = "rank: found 0; expected 1 or more"
            raise InputError(msg)
        if self.rank == 13:
            raise KeyError("our own bug")


def a_stage(out: Path, guarded: Guarded | None = None) -> None:
    """What a stage's function looks like."""


def test_a_bug_in_a_hook_of_a_type_is_no_wrong_value() -> None:
    assert not fits(refusing, "a")
    with pytest.raises(KeyError, match="two"):
        fits(of_ours(cast("FunctionType", hooked)), "two")


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], Stage]:
    monkeypatch.setattr(Guarded, "__post_init__", of_ours(cast("FunctionType", Guarded.__post_init__)))
    monkeypatch.setitem(STAGE_KINDS, "guarded", FunctionKind(f"{__name__}:a_stage", {}))
    # Whichever test has set it: the config stands in none of the packages that an experiment may name.
    monkeypatch.setenv(ALLOW_CLASSES, __name__)
    set_policy()
    return lambda rank: Stage("s", "guarded", "s", {"guarded": {"rank": rank}}, Path("nowhere"))


def test_what_a_config_refuses_is_the_users(stage: Callable[[object], Stage]) -> None:
    """jsonargparse makes a plain ValueError of it where the config is optional: it was told as a bug of ours."""
    with pytest.raises(InputError, match=r"^rank: found 0; expected 1 or more$"):
        parsed(stage(0))


def test_a_bug_in_a_config_keeps_its_traceback(stage: Callable[[object], Stage]) -> None:
    with pytest.raises(KeyError, match="our own bug") as caught:
        parsed(stage(13))
    assert caught.traceback[-1].name == "__post_init__"
    assert parsed(stage(2)) == {"guarded": Guarded(2)}


def test_a_refused_argument_shows_its_cause(stage: Callable[[object], Stage]) -> None:
    with pytest.raises(ExperimentError, match=r"guarded.rank: found many; allowed: a whole number") as caught:
        check(stage("many"))
    assert isinstance(caught.value.__cause__, ArgumentError)


def test_rank_0_of_an_adapter_is_the_users(tmp_path: Path) -> None:
    """As a stage's process meets it."""
    config = {
        "model": {"backbone": {"path": "m", "lora": {"rank": 0}}},
        "data": {"train": ["a"], "val": ["b"], "objectives": {"emotion": 1.0}},
        "trainer": {},
    }
    with pytest.raises(UserError, match="lora: found rank 0"):
        execute(Stage("s", "sft", "s", config, tmp_path))


# What we use of jsonargparse beside its interface

WHICH = f"jsonargparse {version('jsonargparse')}: emo_lightning/experiment/argument_errors.py was written with 4.53.0"


def a_function(number: int, names: list[str], backbone: BackboneConfig, free: dict[str, float] | None = None) -> None:
    """With each form of argument."""


@pytest.fixture
def parser() -> ArgumentParser:
    found = ArgumentParser(exit_on_error=False)
    found.add_function_arguments(a_function, as_group=False)
    return found


def test_a_parsers_actions_hold_their_types(parser: ArgumentParser) -> None:
    hints = type_hints(parser)
    assert hints.get("number") is int, f"{WHICH}: ActionTypeHint._typehint is no longer the annotation"
    assert hints.get("names") == list[str], f"{WHICH}: of a list"
    assert hints.get("free") == dict[str, float] | None, f"{WHICH}: of an optional mapping"
    assert "backbone.tuning" in hints, f"{WHICH}: a dataclass is no longer spread into its fields"
    assert not {"backbone", "help", "backbone.lora.help"} & set(hints), f"{WHICH}: groups and help are taken for arguments"


def test_a_parsers_actions_say_what_is_required(parser: ArgumentParser) -> None:
    required = {action.dest for action in parser._actions if action.required}
    assert required == {"number", "names", "backbone.path"}, f"{WHICH}: Action.required"


@pytest.mark.parametrize("name", ["sft", "features", "des", "probe", "table5", "mds"])
def test_every_argument_has_a_type(name: str) -> None:
    untyped = [
        action.dest
        for action in parser_of(name)._actions
        if action.dest not in type_hints(parser_of(name))
        and not action.dest.endswith("help")
        and type(action).__name__ != "_ActionConfigLoad"
    ]
    assert untyped == [], f"{WHICH}: another class of action"


@pytest.mark.parametrize(
    ("values", "prose"),
    [
        ({"number": "x", "names": [], "backbone": {"path": "m"}}, 'Parser key "number"'),
        ({"names": [], "backbone": {"path": "m"}}, "the following arguments are required: number"),
        ({"number": 1, "names": [], "backbone": {"path": "m"}, "more": 1}, "Option 'more' is not accepted"),
    ],
)
def test_what_jsonargparse_refuses_we_explain(parser: ArgumentParser, values: dict[str, Any], prose: str) -> None:
    """Its own words are shown where the walk finds nothing; here it finds what is wrong."""
    with pytest.raises(ArgumentError) as caught:
        parser.parse_object(values)
    assert prose in str(caught.value), f"{WHICH}: it says {caught.value}"
    assert prose not in "".join(explain_arguments(parser, values, caught.value))
