"""Experiments are resolved as documented, and what is wrong in one is named by file, stage and key before anything runs."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml

from emo_lightning.cli import main
from emo_lightning.experiment.arguments import check
from emo_lightning.experiment.files import ROOT, ExperimentError
from emo_lightning.experiment.resolve import Experiment, load_experiment

EXPERIMENTS = sorted((ROOT / "experiments").glob("*.yaml"))
FEWER = {"attribute_guidance": [("vars.bases", "[none, all]"), ("vars.images", "[400]"), ("vars.seeds", "[0]")]}
"""A part of what has hundreds of stages."""
SFT: dict[str, Any] = {
    "run": "sft",
    "model": {"backbone": {"path": "m"}},
    "data": {"train": ["a"], "val": ["b"], "objectives": {"emotion": 1}},
}


def written(folder: Path, text: str | dict[str, Any], name: str = "x.yaml") -> Path:
    """An experiment file."""
    path = folder / name
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text, sort_keys=False))
    return path


def load(
    folder: Path, text: str | dict[str, Any], *overrides: tuple[str, str], name: str | None = None, runs: str = "runs"
) -> Experiment:
    """The experiment, resolved."""
    return load_experiment(written(folder, text), overrides, name=name, runs=runs)


def config(experiment: Experiment, stage: str) -> dict[str, Any]:
    """Arguments of one stage."""
    return next(s.config for s in experiment.stages if s.name == stage)


# Resolution


def test_interpolations(tmp_path: Path) -> None:
    tree = {
        "name": "e",
        "vars": {"x": 3, "place": "${run.stages.a}/tars"},
        "stages": {
            "a": {"run": "world", "train": "${vars.x}", "title": "draw ${vars.x}"},
            "b": {
                "run": "report",
                "run_dir": "${run.dir}",
                "one": "${run.out}",
                "two": "${vars.place}",
                "name": "${run.name}/${run.stage}",
            },
        },
    }
    experiment = load(tmp_path, tree, runs="r")
    assert [s.title for s in experiment.stages] == ["draw 3", "b"]
    assert config(experiment, "a") == {"train": 3}
    assert config(experiment, "b") == {"run_dir": "r/e", "one": "r/e/b", "two": "r/e/a/tars", "name": "e/b"}
    assert experiment.stages[1].out == Path("r/e/b")
    assert load(tmp_path, tree, name="other").dir == Path("runs/other")


def test_foreach_is_the_product(tmp_path: Path) -> None:
    stage = {"run": "probe", "foreach": {"arm": ["p", "q"], "seed": [0, 1]}, "title": "${each.arm}", "seed": "${each.seed}"}
    experiment = load(tmp_path, {"stages": {"s-{arm}-{seed}": stage}})
    assert [s.name for s in experiment.stages] == ["s-p-0", "s-p-1", "s-q-0", "s-q-1"]
    assert [s.config["seed"] for s in experiment.stages] == [0, 1, 0, 1]
    assert experiment.stages[2].title == "q"


def test_extends_merges_below(tmp_path: Path) -> None:
    written(
        tmp_path,
        {"name": "base", "vars": {"x": 1, "y": 1}, "stages": {"a": {"run": "world", "seed": "${vars.x}"}}},
        "base.yaml",
    )
    experiment = load(tmp_path, {"extends": "base.yaml", "vars": {"x": 2}, "stages": {"a": {"train": "${vars.y}"}}})
    assert experiment.name == "base"
    assert config(experiment, "a") == {"seed": 2, "train": 1}


def test_of_several_parents_a_later_one_wins_and_places_the_shared_stage(tmp_path: Path) -> None:
    shared = {"run": "report", "run_dir": "d"}
    written(tmp_path, {"vars": {"x": 1}, "stages": {"a": {"run": "world"}, "end": shared}}, "one.yaml")
    written(tmp_path, {"vars": {"x": 2}, "stages": {"b": {"run": "world", "seed": "${vars.x}"}, "end": shared}}, "two.yaml")
    experiment = load(tmp_path, {"extends": ["one.yaml", "two.yaml"]})
    assert [s.name for s in experiment.stages] == ["a", "b", "end"]
    assert config(experiment, "b")["seed"] == 2


def test_defaults_lie_below_the_stage(tmp_path: Path) -> None:
    stage = {**SFT, "defaults": ["trainer/default.yaml", "model/tiny.yaml"], "trainer": {"max_epochs": 7}}
    found = config(load(tmp_path, {"stages": {"s": stage}}), "s")
    assert found["trainer"]["max_epochs"] == 7
    assert found["trainer"]["gradient_clip_val"] == 1.0
    assert found["model"]["backbone"]["path"] == "m"
    assert found["model"]["backbone"]["tuning"] == "full"
    assert "defaults" not in found


# Overrides


def test_overrides_reach_keys_that_refer_to_them(tmp_path: Path) -> None:
    tree = {
        "vars": {"x": 1, "paths": {"a": "p"}},
        "stages": {"a": {"run": "world", "seed": "${vars.x}", "train": 5, "config": "${vars.paths.a}"}},
    }
    experiment = load(tmp_path, tree, ("vars.x", "9"), ("a.train", "6"), ("vars.paths.a", "q"))
    assert config(experiment, "a") == {"seed": 9, "train": 6, "config": "q"}


def test_an_override_may_interpolate(tmp_path: Path) -> None:
    experiment = load(
        tmp_path, {"vars": {"x": 1, "y": 2}, "stages": {"a": {"run": "world", "seed": 0}}}, ("a.seed", "${vars.y}")
    )
    assert config(experiment, "a")["seed"] == 2


def test_trainer_override_reaches_all_trainer_stages_and_no_other() -> None:
    experiment = load_experiment(ROOT / "experiments/table6.yaml", [("trainer.devices", "2"), ("trainer.strategy", "ddp")])
    trained = [s for s in experiment.stages if s.kind in ("sft", "features", "des", "probe")]
    assert len(trained) == 3 + 3 + 9 + 9
    for stage in experiment.stages:
        if stage in trained:
            assert (stage.config["trainer"]["devices"], stage.config["trainer"]["strategy"]) == (2, "ddp")
        else:
            assert "trainer" not in stage.config


def test_a_stage_called_model_does_not_hide_the_argument() -> None:
    """`runs/NAME/model` is a stage of the shipped experiments, and `model.optim.lr` an argument of others."""
    overrides = [("model.optim.lr", "0.5"), ("model.head", "h"), ("round1.model.optim.lr", "0.25")]
    experiment = load_experiment(ROOT / "experiments/table6.yaml", overrides)
    assert config(experiment, "round2")["model"]["optim"]["lr"] == 0.5
    assert config(experiment, "round1")["model"]["optim"]["lr"] == 0.25
    assert config(experiment, "model")["head"] == "h"
    assert "optim" not in config(experiment, "model")


def test_digest_is_what_a_stage_computes(tmp_path: Path) -> None:
    def digest(**trainer: object) -> str:
        return load(tmp_path, {"stages": {"s": {**SFT, "trainer": {"max_steps": 5, **trainer}}}}).stages[0].digest

    same = digest()
    assert digest(devices=8, strategy="ddp", accelerator="gpu", num_nodes=2, enable_progress_bar=False) == same
    assert digest(max_steps=6) != same
    assert digest(precision="bf16-mixed") != same


# What is wrong is named


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stages: [", r"x\.yaml: not YAML: .*line 1"),
        ("- a\n", r"x\.yaml: holds list, expected a mapping"),
        ("name: a\n", r"x\.yaml: no stages; allowed: extends, name, description, vars, stages"),
        ({"stage": {}, "stages": {"a": {"run": "world"}}}, r"x\.yaml: unknown key 'stage'; allowed"),
        ({"stages": {"a": {"seed": 1}}}, r"x\.yaml: stage 'a' needs the key 'run'"),
        ({"stages": {"a/b": {"run": "world"}}}, r"x\.yaml: stage name 'a/b'; allowed: letters"),
        (
            {"stages": {"a": {"run": "world", "defaults": ["trainer/no.yaml"]}}},
            r"stage 'a': defaults name 'trainer/no\.yaml', but there is no",
        ),
        ({"stages": {"a": {"run": "world", "seed": "${vars.no}"}}}, r"x\.yaml: stage 'a': .*vars\.no"),
        ({"extends": "no.yaml"}, r"no\.yaml: no such file; there are: .*x\.yaml"),
        ({"stages": {"a": {"run": "world", "run_": 1, "vars": 1}}}, r"stage 'a': 'vars' is reserved for interpolation"),
        ("vars: {x: 1}\nstages: {a: {run: world}}\nvars: {x: 2}\n", r"x\.yaml: not YAML: key 'vars' stands twice .*line 3"),
        ({"extends": "x.yaml", "stages": {"a": {"run": "world"}}}, r"x\.yaml: extends itself, by way of x\.yaml"),
        ({"extends": 3}, r"x\.yaml: extends: found 3; expected a file name or a list"),
        ({"vars": ["a"], "stages": {"a": {"run": "world"}}}, r"x\.yaml: 'vars' holds list; expected a mapping"),
        ({"stages": {"a": {"run": ["world"]}}}, r"x\.yaml: stage 'a' needs the key 'run'"),
        ({"stages": {"a-{s}": {"run": "world", "foreach": {"s": 3}}}}, r"stage 'a-\{s\}': foreach: found \{'s': 3\}; expected"),
        ({"stages": {"a": {"run": "world", "foreach": {"s": [1, 2]}}}}, r"stage 'a': foreach has 's', so the name needs \{s\}"),
        ({"stages": {"a-{t}-{s}": {"run": "world", "foreach": {"s": [1]}}}}, r"stage name 'a-\{t\}-1'; allowed: letters"),
        ({"name": "../up", "stages": {"a": {"run": "world"}}}, r"x\.yaml: name '\.\./up': expected a folder below runs"),
    ],
)
def test_wrong_files(tmp_path: Path, text: str | dict[str, Any], message: str) -> None:
    with pytest.raises(ExperimentError, match=message):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("vars.no", r"--vars\.no: no such variable; allowed: vars\.x"),
        ("vars.arms.basee", r"--vars\.arms\.basee: no such variable; allowed: vars\.arms\.base, .*give it as a whole"),
        ("s.data.objectives.emotion", r"--s\.data\.objectives\.emotion: 'objectives' is \$\{vars\.mix\} here; override that"),
        (
            "no.key",
            r"--no\.key: no stage takes this key; allowed: vars\.\* \(x, arms, mix, free\), STAGE\.\* with STAGE one of a, s",
        ),
        ("learning_rate", r"--learning_rate: no stage takes this key"),
    ],
)
def test_wrong_overrides(tmp_path: Path, key: str, message: str) -> None:
    variables = {"x": 1, "arms": {"base": 1, "ours": 2}, "mix": {"emotion": 0.8, "attributes": 0.2}, "free": {}}
    data = {**SFT["data"], "objectives": "${vars.mix}"}
    tree = {"vars": variables, "stages": {"a": {"run": "world"}, "s": SFT | {"data": data}}}
    load(tmp_path, tree, ("vars.free.new", "1"), ("vars.arms.ours", "3"))
    with pytest.raises(ExperimentError, match=message):
        load(tmp_path, tree, (key, "1"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("s.model.backbone.lora.rang", "8", r"stage 's' \(sft\): .*rang"),
        ("s.model.backbone.tuning", "half", r"stage 's' \(sft\): .*half"),
        ("s.data.batchsize", "8", r"stage 's' \(sft\): .*batchsize"),
        ("s.trainer.max_stepz", "8", r"stage 's' \(sft\): .*max_stepz"),
        ("s.trainer.max_steps", "many", r"stage 's' \(sft\): .*many"),
        ("a.trains", "8", r"stage 'a' \(world\): .*trains"),
        ("a.train", "eight", r"stage 'a' \(world\): .*eight"),
    ],
)
def test_wrong_arguments_stop_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], key: str, value: str, message: str
) -> None:
    import re

    path = written(tmp_path, {"name": "e", "stages": {"a": {"run": "world"}, "s": SFT}})
    assert main(["run", str(path), "--runs", str(tmp_path / "runs"), f"--{key}", value]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    assert re.search(message, error)
    assert not (tmp_path / "runs").exists()


def test_section_that_is_no_mapping_is_an_error(tmp_path: Path) -> None:
    """jsonargparse takes it for nothing given."""
    (stage,) = load(tmp_path, {"stages": {"s": SFT | {"trainer": 5}}}).stages
    with pytest.raises(ExperimentError, match=r"stage 's' \(sft\): trainer: found 5; expected a mapping"):
        check(stage)


def test_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ExperimentError, match=r"x\.yaml: not YAML: .*utf-8"):
        load_experiment(tmp_path / "x.yaml")


@pytest.mark.parametrize("text", ["1e-4", "1.0e-4", "0.0001", "1E-4"])
def test_one_number_is_one_setting_however_it_is_written(tmp_path: Path, text: str) -> None:
    stages = {"stages": {"s": SFT}}
    written_out = load(tmp_path, stages, ("s.model.optim.lr", text)).stages[0]
    assert config(
        load(tmp_path, yaml.safe_dump(stages) + f"vars: {{lr: {text}}}\n", ("s.model.optim.lr", "${vars.lr}")), "s"
    ) == (written_out.config)
    assert written_out.config["model"]["optim"]["lr"] == 1e-4
    assert isinstance(written_out.config["model"]["optim"]["lr"], float)


def test_defaults_may_be_one_name(tmp_path: Path) -> None:
    tree = {"stages": {"s": SFT | {"defaults": "trainer/inference.yaml"}}}
    assert config(load(tmp_path, tree), "s")["trainer"]["logger"] is False


def test_unknown_kind_lists_all(tmp_path: Path) -> None:
    with pytest.raises(
        ExperimentError, match=r"\.yaml: stage 'a': run: 'sfd' is unknown; did you mean sft.*\? allowed: world, .*sft"
    ):
        load(tmp_path, {"stages": {"a": {"run": "sfd"}}})


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            {"data": {"train": ["${vars.q}/a.tar"]}},
            "data.train[0]: ${vars.q}: there is no such name; allowed: vars.lr, vars.deep",
        ),
        (
            {"title": "of ${vars.lrr}"},
            "title: ${vars.lrr}: there is no such name; did you mean vars.lr? allowed: vars.lr, vars.deep",
        ),
        ({"x": "${vars.deep.b}"}, "x: ${vars.deep.b}: there is no such name; allowed: vars.deep.a"),
        ({"x": "${vars.lr.b}"}, "x: ${vars.lr.b}: vars.lr has no part 'b'; found '1'"),
        ({"x": "${var.lr}"}, "x: ${var.lr}: there is no such name; did you mean vars? allowed: vars, run, each"),
        ({"x": "${run.stages.bb}"}, "x: ${run.stages.bb}: there is no such name; allowed: run.stages.a, run.stages.other"),
    ],
)
def test_an_unknown_name_is_said_with_what_there_is(tmp_path: Path, arguments: dict[str, object], said: str) -> None:
    tree = {"vars": {"lr": 1, "deep": {"a": 2}}, "stages": {"a": {"run": "sft", **arguments}, "other": {"run": "sft"}}}
    with pytest.raises(ExperimentError) as caught:
        load(tmp_path, tree)
    assert f"stage 'a': {said}" in str(caught.value)
    assert "full_key" not in str(caught.value)


# Every file that is shipped


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: p.stem)
def test_every_experiment_resolves_and_is_checked(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "run",
                str(path),
                "--print_config",
                *(word for key, value in FEWER.get(path.stem, []) for word in (f"--{key}", value)),
            ]
        )
        == 0
    )
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["stages"]
    assert "${" not in str(shown)


def test_one_stage_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"name": "x", "stages": {name: {"run": "tiny_clip", "tars": ["a"]} for name in "ab"}}))
    assert main(["run", str(path), "--print_config", "--only", "b"]) == 0
    assert list(yaml.safe_load(capsys.readouterr().out)["stages"]) == ["b"]
    assert main(["run", str(path), "--print_config", "--only", "c"]) == 2
    assert "a, b" in capsys.readouterr().err


def test_every_config_is_used() -> None:
    """A default that no experiment starts from is not tested by anything."""
    used = set()
    for path in EXPERIMENTS:
        for stage in (yaml.safe_load(path.read_text()).get("stages") or {}).values():
            used.update(stage.get("defaults", []))
    shipped = {
        f"{p.parent.name}/{p.name}" for group in ("model", "data", "trainer") for p in (ROOT / "configs" / group).glob("*.yaml")
    }
    # Anchors are also named as a setting; `tests/metrics` reads each file of them.
    assert shipped == {name for name in used if not name.startswith("anchors/")}


def test_two_learning_rates_of_a_yaml_are_numbers() -> None:
    """YAML 1.1 reads 1e-4 as text; every rate in our files must be written so that it is a number."""
    for path in EXPERIMENTS:
        for stage in load_experiment(path, FEWER.get(path.stem, [])).stages:
            model = stage.config.get("model")
            rate = model.get("optim", {}).get("lr", 0.1) if isinstance(model, dict) else 0.1
            assert isinstance(rate, float), f"{path}: {stage.name}: {rate!r}"


def test_where_a_stage_runs_stands_in_known_places_alone() -> None:
    """A name of the user's own is a setting, whatever word it is; of what we ship, nothing else was left out before."""
    from emo_lightning.experiment.stage import PLACEMENT_KEYS, computed_settings

    for path in EXPERIMENTS:
        for stage in load_experiment(path, FEWER.get(path.stem, [])).stages:
            for left_out in (PLACEMENT_KEYS, (*PLACEMENT_KEYS, "dirpath")):
                assert computed_settings(stage.config, left_out) == computed_settings(stage.config, left_out, anywhere=True), (
                    stage.name
                )
    for word in PLACEMENT_KEYS:
        config = {
            "sets": {word: {"space": "eight"}},
            "data": {"labels": {"map": {word: "awe"}}, "num_workers": 2},
            "save_every": {"steps": 1},
        }
        assert computed_settings(config) == {"sets": {word: {"space": "eight"}}, "data": {"labels": {"map": {word: "awe"}}}}
        assert computed_settings({"trainer": {word: 2, "max_steps": 3}}) == {"trainer": {"max_steps": 3}}


def test_a_class_that_was_renamed_still_runs_and_its_finished_stage_stays_finished() -> None:
    from emo_lightning.experiment.stage import RENAMED_CLASSES, Stage, computed_settings, with_present_names

    for old, new in RENAMED_CLASSES.items():
        written = {"trainer": {"callbacks": [{"class_path": old, "init_args": {"count": 2}}]}}
        renamed = with_present_names(written)
        assert renamed == {"trainer": {"callbacks": [{"class_path": new, "init_args": {"count": 2}}]}}
        assert isinstance(renamed, dict)
        assert computed_settings(written) == computed_settings(renamed)
        assert Stage("a", "sft", "", written, Path()).digest == Stage("a", "sft", "", renamed, Path()).digest
        module, _, name = new.rpartition(".")
        assert hasattr(importlib.import_module(module), name)
