"""The checkpoints that earlier starts of a stage have left, in its folder and where its settings save to, and the one to go on from."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import takewhile
from pathlib import Path
from typing import Self

from emo_lightning.core.checkpoints import (
    MAX_PICKLE_BYTES,
    START_ANEW_ADVICE,
    CheckpointFileError,
    check_content,
    pickle_of,
    read_checkpoint,
)
from emo_lightning.core.files import read_object, remove_left_behind
from emo_lightning.core.terminal import say
from emo_lightning.experiment.identity import InputHashes, content_digests, inputs_of
from emo_lightning.experiment.results import STATUS_FILE
from emo_lightning.experiment.saving import PREVIOUS_CHECKPOINT, STAGE_KEY, pattern_of, saved_to
from emo_lightning.experiment.stage import Stage

GO_BACK_OPTION = "--go-back"
"""Option of `emo run`: a damaged checkpoint is set aside, and the one before it taken."""
_NOTE = "checkpoints"
"""Key of `stage.json`."""
_ENDING_OF_HALF = ".*.tmp"
"""After the name of a checkpoint, while it is written."""
_HALF_WRITTEN = f"*.ckpt{_ENDING_OF_HALF}"
_NAME = re.compile(STAGE_KEY.encode() + rb"(?:q.|r.{4})X(.{4})", re.DOTALL)
"""In a pickle: the key, its number among the texts, and the length of the text that follows."""


class DamagedCheckpointError(CheckpointFileError):
    """One of a stage's checkpoints cannot be read; the message says what to do."""

    def __init__(self, message: str, path: Path) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class Checkpoints:
    """Where a stage saves, and how its checkpoints are told from those of others."""

    out: Path
    """The stage's folder; every checkpoint below it is this stage's."""
    digest: str = ""
    """What this stage's checkpoints name it by from now on."""
    older: tuple[str, ...] = ()
    """What they may have named it by before."""
    elsewhere: tuple[str, ...] = ()
    """Patterns for `glob` of the files outside of it that it saves to. Others may save there, too: only those that name this stage count."""

    @classmethod
    def of(cls, stage: Stage) -> Self:
        """Of a stage that runs: as its `stage.json` notes them; where it notes none, as the stage is set now."""
        path = stage.out / STATUS_FILE
        noted = cls.noted(stage.out, read_object(path)) if path.exists() else None
        return noted or cls.as_set(stage, inputs_of(stage))

    @classmethod
    def as_set(cls, stage: Stage, inputs: InputHashes) -> Self:
        """Of a stage as it is set now.

        Args:
            stage: resolved.
            inputs: what its inputs hold.
        """
        digest, *older = content_digests(stage, inputs)
        return cls(stage.out, digest, tuple(older), tuple(saved_to(stage.config))).without_those_in(stage.out)

    @classmethod
    def noted(cls, out: Path, status: Mapping[str, object]) -> Self | None:
        """As a stage's `stage.json` notes them, so that its own process has no input to read for it.

        Args:
            out: the stage's folder.
            status: its `stage.json`.

        Returns:
            Them, or None where it notes none (an earlier version wrote it).
        """
        note = status.get(_NOTE)
        if not isinstance(note, Mapping):
            return None
        names, elsewhere = (
            tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()
            for found in (note.get("named"), note.get("elsewhere"))
        )
        return cls(out, names[0], names[1:], elsewhere) if names else None

    def note(self) -> dict[str, object]:
        """What `stage.json` says of them."""
        return {_NOTE: {"named": list(self._names), "elsewhere": list(self.elsewhere)}}

    def and_those(self, other: Checkpoints) -> Self:
        """With those of an earlier start of the same stage."""
        older = dict.fromkeys((*self.older, *other._names))
        older.pop(self.digest, None)
        return replace(self, older=tuple(older), elsewhere=tuple(dict.fromkeys((*self.elsewhere, *other.elsewhere))))

    def without_those_in(self, folder: Path) -> Self:
        """Without the patterns of what lies in a folder."""
        there = f"{pattern_of(folder)}/"
        return replace(self, elsewhere=tuple(one for one in self.elsewhere if not one.startswith(there)))

    def are_of(self, checkpoint: Mapping[str, object]) -> bool:
        """Whether it names this stage."""
        return checkpoint.get(STAGE_KEY) in self._names

    @property
    def _names(self) -> tuple[str, ...]:
        return self.digest, *self.older

    def are_there(self) -> bool:
        """Whether there is any."""
        return bool(self.own()) or any(named_stage(path) in self._names for path in self.outside())

    def may_be_there(self) -> bool:
        """Whether there is any, or there are any of others where it saves to, without reading one."""
        return bool(self.own() or self.outside())

    def own(self, pattern: str = "*.ckpt") -> list[Path]:
        """Those in the stage's folder."""
        # What `**` looks for is not looked for behind links.
        there = [*self.out.rglob(pattern), *(self.out / "checkpoints").glob(pattern)]
        return [path for path in dict.fromkeys(there) if path.relative_to(self.out).parts[0] not in (".tmp", "wandb")]

    def outside(self, ending: str = "") -> list[Path]:
        """Files in the places elsewhere that it saves to, whosever they are.

        Args:
            ending: pattern of what follows the name of a checkpoint.
        """
        homes = self.out.resolve(), (self.out / "checkpoints").resolve()
        # Of the whole path: what a folder that is named holds deeper than its pattern says is not looked through.
        found = dict.fromkeys(path for one in self.elsewhere for path in glob.glob(one + ending, include_hidden=True))  # noqa: PTH207
        return [Path(path) for path in found if not any(Path(path).resolve().is_relative_to(home) for home in homes)]

    def outside_as(self, was: Path) -> Path | None:
        """This stage's file elsewhere that one was moved to, or is still: of the same name, and of the longest end of its path."""

        def same_parts(path: Path) -> int:
            pairs = zip(reversed(path.parts), reversed(was.parts), strict=False)
            return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

        found = [path for path in self.outside() if path.name == was.name and named_stage(path) in self._names]
        return max(found, key=same_parts, default=None)

    def readable(self) -> Iterator[tuple[Path, dict[str, object] | CheckpointFileError]]:
        """Each checkpoint of this stage, or why it cannot be read."""
        own = self.own()
        for path in [*own, *self.outside()]:
            try:
                checkpoint = read_checkpoint(path)
            except CheckpointFileError as error:
                if path in own or not self._are_not_of(path):
                    yield path, error
            else:
                if path in own or self.are_of(checkpoint):
                    yield path, checkpoint

    def _are_not_of(self, path: Path) -> bool:
        """Whether a file that is no whole checkpoint is none of this stage's: it names another, or is whole and names none."""
        try:
            whole = pickle_of(path)
        except CheckpointFileError:
            # What it says may be what is damaged.
            return False
        named = named_stage(path) if whole is None else _name_in(whole)
        return named not in self._names and (whole is not None or named is not None)

    def half_written(self) -> Iterator[Path]:
        """What earlier starts of this stage were writing when they were killed, on whichever machine."""
        yield from self.own(_HALF_WRITTEN)
        yield from (path for path in self.outside(_ENDING_OF_HALF) if named_stage(path) in self._names)


def named_stage(path: Path) -> str | None:
    """The stage that a file names whose end may be missing: torch writes first what is no tensor."""
    with suppress(OSError), open(path, "rb") as file:
        return _name_in(file.read(2 * MAX_PICKLE_BYTES))
    return None


def _name_in(data: bytes) -> str | None:
    found = _NAME.search(data)
    if found is None:
        return None
    return data[found.end() : found.end() + int.from_bytes(found[1], "little")].decode(errors="replace")


def remove_half_written(kept: Checkpoints, *, first: bool) -> None:
    """Remove what killed processes were writing.

    Args:
        kept: of the stage.
        first: this rank alone writes, and a run has one command at a time: what is half written is nobody's.
    """
    if first:
        for path in kept.half_written():
            path.unlink(missing_ok=True)
    for folder in {path.parent for path in kept.outside(_ENDING_OF_HALF)}:
        remove_left_behind(folder, _HALF_WRITTEN)


def remove_previous(kept: Checkpoints) -> None:
    """Of a training that is done nobody goes back to the checkpoint before the last."""
    for path in kept.own(PREVIOUS_CHECKPOINT):
        path.unlink(missing_ok=True)
    for path in kept.outside():
        if path.name == PREVIOUS_CHECKPOINT:
            with suppress(CheckpointFileError):
                if kept.are_of(read_checkpoint(path)):
                    path.unlink(missing_ok=True)


def set_damaged_aside(kept: Checkpoints) -> None:
    """Rename every damaged checkpoint of a stage, and say so: the next start goes on from the newest that is left."""
    while True:
        try:
            newest_checkpoint(kept)
        except DamagedCheckpointError as error:
            aside = error.path.with_name(f"{error.path.name}.damaged")
            # Another rank may have been faster.
            with suppress(FileNotFoundError):
                error.path.rename(aside)
                say(f"{error.path}: damaged; it is called {aside.name} now", file=sys.stderr)
        else:
            return


def newest_checkpoint(kept: Checkpoints) -> Path | None:
    """The checkpoint to go on from: that of the highest step, of those that Lightning, SLURM's handler or we have left.

    Raises:
        DamagedCheckpointError: one is damaged; names it, and the one that is gone on from without it. Nobody goes back in silence.
    """
    found: list[tuple[int, int, Path]] = []
    damaged: tuple[CheckpointFileError, Path] | None = None
    for path, checkpoint in kept.readable():
        if isinstance(checkpoint, CheckpointFileError):
            damaged = damaged or (checkpoint, path)
            continue
        step = checkpoint["global_step"]
        assert isinstance(step, int)
        found.append((step, path.stat().st_mtime_ns, path))
    newest, before = [*sorted(found, reverse=True)[:2], None, None][:2]
    if newest is not None and damaged is None:
        try:
            # Only of the one that is used, as it reads all of it.
            check_content(newest[2])
        except CheckpointFileError as error:
            damaged, newest = (error, newest[2]), before
    if damaged is not None:
        msg = str(damaged[0])
        if newest is not None:
            msg = f"{msg.removesuffix(START_ANEW_ADVICE)}remove it, or add {GO_BACK_OPTION}, to go on from {newest[2]} (step {newest[0]})"
        raise DamagedCheckpointError(msg, damaged[1])
    return None if newest is None else newest[2]
