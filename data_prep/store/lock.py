"""The lock of a store: one program writes at a time."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from emo_lightning.core.errors import UserError


class StoreError(UserError, RuntimeError):
    """The store cannot be used."""


def take_lock(root: Path) -> IO[bytes]:
    """Take the lock of a store; closing the file gives it back.

    Raises:
        StoreError: another program has it.
    """
    lock = open(root / "lock", "wb")  # noqa: SIM115 - held until it is closed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        msg = f"{root}: another program is writing to this store"
        raise StoreError(msg) from None
    except OSError as error:
        lock.close()
        msg = f"{root}: cannot be locked ({error.strerror}); put the store on a local disk"
        raise StoreError(msg) from None
    return lock
