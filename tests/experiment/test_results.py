"""What a finished stage has written is noted, held against that by whoever reads it, and made again where it is gone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from emo_lightning.cli import main
from emo_lightning.core.shard_index import index_path
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.identity import inputs_of
from emo_lightning.experiment.results import check_results, check_sources, lost_results, remade, results_of
from emo_lightning.experiment.stage import Stage
from emo_lightning.experiment.status import is_complete, read_status, write_config, write_status
from tests.made import write_two_stages


def flip(path: Path) -> None:
    """The last bit of the byte in the middle; length and place stay."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with open(path, "r+b") as file:
        file.write(data)


@pytest.fixture
def trained(tmp_path: Path) -> Stage:
    """A finished training with an adapter, a prediction, and what belongs to the runner."""
    stage = Stage("round1", "sft", "", {"model": {"backbone": {"path": "Qwen/x"}}, "data": {}}, tmp_path / "a/round1")
    for name in ("adapter/adapter_model.safetensors", "adapter/adapter_config.json", "training.json", "checkpoints/last.ckpt"):
        (stage.out / name).parent.mkdir(parents=True, exist_ok=True)
        (stage.out / name).write_text('{"base_model_name_or_path": "Qwen/x"}' if name.endswith(".json") else name)
    write_config(stage)
    write_status(stage, "complete", 0.0, inputs_of(stage), results=results_of(stage))
    return stage


def reading(trained: Stage, out: Path) -> Stage:
    """A stage on the adapter of another."""
    config = {"model": {"backbone": {"path": str(trained.out / "adapter")}}, "data": {}}
    return Stage(out.name, "sft", "", config, out)


def test_results_are_noted_by_content(trained: Stage) -> None:
    noted = read_status(trained)["results"]
    assert list(noted) == ["adapter/adapter_config.json", "adapter/adapter_model.safetensors", "training.json"]
    assert len(set(noted.values())) == 2
    assert is_complete(trained)


LEFT = ("adapter/adapter_model.safetensors.4711.tmp", "page.tmp/model.safetensors", "adapter/a.safetensors.4711.mode")
"""What killed processes leave, of this version or of earlier ones."""


def test_what_a_killed_process_left_is_no_result(trained: Stage) -> None:
    noted = results_of(trained)
    for name in LEFT:
        (trained.out / name).parent.mkdir(exist_ok=True)
        (trained.out / name).write_bytes(b"half")
    assert results_of(trained) == noted
    (trained.out / "adapter/adapter_model.safetensors").unlink()
    check_results(trained)


def test_earlier_versions_have_noted_it_all_the_same(trained: Stage) -> None:
    """It may be removed, or written anew, and nothing runs again."""
    status = read_status(trained)
    status["results"] |= dict.fromkeys(LEFT, "0" * 64)
    (trained.out / "stage.json").write_text(json.dumps(status))
    assert lost_results(trained, read_status(trained)) == []
    (trained.out / LEFT[0]).write_bytes(b"another")
    assert is_complete(trained)


@pytest.mark.parametrize("name", ["adapter/adapter_model.safetensors", "training.json"])
def test_a_changed_result_is_refused_by_name(trained: Stage, name: str) -> None:
    flip(trained.out / name)
    with pytest.raises(ExperimentError, match=rf"{name}: is not what the stage 'round1' wrote: it was changed or damaged"):
        is_complete(trained)


@pytest.mark.parametrize("run", ["a", "another"])
def test_who_reads_a_result_compares_it(trained: Stage, tmp_path: Path, run: str) -> None:
    """In the same run and in another: the hash of what is damaged is no input of anything."""
    later = reading(trained, tmp_path / run / "round2")
    check_sources(later)
    # What it does not read is none of its business.
    flip(trained.out / "training.json")
    check_sources(later)
    flip(trained.out / "adapter/adapter_model.safetensors")
    with pytest.raises(ExperimentError, match=r"adapter_model\.safetensors: is not what the stage 'round1' wrote"):
        check_sources(later)


def test_a_pattern_is_compared_as_far_as_it_searches(tmp_path: Path) -> None:
    stage = Stage("probe-ces-0", "probe", "", {}, tmp_path / "a/probe-ces-0")
    stage.out.mkdir(parents=True)
    (stage.out / "metrics.json").write_text("[1]")
    write_status(stage, "complete", 0.0, {}, results=results_of(stage))
    table = Stage("g", "attribute_guidance", "", {"probes": f"{tmp_path}/a/probe-{{arm}}-{{seed}}"}, tmp_path / "a/g")
    check_sources(table)
    (stage.out / "metrics.json").write_text("[2]")
    with pytest.raises(ExperimentError, match=r"metrics\.json: is not what"):
        check_sources(table)


def test_a_stage_that_noted_nothing_is_taken(trained: Stage, tmp_path: Path) -> None:
    path = trained.out / "stage.json"
    path.write_text(json.dumps({key: value for key, value in read_status(trained).items() if key != "results"}))
    flip(trained.out / "adapter/adapter_model.safetensors")
    assert is_complete(trained)
    assert lost_results(trained, read_status(trained)) == []
    check_sources(reading(trained, tmp_path / "a/round2"))


def test_what_is_gone_is_made_again_where_something_needs_it(trained: Stage, tmp_path: Path) -> None:
    later = reading(trained, tmp_path / "a/round2")
    last = reading(later, tmp_path / "a/round3")
    shutil.rmtree(trained.out / "adapter")
    lost = {"round1": lost_results(trained, read_status(trained))}
    assert lost == {"round1": [trained.out / "adapter/adapter_config.json", trained.out / "adapter/adapter_model.safetensors"]}
    assert remade([trained], {"round1"}, lost) == {"round1"}
    assert remade([trained, later], {"round1"}, lost) == {"round1"}
    # Whoever reads it is done: a large cache may be deleted once it was used.
    assert remade([trained, later], {"round1", "round2"}, lost) == set()
    gone = {**lost, "round2": [later.out / "adapter"]}
    assert remade([trained, later], {"round1", "round2"}, gone) == {"round1", "round2"}
    assert remade([trained, later, last], {"round1", "round2", "round3"}, gone) == set()


def test_a_run_from_its_tars_to_its_last_result(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    experiment = write_two_stages(tmp_path)
    command, run = ["run", str(experiment), "--runs", str(tmp_path / "runs")], tmp_path / "runs/two"

    def said(code: int, *more: str) -> str:
        assert main([*command, *more]) == code
        found = capfd.readouterr()
        assert "Traceback" not in found.err
        return found.out + found.err

    said(0, "--only", "first")
    (tar,) = (run / "first").rglob("*.tar")
    whole = tar.read_bytes()
    flip(tar)
    refused = f"{tar}: is not what the stage 'first' wrote"
    assert refused in said(2, "--only", "second").replace("\n", " ")
    assert refused in said(2).replace("\n", " ")
    tar.write_bytes(whole)
    # An index may be made anew at any time.
    index_path(tar).unlink()
    said(0)
    assert "nothing left to do" in said(0)
    (weights,) = (run / "second").rglob("*.safetensors")
    before = weights.read_bytes()
    flip(weights)
    assert f"{weights}: is not what the stage 'second' wrote" in said(2).replace("\n", " ")
    weights.write_bytes(before)
    tar.unlink()
    kept = said(0)
    assert f"note: {tar}: a result of the stage is gone; all that reads it is complete, so it is left as it is" in kept
    assert "nothing left to do" in kept
    weights.unlink()
    again = said(0)
    assert again.count("a result of the stage is gone; it runs again") == 2
    assert (tar.read_bytes(), weights.read_bytes()) == (whole, before)
    assert "nothing left to do" in said(0)
