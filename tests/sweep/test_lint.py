"""Sweeps are checked before anything runs: each fault is named, and every shipped sweep has none."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from emo_lightning.cli import main
from emo_lightning.experiment.files import ROOT
from emo_lightning.sweep.config import SWEEP_COMMAND, beside, load_sweep
from emo_lightning.sweep.lint import lint

SWEEPS = sorted((ROOT / "experiments" / "sweeps").glob("*.yaml"))
GOOD: dict[str, Any] = {
    "program": "experiments/ablate_head.yaml",
    "command": SWEEP_COMMAND,
    "method": "grid",
    "metric": {"name": "probe/val/accuracy", "goal": "maximize"},
    "parameters": {"des.model.head.fusion": {"values": ["none", "both"]}},
}
RANGE = {"min": 0.0, "max": 0.5}


def faults(folder: Path, changes: dict[str, Any], **fixed: object) -> str:
    """What is wrong with the good sweep after some changes; None takes a key away."""
    tree = {key: value for key, value in {**copy.deepcopy(GOOD), **changes}.items() if value is not None}
    path = folder / "s.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return "\n".join(lint(path, fixed)[1])


@pytest.mark.parametrize("path", SWEEPS, ids=lambda p: p.stem)
def test_every_shipped_sweep_is_sound(path: Path) -> None:
    assert lint(path)[1] == []


def test_what_the_sweeps_vary() -> None:
    varied = {name for path in SWEEPS for name in yaml.safe_load(path.read_text())["parameters"]}
    assert {
        "des.model.head.num_layers",
        "des.model.head.fusion",
        "des.model.head.num_heads",
        "des.model.head.pooling",
        "vars.source",
        "vars.round1_epochs",
        "vars.replay",
        "vars.lora",
        "vars.targets",
        "vars.parts",
        "des.model.contrastive_weight",
    } <= varied
    layers = yaml.safe_load((ROOT / "experiments/sweeps/layers.yaml").read_text())["parameters"]
    assert layers["des.model.head.num_layers"]["values"] == [1, 2, 4, 8]


def of(key: str, body: object) -> dict[str, Any]:
    """A change: these parameters alone."""
    return {"parameters": {key: body}}


FAULTS = {
    "program missing": ({"program": None}, "program is missing"),
    "program not there": ({"program": "experiments/ablate_haed.yaml"}, "did you mean experiments/ablate_head.yaml"),
    "method": ({"method": "gird"}, "method is 'gird'; did you mean grid?"),
    "bayes without metric": ({"method": "bayes", "metric": None}, "bayes has nothing to search for"),
    "goal": ({"metric": {"name": "probe/val/f1", "goal": "max"}}, "goal is 'max'"),
    "metric that no stage writes": (
        {"metric": {"name": "probe/val/acuracy"}},
        "writes 'probe/val/acuracy'; did you mean probe/val/accuracy",
    ),
    "metric of an absent set": ({"metric": {"name": "probe/heldout/accuracy"}}, "writes 'probe/heldout/accuracy'"),
    "grid over a range": (of("des.model.head.dropout", RANGE), "a grid over a continuous range has no end"),
    "bounds": (
        of("des.model.head.dropout", {"min": 0.5, "max": 0.1}),
        "bounds the wrong way round: min 0.5 is not below max 0.1",
    ),
    "one bound a whole number": (of("des.model.head.dropout", {"min": 0, "max": 0.5}), "write both as whole numbers or both"),
    "number as text": (
        of("vars.lr", {"min": "1e-5", "max": 1.0e-2, "distribution": "log_uniform_values"}),
        "write a decimal point",
    ),
    "logarithm of 0": (of("vars.lr", {"min": 0.0, "max": 0.1, "distribution": "log_uniform_values"}), "needs more than 0"),
    "unknown distribution": (of("vars.lr", {**RANGE, "distribution": "log_unifrm"}), "did you mean log_uniform"),
    "key of another distribution": (of("vars.lr", {**RANGE, "mu": 1.0}), "unknown key 'mu'"),
    "empty parameter": (of("vars.lr", {}), "expected a mapping with value, values"),
    "nested": (of("des", {"parameters": {"x": {"value": 1}}}), "nested parameters"),
    "same value twice": (of("vars.seed", {"values": [1, 2, 1]}), "values holds 1 twice"),
    "probabilities": (of("vars.seed", {"values": [1, 2], "probabilities": [0.5, 0.6]}), "2 numbers that sum to 1"),
    "nothing varies": (of("vars.seed", {"value": 1}), "nothing to compare"),
    "unknown path": (of("des.model.head.fuson", {"values": [1, 2]}), "has no argument 'fuson'; did you mean fusion?"),
    "below a variable": (
        {"program": "experiments/ablate_backbone.yaml", **of("round2.data.objectives.emotion", {"values": [0.5, 0.2]})},
        "'objectives' is ${vars.mixes.${vars.replay}} here",
    ),
    "unknown entry of a variable": (
        {"program": "experiments/ablate_backbone.yaml", **of("vars.loras.r99.rank", {"values": [3, 4]})},
        "allowed: vars.loras.r8, ",
    ),
    "unknown wide path": (of("model.head.fuson", {"values": [1, 2]}), "did you mean"),
    "key of two stages": (
        of("des.data.batchsize", {"values": [8, 64]}),
        "did you mean des.data.batch_size or data.batch_size or probe.data.batch_size?",
    ),
    "unknown stage": (of("dse.model.head.fusion", {"values": [1, 2]}), "no stage of"),
    "unknown variable": (of("vars.sead", {"values": [1, 2]}), "did you mean vars.seed?"),
    "wrong word": (
        of("des.model.head.fusion", {"values": ["none", "al"]}),
        "model.head.fusion: found al; allowed: both, self, queries, none",
    ),
    "the same function twice": (
        of("des.model.head.fusion", {"values": ["self", "cross"]}),
        "model.head.fusion: found cross; allowed: both, self, queries, none",
    ),
    "wrong type": (of("des.model.head.num_layers", {"values": [1, 2.5]}), "found 2.5; allowed: a whole number"),
    "range of the wrong type": (
        {**of("des.model.head.num_layers", {"min": 1.0, "max": 8.0}), "method": "random"},
        "found 1.0; allowed: a whole number",
    ),
    "wrong type through a variable": (
        of("vars.epochs", {"values": [1, "two"]}),
        "trainer.max_epochs: found two; allowed: a whole number or null",
    ),
    "key that lacks its path": (of("model.backbone.lora.rank", {"values": [1, 2]}), "model.backbone.path is missing"),
    "early stopping": ({"early_terminate": {"type": "hyperband", "min_iter": 3}}, "nothing to stop early on"),
    "unknown key": ({"metod": "grid"}, "unknown key 'metod'; did you mean method?"),
    "no command": ({"command": None}, "command is missing; expected"),
    "command of a script": (
        {"command": ["${env}", "python", "${program}", "${args}"]},
        "W&B's agent would run it; allowed: ",
    ),
    "command that does more": (
        {"command": ["bash", "-c", "true", "emo sweep --trial ${program}", "${args_json}"]},
        "W&B's agent would run it; allowed: ",
    ),
    "bayes over a normal": (
        {**of("vars.lr", {"distribution": "normal"}), "method": "bayes"},
        "a normal distribution under method: bayes; allowed",
    ),
    "run_cap": ({"run_cap": 0}, "run_cap is 0"),
    "truth of YAML": ({"run_cap": True}, "run_cap is true; expected a whole number"),
    "no metric": ({"metric": None}, "metric is missing: runs cannot be ordered"),
    "no method": ({"method": None}, "method is missing"),
}


@pytest.mark.parametrize(("changes", "named"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    assert faults(tmp_path, {}) == ""
    assert named in faults(tmp_path, changes)


def test_all_faults_at_once(tmp_path: Path) -> None:
    found = faults(tmp_path, {"method": "bayes", "metric": None, "program": None, **of("vars.lr", {"min": 2.0, "max": 1.0})})
    assert [word in found for word in ("nothing to search", "program is missing", "wrong way round")] == [True] * 3
    parameters = {
        "des.model.head.fuson": {"values": ["none", "both"]},
        "vars.lr": {"min": 2.0, "max": 1.0},
        "vars.epochs": RANGE,
    }
    found = faults(tmp_path, {"method": "grid", "metric": None, "parameters": parameters})
    named = (
        "did you mean fusion?",
        "wrong way round",
        "a grid over a continuous range",
        "runs cannot be ordered",
    )
    assert [word in found for word in named] == [True] * 4


def test_a_variable_that_reaches_nothing(tmp_path: Path) -> None:
    program = tmp_path / "p.yaml"
    program.write_text(
        (ROOT / "experiments/ablate_head.yaml")
        .read_text()
        .replace("  seed: 0\n", "  seed: 0\n  idle: 1\n")
        .replace("name: a", "name: x")
    )
    found = faults(tmp_path, {"program": str(program), **of("vars.idle", {"values": [1, 2]})})
    assert "parameter vars.idle: no key of any stage refers to it" in found


def test_values_of_the_command_line_are_checked_too(tmp_path: Path) -> None:
    assert "parameter vars.sed: " in faults(tmp_path, {}, **{"vars.sed": 1})
    assert "to narrow it, give a list, e.g. --des.model.head.fusion '[both]'" in faults(
        tmp_path, {}, **{"des.model.head.fusion": "both"}
    )
    heldout = {"metric": {"name": "probe/heldout/f1"}}
    assert faults(tmp_path, heldout, **{"probe.data.extra": {"heldout": "x"}}) == ""


def test_a_list_narrows_what_the_sweep_varies(tmp_path: Path) -> None:
    key, given = "des.model.head.num_layers", {"des.model.head.num_layers": [1, 2], "vars.lr": 0.1}
    path = tmp_path / "s.yaml"
    body = {key: {"values": [1, 2, 8]}, "vars.seed": {"values": [0, 1]}}
    path.write_text(yaml.safe_dump(GOOD | {"parameters": body}))
    sweep, found = lint(path, given)
    assert found == []
    assert sweep is not None
    assert [p.values for p in sweep.parameters] == [(1, 2), (0, 1)]
    # What goes to W&B is narrowed too, and the rest stays a value of every run.
    assert sweep.raw["parameters"] == {key: {"values": [1, 2]}, "vars.seed": {"values": [0, 1]}}
    assert beside(sweep, given) == {"vars.lr": 0.1}
    assert "found 1.5; allowed: a whole number" in "".join(lint(path, {key: [1, 1.5]})[1])
    (fixed, _) = load_sweep(path, {key: [2]}).parameters
    assert (fixed.fixed, fixed.values) == (True, (2,))
    path.write_text(yaml.safe_dump(GOOD | {"parameters": {key: body[key]}}))
    assert "nothing to compare" in "".join(lint(path, {key: [1]})[1])


def test_the_command_lints_without_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    faults(tmp_path, of("vars.sead", {"values": [1, 2]}))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["sweep", "--check", str(SWEEPS[0]), str(tmp_path / "s.yaml")]) == 2
    out, error = capsys.readouterr()
    assert out == f"{SWEEPS[0]}: no fault found\n"
    assert [path.name for path in tmp_path.iterdir()] == ["s.yaml"]
    assert "vars.sead: " in error
    assert "Traceback" not in error


@pytest.mark.parametrize("text", ["- a", "a: [", ""], ids=["a list", "no YAML", "empty"])
def test_no_sweep_at_all(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s.yaml").write_text(text)
    assert main(["sweep", "--check", str(tmp_path / "s.yaml")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 's.yaml'}: ")
    assert main(["sweep", "--check", str(tmp_path / "missing.yaml")]) == 2


def test_a_seed_on_a_grid_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert faults(tmp_path, {}) == ""
    assert main(["sweep", str(tmp_path / "s.yaml"), "--local", "--seed", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: --seed is for ")
