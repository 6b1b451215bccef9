"""What stages write outside of their own folders, where `model.out` says: which files these are, and what is noted beside them.

Such a folder may serve several runs and hold files of others, so a stage's own are those that its kind names (`TrainerKind.writes`). Beside
them stands what each held when its stage was done: whoever reads them finds it, of whatever run he is, and wherever that stage's is now.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from emo_lightning.core.errors import UserError
from emo_lightning.core.files import is_temporary, read_object, write_json
from emo_lightning.experiment.kinds import TrainerKind, find_kind
from emo_lightning.experiment.stage import Stage, value_at

BESIDE_FILE = ".emo-results.json"
"""Name of what is noted beside such results."""
NO_RESULTS = {".tmp", "logs", "wandb", "checkpoints"}
"""Folders in a stage's whose files are not its results."""


class NotedBeside(NamedTuple):
    """A file of which it is noted what it held."""

    path: Path
    content: str
    stage: str
    """Name of the one that wrote it."""


def written_elsewhere(stage: Stage) -> dict[str, Path]:
    """Files and folders that a stage writes outside of its own folder, by their names below `model.out`."""
    kind = find_kind(stage.kind)
    if not isinstance(kind, TrainerKind) or kind.writes is None:
        return {}
    place = Path(str(value_at(stage.config, "model.out") or stage.out))
    found = {name: Path(os.path.normpath(place / name)) for name in kind.writes(stage.config)}
    return {name: path for name, path in found.items() if not _is_walked(path, stage.out)}


def files_elsewhere(stage: Stage) -> Iterator[tuple[str, Path]]:
    """(name below `model.out`, path) of every file of those that is there."""
    for name, path in written_elsewhere(stage).items():
        if path.is_file():
            yield name, path
        for at, _, files in os.walk(path):
            for file in sorted(file for file in files if not is_temporary(file)):
                inner = Path(at, file)
                yield f"{name}/{inner.relative_to(path).as_posix()}", inner


def path_elsewhere(stage: Stage, name: str) -> Path | None:
    """Where a file is now that was noted by its name below `model.out`; None where the stage writes nothing of that name elsewhere."""
    for first, path in written_elsewhere(stage).items():
        if name == first or name.startswith(f"{first}/"):
            return path / name.removeprefix(first).removeprefix("/")
    return None


def is_about(named: str, stage: Stage) -> bool:
    """Whether a path that another stage reads is, holds, or lies in something that a stage writes elsewhere."""
    here = Path(named).resolve()
    places = [path.resolve() for path in written_elsewhere(stage).values()]
    return any(here.is_relative_to(path) or path.is_relative_to(here) for path in places)


def note_beside(stage: Stage, held: Mapping[str, str]) -> None:
    """Replace what is noted of a stage's results beside them.

    Args:
        stage: that begins, or is done.
        held: name below `model.out` -> content; empty while it is at work, when what they hold is nobody's to compare.
    """
    folders = {path.parent for path in written_elsewhere(stage).values()}
    places = {path: content for name, content in held.items() if (path := path_elsewhere(stage, name)) is not None}
    for folder in sorted(folders):
        own = [path for path in written_elsewhere(stage).values() if path.parent == folder]
        with _alone(folder):
            before = _noted_in(folder)
            notes = {
                name: note for name, note in before.items() if not any((folder / name).is_relative_to(path) for path in own)
            }
            notes |= {
                path.relative_to(folder).as_posix(): {"stage": stage.name, "holds": content}
                for path, content in places.items()
                if any(path.is_relative_to(one) for one in own)
            }
            if notes != before:
                write_json(folder / BESIDE_FILE, notes, shared=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While the notes of a folder, which may serve several runs, are read and written."""
    lock = None
    # Not there yet, or a disk without locks.
    with suppress(OSError):
        lock = os.open(folder, os.O_RDONLY)
        fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


def noted_beside(folder: Path) -> Iterator[NotedBeside]:
    """Of the files below a folder in which stages have noted what these held."""
    for name, note in _noted_in(folder).items():
        if isinstance(note, Mapping) and isinstance(held := note.get("holds"), str):
            yield NotedBeside(folder / name, held, str(note.get("stage")))


def _noted_in(folder: Path) -> dict[str, object]:
    with suppress(UserError):
        return dict(read_object(folder / BESIDE_FILE)) if (folder / BESIDE_FILE).is_file() else {}
    # What cannot be read is as good as none: the stage's own note is in its folder.
    return {}


def _is_walked(path: Path, out: Path) -> bool:
    """Whether it is among what is looked at in a stage's folder anyway."""
    here, own = path.resolve(), out.resolve()
    return here.is_relative_to(own) and here.relative_to(own).parts[:1] not in [(name,) for name in NO_RESULTS]
