"""How a command watches over the process of its stage: it passes signals on, ends the stage in time, and takes its word that it is done."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import NamedTuple

from emo_lightning.core.endings import ENDING_SIGNALS, STAGE_GROUP, STEP_GRACE_SECONDS, exit_code
from emo_lightning.core.lifetimes import die_with_parent, end_forks_with_this_process

NO_STATUS_EXIT = 70
"""Exit code of a stage whose process ended with 0 and never said that it was done (BSD's EX_SOFTWARE)."""
_MARGIN = 2.0
"""Seconds that a stage has to end itself, before this process does it."""
_IMPATIENT = 1.0
"""Seconds after which a second Ctrl-C is a person's, who will not wait, and no copy of the first."""


def lead_group(parent: int) -> None:
    """Have this process, a stage's, lead a group with its ranks and workers, and all of them end with the command.

    A terminal sends Ctrl-C to the group of the command: only the command gets it, and asks the stage. Workers know nothing of it, so that
    the stage can save itself.

    Args:
        parent: process id of the command.
    """
    os.setpgid(0, 0)
    os.environ[STAGE_GROUP] = str(os.getpid())
    die_with_parent(parent=parent)
    end_forks_with_this_process()


class Ended(NamedTuple):
    """How a stage has ended."""

    code: int
    """0 only if it has said that it is complete; that of the signal which ended it or this command; negative where it was killed."""
    asked: signal.Signals | None
    """The signal that came, to it or to this command; also to a stage that was complete before it could stop."""


class Supervisor:
    """Watches over a stage's process.

    Args:
        process: that `lead_group` was called in.
        word: what it says: ("complete", 0), ("asked", signal), ("wait", seconds).
        peers_live: called about every second; raises when another rank's command has ended.
    """

    def __init__(self, process: BaseProcess, word: Connection, peers_live: Callable[[], None] | None = None) -> None:
        self.process = process
        self.word = word
        self.peers_live = peers_live
        self.asked: signal.Signals | None = None
        """The first signal that came, here or to the stage."""
        self.complete = False
        """Whether the stage has said that it is done."""
        self._at = 0.0
        self._until: float | None = None

    def wait(self) -> Ended:
        """Until the stage and all that it has started have ended."""
        try:
            with self._passing_signals_on():
                while self.process.is_alive():
                    self.process.join(1.0 if self._until is None else 0.1)
                    self._listen()
                    if self.peers_live is not None and self.asked is None:
                        self.peers_live()
                    if self._until is not None and time.monotonic() > self._until:
                        self._to_group(signal.SIGKILL)
        finally:
            # Also where something was raised here: nothing of a stage outlives its command.
            self._to_group(signal.SIGKILL)
            self.process.join()
            self._listen()
        code = int(self.process.exitcode or 0)
        if -code in ENDING_SIGNALS:
            # It came before anything was there to answer it.
            self.asked = self.asked or signal.Signals(-code)
        if not (self.complete and code == 0):
            code = exit_code(self.asked) if self.asked is not None else code or NO_STATUS_EXIT
        return Ended(code, self.asked)

    def ask(self, number: signal.Signals) -> None:
        """Ask the stage to end, as if this signal had come."""
        self._signalled(int(number))

    @contextmanager
    def _passing_signals_on(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Under nohup, and in the background of a script, some are ignored: they stay so.
        mine = [number for number in ENDING_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self._signalled) for number in mine}
        if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
            before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspended)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, *_: object) -> None:
        now = time.monotonic()
        if self.asked is None:
            self.asked, self._at = signal.Signals(number), now
            self._until = now + STEP_GRACE_SECONDS + _MARGIN
            if self.process.pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(self.process.pid, number)
        elif number == signal.SIGINT and now - self._at > _IMPATIENT:
            self._until = now

    def _suspended(self, *_: object) -> None:
        """Ctrl-Z stops the stage, too, which is in another group than the terminal's."""
        self._to_group(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        self._to_group(signal.SIGCONT)

    def _listen(self) -> None:
        with suppress(EOFError, OSError):
            while self.word.poll():
                kind, value = self.word.recv()
                if kind == "complete":
                    self.complete = True
                elif kind == "asked":
                    self.asked = self.asked or signal.Signals(value)
                elif kind == "wait" and (self._until is None or self._until > time.monotonic()):
                    self._until = time.monotonic() + value + _MARGIN

    def _to_group(self, number: signal.Signals) -> None:
        pid = self.process.pid
        assert pid is not None
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            # It has not made its group yet, or all have ended.
            if self.process.is_alive():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
