"""The rows that W&B is given of a training, each once: a start that goes on from a checkpoint leaves out what an earlier one has sent.

W&B numbers the rows of a run by itself (`_step`), and offline begins at 0 in every start. Here a row's number is its place among all that the
training logs, however often it was killed; what earlier starts have written is read from their files.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wandb import Run

SETTLED_SECONDS = 1.5
"""Without a change, after which a file is taken to be whole: three times as long as W&B's process keeps rows (`tracking`)."""
MAX_UNSETTLED_SECONDS = 5.0
"""For that, where clocks of a disk and of this machine differ."""
_FILE_HEADER = 7
_BLOCK = 32768
_PART = struct.Struct("<IHB")
"""Checksum, length, and whether a part is the whole entry (1), its first (2), a middle (3) or its last (4)."""


class SentRows:
    """Numbers what is logged to a run, and leaves out what the run has already.

    Args:
        run: of W&B.
        held: rows that earlier starts have sent.
    """

    def __init__(self, run: Run, held: int) -> None:
        self.given = 0
        """Rows of the training so far, sent or left out."""
        self._held = held
        log = run.log

        def once(data: dict[str, Any], step: int | None = None, commit: bool | None = None) -> None:
            # As W&B itself counts: a step that is named stays open until the next.
            self.given = max(self.given, step or 0)
            ends = commit if commit is not None else step is None
            if self.given >= self._held:
                log(data, step=self.given, commit=ends)
            self.given += ends

        run.log = once  # type: ignore[method-assign]

    def go_on(self, given: int | None) -> None:
        """Go on from a checkpoint.

        Args:
            given: `SentRows.given` when it was written; None where it does not say, and all that follows is sent.
        """
        self.given = self._held if given is None else given


def rows_held(folder: Path, name: str) -> int:
    """How many rows the starts of a run have written: one more than the number of the last.

    Args:
        folder: `wandb/` of the stage.
        name: id of the run.
    """
    return max((_rows_in(path) for path in folder.glob(f"*run-*-{name}/run-{name}.wandb")), default=0)


def _rows_in(path: Path) -> int:
    """Of a file without an end W&B's process may still be writing the last ones, when what it served was killed a moment ago."""
    until = time.monotonic() + MAX_UNSETTLED_SECONDS
    while True:
        changed = path.stat().st_mtime
        rows, ended = read_rows(path)
        if ended or time.time() - changed > SETTLED_SECONDS or time.monotonic() > until:
            return rows
        time.sleep(0.05)


def read_rows(path: Path) -> tuple[int, bool]:
    """Rows of a file, and whether it says how its run has ended.

    Args:
        path: `run-ID.wandb`.

    Raises:
        OSError: it cannot be read.
    """
    from google.protobuf.message import DecodeError
    from wandb.proto import wandb_internal_pb2

    rows, ended = 0, False
    for entry in entries(path.read_bytes()):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]  # protobuf makes it at run time
        try:
            record.ParseFromString(entry)
        except DecodeError:
            break
        kind = record.WhichOneof("record_type")
        if kind == "history":
            rows = max(rows, record.history.step.num + 1)
        ended = ended or kind == "exit"
    return rows, ended


def entries(data: bytes) -> Iterator[bytes]:
    """Those of W&B's own file, LevelDB's log: blocks of 32 KiB with parts of entries; of a file that a kill has cut, those that are whole."""
    at, parts = _FILE_HEADER, b""
    while at + _PART.size <= len(data):
        if _BLOCK - at % _BLOCK < _PART.size:
            at += _BLOCK - at % _BLOCK
            continue
        _, length, place = _PART.unpack_from(data, at)
        at += _PART.size
        if at + length > len(data) or not 1 <= place <= 4:
            return
        parts += data[at : at + length]
        at += length
        if place in (1, 4):
            yield parts
            parts = b""
