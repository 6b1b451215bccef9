"""How a process of a run is asked to end: it stops after the step in which all ranks know of it, and saves first.

A signal comes to one process alone (`kill PID`, a launcher, a closed terminal), and a rank that stopped by itself would leave the others
waiting in a collective. So a signal only makes a wish. The wishes of all ranks are summed with a number that each step sums anyway
(`emo_lightning.tasks.base`), so that all learn of it in the same step. A process that reaches no step in time is killed with its group.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from emo_lightning.core.terminal import say

ENDING_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
"""SIGUSR1 is what `sbatch --signal=USR1@90` sends before the time of a job is over."""
STEP_GRACE_SECONDS = 10.0
"""Seconds from a signal until the step that all agree on has ended; of a training whose steps take long, three steps."""
SAVE_GRACE_SECONDS = 600.0
"""Seconds from a signal until a checkpoint that has been begun is written."""
STAGE_GROUP = "EMO_STAGE_GROUP"
"""Variable of the environment with the process group that a stage leads: its ranks and workers, and nothing else."""


class StoppedError(SystemExit):
    """A training has stopped after a step, as it was asked to, and has saved itself."""

    def __init__(self, number: signal.Signals, step: int) -> None:
        super().__init__(exit_code(number))
        self.number = number
        self.step = step

    def __str__(self) -> str:
        return f"stopped after step {self.step} by {self.number.name}, and saved"


class InterruptedBySignal(KeyboardInterrupt):
    """A command was ended by a signal."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__()
        self.exit_code = exit_code(number)


def exit_code(number: signal.Signals) -> int:
    """As a shell shows it: 143 for SIGTERM, 130 for SIGINT, 129 for SIGHUP."""
    return 128 + int(number)


class Ending:
    """What this process has been asked, and what all ranks have agreed on."""

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self.asked: signal.Signals | None = None
        """The signal that this process got first."""
        self.agreed: signal.Signals | None = None
        """The signal that some rank got, as all know since the last step."""
        self.save_wanted = False
        """Whether this rank finds that a checkpoint is due; the first rank's clock says so for all."""
        self.save_agreed = False
        """Whether one is due after the step that is under way, as all know."""
        self.stopped = False
        """Whether all ranks have stopped after the same step, and it is saved."""
        self._stepping = False
        self._saving = False
        self._saved_at = -STEP_GRACE_SECONDS
        self._longest = 0.0
        self._wake: socket.socket | None = None
        self._tell: Callable[[str, float], None] = lambda *_: None

    # Of the training

    def begin_steps(self) -> None:
        """From now on a signal waits for the end of a step."""
        self._stepping = True

    def end_steps(self) -> None:
        """From now on a signal ends the process where it stands."""
        self._stepping = False

    def step_took(self, seconds: float) -> None:
        """Note the time of a step: what a signal has to wait for."""
        self._longest = max(self._longest, seconds)

    def wishes(self) -> list[float]:
        """What this rank wants, one number a wish, to be summed over ranks."""
        return [*(float(self.asked is number) for number in ENDING_SIGNALS), float(self.save_wanted)]

    def agree(self, totals: Sequence[float]) -> None:
        """Take what all ranks want.

        Args:
            totals: of the `wishes` of all ranks.
        """
        *signals, save = totals
        self.agreed = next((number for number, count in zip(ENDING_SIGNALS, signals, strict=True) if count), None)
        self.save_agreed = bool(save)
        if self.agreed is not None and self.asked is None and self._wake is not None:
            # From here on this process has as little time as the one that got the signal.
            self._wake.send(bytes([self.agreed]))

    @contextmanager
    def saving(self) -> Iterator[None]:
        """While a checkpoint is written, which may take longer than a step."""
        self._saving = True
        try:
            yield
        finally:
            self._saving = False
            self._saved_at = time.monotonic()

    # Of the process

    @contextmanager
    def watched(self, tell: Callable[[str, float], None] | None = None) -> Iterator[None]:
        """Answer signals while the block runs.

        Args:
            tell: called with ("asked", signal) when one has come, and with ("wait", seconds) for how long there may be no more news.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self._forget()
        self._tell = tell or self._tell
        mine = [
            number for number in ENDING_SIGNALS if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN
        ]
        before = {number: signal.signal(number, self._signalled) for number in mine}
        # The system wakes the thread at once, while this one may be inside a collective for long and runs no handler.
        reader, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        wake_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        watcher = threading.Thread(target=self._hold_to_time, args=(reader,), name="ending", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wake_before)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._wake.send(b"\0")
            watcher.join()
            reader.close()
            self._wake.close()
            self._wake = None

    def _signalled(self, number: int, *_: object) -> None:
        if self.asked is not None:
            return  # It came to the group and to the process, or somebody is impatient: the first one is being answered.
        self.asked = signal.Signals(number)
        if not self._stepping:
            raise InterruptedBySignal(self.asked)

    def _until(self, since: float) -> float:
        """When the process has to have ended, for a signal that came at `since`."""
        if self._saving:
            return since + SAVE_GRACE_SECONDS
        return max(since + max(STEP_GRACE_SECONDS, 3 * self._longest), self._saved_at + STEP_GRACE_SECONDS)

    def _hold_to_time(self, reader: socket.socket) -> None:
        """End this process and its group where a signal has not ended it in time."""
        number = 0
        while number not in ENDING_SIGNALS:
            number = reader.recv(1)[0]
            if number == 0:
                return
        since, last = time.monotonic(), 0.0
        with suppress(OSError):
            self._tell("asked", number)
        reader.settimeout(0.1)
        while (left := self._until(since) - time.monotonic()) > 0:
            if left > last or last - left > 1:
                last = left
                with suppress(OSError):
                    self._tell("wait", left)
            with suppress(TimeoutError):
                if reader.recv(1) == b"\0":
                    return
        name = signal.Signals(number).name
        say(
            f"{name}: no step has ended for {time.monotonic() - since:.0f} s; ended without saving", file=sys.stderr, flush=True
        )
        if os.environ.get(STAGE_GROUP) == str(os.getpgrp()):
            os.killpg(0, signal.SIGKILL)
        os._exit(exit_code(signal.Signals(number)))


ENDING = Ending()
"""Of this process: signals are the process's, too."""
