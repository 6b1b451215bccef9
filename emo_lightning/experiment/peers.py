"""What the commands of several ranks know of each other, where a launcher (torchrun, srun) has started one on each.

Each writes a line that changes every second. Whether another one lives is whether its line changes while this one watches, by this one's
clock alone: those of two machines may be minutes apart.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from emo_lightning.core.errors import UserError
from emo_lightning.core.files import write_text
from emo_lightning.core.ranks import Ranks

HEARTBEAT_SECONDS = 1.0
"""Seconds between two lines."""
MAX_SILENT_SECONDS = 30.0
"""Seconds without a new line, after which a rank is taken to have ended: a shared disk may keep one waiting."""
MAX_LATE_SECONDS = 600.0
"""Seconds in which every rank has to have begun."""
_WIDTH = 64
"""Bytes of a line."""
_FAILED = "failed"
FoundT = TypeVar("FoundT")


class PeerLostError(UserError, RuntimeError):
    """The command of another rank has ended before this one."""


@dataclass
class _Seen:
    """What this rank has read of another one."""

    line: str | None
    since: float
    """By this process's clock, when the line was new."""
    token: str | None = None
    """Of the process that writes it, once it has changed: what stands there at first may be of an earlier start, and a second start of
    the same run by mistake writes there too."""


class Peers:
    """The other ranks' commands.

    Args:
        folder: of the run, which all share.
        ranks: this one among them.
    """

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder = folder / ".ranks"
        self.rank = ranks.rank
        now = time.monotonic()
        self._seen = {rank: _Seen(self._read(rank), now) for rank in range(ranks.world_size) if rank != ranks.rank}
        self._token = secrets.token_hex(4)
        self._number = 0

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """While this rank's command works; the others learn how it has ended."""
        if not self._seen:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        file = os.open(self.folder / str(self.rank), os.O_WRONLY | os.O_CREAT, 0o644)
        over = threading.Event()
        beats = threading.Thread(target=self._beat, args=(file, over), name="beat", daemon=True)
        beats.start()
        word = _FAILED
        try:
            yield
            word = "done"
        finally:
            over.set()
            beats.join()
            self._write(file, word)
            os.close(file)

    def at(self, number: int) -> None:
        """Tell the others that every stage before this one is done here."""
        self._number = number

    def wait_for_first(self, number: int) -> None:
        """Until the first rank has done the stage of that number, which it does alone.

        Raises:
            PeerLostError: it has ended.
        """

        def done() -> bool | None:
            first = self._seen[0]
            return (first.token is not None and first.line is not None and int(first.line.split()[1]) > number) or None

        self._watch_until(done)

    def said_by_first(self, about: str, say: Callable[[], str]) -> str:
        """What the first rank says of something, on every rank; no earlier start's word is taken for it.

        Args:
            about: name of a file in the folder of the ranks.
            say: called on the first rank.

        Raises:
            PeerLostError: it has ended.
        """
        file = self.folder / about
        if self.rank == 0:
            text = say()
            write_text(file, f"{self._token} {text}")
            return text

        def said() -> str | None:
            with suppress(OSError):
                token, _, text = file.read_text(encoding="utf-8").partition(" ")
                return text if token == self._seen[0].token else None
            return None

        return self._watch_until(said)

    def _watch_until(self, found: Callable[[], FoundT | None]) -> FoundT:
        while True:
            self.check()
            if (value := found()) is not None:
                return value
            time.sleep(HEARTBEAT_SECONDS / 4)

    def check(self) -> None:
        """Look at every other rank.

        Raises:
            PeerLostError: one has failed, says nothing any more, or has never begun.
        """
        now = time.monotonic()
        for rank, seen in self._seen.items():
            line = self._read(rank)
            if line is not None and line != seen.line and seen.token in (None, line.split()[0]):
                seen.line, seen.since, seen.token = line, now, line.split()[0]
            word = seen.line.split()[2] if seen.token is not None and seen.line is not None else ""
            silent = now - seen.since
            if word == _FAILED:
                msg = f"rank {rank} has failed; what it says is in its own output"
                raise PeerLostError(msg)
            if word != "done" and silent > (MAX_SILENT_SECONDS if seen.token is not None else MAX_LATE_SECONDS):
                msg = f"rank {rank} has said nothing for {silent:.0f} s: its command has ended or its machine is gone ({self.folder / str(rank)})"
                raise PeerLostError(msg)

    def _beat(self, file: int, over: threading.Event) -> None:
        count = 0
        while True:
            self._write(file, str(count))
            count += 1
            if over.wait(HEARTBEAT_SECONDS):
                return

    def _write(self, file: int, word: str) -> None:
        # In place, in one go, and always as long: nobody reads half of it.
        with suppress(OSError):
            os.pwrite(file, f"{self._token} {self._number} {word}".ljust(_WIDTH - 1).encode() + b"\n", 0)

    def _read(self, rank: int) -> str | None:
        try:
            line = (self.folder / str(rank)).read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        return line if len(line) == _WIDTH and len(line.split()) == 3 and line.split()[1].isdigit() else None
