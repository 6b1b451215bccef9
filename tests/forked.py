"""`emo run` on two ranks without what makes it slow to begin: command and second rank are forks of a process that has imported everything.

What is looked at is how processes work together and how they end. A command in a session of its own, its stage, and the rank that
Lightning's launcher starts from there are as ever; only where new interpreters would import torch, Lightning and transformers, for ten
seconds and more, forks begin.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import torch

from tests.ranks import end_with, print_to

_OWN = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGTSTP)


class Forked:
    """A child of this process, with as much of `subprocess.Popen` as Lightning's launcher and its observer use.

    Args:
        words: of `emo`.
        env: its environment.
        output: file for what it prints; None leaves it where this process prints.
        session: begin a session of its own.
    """

    def __init__(
        self, words: Sequence[str], env: Mapping[str, str], output: Path | None = None, *, session: bool = False
    ) -> None:
        self.returncode: int | None = None
        # What a new program has: handlers are not inherited, what is ignored is.
        fresh = [number for number in _OWN if signal.getsignal(number) is not signal.SIG_IGN]
        self.pid = os.fork()
        if self.pid == 0:
            if session:
                os.setsid()
            _begin(words, env, output, fresh)

    def poll(self) -> int | None:
        """Its exit code, if it has ended; negative, where a signal has ended it."""
        if self.returncode is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if ended else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)


def _begin(words: Sequence[str], env: Mapping[str, str], output: Path | None, fresh: Sequence[signal.Signals]) -> NoReturn:
    """As a new interpreter would; never returns."""

    def run() -> NoReturn:
        for number in fresh:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        torch.set_num_threads(1)
        os.environ.clear()
        os.environ.update(env)
        if output is not None:
            print_to(output)
        _start_ranks_so()
        from emo_lightning.cli import main

        raise SystemExit(main(list(words)))

    end_with(run)


def _start_ranks_so() -> None:
    """Have Lightning's launcher fork the other ranks, too."""
    from lightning.pytorch.strategies.launchers import subprocess_script

    def popen(command: Sequence[str], env: Mapping[str, str], cwd: str | None) -> Forked:
        # PYTHON -m emo_lightning _stage FOLDER
        assert list(command[1:4]) == ["-m", "emo_lightning.__main__", "_stage"], command
        assert cwd is None
        return Forked(command[3:], env)

    subprocess_script.subprocess = SimpleNamespace(Popen=popen)  # type: ignore[assignment, attr-defined]
