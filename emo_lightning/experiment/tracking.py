"""Stages in Weights & Biases: one run each, with its settings, its curves and its metrics, finished on every way out.

The command holds W&B's own process, and its stages hand their records to it. What a stage had logged when it was killed is therefore
kept, and its run is closed as failed when the command ends.
"""

from __future__ import annotations

import importlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.endings import ENDING, exit_code
from emo_lightning.core.files import write_text
from emo_lightning.core.terminal import say
from emo_lightning.core.wandb_defaults import wandb_project
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.resolve import Experiment
from emo_lightning.experiment.sent_rows import SentRows, read_rows, rows_held
from emo_lightning.experiment.stage import Stage
from emo_lightning.experiment.stage_metrics import stage_metrics, usable
from emo_lightning.experiment.tracked import MAX_TAG_CHARACTERS, TrackedRun, Tracking

if TYPE_CHECKING:
    from lightning.pytorch import Trainer
    from wandb import Run

_ID_FILE = "run_id"
_FLUSH_SECONDS = 0.5
"""From one write of W&B's own process to the next: what it has not written yet ends with it, where the command is killed. Its own are 15."""
_PROCESS_ERRORS = {
    "HandleAbandonedError",
    "MailboxClosedError",
    "ServicePollForTokenError",
    "WandbAttachFailedError",
    "WandbServiceConnectionError",
}
"""Of W&B's client, which are not among its public ones: its own process does not answer."""
_DELETED = "previously created and deleted"
"""In what W&B's server says of the id of a run that somebody has deleted: it is never given again."""
_ON_OTHER_RANKS = "EMO_STAGE_TRACKED"
"""Set for the ranks that Lightning starts: all of them must have the same loggers, though only the first one logs."""


def tracked_run(stage: Stage, group: str, tracking: Tracking, arms: Mapping[str, str]) -> TrackedRun:
    """What to tell W&B of a stage; the id of its run is made once and kept in its folder.

    Args:
        stage: resolved.
        group: name of the experiment's run.
        tracking: the experiment's.
        arms: name of an arm -> where its backbone stands; the stage that makes it has the arm's tag.
    """
    config = {"kind": stage.kind, "stage": stage.name, **flattened(stage.config)}
    return TrackedRun(_kept_id(stage.out), f"{group}/{stage.name}", group, _tags(stage, tracking, arms), tracking, config)


def _kept_id(out: Path) -> str:
    """The id of a stage's run. One that was moved takes it along; a copy, beside which the first one still stands, has a run of its own."""
    name, place = _read_id(out)
    if name is None:
        return _new_id(out)
    if place is not None and not _is_same(place, out) and _read_id(place)[0] == name:
        say(f"note: {out} is a copy of {place}: W&B is told of it in a run of its own", file=sys.stderr)
        return _new_id(out)
    _write_id(out, name)
    return name


def _read_id(out: Path) -> tuple[str | None, Path | None]:
    """The id of a stage's run, and the folder for which it was made; earlier versions did not say that."""
    try:
        lines = (out / "wandb" / _ID_FILE).read_text(encoding="utf-8").split("\n")
    except OSError:
        return None, None
    return lines[0].strip() or None, Path(lines[1]) if len(lines) > 1 and lines[1] else None


def _write_id(out: Path, name: str) -> None:
    said = (name, out.resolve())
    if _read_id(out) != said:
        write_text(out / "wandb" / _ID_FILE, "".join(f"{one}\n" for one in said))


def _new_id(out: Path) -> str:
    made = secrets.token_hex(4)
    _write_id(out, made)
    return made


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _tags(stage: Stage, tracking: Tracking, arms: Mapping[str, str]) -> tuple[str, ...]:
    arm = stage.each.get("arm") or next((name for name, place in arms.items() if Path(place).is_relative_to(stage.out)), None)
    seed = stage.config.get("seed_everything", stage.config.get("seed"))
    found = {
        **{key: value for key, value in stage.each.items() if key not in ("arm", "seed")},
        "arm": arm,
        "seed": stage.each.get("seed", seed),
    }
    own = [f"{key}:{value}"[:MAX_TAG_CHARACTERS] for key, value in found.items() if value is not None]
    return tuple(dict.fromkeys([*own, *tracking.tags]))


def flattened(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Dotted key -> value; lists, and mappings that hold nothing, are values."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flattened(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@contextmanager
def tracking_stages(experiment: Experiment, rank: int) -> Iterator[Callable[[Stage], Stage]]:
    """W&B's process, for the stages that are started meanwhile.

    It is this command's child and not a stage's, so that a stage may be killed and its records are still written.

    Args:
        experiment: whose stages they are.
        rank: of this process; the first one logs.

    Yields:
        Adds to a stage what W&B is told of it; as it is where nothing is logged.
    """
    tracking = experiment.tracking
    mode = tracking.chosen_mode
    if mode == "disabled":
        yield lambda stage: stage
        return
    # Of a process that may be gone, or that ends below with our own: it is not set again.
    os.environ.pop("WANDB_SERVICE", None)
    # The mode for W&B's client as well, which takes other words in its variable than we do, and no empty one.
    silent = os.environ.get("WANDB_SILENT", "true")
    with _variables({_ON_OTHER_RANKS: "1", "WANDB_SILENT": silent, "WANDB_MODE": mode}):
        if rank != 0:
            yield lambda stage: stage
            return
        import wandb

        # Every run imports it where it begins: more than a second, which the stages pay together.
        with suppress(ImportError):
            importlib.import_module("wandb.sdk.launch")
        wandb.setup(wandb.Settings(mode=mode, silent=True))
        try:
            yield lambda stage: replace(stage, tracked=tracked_run(stage, experiment.name, tracking, experiment.arms))
        finally:
            # Closes what a stage has left open, which is then a failed run.
            with _without_its_process("what the last stages logged may not be whole there"):
                wandb.teardown(exit_code=1)


@contextmanager
def _variables(values: Mapping[str, str]) -> Iterator[None]:
    """Variables of the environment, for the processes started meanwhile."""
    before = {name: os.environ.pop(name, None) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def tracking_of(stage: Stage) -> Iterator[None]:
    """The stage's run, while it is computed: begun with its settings, ended with its metrics and how it went.

    Where W&B's own process is gone, which the stage does not need, it is said once, and the stage goes on without.

    Raises:
        wandb.errors.Error: its server does not answer, or refuses the account.
    """
    run = None
    if stage.tracked is not None:
        with _without_its_process(f"the stage {stage.name!r} is not logged there"):
            run = _begun(stage, stage.tracked)
        if run is None:
            # No logger of a Trainer's looks for it either.
            for name in (_ON_OTHER_RANKS, "WANDB_SERVICE"):
                os.environ.pop(name, None)
    if run is None:
        yield
        return
    code = 1
    try:
        yield
        code = 0
    except (KeyboardInterrupt, SystemExit):
        asked = ENDING.asked or ENDING.agreed
        code = 130 if asked is None else exit_code(asked)
        raise
    finally:
        with _without_its_process(f"what the stage {stage.name!r} logged may not be whole there"):
            # A stage that failed may have left half of them.
            if code == 0:
                run.summary.update(_metrics(stage))
            file = _own_file(run)
            run.finish(exit_code=code)
            if file is not None:
                say_unless_whole(file, stage.name)


def _own_file(run: Run) -> Path | None:
    """What W&B's process writes of a run that is kept on disk."""
    return Path(run.dir).parent / f"run-{run.id}.wandb" if run.offline else None


def say_unless_whole(file: Path, name: str) -> None:
    """Say of a file of W&B's that it has no end: its process goes on where the disk is full.

    Args:
        file: of a run that has been finished.
        name: of its stage.
    """
    try:
        _, ended = read_rows(file)
    except OSError:
        ended = False
    if not ended:
        say(
            f"note: {file} has no end (the disk may be full): what the stage {name!r} logged is not whole there",
            file=sys.stderr,
        )


def _metrics(stage: Stage) -> dict[str, float]:
    """Those that runs can be ordered by. A stage that is done is done, whether or not they can be read."""
    try:
        return {key: value for key, value in stage_metrics(stage.out).items() if usable(value)}
    except (ValueError, OSError) as error:
        say(f"note: W&B is told no metrics of the stage {stage.name!r}: {error}", file=sys.stderr)
        return {}


def _begun(stage: Stage, about: TrackedRun) -> Run:
    import wandb

    try:
        run = _asked_for(stage, about)
    except wandb.errors.Error as error:
        if _DELETED not in str(error):
            if type(error) is not wandb.errors.Error:
                # Its class says what is wrong.
                raise
            msg = f"W&B takes no run {about.id} for the stage {stage.name!r}: {error}; WANDB_MODE=offline keeps it on disk"
            raise ExperimentError(msg) from error
        name = _new_id(stage.out)
        say(
            f"note: the run {about.id} of the stage {stage.name!r} was deleted from W&B; it is told of it in the new run {name}",
            file=sys.stderr,
        )
        run = _asked_for(stage, replace(about, id=name))
    _outlive_its_process(run, stage)
    return run


def _asked_for(stage: Stage, about: TrackedRun) -> Run:
    import wandb

    tracking = about.tracking
    return wandb.init(
        id=about.id,
        resume="allow",
        dir=stage.out,
        name=about.name,
        group=about.group,
        job_type=stage.kind,
        tags=about.tags,
        config=about.config,
        allow_val_change=True,
        mode=tracking.chosen_mode,
        project=wandb_project(tracking.project),
        entity=tracking.entity,
        # The rest is in the environment of every stage (`processes.run_stage`).
        settings=wandb.Settings(console="off", x_transaction_log_flush_interval=_FLUSH_SECONDS),
    )


def _outlive_its_process(run: Run, stage: Stage) -> None:
    """Have records be lost, and no training, where W&B's process ends in its midst."""
    from wandb.sdk.interface.interface_sock import InterfaceSock

    interface = run._interface
    if not isinstance(interface, InterfaceSock):
        return
    publish = interface._publish
    lost = False

    def published(record: object, *, nowait: bool = False) -> None:
        nonlocal lost
        if lost:
            return
        try:
            publish(record, nowait=nowait)
        except Exception as error:
            if not is_process_lost(error):
                raise
            lost = True
            _say_gone(f"what the stage {stage.name!r} logs from now on is lost there")

    interface._publish = published  # type: ignore[method-assign]


def is_process_lost(error: BaseException) -> bool:
    """Whether an error of the client's says that W&B's own process is gone, and not that its server does not answer."""
    named = type(error).__module__.startswith("wandb.") and type(error).__name__ in _PROCESS_ERRORS
    return named or isinstance(error, ConnectionError)


@contextmanager
def _without_its_process(so: str) -> Iterator[None]:
    """Say that W&B's process is gone, and what follows, in place of the error; where the process is killed, its status is none of ours."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if not (isinstance(error, SystemExit) or is_process_lost(error)):
            raise
        _say_gone(so)


def _say_gone(so: str) -> None:
    say(f"note: W&B's own process is gone; {so}", file=sys.stderr)


def log_curves(trainer: Trainer, stage: Stage) -> SentRows | None:
    """Have a Trainer log to the stage's run, beside what it logs to; one that logs nothing stays so.

    Returns:
        Counts what is logged there; None where nothing is.
    """
    if not os.environ.get(_ON_OTHER_RANKS) or not trainer.loggers:
        return None
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    sent = None
    if wandb.run is not None:
        # As the logger does it for a run that it has begun itself.
        wandb.run.define_metric("trainer/global_step")
        wandb.run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        # The server knows what has reached it; offline only the files do.
        held = rows_held(stage.out / "wandb", wandb.run.id) if wandb.run.offline else wandb.run.starting_step
        sent = SentRows(wandb.run, held)
    if not any(isinstance(logger, WandbLogger) for logger in trainer.loggers):
        trainer.loggers = [*trainer.loggers, WandbLogger(experiment=wandb.run)]
    return sent
