"""What a reviewer is called who gives no name: two of them at once are two people."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MOST = 100


@contextmanager
def free_name(root: Path, wanted: str) -> Iterator[str]:
    """The wanted name, or `NAME-2`, `NAME-3`, … while another page is served to somebody of that name; held until the end.

    Args:
        root: of the store; where it cannot be written or locked, the wanted name is given.
        wanted: for the first.
    """
    for number in range(1, _MOST):
        name = wanted if number == 1 else f"{wanted}-{number}"
        try:
            lock = os.open(root / f"review-{name}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            break
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        except OSError:
            os.close(lock)
            break
        try:
            yield name
        finally:
            os.close(lock)
        return
    yield wanted
