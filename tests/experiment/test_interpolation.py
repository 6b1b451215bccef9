"""A few lines cannot become gigabytes: by interpolation, by `foreach`, by ranges of shards or of a grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from emo_lightning.core.tar_scan import ShardError
from emo_lightning.data.shard_list import list_shards
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.interpolation import check_size
from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.sweep.parameters import Parameter, SweepError


def doubled(each: Callable[[int], object]) -> dict[str, Any]:
    """Forty variables that name the one before twice."""
    return {"v0": "abcdefgh", **{f"v{n}": each(n - 1) for n in range(1, 41)}}


@pytest.mark.parametrize(
    "variables",
    [
        doubled(lambda n: f"${{vars.v{n}}}${{vars.v{n}}}"),
        doubled(lambda n: [f"${{vars.v{n}}}"] * 2),
        doubled(lambda n: {"a": f"${{vars.v{n}}}", "b": "${.a}"}),
        doubled(lambda n: f"${{oc.select:vars.v{n}}}${{oc.select: vars.v{n}}}"),
        {"key": "s", **doubled(lambda n: f"${{vars.v{n}}}${{vars.v{n}}}"), "last": "${vars.${vars.key}40}"},
        {"a": {f"k{n}": "${vars.a.k${vars.one}${vars.one}}" for n in range(3)}, "one": 1},
        {"a": "${vars}"},
        {"a": ["${..b}"], "b": ["${vars.a}"]},
        {"a": "x" * 60_000, "b": ["${vars.a}"] * 200},
        {f"v{n}": f"${{vars.v{n + 1}}}" for n in range(3000)},
    ],
    ids=range(10),
)
def test_settings_that_grow_are_refused(variables: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump({"vars": variables, "stages": {"d": {"run": "mds", "embeddings": {}}}}))
    with pytest.raises(ExperimentError, match=r"e\.yaml: stage 'd': "):
        load_experiment(path)


def test_what_people_write_is_small_enough() -> None:
    arms = {name: {"path": f"models/{name}", "soft": True} for name in ("base", "ours")}
    check_size(
        {
            "vars": {
                "arms": arms,
                "data": "${oc.env:HOME}/x",
                "all": ["${vars.data}/a", "${.0}"],
                "missing": "${vars.nothing}",
            },
            "each": {"arm": "ours"},
            "args": {
                "backbone": "${vars.arms.${each.arm}}",
                "path": "${vars.arms.${each.arm}.path}",
                "x": "${.path}",
                "y": "${",
            },
        }
    )


def test_stages_shards_and_grids_have_an_end(tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    axes = {key: list(range(40)) for key in "ab"}
    path.write_text(yaml.safe_dump({"stages": {"d{a}{b}": {"run": "mds", "foreach": axes, "embeddings": {}}}}))
    with pytest.raises(ExperimentError, match=r"foreach makes 1,600 stages; at most 1,000"):
        load_experiment(path)
    with pytest.raises(ShardError, match="its ranges make more than 1,000,000 shards"):
        list_shards("a-{0..9999}-{0..9999}.tar")
    with pytest.raises(SweepError, match=r"a\.b: more than 1,000,000 values from 0 to 10\d+"):
        Parameter("a.b", "int_uniform", options={"min": 0, "max": 10**12}).countable()


def test_what_a_resolver_is_given_may_be_interpolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMO_VAR_NUMBER", "7")
    stage = {"run": "world_tars", "split": "train", "count": "${oc.decode:${oc.env:EMO_VAR_NUMBER}}"}
    each = {"foreach": {"a": [40], "b": [2]}, "seed": "${oc.decode:${each.a}${each.b}}"}
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump({"stages": {"w-{a}-{b}": stage | each}}))
    (found,) = load_experiment(path).stages
    assert (found.config["count"], found.config["seed"]) == (7, 402)


def test_a_variable_says_over_what_stages_are_repeated(tmp_path: Path) -> None:
    stage = {"run": "world_tars", "foreach": {"seed": "${vars.seeds}"}, "split": "train", "count": 3, "seed": "${each.seed}"}
    path = tmp_path / "e.yaml"
    path.write_text(yaml.safe_dump({"vars": {"seeds": [0, 1], "one": 1}, "stages": {"w-{seed}": stage}}))
    assert [one.name for one in load_experiment(path).stages] == ["w-0", "w-1"]
    given = load_experiment(path, [("vars.seeds", "[4, 7, 9]"), ("w-7.count", "5")])
    assert [(one.config["seed"], one.config["count"]) for one in given.stages] == [(4, 3), (7, 5), (9, 3)]
    for wrong in ("3", "[]"):
        with pytest.raises(
            ExperimentError, match=r"foreach: found .*expected names, each with a list of values, or with a variable"
        ):
            load_experiment(path, [("vars.seeds", wrong)])
    path.write_text(path.read_text().replace("vars.seeds", "vars.sedes"))
    with pytest.raises(ExperimentError, match=r"found .*vars\.sedes"):
        load_experiment(path)


@pytest.mark.parametrize(
    ("source", "variables"),
    [
        ("${run.stages.init}/model", {}),
        ("${vars.base}", {"base": "${run.stages.init}/model"}),
        ("${run.stages.${vars.which}}/model", {"which": "init"}),
        ("${run.${vars.key}.init}/model", {"key": "stages"}),
        ("${oc.select:run.stages.init}/model", {}),
        ("${run.stages[init]}/model", {}),
    ],
)
def test_another_stage_is_found_however_it_is_named(source: str, variables: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "e.yaml"
    stages = {"init": {"run": "tiny_clip", "tars": ["a"]}, "cast": {"run": "cast", "backbone": source}}
    path.write_text(yaml.safe_dump({"vars": variables, "stages": stages}, sort_keys=False))
    assert load_experiment(path).stages[1].config["backbone"] == "runs/e/init/model"
