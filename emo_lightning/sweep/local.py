"""A sweep on this machine, without a server: one process a run, several at a time if asked, and nothing is run twice."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from rich.markup import escape

from emo_lightning.core.console import console
from emo_lightning.core.endings import SAVE_GRACE_SECONDS, STEP_GRACE_SECONDS
from emo_lightning.experiment.arguments import check
from emo_lightning.sweep.config import Sweep
from emo_lightning.sweep.inputs import check_features
from emo_lightning.sweep.metrics import run_metrics
from emo_lightning.sweep.parameters import SweepError
from emo_lightning.sweep.processes import child, last_error, send, sweep_lock, terminated_is_interrupted
from emo_lightning.sweep.records import LOG_FILE, Run, experiment_of, is_finished, labels, new_run, read_run
from emo_lightning.sweep.space import Grid, Random, Search
from emo_lightning.sweep.values import TrialValues, as_text

_PATIENCE = SAVE_GRACE_SECONDS + 2 * STEP_GRACE_SECONDS
"""Seconds for a run to save itself after an interruption; it ends itself long before, unless a checkpoint takes long to write."""


@dataclass(frozen=True)
class LocalSettings:
    """How a sweep is run here.

    Args:
        runs: folder of all runs; the sweep's own is `runs`/`name`.
        name: of the sweep's folder.
        jobs: runs at a time.
        count: runs in all; None takes the file's `run_cap`, and for a grid all of it.
        seed: of random and bayes.
        max_failures: failures in a row after which no further run is started.
        fixed: values of every run beside the file's, by key of `emo run`.
    """

    runs: Path
    name: str
    jobs: int = 1
    count: int | None = None
    seed: int = 0
    max_failures: int = 3
    fixed: TrialValues = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The sweep's own."""
        return self.runs / self.name


@dataclass
class SweepOutcome:
    """What became of a sweep: its runs in the order they were asked for, and why it ended before its last."""

    runs: list[Run] = field(default_factory=list)
    planned: int | None = None
    stopped: str | None = None

    @property
    def failed(self) -> int:
        """Runs without a metric."""
        return sum(run.status == "failed" for run in self.runs)


def run_local(sweep: Sweep, settings: LocalSettings, start: Callable[[list[str]], int], outcome: SweepOutcome) -> None:
    """Run what is not finished yet.

    Args:
        sweep: whose file has no fault.
        settings: how.
        start: runs `emo` with a command line, in a process of its own, and returns its exit code.
        outcome: filled in as runs end, so that it holds what there is after an interruption too.

    Raises:
        SweepError: the search has no end, Optuna is missing, there are no features or too few layers of them, or a run's directory is
            of another experiment.
        ExperimentError: the experiment does not take a value, and nothing has been run then; or a finished run was made from inputs that
            have changed since.
        KeyboardInterrupt: after the runs under way have saved themselves.
    """
    pool = _Pool(sweep, settings, start, outcome)
    pool.search = _search(sweep, settings)
    check_features(sweep, settings.fixed, settings.folder)
    outcome.planned = pool.search.total
    with sweep_lock(settings.folder), terminated_is_interrupted():
        try:
            pool.work()
        except KeyboardInterrupt:
            pool.stop()
            raise


def _search(sweep: Sweep, settings: LocalSettings) -> Search:
    count = settings.count if settings.count is not None else sweep.run_cap
    if sweep.method == "grid":
        return Grid(sweep.parameters, count)
    if count is None:
        msg = f"{sweep.path}: method: {sweep.method} has no end of its own; set run_cap in the file, or --count N"
        raise SweepError(msg)
    if sweep.method == "random":
        return Random(sweep.parameters, count, settings.seed)
    from emo_lightning.sweep.bayes import Bayes

    return Bayes(sweep.parameters, count, settings.seed, sweep.maximize, settings.jobs, _earlier(sweep, settings))


def _earlier(sweep: Sweep, settings: LocalSettings) -> list[tuple[TrialValues, float | None]]:
    """What bayes has learned before: finished runs, then those that were killed or failed."""
    found = [run for path in sorted(settings.folder.glob("*/sweep.json")) if (run := read_run(path.parent)) is not None]
    same = {p.name: p.values[0] for p in sweep.parameters if p.fixed} | settings.fixed
    keys = {p.name for p in sweep.parameters} | settings.fixed.keys()
    # The file, or the command line, may since allow other values.
    fitting = [
        run
        for run in found
        if run.values.keys() == keys
        and all(run.values[k] == v for k, v in same.items())
        and all(p.allows(run.values[p.name]) for p in sweep.varied)
        and (run.status != "complete" or is_finished(sweep, settings.folder, run))
    ]
    return [
        ({k: v for k, v in run.values.items() if k not in settings.fixed}, run.metric)
        for run in sorted(fitting, key=lambda run: run.metric is None)
    ]


@dataclass
class _Active:
    run: Run
    values: TrialValues
    process: BaseProcess
    slot: int
    since: float


class _Pool:
    """Runs under way."""

    search: Search

    def __init__(self, sweep: Sweep, settings: LocalSettings, start: Callable[[list[str]], int], outcome: SweepOutcome) -> None:
        self.sweep, self.settings, self.start, self.outcome = sweep, settings, start, outcome
        self.active: dict[Any, _Active] = {}
        self.in_a_row = 0
        self.warm = False

    def work(self) -> None:
        """Until there is nothing left to ask for."""
        while True:
            while len(self.active) < self.settings.jobs and self.outcome.stopped is None:
                values = self.search.ask()
                if values is None:
                    break
                self.begin(values)
            if not self.active:
                return
            for sentinel in multiprocessing.connection.wait(list(self.active)):
                self.end(self.active.pop(sentinel))

    def begin(self, values: TrialValues) -> None:
        """Start a run, unless it is finished or under way."""
        folder = self.settings.folder
        run = new_run(self.sweep, folder, {**values, **self.settings.fixed})
        if run.name in [other.name for other in self.outcome.runs]:
            # Bayes may ask again for what it knows; one under way is told when it ends.
            known = next(other for other in self.outcome.runs if other.name == run.name)
            if known.status != "running":
                self.search.tell(values, known.metric)
            return
        before = read_run(folder / run.name)
        if before is not None and before.digest != run.digest:
            msg = (
                f"{folder / run.name} was made when {self.sweep.program} was another; choose another --name, or delete it "
                "to make it anew"
            )
            raise SweepError(msg)
        self.outcome.runs.append(run)
        if before is not None and is_finished(self.sweep, folder, before):
            self.outcome.runs[-1] = before
            self.say(before, "[dim](complete, not run again)[/dim]")
            self.settle(before, values)
            return
        run.seconds = before.seconds if before is not None else 0.0
        self.warm_up(run)
        run.save(folder)
        slot = min(set(range(self.settings.jobs)) - {active.slot for active in self.active.values()})
        process = multiprocessing.get_context("fork").Process(
            target=child,
            name=run.name,
            args=(self.start, _arguments(self.sweep, run, folder), folder / run.name / LOG_FILE, slot, self.settings.jobs),
        )
        # What is buffered here would be written by the child as well.
        sys.stdout.flush()
        process.start()
        self.active[process.sentinel] = _Active(run, values, process, slot, time.time())

    def warm_up(self, run: Run) -> None:
        """Check the first run here: its errors come at once, and the training libraries are loaded once for all runs."""
        if not self.warm:
            for stage in experiment_of(self.sweep, self.settings.folder, run.name, run.values).stages:
                check(stage)
            self.warm = True

    def end(self, active: _Active) -> None:
        """Note how a run ended."""
        active.process.join()
        run, folder = active.run, self.settings.folder / active.run.name
        run.seconds = round(run.seconds + time.time() - active.since, 1)
        code, said = active.process.exitcode or 0, last_error(folder / LOG_FILE)
        error = said if code >= 0 else f"killed by {signal.Signals(-code).name}; it said last: {said}"
        run.finish(code, run_metrics(folder), self.sweep.metric, error)
        run.save(self.settings.folder)
        if run.status == "failed":
            self.say(
                run, f"[red]failed[/red] after {run.seconds:.0f} s: {escape(run.error or '')} [dim]({folder / LOG_FILE})[/dim]"
            )
        else:
            self.say(run, f"{escape(self.sweep.metric)} [bold]{run.metric:.4g}[/bold] [dim]({run.seconds:.0f} s)[/dim]")
        self.settle(run, active.values)

    def settle(self, run: Run, values: TrialValues) -> None:
        """Tell the search, and see whether to go on."""
        self.search.tell(values, run.metric)
        self.in_a_row = self.in_a_row + 1 if run.status == "failed" else 0
        if self.in_a_row >= self.settings.max_failures:
            self.outcome.stopped = f"{self.in_a_row} runs in a row failed (--max-failures)"
        target = self.sweep.target
        if target is not None and run.metric is not None:
            reached = run.metric >= target if self.sweep.maximize else run.metric <= target
            if reached:
                self.outcome.stopped = f"metric.target {target} is reached"

    def say(self, run: Run, text: str) -> None:
        """One line about a run."""
        number = next(n for n, other in enumerate(self.outcome.runs, 1) if other.name == run.name)
        console.print(
            f"[bold]\\[{number}/{self.search.total}][/bold] {escape(described(self.sweep, run))}: {text}", soft_wrap=True
        )

    def stop(self) -> None:
        """Interrupt what is under way as Ctrl-C would, and wait until it has saved itself."""
        for active in self.active.values():
            send(active.process, signal.SIGINT)
        until = time.time() + _PATIENCE
        for active in self.active.values():
            active.process.join(max(0.0, until - time.time()))
            send(active.process, signal.SIGKILL)
            active.run.seconds = round(active.run.seconds + time.time() - active.since, 1)
            active.run.save(self.settings.folder)


def described(sweep: Sweep, run: Run) -> str:
    """A run by what it does not share with the others."""
    short = labels(run.values)
    return ", ".join(f"{short[p.name]}={as_text(run.values[p.name])}" for p in sweep.varied)


def _arguments(sweep: Sweep, run: Run, folder: Path) -> list[str]:
    values = [f"--{key}={as_text(value)}" for key, value in run.values.items()]
    return ["run", str(sweep.program), "--runs", str(folder), "--name", run.name, *values]
