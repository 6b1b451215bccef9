"""Files of a store are its user's alone: it holds images of others, and replies that were paid for."""

from __future__ import annotations

import os
import stat
from pathlib import Path


def make_private(root: Path) -> None:
    """A folder 0700, and all below it 0700 and 0600.

    Looked through only where the folder itself is open to others: a store of an older program, once. What belongs to somebody
    else is left as it is.
    """
    if not _closed(root, 0o700):
        return
    for folder, folders, files in os.walk(root):
        for name in folders:
            _closed(Path(folder, name), 0o700)
        for name in files:
            _closed(Path(folder, name), 0o600)


def private_file(path: Path) -> None:
    """Make an empty file that only its user can read, or make the one that is there so."""
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    _closed(path, 0o600)


def _closed(path: Path, mode: int) -> bool:
    """Take others' rights from a file or folder; whether it had been open to them."""
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode) or not found.st_mode & 0o077:
        return False
    try:
        path.chmod(mode)
    except PermissionError:
        return False
    return True
