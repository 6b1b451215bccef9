"""Where the images of a suite lie: paths as they are published, found below a folder of one's own."""

from __future__ import annotations

import re
from pathlib import Path

_UP = re.compile(r"^(?:\.{1,2}/)+")


def possible_paths(written: str) -> tuple[str, ...]:
    r"""Relative paths by which a file may be there, the longest first.

    Published paths begin where their authors stood (`../benchmarks/…`, `images\1.jpg`, `file:///data/…`); what follows is looked for.
    """
    plain = written.strip().removeprefix("file://").replace("\\", "/")
    parts = [part for part in _UP.sub("", plain).split("/") if part not in ("", ".")]
    if not parts or ".." in parts or re.match(r"[A-Za-z]:", parts[0]):
        parts = parts[-1:] if parts and parts[-1] != ".." else []
    return tuple("/".join(parts[start:]) for start in range(len(parts)))


def find_image(root: Path, written: str) -> Path | None:
    """The file below `root` that a suite names; None where there is none, or where it leads out of the folder."""
    base = root.resolve()
    for name in possible_paths(written):
        for folder in ("", "images/"):
            found = (base / folder / name).resolve()
            if found.is_file() and found.is_relative_to(base):
                return found
    return None
