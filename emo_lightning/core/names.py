"""A path means the file of that name, whatever its characters mean elsewhere: `[`, `{`, `#`, é in one character or in two."""

from __future__ import annotations

import glob
import unicodedata
from pathlib import Path

__all__ = ["as_on_disk", "begins_on_disk", "composed", "expand_glob", "literal_head"]


def as_on_disk(path: str | Path) -> Path:
    """The path as its folders spell it.

    macOS writes é as e and an accent (NFD), most others as one character (NFC), and a file system that keeps bytes has two names for
    one text. A part that is not there as written is taken in the other spelling where that is there.
    """
    path = Path(path)
    if path.exists() or str(path).isascii():
        return path
    found = Path(path.anchor)
    for part in path.parts[1:] if path.anchor else path.parts:
        spellings = (part, composed(part), unicodedata.normalize("NFD", part))
        found /= next((one for one in spellings if (found / one).exists()), part)
    return found


def composed(name: str) -> str:
    """A name in the one spelling (NFC) by which names are compared, whichever the disk keeps."""
    return unicodedata.normalize("NFC", name)


def literal_head(text: str) -> tuple[str, str]:
    """A path in two: the folders that are there under just these names, and what follows, which may be a pattern."""
    path = Path(text)
    head = next(folder for folder in (*path.parents,) if folder in (Path(), Path(path.anchor)) or as_on_disk(folder).is_dir())
    return str(as_on_disk(head)), str(path.relative_to(head))


def begins_on_disk(text: str) -> bool:
    """Whether a text names a file or folder that is there, or a pattern below such a folder."""
    try:
        return bool(text) and (as_on_disk(text).exists() or literal_head(text)[0] not in (".", Path(text).anchor))
    except (OSError, ValueError):  # no path: too long, a zero byte
        return False


def expand_glob(text: str) -> list[str]:
    """Files that a pattern matches, by name; the path itself where it is there, and no folder that is there counts as a pattern."""
    if (path := as_on_disk(text)).exists():
        return [str(path)]
    head, rest = literal_head(text)
    pattern = rest if head == "." else str(Path(glob.escape(head)) / rest)
    found = glob.glob(pattern, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    if not found and not rest.isascii():
        forms = (unicodedata.normalize(form, rest) for form in ("NFC", "NFD"))
        found = [one for form in forms for one in glob.glob(str(Path(glob.escape(head)) / form), recursive=True)]  # noqa: PTH207
    return sorted(set(found))
