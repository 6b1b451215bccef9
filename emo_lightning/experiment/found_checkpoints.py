"""The checkpoints that earlier starts of a stage have left, in its folder and where its settings save to, and the one to go on from."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from emo_lightning.core.checkpoints import (
    MAX_PICKLE_BYTES,
    START_ANEW_ADVICE,
    CheckpointFileError,
    check_content,
    pickle_of,
    read_checkpoint,
)
from emo_lightning.core.files import remove_left_behind
from emo_lightning.core.terminal import say
from emo_lightning.experiment.identity import content_digest
from emo_lightning.experiment.saving import PREVIOUS_CHECKPOINT, STAGE_KEY
from emo_lightning.experiment.stage import Stage

GO_BACK_OPTION = "--go-back"
"""Option of `emo run`: a damaged checkpoint is set aside, and the one before it taken."""
_HALF_WRITTEN = "*.ckpt.*.tmp"
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
    elsewhere: tuple[Path, ...] = ()
    """Folders outside of it that it saves to. They may hold checkpoints of others: only those that name this stage count."""

    @classmethod
    def of(cls, stage: Stage) -> Self:
        """Of a stage as it is set now."""
        own = (stage.out.resolve(), (stage.out / "checkpoints").resolve())
        folders = dict.fromkeys(saved_to(stage.config))
        elsewhere = tuple(one for one in folders if not any(one.resolve().is_relative_to(home) for home in own))
        # Within its own folder nobody asks, and no input has to be read for it.
        return cls(stage.out, content_digest(stage) if elsewhere else stage.digest, (stage.digest,), elsewhere)

    def are_of(self, checkpoint: Mapping[str, object]) -> bool:
        """Whether it names this stage."""
        return checkpoint.get(STAGE_KEY) in self._names

    @property
    def _names(self) -> tuple[str, ...]:
        return self.digest, *self.older

    def own(self, pattern: str = "*.ckpt") -> list[Path]:
        """Those in the stage's folder."""
        # What `**` looks for is not looked for behind links.
        there = [*self.out.rglob(pattern), *(self.out / "checkpoints").glob(pattern)]
        return [path for path in dict.fromkeys(there) if path.relative_to(self.out).parts[0] not in (".tmp", "wandb")]

    def readable(self) -> Iterator[tuple[Path, dict[str, object] | CheckpointFileError]]:
        """Each checkpoint of this stage, or why it cannot be read."""
        own = self.own()
        for path in [*own, *(path for folder in self.elsewhere for path in folder.glob("*.ckpt"))]:
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
        yield from (
            path for folder in self.elsewhere for path in folder.glob(_HALF_WRITTEN) if named_stage(path) in self._names
        )


def saved_to(config: Mapping[str, Any]) -> list[Path]:
    """Folders that the callbacks of a stage's settings write checkpoints to."""
    given = (config.get("trainer") or {}).get("callbacks") or []
    arguments = [one.get("init_args") or {} for one in (given if isinstance(given, list) else [given]) if isinstance(one, dict)]
    found = [one.get("dirpath") for one in arguments if isinstance(one, dict)]
    return [Path(folder).expanduser() for folder in found if isinstance(folder, str) and folder]


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
    for folder in kept.elsewhere:
        remove_left_behind(folder, _HALF_WRITTEN)


def remove_previous(kept: Checkpoints) -> None:
    """Of a training that is done nobody goes back to the checkpoint before the last."""
    (kept.out / "checkpoints" / PREVIOUS_CHECKPOINT).unlink(missing_ok=True)
    for path in (folder / PREVIOUS_CHECKPOINT for folder in kept.elsewhere):
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
