"""A stage is its settings and what its inputs hold: finished means finished on this data, wherever it lies."""

from __future__ import annotations

import inspect
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningModule

from emo_lightning.core import fingerprints
from emo_lightning.core.fingerprints import HashMemory
from emo_lightning.data import shard_indices
from emo_lightning.data.tar_content import data_hash
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.identity import CONTENT_SUFFIX, first_changed, inputs_of, named_paths
from emo_lightning.experiment.kinds import STAGE_KINDS, FunctionKind
from emo_lightning.experiment.stage import Stage
from emo_lightning.experiment.status import Status, is_complete, read_status, write_config, write_status
from tests.data.test_tar_index import many, record, sample, write_tar

Make = Callable[[], Stage]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stage:
    """A training on two tars and a model folder; everything is old enough to be remembered."""
    monkeypatch.chdir(tmp_path)
    write_tar(tmp_path / "train.tar", many(range(3)))
    write_tar(tmp_path / "val.tar", many(range(4, 6)))
    (tmp_path / "base").mkdir()
    (tmp_path / "base/config.json").write_text("{}")
    (tmp_path / "base/model.safetensors").write_bytes(b"weights")
    (tmp_path / "base/preprocessor_config.json").write_text('{"image_mean": [0.48, 0.45, 0.41], "max_pixels": 7056}')
    (tmp_path / "base/tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 1}}}')
    for path in (*tmp_path.glob("*.tar"), *tmp_path.glob("base/*")):
        os.utime(path, (1, 1))
    return training(tmp_path / "runs/a")


def training(run: Path) -> Stage:
    config = {
        "model": {"backbone": {"path": "base"}, "seed": 3},
        "data": {"train": ["train.tar"], "val": ["val.tar"], "batch_size": 2},
        "trainer": {"max_epochs": 1, "callbacks": [{"init_args": {"dirpath": f"{run}/tune/checkpoints"}}]},
    }
    return Stage("tune", "sft", "tune", config, run / "tune")


def begun(stage: Stage, status: Status = "complete") -> None:
    """Leave the stage behind as a run does."""
    stage.out.mkdir(parents=True, exist_ok=True)
    write_config(stage)
    (stage.out / "checkpoints").mkdir(exist_ok=True)
    write_status(stage, status, 0.0, inputs_of(stage))


def relabelled() -> None:
    """Equally long, so that sizes and offsets stay."""
    members = many(range(3))
    (image,) = (data for name, data in sample(1).items() if name.endswith("png"))
    members["s001.json"] = record(1, image, emotion="awe", source="tesu")
    assert len(members["s001.json"]) == len(sample(1)["s001.json"])
    write_tar(Path("train.tar"), members)


def flipped() -> None:
    """One byte of an image."""
    data = bytearray(Path("val.tar").read_bytes())
    with tarfile.open("val.tar") as tar:
        data[tar.getmember("s004.png").offset_data + 40] ^= 1
    Path("val.tar").write_bytes(data)


def reordered() -> None:
    write_tar(Path("train.tar"), many([1, 0, 2]))


def other_weights() -> None:
    Path("base/model.safetensors").write_bytes(b"weighty")


def other_mean() -> None:
    """Every pixel comes out otherwise."""
    rewrite("preprocessor_config.json", "0.48", "0.49")


def other_limits() -> None:
    """Pictures come out in another size."""
    rewrite("preprocessor_config.json", "7056", "7840")


def other_words() -> None:
    rewrite("tokenizer.json", '"a": 0, "b": 1', '"a": 1, "b": 0')


def rewrite(name: str, old: str, new: str) -> None:
    path = Path("base", name)
    assert old in path.read_text(encoding="utf-8")
    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")


BASE = r"model\.backbone\.path \(base\)"
CHANGES = [
    (relabelled, r"data\.train"),
    (flipped, r"data\.val"),
    (reordered, r"data\.train"),
    (other_weights, BASE),
    (other_mean, BASE),
    (other_limits, BASE),
    (other_words, BASE),
]


@pytest.mark.parametrize(("change", "named"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("status", ["complete", "failed", "cut short"])
def test_other_content_is_refused_by_name(change: Callable[[], None], named: str, status: Status, stage: Stage) -> None:
    begun(stage, status)
    assert is_complete(stage) == (status == "complete")
    change()
    was = "made from" if status == "complete" else "begun on"
    with pytest.raises(ExperimentError, match=rf"tune was {was} other content of {named}"):
        is_complete(stage)


@pytest.mark.parametrize("status", ["complete", "failed", "cut short"])
def test_other_limits_of_pixels_are_other_settings(status: Status, stage: Stage) -> None:
    stage.config["model"]["backbone"]["max_pixels"] = 7056
    begun(stage, status)
    stage.config["model"]["backbone"]["max_pixels"] = 7840
    with pytest.raises(ExperimentError, match=r"other settings \(model\.backbone\.max_pixels: 7056 there, 7840 now\)"):
        is_complete(stage)


@pytest.mark.parametrize("name", ["benchmark", "logger", "mine"])
def test_a_set_is_called_as_one_likes(name: str, tmp_path: Path) -> None:
    """Words that say in the Trainer's settings where it runs are none of that elsewhere."""
    (tmp_path / "said.json").write_text("{}")
    (tmp_path / "truth.jsonl").write_text("")

    def compared(space: str) -> Stage:
        sets = {name: {"references": [str(tmp_path / "truth.jsonl")], "space": space}}
        config = {"predictions": {"a": str(tmp_path / "said.json")}, "sets": sets, "base": "a", "in_domain": name}
        return Stage("x", "cross_dataset", "x", config, tmp_path / "runs/x")

    begun(compared("eight"))
    assert is_complete(compared("eight"))
    with pytest.raises(ExperimentError, match=rf"other settings \(sets\.{name}\.space: 'eight' there, 'polarity' now\)"):
        is_complete(compared("polarity"))


def test_what_had_made_nothing_may_begin_again(stage: Stage) -> None:
    begun(stage, "failed")
    (stage.out / "checkpoints").rmdir()
    other_weights()
    assert not is_complete(stage)


def test_an_unfinished_cache_of_other_data_opens_for_nobody(stage: Stage) -> None:
    begun(stage, "failed")
    index = stage.out / "train" / "index-00000.json"
    index.parent.mkdir()
    index.write_text("{}")
    relabelled()
    with pytest.raises(ExperimentError, match="begun on other content"):
        is_complete(stage)
    assert not index.exists()


def test_paths_are_no_part_of_it(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run and its data in another folder, under other names, written at another time; the run named absolutely."""
    begun(stage)
    there = tmp_path / "elsewhere"
    there.mkdir()
    for name in ("runs", "base", "val.tar"):
        shutil.move(tmp_path / name, there / name)
    with (
        tarfile.open(tmp_path / "train.tar") as old,
        tarfile.open(there / "renamed.tar", "w", format=tarfile.PAX_FORMAT) as new,
    ):
        for member in old.getmembers():
            member.mtime = 5.5
            new.addfile(member, old.extractfile(member))
    monkeypatch.chdir(there)
    moved = training(there / "runs/a")
    moved.config["data"]["train"] = [str(there / "renamed.tar")]
    assert is_complete(moved)
    moved.config["model"]["seed"] = 4
    with pytest.raises(ExperimentError, match=r"other settings \(model.seed: 3 there, 4 now\)"):
        is_complete(moved)


def test_inputs_that_are_gone_are_said_and_not_compared(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    begun(stage)
    Path("train.tar").unlink()
    assert is_complete(stage)
    assert "data.train cannot be read any more" in capsys.readouterr().err


def test_an_input_more_or_less_is_another_stage(stage: Stage) -> None:
    begun(stage)
    stage.config["data"]["val"] = []
    with pytest.raises(ExperimentError, match=r"other content of data.val"):
        is_complete(stage)


@pytest.mark.parametrize("status", ["complete", "failed"])
def test_a_run_of_version_0_2_is_taken_once_and_then_compared(
    status: Status, stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(stage, status)
    path = stage.out / "stage.json"
    old = {
        key: value for key, value in json.loads(path.read_text(encoding="utf-8")).items() if key not in ("run_dir", "inputs")
    }
    path.write_text(json.dumps(old))
    assert is_complete(stage) == (status == "complete")
    assert "made by a version that noted no content" in capsys.readouterr().err
    assert read_status(stage)["inputs"] == inputs_of(stage)
    assert is_complete(stage) == (status == "complete")
    assert not capsys.readouterr().err
    other_weights()
    with pytest.raises(ExperimentError, match="other content"):
        is_complete(stage)


def test_the_commit_is_that_at_the_start(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, Status]] = [("aaa", "running"), ("bbb", "complete")]
    for commit, status in told:
        monkeypatch.setattr("emo_lightning.experiment.status._commit", lambda commit=commit: commit)
        begun(stage, status)
        assert read_status(stage)["commit"] == "aaa"


def test_what_a_stage_has_made_is_an_input_of_the_next(tmp_path: Path) -> None:
    """Caches, heads, predictions: a change goes down the chain."""
    cache, head, said = tmp_path / "features/train", tmp_path / "des/head", tmp_path / "predictions.jsonl"
    for path in (cache / "part-00000-00000.safetensors", cache / "index-00000.json", head / "config.json", said):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("one")
    stages = [
        Stage("probe", "probe", "", {"model": {"des_head": str(head)}, "data": {"train": str(cache)}}, tmp_path / "probe"),
        Stage("table", "table5", "", {"predictions": {"ours": str(said)}, "against": None}, tmp_path / "table"),
    ]
    before = [inputs_of(stage) for stage in stages]
    assert [sorted(found) for found in before] == [["data.train", "model.des_head"], ["predictions.ours"]]
    (cache / "part-00000-00000.safetensors").write_text("two")
    said.write_text("two")
    assert [first_changed(old, inputs_of(stage)) for old, stage in zip(before, stages, strict=True)] == [
        "data.train",
        "predictions.ours",
    ]


def test_several_files_of_one_arm_are_what_each_of_them_holds(tmp_path: Path) -> None:
    files = [tmp_path / "0.jsonl", tmp_path / "1.jsonl"]
    for n, file in enumerate(files):
        file.write_text(str(n))
    settings = {"predictions": {"alone": [str(files[0])], "both": [str(file) for file in files]}}
    stage = Stage("g", "across_seeds", "", settings, tmp_path / "g")
    first = inputs_of(stage)
    assert set(named_paths(stage)) == {str(file) for file in files}
    files[1].write_text("other")
    second = inputs_of(stage)
    assert first.keys() == second.keys() == {"predictions.alone", "predictions.both"}
    assert first["predictions.alone"] == second["predictions.alone"] != second["predictions.both"] != first["predictions.both"]
    settings["predictions"]["both"].reverse()
    assert inputs_of(stage)["predictions.both"] not in (first["predictions.both"], second["predictions.both"])


def test_a_pattern_of_probes_is_what_all_of_them_hold(tmp_path: Path) -> None:
    def probe(name: str, text: str) -> None:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "metrics.json").write_text(text)

    stage = Stage("g", "attribute_guidance", "", {"probes": f"{tmp_path}/probe-{{arm}}-{{seed}}"}, tmp_path / "g")
    assert inputs_of(stage) == {"probes": None}
    probe("probe-ces-0", "one")
    probe("probe-base-0", "two")
    seen = [inputs_of(stage)["probes"]]
    # Which probe says what is part of it.
    probe("probe-ces-0", "two")
    probe("probe-base-0", "one")
    seen.append(inputs_of(stage)["probes"])
    probe("probe-base-1", "one")
    seen.append(inputs_of(stage)["probes"])
    probe("other-base-1", "one")
    assert inputs_of(stage)["probes"] == seen[-1]
    assert len({*seen, None}) == 4


def test_a_model_of_the_hub_may_be_downloaded_in_between() -> None:
    assert first_changed({"a": "hub Qwen/x"}, {"a": "hub Qwen/x 12"}) is None
    assert first_changed({"a": "hub Qwen/x 11"}, {"a": "hub Qwen/x 12"}) == "a"
    assert first_changed({"a": "hub Qwen/x"}, {"a": "hub Qwen/xy"}) == "a"


def test_files_are_read_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by the next process: the run's folder remembers models, and the index beside a tar what is in it."""
    monkeypatch.setattr(fingerprints, "_SETTLED", -(10**18))
    stage.out.mkdir(parents=True)
    before = inputs_of(stage)
    assert (stage.out.parent / CONTENT_SUFFIX).is_file()
    fresh = HashMemory()
    fresh.keep_in(stage.out.parent / CONTENT_SUFFIX)

    def read(*_: object) -> str:
        raise AssertionError

    assert fresh.of("base/model.safetensors", "sha256", read)
    other_weights()
    with pytest.raises(AssertionError):
        fresh.of("base/model.safetensors", "sha256", read)
    with monkeypatch.context() as patch:
        patch.setattr(shard_indices, "build_index", read)
        assert data_hash("train.tar") == before["data.train"]
        relabelled()
        with pytest.raises(AssertionError):
            data_hash("train.tar")
    assert first_changed(before, inputs_of(stage)) == "data.train"


@pytest.mark.parametrize("text", ["", "[]", '{"tar x": [1, 2]}', '{"tar x": "y"}'])
def test_a_damaged_memory_is_none(text: str, tmp_path: Path, stage: Stage) -> None:
    expected = data_hash("train.tar")
    (tmp_path / CONTENT_SUFFIX).write_text(text)
    memory = HashMemory()
    memory.keep_in(tmp_path / CONTENT_SUFFIX)
    assert memory.of("train.tar", "tar", lambda: "read") == "read"
    assert data_hash(["train.tar"]) == expected


NO_INPUTS = {
    "about",
    "objectives",
    "questions",
    "remarks",
    "targets",
    "changes",
    "features",
    "fit",
    "base",
    "in_domain",
    "against",
}
NO_INPUTS |= {"split", "file", "out", "device", "metric", "objective", "arm", "fields"}
"""Texts that name no file."""


def signature(function: Callable[..., object], before: str = "") -> dict[str, str]:
    names = inspect.signature(function).parameters.values()
    return {before + p.name: str(p.annotation) for p in names if p.name not in ("self", *NO_INPUTS)}


@pytest.mark.parametrize("name", STAGE_KINDS)
def test_every_argument_that_may_name_a_file_says_so(name: str) -> None:
    """One that is forgotten would be compared by its path alone."""
    kind = STAGE_KINDS[name]
    if isinstance(kind, FunctionKind):
        arguments = signature(kind.function())
    else:
        task: Any = kind.task_class()
        assert issubclass(task, LightningModule)
        arguments = signature(task.__init__, "model.") | signature(kind.data_class().__init__, "data.")
    names = {key for key, kind_of in arguments.items() if any(word in kind_of for word in ("str", "Path", "TestSet"))}
    names -= {key for key, kind_of in arguments.items() if kind_of.startswith(("dict[str, float]", "Literal"))}
    names -= {"labels", "sets.space", "bases"}
    declared = {key.split(".*")[0] for key in kind.reads}
    declared |= {"model.backbone" for key in declared if key == "model.backbone.path"}
    assert names <= declared
    # A setting of a group is named below its group.
    assert {key for key in declared if key != "model.backbone.path"} <= {
        key for key in declared if any(key == name or key.startswith(f"{name}.") for name in arguments)
    }
