"""What an input that claims much costs: each in a process of its own, whose memory is measured over what it had before."""

from __future__ import annotations

import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path

from emo_lightning.core.errors import UserError
from tests.fuzz.bombs import bombs
from tests.fuzz.target import Make
from tests.fuzz.targets import TARGETS

MOST_MB = 512
"""Of private memory, over that of the program and the input itself."""
MOST_SECONDS = 10
"""Of processor."""
_PATIENCE = 120
"""Seconds after which a reader is stopped."""
_CEILING = 6 << 30
"""Bytes that a reader gets before it ends by a MemoryError: the machine is to live."""


@dataclass
class Cost:
    """Of one input."""

    what: str
    """`taken`, `refused: …`, or what went wrong."""
    megabytes: float
    seconds: float

    @property
    def good(self) -> bool:
        """Whether it is within the limits."""
        ended = self.what == "taken" or self.what.startswith("refused: ")
        return ended and self.megabytes <= MOST_MB and self.seconds <= MOST_SECONDS


def cost(make: Make, data: bytes) -> Cost:
    """Read the input in a fork of this process."""
    ours, theirs = Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if child == 0:
            try:
                theirs.send(_measured(make, data, Path(folder)))
            finally:
                os._exit(0)
        theirs.close()
        try:
            found = ours.recv() if ours.poll(_PATIENCE) else Cost("no end", 0, _PATIENCE)
        except EOFError:
            found = Cost("the process has died", 0, 0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return Cost(*found) if isinstance(found, tuple) else found


def _measured(make: Make, data: bytes, folder: Path) -> tuple[str, float, float]:
    read = make(folder).read
    resource.setrlimit(resource.RLIMIT_DATA, (_now("VmData") + _CEILING,) * 2)
    # Forgets the peak that was.
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    before, began = _now("VmRSS"), _seconds()
    try:
        read(data)
        what = "taken"
    except UserError as error:
        what = f"refused: {str(error).replace(str(folder), '')[:90]}"
    except BaseException as error:
        traceback.print_exc(limit=-3)
        what = f"{type(error).__name__}: {str(error)[:90]}"
    seconds = _seconds() - began
    others = max(0, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 - _PROGRAM)
    return what, (_now("VmHWM") - before + others) / 1e6, seconds


_PROGRAM = 100 * 10**6
"""Bytes of an interpreter with pyarrow, which another process of ours has before it reads anything."""


def _now(key: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def _seconds() -> float:
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in found)


def built(build: Callable[[], bytes]) -> bytes:
    """An input, made by a fork: what making it takes would else count as taken by every process that is started later."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "input"
        child = os.fork()
        if child == 0:
            try:
                file.write_bytes(build())
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        return file.read_bytes()


def print_costs(only: str) -> int:
    """Print the table; 1 where an input is beyond the limits."""
    failed = 0
    print(f"{'reader':<25}{'input':<28}{'MB':>6}{'+ MB':>8}{'s':>7}  what became of it")
    for reader, what, build in bombs():
        if only not in reader:
            continue
        data = built(build)
        found = cost(TARGETS[reader], data)
        said = found.what.encode(sys.stdout.encoding, "backslashreplace").decode(sys.stdout.encoding)
        mark = "" if found.good else "  <<<"
        print(
            f"{reader:<25}{what:<28}{len(data) / 1e6:>6.1f}{found.megabytes:>8.0f}{found.seconds:>7.1f}  {said}{mark}",
            flush=True,
        )
        failed += not found.good
    return 1 if failed else 0
