"""The rows that a training logs, each once, however often it is killed and begun again.

What is done after a checkpoint is done again by the next start, and logged again. So each checkpoint notes how many rows stood in each
`metrics.csv` when it was written; the start that goes on from it cuts the tables there, before it logs its first row. Rows are counted and not
chosen by their steps: of a step's rows some may come before a checkpoint of it (the step's) and some after (those of its validation).

Imported in the process of a stage alone, as it needs Lightning.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from typing_extensions import override

from emo_lightning.core.checkpoints import read_checkpoint
from emo_lightning.core.files import replacing, write_bytes
from emo_lightning.experiment.elastic import within_step
from emo_lightning.experiment.sent_rows import SentRows

_TABLES = "emo_logged"
"""In a checkpoint: table, below the stage's folder -> rows when it was written."""
_SENT = "emo_sent"
"""In a checkpoint: rows that W&B was given when it was written, by all starts."""
_TABLE = "metrics.csv"


class WholeTable(ExperimentWriter):
    """Lightning's writer of `metrics.csv`, counting, and without the moment in which a kill would lose the rows that are there.

    Args:
        log_dir: folder of the table; one that is there is gone on with.
    """

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.rows = 0
        """That this start has logged."""

    @override
    def log_metrics(self, metrics_dict: dict[str, float], step: int | None = None) -> None:
        """A row."""
        super().log_metrics(metrics_dict, step)
        self.rows += 1

    @override
    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(encoding="utf-8", newline="") as file:
                self.metrics_keys = next(csv.reader(file), [])

    @override
    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=fieldnames)
            writer.writeheader()
            writer.writerows(rows)


class LogsOnce(Callback):
    """Notes in every checkpoint how many rows there are, and cuts those that the checkpoint gone on from does not know.

    It stands first: a callback that logs where a step begins does so after it. Only tables in the stage's folder are counted; of others nobody
    knows whose they are.

    Args:
        out: the stage's folder.
        begun: the checkpoint that this start goes on from.
        sent: counts what W&B is given; None where it is given nothing.
    """

    def __init__(self, out: Path, begun: Path | None, sent: SentRows | None) -> None:
        self.out, self.begun, self.sent = out, begun, sent
        self._kept: dict[str, int] = {}
        """Of earlier starts."""
        self._writers: dict[str, WholeTable] = {}
        self._where_step_begins: dict[str, Any] = {}
        """What a checkpoint would note there."""

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before anything is logged."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        checkpoint: Mapping[str, Any] = {} if self.begun is None else read_checkpoint(self.begun)
        # One of an earlier version does not say: what is there stays.
        tables: Mapping[str, int] | None = {} if self.begun is None else checkpoint.get(_TABLES)
        loggers = [one for one in trainer.loggers if isinstance(one, CSVLogger) and self._is_own(one)]
        for path in sorted({path for logger in loggers for path in _tables_of(logger)}):
            name = self._name(path)
            self._kept[name] = cut_table(path, None if tables is None else tables.get(name, 0))
        for logger in loggers:
            name = self._name(Path(logger.log_dir, _TABLE))
            if name not in self._writers:
                logger._experiment = self._writers[name] = WholeTable(logger.log_dir)
        if self.sent is not None:
            self.sent.go_on(None if tables is None else int(checkpoint.get(_SENT, 0)))

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, batch_idx: int) -> None:
        """A checkpoint within a step is gone on from where the step begins."""
        if batch_idx % trainer.accumulate_grad_batches == 0:
            self._where_step_begins = self._note()

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Of every checkpoint; the row of a step has been logged before (`places.log_rows_first`)."""
        if not trainer.is_global_zero:
            return
        loops = checkpoint["loops"]["fit_loop"]
        within = within_step(loops["epoch_loop.batch_progress"], trainer.accumulate_grad_batches)
        checkpoint |= self._where_step_begins if within else self._note()
        for name, writer in self._writers.items():
            # Lightning does so after rows of its own alone.
            writer.save()
            if (path := self.out / name).is_file():
                # What is cut at the rows of a checkpoint that is on disk has to be there as well.
                with path.open("rb") as file:
                    os.fsync(file.fileno())

    def _note(self) -> dict[str, Any]:
        logged = {name: self._kept.get(name, 0) + writer.rows for name, writer in self._writers.items()}
        return {_TABLES: self._kept | logged} | ({} if self.sent is None else {_SENT: self.sent.given})

    def _is_own(self, logger: CSVLogger) -> bool:
        return Path(logger.save_dir).resolve().is_relative_to(self.out.resolve())

    def _name(self, path: Path) -> str:
        return path.resolve().relative_to(self.out.resolve()).as_posix()


def _tables_of(logger: CSVLogger) -> Iterator[Path]:
    """Those of all its versions."""
    yield from Path(logger.root_dir).glob(f"version_*/{_TABLE}")
    own = Path(logger.log_dir, _TABLE)
    if own.is_file():
        yield own


def cut_table(path: Path, most: int | None) -> int:
    """Cut a table that a killed process may have left with half a row at its end.

    Args:
        path: of the CSV. Without a row that stays it is removed.
        most: rows that stay, the first ones; None: all that are whole.

    Returns:
        Rows that are left.
    """
    data = path.read_bytes()
    header, *rows = data.splitlines(keepends=True) or [b""]
    kept = [row for row in rows if row.endswith(b"\n")][:most]
    if not kept:
        path.unlink()
    elif len(left := b"".join([header, *kept])) != len(data):
        write_bytes(path, left, fsync=True)
    return len(kept)
