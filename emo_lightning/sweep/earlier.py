"""Runs that a sweep's folder holds from before: which of them is the run of some values, however its folder and its inputs are called now."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.identity import inputs_of, settings_of
from emo_lightning.experiment.resolve import Experiment
from emo_lightning.experiment.stage import Stage, computed_settings, value_at
from emo_lightning.experiment.stage_metrics import usable
from emo_lightning.experiment.status import is_complete, read_status
from emo_lightning.sweep.config import Sweep
from emo_lightning.sweep.parameters import SweepError
from emo_lightning.sweep.records import (
    DIGEST_MARK,
    RECORD_FILE,
    Run,
    digest_of,
    earlier_digest_of,
    experiment_of,
    new_run,
    read_run,
    run_name,
)
from emo_lightning.sweep.values import TrialValues, values_digest


class EarlierRuns:
    """The records of a sweep's folder.

    Args:
        sweep: as it is now.
        folder: its own.
    """

    def __init__(self, sweep: Sweep, folder: Path) -> None:
        self._sweep, self._folder = sweep, folder
        self._varied = {p.name for p in sweep.varied}
        self._records: dict[str, Run] = {}
        self._damaged: dict[str, SweepError] = {}
        for path in sorted(folder.glob(f"*/{RECORD_FILE}")):
            try:
                run = read_run(path.parent)
            except SweepError as error:
                self._damaged[path.parent.name] = error
            else:
                if run is not None:
                    self._records[run.name] = run
        finished_first = sorted(self._records.values(), key=lambda run: run.status != "complete")
        self._by_choice: dict[str, list[Run]] = defaultdict(list)
        for run in finished_first:
            self._by_choice[self._choice(run.values)].append(run)
        self._no_longer_asked = [run for run in finished_first if not self._may_be_asked(run)]
        self._digests: dict[str, str] = {}
        self._found: dict[str, Run] = {}

    def choices(self) -> list[TrialValues]:
        """What the sweep may ask for and has begun a run of: values of its parameters.

        Raises:
            SweepError: a record is damaged.
        """
        for error in self._damaged.values():
            raise error
        fixed = {p.name: p.values[0] for p in self._sweep.parameters if p.fixed}
        chosen = [self._chosen(runs[0].values) for runs in self._by_choice.values() if self._may_be_asked(runs[0])]
        return [{p.name: (fixed | one)[p.name] for p in self._sweep.parameters} for one in chosen]

    def begun(self, values: TrialValues) -> Run | None:
        """The run of these values, as far as it was begun before.

        Args:
            values: of the run, by key of `emo run`; the same ones have the same run each time, and it is of no others.

        Returns:
            Its record, with these values and the command that runs it now; None where there is none.

        Raises:
            SweepError: its folder is of another experiment, or its record is damaged.
            ExperimentError: the experiment does not take these values, or a stage of it was made with other settings.
        """
        if not self._records and not self._damaged:
            return None
        own = run_name(self._sweep.varied, values)
        if own in self._damaged:
            raise self._damaged[own]
        mark = values_digest(values)
        if mark not in self._found:
            record = next((one for one in self._candidates(own, values) if one.name == own or self._is_same(one, values)), None)
            if record is None and own in self._records:
                record = self._records[own]
                self._check_changeable(record, values)
            if record is None:
                return None
            self._found[mark] = record
        record = self._found[mark]
        run = new_run(self._sweep, self._folder, values, record.name)
        metric = record.metrics.get(self._sweep.metric) if record.status == "complete" else None
        return replace(record, values=values, command=run.command, digest=run.digest, metric=metric)

    def is_finished(self, run: Run) -> bool:
        """Whether a run has the sweep's metric, and has it of what its inputs hold now: a run's stages say what they were made from.

        Raises:
            ExperimentError: an input of one of its stages holds something else; names both.
        """
        return run.status == "complete" and usable(run.metric) and all(map(is_complete, self._stages(run.name, run.values)))

    def _check_changeable(self, record: Run, values: TrialValues) -> None:
        """Of a run of another experiment under the same name: it may have ended before it made anything, and the experiment be mended since."""
        if record.status == "complete":
            msg = (
                f"{self._folder / record.name} was made when {self._sweep.program} was another; choose another --name, or delete it "
                "to make it anew"
            )
            raise SweepError(msg)
        for stage in self._stages(record.name, values):
            is_complete(stage)

    def _candidates(self, own: str, values: TrialValues) -> Iterator[Run]:
        """Records that compute what a run of these values does: of its name, of the same choices, then of choices that the sweep no longer has."""
        named = [self._records[own]] if own in self._records else []
        alike = [run for run in self._by_choice.get(self._choice(values), ()) if run.name != own]
        for record in (*named, *alike):
            if self._digest(record) == digest_of(self._experiment(record.name, values)):
                yield record
        taken = {run.name for run in (*named, *alike, *self._found.values())}
        if others := [run for run in self._no_longer_asked if run.name not in taken]:
            digest = digest_of(self._experiment(own, values))
            yield from (run for run in others if self._digest(run) == digest)

    def _chosen(self, values: TrialValues) -> TrialValues:
        return {key: value for key, value in values.items() if key in self._varied}

    def _choice(self, values: TrialValues) -> str:
        return values_digest(self._chosen(values))

    def _may_be_asked(self, run: Run) -> bool:
        return all(p.name in run.values and p.allows(run.values[p.name]) for p in self._sweep.varied)

    def _digest(self, record: Run) -> str:
        """Of a record; of one that an earlier version wrote, which says where the run and its inputs lay, what it would be now."""
        if record.digest.startswith(DIGEST_MARK):
            return record.digest
        if record.name not in self._digests:
            self._digests[record.name] = record.digest
            try:
                then = experiment_of(self._sweep, _recorded_folder(record) or self._folder, record.name, record.values)
            except ExperimentError:
                # The experiment was another.
                return record.digest
            if earlier_digest_of(then) == record.digest:
                self._digests[record.name] = digest_of(then)
        return self._digests[record.name]

    def _is_same(self, record: Run, values: TrialValues) -> bool:
        """Whether a run that computes the same under other values is the same: they only name what holds the same, or place it elsewhere."""
        now = self._stages(record.name, values)
        try:
            then = self._stages(record.name, record.values)
            if self._choice(record.values) != self._choice(values):
                rest = {key: value for key, value in values.items() if key not in self._varied}
                # What the sweep compares is never a mere matter of placement.
                if _whole(self._stages(record.name, rest | self._chosen(record.values))) != _whole(now):
                    return False
        except ExperimentError:
            return False
        return all(_reads_the_same(stage, before) for stage, before in zip(now, then, strict=True))

    def _stages(self, name: str, values: TrialValues) -> list[Stage]:
        return self._experiment(name, values).stages

    def _experiment(self, name: str, values: TrialValues) -> Experiment:
        return experiment_of(self._sweep, self._folder, name, values)


def _whole(stages: list[Stage]) -> list[object]:
    """All settings, those of placement too, but not what the inputs are called."""
    return [[stage.name, settings_of(stage.kind, stage.config, str(stage.out.parent), ())] for stage in stages]


def _reads_the_same(stage: Stage, before: Stage) -> bool:
    """Whether inputs that are called otherwise hold what the stage was made from.

    Args:
        stage: as it is set now.
        before: as it was; its settings are the same.
    """
    if computed_settings(stage.config) == computed_settings(before.config):
        return True
    noted = read_status(stage).get("inputs")
    if not isinstance(noted, dict):
        return False
    held = inputs_of(stage)
    renamed = [key for key in held.keys() | noted.keys() if value_at(stage.config, key) != value_at(before.config, key)]
    return all(held.get(key) is not None and held.get(key) == noted.get(key) for key in renamed)


def _recorded_folder(record: Run) -> Path | None:
    """Where the sweep lay when a run was recorded, as its command says."""
    words = shlex.split(record.command)
    return Path(words[words.index("--runs") + 1]) if "--runs" in words[:-1] else None
