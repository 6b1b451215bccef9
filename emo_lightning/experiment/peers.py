"""What the commands of several ranks know of each other, where a launcher (torchrun, srun) has started one on each.

Of each stands a line that changes every second, written by a small process beside the command: no import and no long call holds it up. When
the command ends, however that is, its process says so, and the others end in a second or two. Only a machine that is gone, or whose processes
are all killed at once, leaves silence; how long it may last is a setting, as a shared disk may keep a healthy one waiting.

Whether another one is silent is whether its line changes while this one watches, by this one's clock alone: those of two machines may be
minutes apart. Time in which this one did not look (it was suspended, or waited for the disk itself) does not count.
"""

from __future__ import annotations

import math
import mmap
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.files import write_text
from emo_lightning.core.ranks import Ranks, job_step

HEARTBEAT_SECONDS = 1.0
"""Seconds between two lines."""
MAX_SILENT_SECONDS = 30.0
"""Seconds without a new line, after which the machine of a rank is taken to be gone, unless `SILENCE_VARIABLE` says another number."""
SILENCE_VARIABLE = "EMO_MAX_SILENT_SECONDS"
"""Variable of the environment."""
MAX_LATE_SECONDS = 600.0
"""Seconds in which every rank has to have begun: machines boot, and queues start them one after the other."""
MAX_RESTART_SECONDS = 5.0
"""Seconds between the word that a command was killed, whose start nobody knows yet, and the first line of another start, if there is one."""
_LONGEST_LOOK = 5.0
"""Seconds between two looks that count at most as silence."""
_WIDTH = 64
"""Bytes of a line."""
_FAILED, _DONE, _KILLED = "failed", "done", "killed"
FoundT = TypeVar("FoundT")


class PeerLostError(UserError, RuntimeError):
    """The command of another rank has ended before this one."""


@dataclass
class _Seen:
    """What this rank has read of another one."""

    line: str | None
    silent: float = 0.0
    """Seconds that this process has watched, since the line was new."""
    token: str | None = None
    """Of the process that writes it, once it has changed: what stands there at first may be of an earlier start, and a second start of
    the same run by mistake writes there too."""
    doubtful: float = 0.0
    """Seconds that this process has watched, since that other one was killed whose line stood there at first."""

    def take(self, line: str) -> None:
        """Take a new line, if it comes from the process that is watched."""
        token, _, word = line.split()
        if self.token not in (None, token):
            return
        # Either of the two: the last word about an earlier start, which is followed by a line of this one, or its end after its first line.
        in_doubt = self.token is None and word == _KILLED and self.line is not None and self.line.split()[0] == token
        if not in_doubt or self.doubtful > MAX_RESTART_SECONDS:
            self.line, self.silent, self.token = line, 0.0, token


class Peers:
    """The other ranks' commands.

    Args:
        folder: of the run, which all share.
        ranks: this one among them.
    """

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        # Of its own for each job: a second one that was started here by mistake finds its own first rank, which is refused.
        self.folder = folder / ".ranks" / job_step()
        self.rank = ranks.rank
        self._seen = {rank: _Seen(self._read(rank)) for rank in range(ranks.world_size) if rank != ranks.rank}
        self._looked = time.monotonic()
        self._max_silent = _max_silent()
        self._token = secrets.token_hex(4)
        self._number = mmap.mmap(-1, 8)
        """Of the stage that is begun, for the process that writes the lines."""
        self._writer: int | None = None

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """While this rank's command works; the others learn how it has ended."""
        if not self._seen:
            yield
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self._start_writer()
        word = _FAILED
        try:
            yield
            word = _DONE
        finally:
            self._end_writer()
            self._write(word)

    def at(self, number: int) -> None:
        """Tell the others that every stage before this one is done here."""
        self._number[:] = number.to_bytes(8, "little")

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
        if not self._seen:
            return say()
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
        self._keep_writing()
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _LONGEST_LOOK), now
        for rank, seen in self._seen.items():
            line = self._read(rank)
            before = seen.line
            if line is not None and line != before:
                seen.take(line)
            if seen.line == before:
                seen.silent += passed
            in_doubt = seen.token is None and line not in (None, seen.line)
            seen.doubtful = seen.doubtful + passed if in_doubt else 0.0
            word = seen.line.split()[2] if seen.token is not None and seen.line is not None else ""
            if word == _FAILED:
                msg = f"rank {rank} has failed; what it says is in its own output"
                raise PeerLostError(msg)
            if word == _KILLED:
                msg = f"rank {rank}: its command was killed ({self.folder / str(rank)})"
                raise PeerLostError(msg)
            if word != _DONE and seen.silent > (self._max_silent if seen.token is not None else MAX_LATE_SECONDS):
                msg = f"rank {rank} has said nothing for {seen.silent:.0f} s: its machine is gone ({self.folder / str(rank)})"
                raise PeerLostError(msg)

    def _start_writer(self) -> None:
        """Fork the process that writes this rank's lines. It does nothing else, and needs no lock that a thread may hold."""
        parent = os.getpid()
        # What ends or stops the command's group is for the command to answer, and no handler of its own is to run there.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._writer = os.fork()
            if self._writer == 0:
                self._write_lines(parent)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _write_lines(self, parent: int) -> NoReturn:
        try:
            os.setsid()
            last = -math.inf
            while os.getppid() == parent:
                if time.monotonic() - last >= HEARTBEAT_SECONDS:
                    last = time.monotonic()
                    self._write(f"{last:.6f}")
                time.sleep(HEARTBEAT_SECONDS / 4)
            # Killed: whoever ends in another way says how.
            self._write(_KILLED)
        finally:
            os._exit(0)

    def _keep_writing(self) -> None:
        """Begin anew where that process was ended: this command lives."""
        if self._writer is None:
            return
        with suppress(ChildProcessError):
            if not os.waitpid(self._writer, os.WNOHANG)[0]:
                return
        self._start_writer()

    def _end_writer(self) -> None:
        if self._writer is not None:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._writer, signal.SIGKILL)
                os.waitpid(self._writer, 0)
            self._writer = None

    def _write(self, word: str) -> None:
        number = int.from_bytes(self._number[:], "little")
        line = f"{self._token} {number} {word}".ljust(_WIDTH - 1).encode() + b"\n"
        with suppress(OSError):
            # Closed each time: a network file system may keep what was written to itself until then.
            file = os.open(self.folder / str(self.rank), os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                # In place, in one go, and always as long: nobody reads half of it.
                os.pwrite(file, line, 0)
            finally:
                os.close(file)

    def _read(self, rank: int) -> str | None:
        try:
            line = (self.folder / str(rank)).read_text(encoding="ascii", errors="replace")
        except OSError:
            return None
        return line if len(line) == _WIDTH and len(line.split()) == 3 and line.split()[1].isdigit() else None


def _max_silent() -> float:
    """Seconds that a rank may say nothing.

    Raises:
        InputError: the variable holds no number that is large enough.
    """
    text = os.environ.get(SILENCE_VARIABLE)
    if text is None:
        return MAX_SILENT_SECONDS
    with suppress(ValueError):
        if 5 * HEARTBEAT_SECONDS <= (seconds := float(text)) < math.inf:
            return seconds
    msg = f"environment variable {SILENCE_VARIABLE}: found {text!r}; expected seconds, at least {5 * HEARTBEAT_SECONDS:g}"
    raise InputError(msg)
