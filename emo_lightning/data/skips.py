"""Images that cannot be read and are left out (`data.on_error: skip`): counted, named, and no more than a few."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal, cast, get_args

from emo_lightning.core.errors import InputError
from emo_lightning.core.terminal import say

OnError = Literal["stop", "skip"]
"""`data.on_error`."""
MAX_SKIPPED_BY_DEFAULT = 10
"""`data.max_skipped`, where nothing else is given."""


class Skips:
    """What the ranks of a stage leave out: `skipped-RANK.jsonl` in its folder.

    An image is named once, whichever rank meets it, in whichever run of the stage; it is left out again whenever it is met.

    Args:
        most: images that all ranks together leave out before the stage stops all the same.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.met: dict[str, str] = {}
        """Name -> why, of those that the ranks have met up to their place in the training (other ones: up to the last step, see `take`),
        which a checkpoint brings back."""
        self._untold: dict[str, str] = {}
        self._reported: dict[str, str] = {}
        self._file: Path | None = None

    def keep_in(self, folder: Path, rank: int) -> None:
        """Go on where the files of a folder end."""
        self._file = folder / f"skipped-{rank:05d}.jsonl"

    def add(self, key: str, fault: str) -> None:
        """Note an image that cannot be read.

        Raises:
            InputError: all ranks have more of them than `most`.
        """
        if key in self.met:
            return
        self.met[key] = self._untold[key] = fault
        known = self.of_all_ranks()
        if key not in known:
            say(f"skipped: {fault}")
            self._reported[key] = fault
            if self._file is not None:
                _append(self._file, json.dumps({"id": key, "fault": fault}, ensure_ascii=False))
            # Each writes before it counts: of two ranks at the limit, one sees both.
            known = self.of_all_ranks()
        if len(known) > self.most:
            msg = f"{len(known)} images cannot be read, more than data.max_skipped={self.most}; the last: {fault}"
            raise InputError(msg)

    def untold(self) -> dict[str, str]:
        """Name -> why, of those that this rank has met since it was asked last."""
        found, self._untold = self._untold, {}
        return found

    @property
    def has_untold(self) -> bool:
        """Whether this rank has met some since."""
        return bool(self._untold)

    def take(self, met: Mapping[str, str]) -> None:
        """Count what other ranks have met."""
        self.met |= met

    def of_all_ranks(self) -> dict[str, str]:
        """Name -> why, by name; those of other ranks and earlier runs as far as they are in the folder."""
        found = left_out(self._file.parent) if self._file is not None else {}
        return dict(sorted((found | self._reported).items()))


def left_out(folder: Path) -> dict[str, str]:
    """Id -> why, of the images that a stage with this folder has left out."""
    return dict(_read(folder))


def _append(path: Path, line: str) -> None:
    """Add a line to a file, on one of its own: a process that was killed may have left the beginning of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        begun = file.read(1) not in (b"", b"\n")
        # Half a character of a file's name stays the escape that JSON has for it.
        file.write(b"\n" * begun + line.encode("utf-8", "backslashreplace") + b"\n")


def _read(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("skipped-*.jsonl")):
        # Of the ends of lines that Python knows, JSON writes some into its texts.
        for line in path.read_bytes().split(b"\n"):
            try:
                entry = json.loads(line.decode("utf-8", "replace"))
            except ValueError:
                # A process was killed in it: the image will be met again.
                continue
            if isinstance(entry, dict) and isinstance(entry.get("id"), str):
                yield entry["id"], str(entry.get("fault"))


def check_on_error(found: str) -> None:
    """Refuse another `data.on_error`.

    Raises:
        InputError: names what is allowed.
    """
    if found not in get_args(OnError):
        msg = f"data.on_error={found!r}; allowed: {', '.join(get_args(OnError))}"
        raise InputError(msg)


def faults_of(batch: object) -> Iterable[tuple[str, str]]:
    """(id, why) of the images of a batch that cannot be read; one of `data/batches.py`, or anything else, which has none."""
    if not isinstance(batch, Mapping):
        return ()
    return cast("Iterable[tuple[str, str]]", batch.get("faults", ()))
