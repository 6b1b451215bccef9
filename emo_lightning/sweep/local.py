"""A sweep on this machine, without a server: one process a run, several at a time if asked, and nothing is run twice."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.process import BaseProcess
from pathlib import Path

from rich.markup import escape

from emo_lightning.core.console import console
from emo_lightning.core.endings import SAVE_GRACE_SECONDS, STEP_GRACE_SECONDS
from emo_lightning.core.errors import UserError
from emo_lightning.experiment.arguments import check
from emo_lightning.sweep.config import Sweep
from emo_lightning.sweep.earlier import EarlierRuns
from emo_lightning.sweep.inputs import check_features
from emo_lightning.sweep.metrics import run_metrics
from emo_lightning.sweep.parameters import SweepError
from emo_lightning.sweep.processes import child, last_error, send, sweep_lock, terminated_is_interrupted
from emo_lightning.sweep.records import LOG_FILE, Run, experiment_of, labels, new_run
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
    """What became of a sweep: its runs, those that were finished before first, and why it ended before its last."""

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
        ExperimentError: the experiment does not take a value, or a finished run was made from inputs that have changed since.
        KeyboardInterrupt: after the runs under way have saved themselves.

    No run is under way any more when it raises: what is refused lets them end, anything else interrupts them.
    """
    check_features(sweep, settings.fixed, settings.folder)
    outcome.planned = _count(sweep, settings)
    with sweep_lock(settings.folder), terminated_is_interrupted():
        pool = _Pool(sweep, settings, start, outcome)
        try:
            pool.work()
        except BaseException:
            pool.stop()
            raise


def _count(sweep: Sweep, settings: LocalSettings) -> int | None:
    count = settings.count if settings.count is not None else sweep.run_cap
    if count is None and sweep.method != "grid":
        msg = f"{sweep.path}: method: {sweep.method} has no end of its own; set run_cap in the file, or --count N"
        raise SweepError(msg)
    return Grid(sweep.parameters, count).total if sweep.method == "grid" else count


def _search(sweep: Sweep, settings: LocalSettings, known: Sequence[tuple[TrialValues, float | None]] = ()) -> Search:
    """What asks for the runs.

    Args:
        sweep: whose.
        settings: of it.
        known: to bayes: values and metric of the runs that are finished, then those that were killed or failed.
    """
    count = _count(sweep, settings)
    if sweep.method == "grid":
        return Grid(sweep.parameters, count)
    assert count is not None
    if sweep.method == "random":
        return Random(sweep.parameters, count, settings.seed)
    from emo_lightning.sweep.bayes import Bayes

    return Bayes(sweep.parameters, count, settings.seed, sweep.maximize, settings.jobs, known)


@dataclass
class _Active:
    run: Run
    values: TrialValues
    process: BaseProcess
    slot: int
    since: float
    logged: int
    """Bytes of what its earlier attempts said."""


class _Pool:
    """Runs under way."""

    search: Search

    def __init__(self, sweep: Sweep, settings: LocalSettings, start: Callable[[list[str]], int], outcome: SweepOutcome) -> None:
        self.sweep, self.settings, self.start, self.outcome = sweep, settings, start, outcome
        self.earlier = EarlierRuns(sweep, settings.folder)
        self.active: list[_Active] = []
        self.in_a_row = 0
        self.warm = False

    def work(self) -> None:
        """Until there is nothing left to ask for.

        Raises:
            UserError: a run is refused; those under way have ended then.
        """
        self.take_finished()
        refused: UserError | None = None
        while True:
            while refused is None and self.outcome.stopped is None and len(self.active) < self.settings.jobs:
                values = self.search.ask()
                self.outcome.planned = self.search.total
                if values is None:
                    break
                try:
                    self.begin(values)
                except UserError as error:
                    refused = error
                    if self.active:
                        console.print(
                            f"[red]no further run is started[/red]: {escape(str(error))}; waiting for what is under way",
                            soft_wrap=True,
                        )
            if not self.active:
                break
            ended = multiprocessing.connection.wait([active.process.sentinel for active in self.active])
            for active in [active for active in self.active if active.process.sentinel in ended]:
                self.active.remove(active)
                self.end(active)
        if refused is not None:
            raise refused

    def take_finished(self) -> None:
        """Put the runs that are finished among the results, whatever becomes of the others.

        Raises:
            UserError: a run that was begun is refused.
        """
        bayes = self.sweep.method == "bayes"
        planned: Iterable[TrialValues] = self.earlier.choices() if bayes else iter(_search(self.sweep, self.settings).ask, None)
        finished: list[tuple[Run, TrialValues]] = []
        unfinished: list[tuple[TrialValues, float | None]] = []
        refused: UserError | None = None
        for values in planned:
            try:
                run = self.earlier.begun({**values, **self.settings.fixed})
                if run is None:
                    continue
                done = self.earlier.is_finished(run)
            except UserError as error:
                refused = refused or error
                continue
            if done:
                finished.append((run, values))
            elif bayes:
                unfinished.append((values, None))
        # All at once: results that an interruption cuts short would stand in the place of whole ones.
        self.outcome.runs += [run for run, _ in finished]
        if refused is not None:
            raise refused
        self.search = _search(self.sweep, self.settings, [*((values, run.metric) for run, values in finished), *unfinished])
        self.outcome.planned = self.search.total
        for run, values in finished:
            self.found(run, values)

    @property
    def names(self) -> set[str]:
        """Of the runs among the results."""
        return {run.name for run in self.outcome.runs}

    def found(self, run: Run, values: TrialValues) -> None:
        """Say that a run of the results was finished before."""
        self.say(run, "[dim](complete, not run again)[/dim]")
        self.settle(run, values)

    def begin(self, values: TrialValues) -> None:
        """Start a run, unless it is finished or under way.

        Raises:
            UserError: it is refused; nothing has been started then.
        """
        folder, given = self.settings.folder, {**values, **self.settings.fixed}
        run = self.earlier.begun(given) or new_run(self.sweep, folder, given)
        if run.name in self.names:
            # Bayes may ask again for what it knows; one under way is told when it ends.
            known = next(other for other in self.outcome.runs if other.name == run.name)
            if known.status != "running":
                self.search.tell(values, known.metric)
            return
        if self.earlier.is_finished(run):
            self.outcome.runs.append(run)
            self.found(run, values)
            return
        run = replace(run, status="running", metric=None, metrics={}, error=None)
        self.warm_up(run)
        run.save(folder)
        self.outcome.runs.append(run)
        slot = min(set(range(self.settings.jobs)) - {active.slot for active in self.active})
        log = folder / run.name / LOG_FILE
        process = multiprocessing.get_context("fork").Process(
            target=child,
            name=run.name,
            args=(self.start, _arguments(self.sweep, run, folder), log, slot, self.settings.jobs),
        )
        # What is buffered here would be written by the child as well.
        sys.stdout.flush()
        # First, so that an interruption finds it.
        logged = log.stat().st_size if log.is_file() else 0
        self.active.append(_Active(run, values, process, slot, time.time(), logged))
        process.start()

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
        code, said = active.process.exitcode or 0, last_error(folder / LOG_FILE, active.logged)
        error = said if code >= 0 else f"killed by {signal.Signals(-code).name}; it said last: {said}"
        try:
            metrics = run_metrics(folder)
        except UserError as unreadable:
            metrics = {}
            if code == 0:
                code, error = unreadable.exit_code, str(unreadable)
        run.finish(code, metrics, self.sweep.metric, error)
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
        """Interrupt what is under way as Ctrl-C would, and wait until it has saved itself; a second interruption ends it at once."""
        started = [active for active in self.active if active.process.pid is not None]
        try:
            for active in started:
                send(active.process, signal.SIGINT)
            until = time.time() + _PATIENCE
            for active in started:
                active.process.join(max(0.0, until - time.time()))
        finally:
            for active in started:
                send(active.process, signal.SIGKILL)
            for active in started:
                active.process.join()
                if active.process.exitcode == 0:
                    self.end(active)
                    continue
                active.run.seconds = round(active.run.seconds + time.time() - active.since, 1)
                active.run.save(self.settings.folder)


def described(sweep: Sweep, run: Run) -> str:
    """A run by what it does not share with the others."""
    short = labels(run.values)
    return ", ".join(f"{short[p.name]}={as_text(run.values[p.name])}" for p in sweep.varied)


def _arguments(sweep: Sweep, run: Run, folder: Path) -> list[str]:
    values = [f"--{key}={as_text(value)}" for key, value in run.values.items()]
    return ["run", str(sweep.program), "--runs", str(folder), "--name", run.name, *values]
