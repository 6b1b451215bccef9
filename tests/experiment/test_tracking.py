"""W&B holds every stage of an experiment, whole: settings, curves, figures and how it ended, in one run through kills."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from emo_lightning.cli import main
from emo_lightning.core.endings import StoppedError
from emo_lightning.experiment import tracking
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.experiment.stage import Stage
from emo_lightning.experiment.tracked import TrackedRun, Tracking
from emo_lightning.experiment.tracking import flattened, say_unless_whole, tracked_run, tracking_stages
from tests.analysis.test_table6 import probe
from tests.forked import Forked
from tests.patience import gone, wait_until
from tests.report.test_wandb import written
from tests.wandb_server import WandbServer, wandb_server

STAGES = """\
name: two
wandb: {project: mine, tags: [pilot]}
vars:
  seed: 3
  arms: {ours: "${run.stages.model}/model"}
stages:
  draw-{split}:
    run: world_tars
    foreach: {split: [train]}
    split: ${each.split}
    count: 2
    seed: ${vars.seed}
  model: {run: tiny_clip, tars: ["${run.stages.draw-train}"], seed: "${vars.seed}"}
"""


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An experiment of two quick stages, and a client without a file of its own in the user's folder."""
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-data"))
    monkeypatch.delenv("WANDB_MODE")
    path = tmp_path / "two.yaml"
    path.write_text(STAGES)
    return path


@pytest.fixture
def online(two: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WandbServer]:
    """W&B's client speaks to a server in this process."""
    with wandb_server() as server:
        for name, value in {"MODE": "online", "API_KEY": "0" * 40, "BASE_URL": server.url}.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        yield server


def run(path: Path, *words: str) -> int:
    """The exit code of `emo run`."""
    return main(["run", str(path), "--runs", str(path.parent / "runs"), *words])


def is_free(folder: Path) -> bool:
    """Whether no process of a run holds its folder."""
    with open(folder / ".lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def offline_runs(stage: Path) -> list[Path]:
    """Folders of a stage's run, one for each time that it was begun."""
    return sorted(stage.glob("wandb/offline-run-*"))


def settings(folder: Path) -> dict[str, Any]:
    """Of a run on disk, with name, group, job type, project and tags of W&B itself."""
    begun = written(folder, "run")[0]
    own = {name: getattr(begun, name) for name in ("run_id", "display_name", "run_group", "job_type", "project")}
    config = {item.key: json.loads(item.value_json) for item in begun.config.update}
    return {**config, **own, "tags": list(begun.tags)}


def summary(folder: Path) -> dict[str, Any]:
    """Of a run on disk: the last value of each key."""
    found: dict[str, Any] = {}
    for record in written(folder, "summary"):
        found |= {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.update}
    return found


def losses(folder: Path, *, ended: bool = True) -> list[float]:
    """In the history of a run on disk."""
    rows = written(folder, "history", ended=ended)
    return [json.loads(item.value_json) for row in rows for item in row.item if "loss" in (item.key, *item.nested_key)]


def exit_codes(stage: Path) -> list[int]:
    """One for each time that the stage was begun."""
    return [written(folder, "exit")[0].exit_code for folder in offline_runs(stage)]


def test_each_stage_is_a_run_with_its_settings_and_its_end(two: Path) -> None:
    assert run(two) == 0
    runs = two.parent / "runs/two"
    (draw,) = offline_runs(runs / "draw-train")
    (model,) = offline_runs(runs / "model")
    drawn, made = settings(draw), settings(model)
    assert drawn["run_group"] == made["run_group"] == "two"
    assert (drawn["job_type"], made["job_type"]) == ("world_tars", "tiny_clip")
    assert (drawn["display_name"], drawn["project"]) == ("two/draw-train", "mine")
    assert set(drawn["tags"]) == {"split:train", "seed:3", "pilot"}
    assert set(made["tags"]) == {"arm:ours", "seed:3", "pilot"}
    assert (drawn["kind"], drawn["stage"], drawn["count"], drawn["split"], drawn["seed"]) == (
        "world_tars",
        "draw-train",
        2,
        "train",
        3,
    )
    assert made["tars"] == [str(runs / "draw-train")]
    assert exit_codes(runs / "draw-train") == exit_codes(runs / "model") == [0]
    # What is complete is not begun again.
    assert run(two) == 0
    assert len(offline_runs(runs / "model")) == 1


def test_a_killed_stage_leaves_all_that_it_logged_and_goes_on_in_the_same_run(
    two: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from emo_lightning.stages import tiny_models

    real = tiny_models.tiny_clip_stage

    def killed(out: Path, tars: list[str], seed: int = 0) -> None:
        import wandb

        assert wandb.run is not None
        for step in range(5):
            wandb.run.log({"loss": 1.0 / (step + 1)})
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(tiny_models, "tiny_clip_stage", killed)
    assert run(two) == 2
    stage = two.parent / "runs/two/model"
    (first,) = offline_runs(stage)
    assert losses(first) == [1.0 / (step + 1) for step in range(5)]
    monkeypatch.setattr(tiny_models, "tiny_clip_stage", real)
    assert run(two) == 0
    assert exit_codes(stage) == [1, 0]
    assert len({settings(folder)["run_id"] for folder in offline_runs(stage)}) == 1


@pytest.mark.parametrize("together", [True, False], ids=["together", "apart"])
def test_what_was_kept_of_two_starts_is_sent_later_as_one_run(
    two: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """By one `wandb sync` of both files, or by one before the stage goes on and one after it."""
    from emo_lightning.stages import tiny_models

    real = tiny_models.tiny_clip_stage

    def logs(steps: range) -> None:
        import wandb

        assert wandb.run is not None
        for step in steps:
            wandb.run.log({"loss": 1.0 / (step + 1)}, step=step)

    def killed(out: Path, tars: list[str], seed: int = 0) -> None:
        logs(range(5))
        os.kill(os.getpid(), signal.SIGKILL)

    def rest(out: Path, tars: list[str], seed: int = 0) -> None:
        logs(range(5, 8))
        real(out, tars, seed)

    def sync(folders: list[Path], url: str) -> None:
        environment = {**os.environ, "WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": url}
        command = [sys.executable, "-m", "wandb", "sync", *map(str, folders)]
        subprocess.run(command, env=environment, cwd=two.parent, check=True, capture_output=True)

    stage = two.parent / "runs/two/model"
    with wandb_server() as server:
        monkeypatch.setattr(tiny_models, "tiny_clip_stage", killed)
        assert run(two) == 2
        (first,) = offline_runs(stage)
        if not together:
            sync([first], server.url)
        monkeypatch.setattr(tiny_models, "tiny_clip_stage", rest)
        assert run(two) == 0
        _, second = offline_runs(stage)
        sync([first, second] if together else [second], server.url)
        (kept,) = server.runs.values()
    assert [(row["_step"], row["loss"]) for _, row in sorted(kept.history.items()) if "loss" in row] == [
        (step, pytest.approx(1.0 / (step + 1))) for step in range(8)
    ]
    assert kept.exit_codes[-1] == 0
    assert kept.summary["loss"] == pytest.approx(0.125)


@pytest.mark.parametrize("group", [False, True], ids=["command", "group"])
def test_a_killed_command_leaves_all_that_its_stage_logged_and_goes_on_in_the_same_run(
    two: Path, monkeypatch: pytest.MonkeyPatch, group: bool
) -> None:
    """Alone, or with all of its group."""
    from emo_lightning.stages import tiny_models

    def killing(out: Path, tars: list[str], seed: int = 0) -> None:
        import wandb

        assert wandb.run is not None
        for step in range(5):
            wandb.run.log({"loss": 1.0 / (step + 1)})
        # W&B's own process writes twice a second.
        (offline,) = offline_runs(out)
        wait_until(lambda: len(losses(offline, ended=False)) == 5)
        command = os.getppid()
        if group:
            os.killpg(os.getpgid(command), signal.SIGKILL)
        else:
            os.kill(command, signal.SIGKILL)
        signal.pause()

    with monkeypatch.context() as patched:
        patched.setattr(tiny_models, "tiny_clip_stage", killing)
        words = ["run", str(two), "--runs", str(two.parent / "runs")]
        command = Forked(words, os.environ, two.parent / "output.txt", session=True)
        wait_until(lambda: command.poll() is not None)
    assert command.returncode == -signal.SIGKILL
    stage = two.parent / "runs/two/model"
    (first,) = offline_runs(stage)
    # The stage ends a moment after its command.
    wait_until(lambda: is_free(stage.parent))
    assert run(two) == 0
    _, second = offline_runs(stage)
    assert losses(first, ended=False) == [1.0 / (step + 1) for step in range(5)]
    assert written(second, "exit")[0].exit_code == 0
    assert settings(second)["run_id"] == written(first, "run", ended=False)[0].run_id


def test_a_service_that_is_gone_is_never_named_again(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows in this process would look for it, and fail."""
    monkeypatch.setenv("WANDB_SERVICE", "3-1-unix-/gone/socket")
    with tracking_stages(load_experiment(two), 0):
        assert "/gone/" not in os.environ["WANDB_SERVICE"]
    assert "WANDB_SERVICE" not in os.environ


def test_figures_are_the_summary(two: Path, tmp_path: Path) -> None:
    """Scalars by which a sweep's runs are sorted."""
    ours = probe(tmp_path / "probe", 61.5, "test")
    two.write_text(f"name: t\nstages:\n  t6: {{run: table6, probes: {{ours: [{ours}]}}}}\n", encoding="utf-8")
    assert run(two) == 0
    (folder,) = offline_runs(tmp_path / "runs/t/t6")
    assert summary(folder)["arms/ours/test/f1/mean"] == 61.5


def test_a_server_is_sent_all_of_it(online: WandbServer, two: Path) -> None:
    assert run(two) == 0
    assert {kept.last("displayName") for kept in online.runs.values()} == {"two/draw-train", "two/model"}
    kept = next(kept for kept in online.runs.values() if kept.last("jobType") == "world_tars")
    assert (kept.last("groupName"), kept.config["count"], kept.exit_codes) == ("two", 2, [0])
    assert set(kept.last("tags")) == {"split:train", "seed:3", "pilot"}


def test_a_run_that_was_deleted_there_is_another_one(online: WandbServer, two: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its id is never given again."""
    assert run(two) == 0
    stage = two.parent / "runs/two/model"
    old = (stage / "wandb/run_id").read_text().split("\n")[0]
    online.deleted.add(old)
    status = stage / "stage.json"
    status.write_text(json.dumps({**json.loads(status.read_text()), "status": "failed"}))
    assert run(two) == 0
    new = (stage / "wandb/run_id").read_text().split("\n")[0]
    assert new != old
    assert (
        f"the run {old} of the stage 'model' was deleted from W&B; it is told of it in the new run {new}"
        in capfd.readouterr().err
    )
    assert online.runs[new].exit_codes == [0]
    assert online.runs[new].last("displayName") == "two/model"


def test_a_copy_has_a_run_of_its_own_and_what_was_moved_keeps_it(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = two.parent / "first"

    def name_of(out: Path) -> str:
        stage = Stage("s", "world_tars", "s", {"seed": 1}, out)
        return tracked_run(stage, "g", Tracking(), {}).id

    kept = name_of(first)
    assert name_of(first) == kept
    (two.parent / "link").symlink_to(first)
    assert name_of(two.parent / "link") == kept
    shutil.copytree(first, two.parent / "copy")
    other = name_of(two.parent / "copy")
    assert other != kept
    assert f"{two.parent / 'copy'} is a copy of {first}" in capsys.readouterr().err
    assert (name_of(two.parent / "copy"), name_of(first)) == (other, kept)
    first.rename(two.parent / "moved")
    assert name_of(two.parent / "moved") == kept
    # Of an earlier version, which kept the id alone.
    (two.parent / "moved/wandb/run_id").write_text("abcd1234\n")
    assert name_of(two.parent / "moved") == "abcd1234"
    (two.parent / "moved/wandb/run_id").write_text("")
    assert len(name_of(two.parent / "moved")) == 8


def test_a_file_without_an_end_is_said(two: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As the disk leaves it where it is full: W&B's own process goes on."""
    assert run(two) == 0
    (folder,) = offline_runs(two.parent / "runs/two/draw-train")
    (file,) = folder.glob("*.wandb")
    capsys.readouterr()
    say_unless_whole(file, "draw-train")
    assert not capsys.readouterr().err
    os.truncate(file, file.stat().st_size - 10)
    say_unless_whole(file, "draw-train")
    assert (
        f"{file} has no end (the disk may be full): what the stage 'draw-train' logged is not whole" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("variable", "stated"), [("", []), ("", ["--wandb.mode", "offline"]), ("OFFLINE", ["--wandb.mode", "offline"])]
)
def test_what_is_stated_stands_before_the_variable(
    two: Path, variable: str, stated: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B's client takes no such words in it."""
    monkeypatch.setenv("WANDB_MODE", variable)
    assert run(two, *stated) == 0
    assert exit_codes(two.parent / "runs/two/draw-train") == [0]


def test_ctrl_c_is_an_end_as_well(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from emo_lightning.stages import tiny_models

    def interrupted(out: Path, tars: list[str], seed: int = 0) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()

    monkeypatch.setattr(tiny_models, "tiny_clip_stage", interrupted)
    assert run(two) == 130
    assert exit_codes(two.parent / "runs/two/model") == [130]


def test_sigterm_is_an_end_as_well(two: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a training says it that was asked to stop, and has saved itself."""
    from emo_lightning.stages import tiny_models

    def stopped(out: Path, tars: list[str], seed: int = 0) -> None:
        with suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        raise StoppedError(signal.SIGTERM, 3)

    monkeypatch.setattr(tiny_models, "tiny_clip_stage", stopped)
    assert run(two) == 143
    assert exit_codes(two.parent / "runs/two/model") == [143]


def kill_wandb(command: int) -> None:
    """Kill the process of W&B that belongs to a command, and wait until it is gone."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            name, _, rest = stat.read_text().partition("(")[2].rpartition(")")
            pid = int(stat.parent.name)
            # That of an earlier test may not have been waited for.
            if int(rest.split()[1]) == command and name.startswith("wandb-core") and not gone(pid):
                os.kill(pid, signal.SIGKILL)
                wait_until(partial(gone, pid))
                return
    raise AssertionError


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds W&B's process in /proc")
def test_stages_do_without_a_process_of_wandbs_that_is_gone(
    two: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Before a stage begins."""
    true = tracking.tracked_run

    def killed(stage: Stage, group: str, given: Tracking, arms: Mapping[str, str]) -> TrackedRun:
        if stage.name == "draw-train":
            kill_wandb(os.getpid())
        return true(stage, group, given, arms)

    monkeypatch.setattr(tracking, "tracked_run", killed)
    assert run(two) == 0
    error = capfd.readouterr().err
    assert "Traceback" not in error
    for name in ("draw-train", "model"):
        assert error.count(f"note: W&B's own process is gone; the stage {name!r} is not logged there") == 1
    assert (two.parent / "runs/two/model/model").is_dir()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds W&B's process in /proc")
def test_a_stage_outlives_the_process_of_wandb(
    two: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """In its midst: what it logs is lost, and nothing else."""
    from emo_lightning.stages import tiny_models

    real = tiny_models.tiny_clip_stage

    def logging(out: Path, tars: list[str], seed: int = 0) -> None:
        import wandb

        assert wandb.run is not None
        wandb.run.log({"loss": 1.0})
        kill_wandb(os.getppid())
        for step in range(20):
            wandb.run.log({"loss": 1.0 / (step + 2)})
            wandb.run.config.update({f"a{step}": 1})
        real(out, tars, seed)

    monkeypatch.setattr(tiny_models, "tiny_clip_stage", logging)
    assert run(two) == 0
    error = capfd.readouterr().err
    assert "Traceback" not in error
    assert error.count("what the stage 'model' logs from now on is lost there") == 1
    assert read_status_of(two, "model") == "complete"


def read_status_of(two: Path, name: str) -> object:
    """What the runner noted of a stage."""
    return json.loads((two.parent / "runs/two" / name / "stage.json").read_text())["status"]


def test_a_stage_is_complete_whatever_its_log_holds(
    two: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A full disk has cut a number; nothing of W&B's may fail a stage for that, and its run is finished."""
    from emo_lightning.stages import tiny_models

    real = tiny_models.tiny_clip_stage

    def cut(out: Path, tars: list[str], seed: int = 0) -> None:
        (out / "logs/version_0").mkdir(parents=True)
        (out / "logs/version_0/metrics.csv").write_text("step,loss\n1,0.5\n2,1.2e")
        real(out, tars, seed)

    monkeypatch.setattr(tiny_models, "tiny_clip_stage", cut)
    assert run(two) == 0
    assert "note: W&B is told no metrics of the stage 'model': " in capfd.readouterr().err
    assert read_status_of(two, "model") == "complete"
    assert exit_codes(two.parent / "runs/two/model") == [0]


def test_a_result_that_is_cut_off_is_no_success(
    two: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from emo_lightning.stages import tiny_models

    real = tiny_models.tiny_clip_stage

    def cut(out: Path, tars: list[str], seed: int = 0) -> None:
        real(out, tars, seed)
        (out / "found.json").write_text('{"accuracy": 0.')

    monkeypatch.setattr(tiny_models, "tiny_clip_stage", cut)
    assert run(two) == 2
    assert "found.json: a result that is no whole JSON" in capfd.readouterr().err
    assert read_status_of(two, "model") == "failed"
    assert exit_codes(two.parent / "runs/two/model") == [1]


def test_inputs_that_have_changed_are_no_success(
    two: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from emo_lightning.stages import tiny_models

    real = tiny_models.tiny_clip_stage

    def meddled(out: Path, tars: list[str], seed: int = 0) -> None:
        real(out, tars, seed)
        with tarfile.open(next(Path(tars[0]).glob("*.tar")), "a") as tar:
            tar.add(two, "one-more.txt")

    monkeypatch.setattr(tiny_models, "tiny_clip_stage", meddled)
    assert run(two) == 2
    error = capfd.readouterr().err
    assert error.count("stage 'model': what tars names was changed while it ran") == 1
    assert "exit code" not in error
    assert read_status_of(two, "model") == "failed"
    assert exit_codes(two.parent / "runs/two/model") == [1]


def test_nothing_is_logged_where_it_is_disabled(two: Path) -> None:
    assert run(two, "--wandb.mode", "disabled") == 0
    assert not list(two.parent.glob("runs/two/*/wandb"))


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("[a]", r"x.yaml: wandb: found \['a'\]; expected a mapping with mode, project, entity, tags"),
        ("{projekt: a}", "x.yaml: wandb.projekt: no such key; allowed: wandb.mode, wandb.project, wandb.entity, wandb.tags"),
        ("{mode: true}", "wandb.mode: found True; expected a word"),
        ("{mode: on}", "wandb.mode: found 'on'; allowed: online, offline, disabled"),
        ("{mode: maybe}", "wandb.mode: found 'maybe'; allowed: online, offline, disabled"),
        ("{tags: a}", "wandb.tags: found 'a'; expected a list of words, each of at most 64 characters"),
        (f"{{tags: [{'a' * 65}]}}", "expected a list of words, each of at most 64 characters"),
    ],
)
def test_wrong_settings_are_refused_by_name(tmp_path: Path, given: str, found: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"wandb: {given}\n{STAGES.split(chr(10), 2)[2]}")
    with pytest.raises(ExperimentError, match=found):
        load_experiment(path)


def test_the_command_line_has_the_last_word(two: Path) -> None:
    found = load_experiment(two, [("wandb.project", "theirs"), ("wandb.tags", "[x]")]).tracking
    assert (found.project, found.tags) == ("theirs", ("x",))
    with pytest.raises(ExperimentError, match=r"wandb\.team: no such key"):
        load_experiment(two, [("wandb.team", "a")])


def test_settings_are_flat() -> None:
    assert flattened({"a": {"b": {"c": 1}, "d": []}, "e": {}, "f": None}) == {"a.b.c": 1, "a.d": [], "e": {}, "f": None}


def test_an_arm_names_the_stages_that_make_and_use_it(tmp_path: Path) -> None:
    experiment = load_experiment("experiments/demo.yaml", runs=tmp_path)
    stages = {stage.name: stage for stage in experiment.stages}

    def tags(name: str) -> set[str]:
        return set(tracked_run(stages[name], "demo", experiment.tracking, experiment.arms).tags)

    assert tags("round2") == {"arm:attribute", "seed:0"}
    assert tags("ces") == {"arm:ces", "seed:0"}
    assert tags("predict-base") == {"arm:base"}
    assert tags("report") == set()
