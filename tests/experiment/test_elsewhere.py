"""What a stage writes outside of its folder (`model.out`) is looked at, noted and compared as what it writes in it; and no URL is such a folder."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from emo_lightning.cli import main
from emo_lightning.core.errors import InputError
from emo_lightning.experiment.arguments import argument_keys, problems
from emo_lightning.experiment.elsewhere import BESIDE_FILE, note_beside, written_elsewhere
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.identity import inputs_of
from emo_lightning.experiment.kinds import STAGE_KINDS, TrainerKind
from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.experiment.results import check_results, check_sources, lost_results, remade, results_of
from emo_lightning.experiment.stage import Stage
from emo_lightning.experiment.status import is_complete, read_status, write_config, write_status
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.tasks.des import DESTask
from emo_lightning.tasks.features import FeatureTask
from emo_lightning.tasks.predict import PredictTask
from emo_lightning.tasks.probe import ProbeTask

PATHS = ["train/index-000.json", "train/part-000.safetensors", "val/part-000.safetensors"]


def features(run: Path, out: str) -> Stage:
    """A stage whose caches go to a folder."""
    sets = {name: [f"{name}.tar"] for name in ("train", "val")}
    config = {"model": {"backbone": {"path": "Qwen/x"}, "out": out}, "data": {"sets": sets, "objectives": ["emotion"]}}
    return Stage("features", "features", "", config, run / "features")


def done(stage: Stage) -> None:
    """Leave the stage behind as a run does."""
    stage.out.mkdir(parents=True, exist_ok=True)
    write_config(stage)
    results = results_of(stage)
    note_beside(stage, results.elsewhere)
    write_status(stage, "complete", 0.0, inputs_of(stage), results=results)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Two caches, and what is another's."""
    folder = tmp_path / "cache"
    for path in (*PATHS, "other/part-000.safetensors"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(f'"{path}"')
    return folder


@pytest.fixture
def made(cache: Path, tmp_path: Path) -> Stage:
    """A finished stage."""
    stage = features(tmp_path / "runs/a", str(cache))
    done(stage)
    return stage


def des(run: Path, train: Path) -> Stage:
    """A stage that reads a cache."""
    return Stage("des", "des", "", {"model": {}, "data": {"train": str(train), "val": str(train)}}, run / "des")


def test_what_is_written_elsewhere_is_noted_and_nothing_of_others(made: Stage, cache: Path) -> None:
    noted = read_status(made)
    assert list(noted["results_elsewhere"]) == PATHS
    assert noted["results"] == {}
    assert len(set(noted["results_elsewhere"].values())) == 3
    assert is_complete(made)
    (cache / "other/part-000.safetensors").write_text("changed")
    (cache / "notes.txt").write_text("mine")
    assert is_complete(made)
    assert lost_results(made, noted) == []


def notes_one_of(cache: Path, name: str) -> None:
    """A run whose one cache of the folder is `name`; many times, as runs begin and end."""
    config = {"model": {"backbone": {"path": "Qwen/x"}, "out": str(cache)}, "data": {"sets": {name: ["a.tar"]}}}
    stage = Stage("features", "features", "", config, cache.parent / name)
    for number in range(50):
        note_beside(stage, {})
        note_beside(stage, {f"{name}/part-000.safetensors": str(number)})


def test_runs_that_write_to_one_folder_at_once_lose_no_note(cache: Path) -> None:
    names = [f"set{number}" for number in range(4)]
    processes = [multiprocessing.get_context("fork").Process(target=notes_one_of, args=(cache, name)) for name in names]
    for one in processes:
        one.start()
    for one in processes:
        one.join()
    assert [one.exitcode for one in processes] == [0] * 4
    noted = json.loads((cache / BESIDE_FILE).read_text())
    assert {name: note["holds"] for name, note in noted.items()} == {f"{name}/part-000.safetensors": "49" for name in names}


def test_what_was_changed_elsewhere_is_refused_by_name(made: Stage, cache: Path) -> None:
    (cache / PATHS[1]).write_text("damaged")
    message = (
        rf"^{cache / PATHS[1]}: is not what the stage 'features' wrote: it was changed or damaged since; put it back, or delete it with "
        rf"{made.out} to make it anew$"
    )
    with pytest.raises(ExperimentError, match=message):
        is_complete(made)


@pytest.mark.parametrize("run", ["a", "another"])
def test_who_reads_what_lies_elsewhere_compares_it(made: Stage, cache: Path, tmp_path: Path, run: str) -> None:
    """Of the same run and of another, wherever the run that wrote it is now."""
    (tmp_path / "runs/a").rename(tmp_path / "runs/moved")
    reader = des(tmp_path / "runs" / run, cache / "train")
    check_sources(reader)
    # What it does not read is none of its business.
    (cache / PATHS[2]).write_text("damaged")
    check_sources(reader)
    (cache / PATHS[1]).write_text("damaged")
    with pytest.raises(
        ExperimentError, match=rf"^{cache / PATHS[1]}: is not what the stage 'features' wrote.*with that stage's folder"
    ):
        check_sources(reader)


def test_what_a_stage_is_at_work_on_is_not_compared(made: Stage, cache: Path, tmp_path: Path) -> None:
    other = features(tmp_path / "runs/b", str(cache))
    other.config["data"]["sets"] = {"other": ["other.tar"]}
    done(other)
    note_beside(made, {})
    assert set(json.loads((cache / BESIDE_FILE).read_text())) == {"other/part-000.safetensors"}
    (cache / PATHS[1]).write_text("half of it")
    check_sources(des(tmp_path / "runs/a", cache / "train"))
    (cache / "other/part-000.safetensors").write_text("damaged")
    with pytest.raises(ExperimentError, match="other/part-000"):
        check_sources(des(tmp_path / "runs/a", cache / "other"))


def test_what_is_gone_elsewhere_is_made_again_where_something_needs_it(made: Stage, cache: Path, tmp_path: Path) -> None:
    reader = des(tmp_path / "runs/a", cache / "train")
    shutil.rmtree(cache / "train")
    lost = {"features": lost_results(made, read_status(made))}
    assert lost == {"features": [cache / PATHS[0], cache / PATHS[1]]}
    assert remade([made], {"features"}, lost) == {"features"}
    assert remade([made, reader], {"features"}, lost) == {"features"}
    # Whoever reads it is done: a large cache may be deleted once it was used.
    assert remade([made, reader], {"features", "des"}, lost) == set()


@pytest.mark.parametrize("out", ["{run}/caches", "caches"], ids=["below the run", "relative"])
def test_a_run_may_be_moved_with_what_it_wrote_elsewhere(
    out: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder below the run, and one that is named from where the command is given."""
    for place in ("before", "after"):
        (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / "before")
    run = Path("runs/a")
    shutil.copytree(cache, out.format(run=run))
    done(features(run, out.format(run=run)))
    for path in list(Path().iterdir()):
        path.rename(tmp_path / "after" / path.name)
    monkeypatch.chdir(tmp_path / "after")
    run = Path("runs/a").rename("runs/b") if out.startswith("{run}") else run
    moved = features(run, out.format(run=run))
    assert is_complete(moved)
    assert lost_results(moved, read_status(moved)) == []
    changed = Path(out.format(run=run)) / PATHS[0]
    changed.write_text("damaged")
    with pytest.raises(ExperimentError, match=rf"^{changed}: is not what"):
        is_complete(moved)
    changed.unlink()
    assert lost_results(moved, read_status(moved)) == [changed]


def test_a_stage_that_noted_nothing_of_it_stays_complete(made: Stage, cache: Path, tmp_path: Path) -> None:
    noted = read_status(made)
    del noted["results_elsewhere"]
    (made.out / "stage.json").write_text(json.dumps(noted))
    (cache / BESIDE_FILE).unlink()
    (cache / PATHS[0]).write_text("changed")
    (cache / PATHS[1]).unlink()
    assert is_complete(made)
    assert lost_results(made, read_status(made)) == []
    check_sources(des(tmp_path / "runs/a", cache / "train"))


@pytest.mark.parametrize("name", ["metrics.json", "probe/model.safetensors"])
def test_what_is_cut_off_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    stage = Stage("probe", "probe", "", {"model": {"out": str(tmp_path / "o")}, "data": {}}, tmp_path / "a/probe")
    stage.out.mkdir(parents=True)
    (tmp_path / "o/probe").mkdir(parents=True)
    (tmp_path / "o/another.json").write_text("{")
    check_results(stage)
    (tmp_path / "o" / name).write_text('{"val/loss": 1')
    with pytest.raises(InputError, match=name):
        check_results(stage)


def test_what_lies_in_the_own_folder_is_not_elsewhere(tmp_path: Path) -> None:
    for out, elsewhere in (("", False), ("/caches", False), ("/logs", True), ("/../caches", True)):
        stage = features(tmp_path / "a", f"{tmp_path}/a/features{out}")
        assert bool(written_elsewhere(stage)) == elsewhere, out
    named = Stage("p", "predict", "", {"model": {"file": "../p.jsonl"}, "data": {}}, tmp_path / "a/p")
    assert written_elsewhere(named) == {"../p.jsonl": tmp_path / "a/p.jsonl", "../p.about.json": tmp_path / "a/p.about.json"}


# What may be a place


def test_every_kind_that_is_told_where_to_write_says_so() -> None:
    """Of functions: the runner gives them their folder, `out`."""
    for name, kind in STAGE_KINDS.items():
        named = {
            key
            for key in argument_keys(name)
            if key.rpartition(".")[2] in ("out", "out_dir", "output", "folder", "file", "run_dir")
        }
        own = {key for key in named if not key.startswith("trainer.")}
        assert own <= set(kind.places), name
        if isinstance(kind, TrainerKind):
            assert (kind.writes is not None) == ("model.out" in own), name


KEYS = [(name, key) for name, kind in STAGE_KINDS.items() for key in kind.places]


@pytest.mark.parametrize(("kind", "key"), KEYS, ids=lambda value: str(value))
@pytest.mark.parametrize("url", ["s3://bucket/cache", "file:///data/cache", "simplecache::gs://b/c"])
def test_a_url_is_no_place_to_write_to(kind: str, key: str, url: str, tmp_path: Path) -> None:
    tree: Any = {url: ["a.tar"]} if key == "data.sets" else url
    for part in reversed(key.split(".")):
        tree = {part: tree}
    (found,) = problems(Stage("one", kind, "", tree, tmp_path / "a/one"))
    assert found == f"{key}: found {url!r}; expected a path of this machine: what is written here goes to no URL"


@pytest.mark.parametrize(
    "task",
    [
        lambda out: FeatureTask(BackboneConfig("m"), out=out),
        lambda out: PredictTask(BackboneConfig("m"), out=out),
        lambda out: DESTask(out=out),
        lambda out: ProbeTask("head", out=out),
    ],
    ids=["features", "predict", "des", "probe"],
)
def test_nor_is_it_for_a_task_that_a_program_makes(task: Callable[[str], object]) -> None:
    with pytest.raises(InputError, match=r"^model\.out: found 's3://bucket/cache'; expected a path of this machine"):
        task("s3://bucket/cache")


@pytest.mark.parametrize("given", [{"runs": "s3://bucket"}, {"name": "s3://bucket/x"}], ids=["runs", "name"])
def test_nor_for_a_run(given: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text("name: one\nstages:\n  first: {run: world_tars, split: train, count: 2}\n")
    with pytest.raises(ExperimentError, match=r"s3://bucket.*: a run's folder cannot hold '://'"):
        load_experiment(path, **given)  # type: ignore[arg-type]


# The command


def test_a_run_whose_stages_write_elsewhere(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """All kinds that can: each file that they write there is noted, compared, and made again where it is gone."""
    far = tmp_path / "far"
    trainer = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    asked = {
        "data": {
            "sets": {name: [f"{world_tars}/*-{name}-*.tar"] for name in ("train", "val")},
            "objectives": ["emotion"],
            "limit": 8,
        },
        "trainer": trainer,
    }
    caches = {name: f"{far}/caches/{name}" for name in ("train", "val")}
    fit = trainer | {"max_epochs": 1, "num_sanity_val_steps": 0}
    backbone = {"path": str(tiny_qwen)}
    stages = {
        "predict": {"run": "predict", "model": {"backbone": backbone, "max_new_tokens": 4, "out": f"{far}/said"}, **asked},
        "features": {"run": "features", "model": {"backbone": backbone, "out": f"{far}/caches"}, **asked},
        "des": {
            "run": "des",
            "model": {"out": f"{far}/des", "va_weight": 0.1, "anchors": "ddes"},
            "data": dict(caches),
            "trainer": fit,
        },
        "probe": {
            "run": "probe",
            "model": {"des_head": f"{far}/des/head", "out": f"{far}/probed"},
            "data": {**caches, "test": caches["val"]},
            "trainer": fit,
        },
    }
    experiment, run = tmp_path / "far.yaml", tmp_path / "runs/far"
    experiment.write_text(yaml.safe_dump({"name": "far", "stages": stages}, sort_keys=False))

    def said(code: int, *more: str) -> str:
        assert main(["run", str(experiment), "--runs", str(tmp_path / "runs"), *more]) == code, capfd.readouterr().err
        found = capfd.readouterr()
        assert "Traceback" not in found.err
        return (found.out + found.err).replace("\n", " ")

    said(0)
    there = {"predict": "said", "features": "caches", "des": "des", "probe": "probed"}
    for stage, folder in there.items():
        noted = json.loads((run / stage / "stage.json").read_text())["results_elsewhere"]
        files = {path.relative_to(far / folder).as_posix() for path in (far / folder).rglob("*") if path.is_file()}
        assert set(noted) == files - {BESIDE_FILE}, stage
        assert noted
    assert "nothing left to do" in said(0)
    for stage, name in {
        "predict": "said/predictions.jsonl",
        "features": "caches/val",
        "des": "des/head/model.safetensors",
        "probe": "probed/metrics.json",
    }.items():
        path = far / name
        path = next(path.glob("part-*.safetensors")) if path.is_dir() else path
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert f"{path}: is not what the stage {stage!r} wrote" in said(2)
        path.write_bytes(whole)
    metrics = far / "probed/metrics.json"
    before = metrics.read_bytes()
    metrics.unlink()
    assert f"note: {metrics}: a result of the stage is gone; it runs again" in said(0)
    assert metrics.read_bytes() == before
    assert "nothing left to do" in said(0)
