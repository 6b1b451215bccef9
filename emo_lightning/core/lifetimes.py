"""Processes that end with the one that started them, even where that one is killed and can send nothing (Linux)."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Final

PARENT_VARIABLE: Final = "EMO_PARENT"
"""Variable of the environment of an `emo` that another program of ours starts: the process id that it ends with."""
_PR_SET_PDEATHSIG: Final = 1
"""Of prctl(2): the signal that this process gets when the thread that started it ends."""


class _Forks:
    """What `end_forks_with_this_process` has set for the forks of this process."""

    parent: int | None = None
    """Process whose next fork dies with it; None while the fork is a thread's, whose end is not the process's."""


def die_with_parent(number: signal.Signals = signal.SIGKILL, parent: int | None = None) -> None:
    """Have the kernel send a signal to this process when its parent ends, however that ends; elsewhere than on Linux do nothing.

    Args:
        number: to be sent.
        parent: process id; when that one has ended before this call, the signal is sent at once.

    Raises:
        OSError: the kernel refuses.
    """
    if sys.platform != "linux":
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if parent is not None and os.getppid() != parent:
        os.kill(os.getpid(), number)


def die_with_named_parent() -> None:
    """As `die_with_parent` where `PARENT_VARIABLE` is set; it is then taken out, as it is no parent of what this process starts."""
    if (parent := os.environ.pop(PARENT_VARIABLE, "")).isdigit():
        die_with_parent(parent=int(parent))


def end_forks_with_this_process() -> None:
    """Have every process that this one forks from now on (workers of loaders, pools) end with it.

    A terminal's Ctrl-C and its closing are for this process to answer: a worker that ended by itself would be its loader's error. Whoever
    ends workers by SIGTERM still does.
    """
    os.register_at_fork(before=_before_fork, after_in_child=_in_fork)


def _before_fork() -> None:
    in_main = threading.current_thread() is threading.main_thread()
    _Forks.parent = os.getpid() if in_main else None


def _in_fork() -> None:
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    if _Forks.parent is not None:
        die_with_parent(parent=_Forks.parent)
