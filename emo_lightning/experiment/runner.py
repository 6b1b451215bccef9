"""Runs the stages of an experiment in order, one process each, and skips those that are complete.

Under torchrun or SLURM every rank walks the same list; rank 0 writes what the run directory keeps of its stages.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

from emo_lightning.core.console import console
from emo_lightning.core.endings import InterruptedBySignal, exit_code
from emo_lightning.core.files import write_text
from emo_lightning.core.lifetimes import die_with_parent
from emo_lightning.core.ranks import Ranks, forget_job_variables
from emo_lightning.core.terminal import say
from emo_lightning.experiment.arguments import check
from emo_lightning.experiment.elsewhere import note_beside
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.found_checkpoints import set_damaged_aside
from emo_lightning.experiment.identity import InputHashes, first_changed, inputs_of
from emo_lightning.experiment.peers import PeerLostError, Peers
from emo_lightning.experiment.processes import (
    CUT_SHORT_EXIT,
    INPUTS_CHANGED_EXIT,
    StageFailedError,
    check_process_count,
    remove_temporary_folders,
    run_in_process,
    runs_on_one_rank,
)
from emo_lightning.experiment.resolve import Experiment, chosen_stages
from emo_lightning.experiment.results import check_sources, lost_results, remade, results_of
from emo_lightning.experiment.stage import Stage
from emo_lightning.experiment.status import (
    Status,
    changes_of,
    check_not_stale,
    checkpoints_of,
    is_complete,
    read_status,
    write_config,
    write_status,
)
from emo_lightning.experiment.tracking import tracking_stages


def run_experiment(experiment: Experiment, *, only: str | None = None, go_back: bool = False) -> None:
    """Run what is not complete, in order.

    Args:
        experiment: resolved.
        only: run just this stage.
        go_back: set damaged checkpoints aside, and go on from those before them.

    Raises:
        ExperimentError: a stage's arguments are wrong, or the folder holds another experiment; nothing has been run then.
        StageFailedError: names the stage; running the same command again goes on from there.
    """
    forget_job_variables()
    ranks = Ranks.from_environment()
    if ranks.world_size > 1 and "TORCHELASTIC_RUN_ID" in os.environ:
        # torchrun's agent ends its workers where it can; killed, it cannot.
        die_with_parent(signal.SIGTERM)
    peers = Peers(experiment.dir, ranks)
    # From here on: what this rank refuses ends the others, too.
    with peers.reporting(), ExitStack() as stack:
        chosen = chosen_stages(experiment, only)
        for stage in chosen:
            check(stage)
            if ranks.world_size == 1:
                check_process_count(stage)
        stack.enter_context(_locked(experiment.dir, ranks))
        done = {s.name for s in chosen if is_complete(s, look_inside=ranks.rank == 0)}
        # By the first rank's word: what a stage writes elsewhere may lie on a disk of its machine.
        again = set(json.loads(peers.said_by_first("again", lambda: json.dumps(sorted(_made_again(chosen, done))))))
        done -= again
        check_not_stale(chosen, done, again)
        if len(done) < len(chosen):
            # A page about a run that goes on is about an older run.
            done -= {s.name for s in chosen if s.kind == "report"}
        if go_back:
            for stage in chosen:
                if stage.name not in done and (kept := checkpoints_of(stage, inputs_of(stage))) is not None:
                    set_damaged_aside(kept)
        if ranks.rank == 0:
            write_text(experiment.dir / "experiment.yaml", experiment.as_yaml())
        # Nothing is logged of a run in which nothing is left to do.
        with (
            tracking_stages(experiment, ranks.rank) if len(done) < len(chosen) else nullcontext(lambda stage: stage) as tracked
        ):
            for number, stage in enumerate(chosen, 1):
                head = f"[bold]\\[{number}/{len(chosen)}] {stage.name}[/bold] — {stage.title}"
                if stage.name in done:
                    if ranks.rank == 0:
                        console.print(f"{head} [dim](complete, skipped)[/dim]")
                    continue
                if ranks.rank == 0:
                    console.print(head)
                peers.at(number)
                _run_stage(tracked(stage), number, ranks, peers)
        peers.at(len(chosen) + 1)
        page = experiment.dir / "report.html"
        if ranks.rank == 0 and len(done) == len(chosen):
            console.print(f"nothing left to do: {page if page.exists() else experiment.dir}", soft_wrap=True, markup=False)


def _made_again(stages: Sequence[Stage], done: set[str]) -> set[str]:
    """Names of the complete stages that run again, as results of theirs are gone; says which."""
    lost = {stage.name: lost_results(stage, read_status(stage)) for stage in stages if stage.name in done}
    again = remade(stages, done, lost)
    for stage in stages:
        if gone := lost.get(stage.name):
            more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
            what = "it runs again" if stage.name in again else "all that reads it is complete, so it is left as it is"
            say(f"note: {gone[0]}{more}: a result of the stage is gone; {what}", file=sys.stderr)
    return again


@contextmanager
def _locked(run_dir: Path, ranks: Ranks) -> Iterator[None]:
    if ranks.rank != 0:
        yield
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    with open(run_dir / ".lock", "a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            msg = f"{run_dir}: another experiment is running here; choose another --name or wait"
            raise ExperimentError(msg) from None
        yield


def _run_stage(stage: Stage, number: int, ranks: Ranks, peers: Peers) -> None:
    started = time.time()
    inputs: InputHashes = {}
    if ranks.rank == 0:
        check_sources(stage)
        inputs, changes = inputs_of(stage), changes_of(stage)
        for change in changes:
            say(f"note: {stage.out} goes on with another setting: {change}", file=sys.stderr)
        # Before the earlier start's settings are written over.
        kept = checkpoints_of(stage, inputs)
        write_config(stage)
        write_status(stage, "running", started, inputs, changes, kept=kept)
        note_beside(stage, {})
        # A node that was killed whole has left its ranks' folders. Those of this start come later: all meet at the first rank's word.
        remove_temporary_folders(stage.out, alone=True)
    elif runs_on_one_rank(stage):
        peers.wait_for_first(number)
        return
    try:
        code, asked = run_in_process(stage, number, ranks, peers, inputs if ranks.rank == 0 else None)
    except PeerLostError:
        if ranks.rank == 0:
            write_status(stage, "failed", started, inputs)
        raise
    finally:
        remove_temporary_folders(stage.out, alone=ranks.world_size == 1)
    changed = None
    if ranks.rank == 0:
        if code in (0, INPUTS_CHANGED_EXIT) and (changed := first_changed(inputs, now := inputs_of(stage))) is None:
            # A model of the hub may have been downloaded in between.
            inputs = now
        interrupted = asked is not None and code == exit_code(asked)
        status: Status = "cut short" if code == CUT_SHORT_EXIT or interrupted else "failed" if code or changed else "complete"
        results = results_of(stage) if status == "complete" else None
        if results is not None:
            note_beside(stage, results.elsewhere)
        write_status(stage, status, started, inputs, results=results)
    if asked is not None:
        raise InterruptedBySignal(asked)
    if changed:
        msg = f"stage {stage.name!r}: what {changed} names was changed while it ran; delete {stage.out} to make it anew"
        raise StageFailedError(msg)
    if code != 0:
        raise StageFailedError.from_exit_code(stage, code)
