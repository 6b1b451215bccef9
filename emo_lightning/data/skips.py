"""Images that cannot be read and are left out of a training (`data.on_error: skip`): counted, named, and no more than a few."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from emo_lightning.core.errors import InputError
from emo_lightning.core.terminal import say


class Skips:
    """What one rank has left out, with what all ranks had before: `skipped-RANK.jsonl` in the stage's folder.

    A resumed training reads what was noted and names nothing twice; an image that cannot be read is left out again, as it is still bad.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: dict[str, str] = {}
        """Id -> why."""
        self._file: Path | None = None

    def keep_in(self, folder: Path, rank: int) -> None:
        """Go on where the files of a folder end."""
        self._file = folder / f"skipped-{rank:05d}.jsonl"
        self.found |= dict(_read(folder))

    def add(self, key: str, fault: str) -> None:
        """Note an image that cannot be read.

        Raises:
            InputError: there are more of them than `most`.
        """
        if key in self.found:
            return
        self.found[key] = fault
        if len(self.found) > self.most:
            msg = f"{len(self.found)} images cannot be read, more than data.max_skipped={self.most}; the last: {fault}"
            raise InputError(msg)
        say(f"skipped: {fault}")
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(self._file, "a", encoding="utf-8") as file:
                file.write(json.dumps({"id": key, "fault": fault}, ensure_ascii=False) + "\n")

    def of_all_ranks(self) -> dict[str, str]:
        """Id -> why, by id; those of other ranks as far as they are in the folder."""
        others = dict(_read(self._file.parent)) if self._file is not None else {}
        return dict(sorted((others | self.found).items()))


def _read(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("skipped-*.jsonl")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                # The last line of a process that was killed in it: the image will be met again.
                continue
            if isinstance(entry, dict) and isinstance(entry.get("id"), str):
                yield entry["id"], str(entry.get("fault"))
