"""Cache of the frozen vision tower: what left it for each image, computed once, read by every epoch, round, arm and later experiment.

Below the cache's folder stands one folder for each way in which states come about (`VisionKey`), in it parts of about 32 MB
(`mapped_parts`). An image goes by the SHA-256 of its bytes, so the same image in two tars is kept once, and where tars lie is no part of
it. Parts are named by what they hold: any number of processes, of one run or of several, may write at once, and none needs a list of
parts. What a killed process had finished is found by the next one. Parts that were copied from behind a URL stand in a folder of their
own (`core.copies`): they may go where there are too many of them, which those that were computed here never do.
"""

from __future__ import annotations

import contextlib
import json
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from emo_lightning.core.at_once import each_at_once
from emo_lightning.core.cache_folder import cache_folder
from emo_lightning.core.copies import (
    COPIED_PARTS,
    Copy,
    check_allowed,
    copying,
    hold,
    make_room,
    no_room,
    size_of,
    used_by_others,
)
from emo_lightning.core.disk import gigabytes, require_room
from emo_lightning.core.files import remove_left_behind, this_writer, write_text
from emo_lightning.core.mirrors import copy_here
from emo_lightning.core.records import Record
from emo_lightning.core.remote import RemoteError, RemoteStore
from emo_lightning.core.remote_folder import RemoteFolder
from emo_lightning.core.stores import is_remote, local_path, within
from emo_lightning.core.terminal import say
from emo_lightning.data.mapped_parts import PART_BYTES, PartError, checked_tensor, far_metadata, open_part, summed_text
from emo_lightning.data.vision_parts import (
    VISION_HEADER_KEY,
    VISION_PARTS,
    VisionKey,
    images_of,
    read_contents,
    write_vision_part,
)
from emo_lightning.models.families.base import CachedPicture

__all__ = ["AUTO_CACHE", "VisionCache", "VisionKey", "VisionWriter", "vision_folder"]

AUTO_CACHE = "auto"
MAX_OPEN_VISION_PARTS = 16_384
"""Parts that a process keeps mapped: 500 GB; Linux allows 65,530 maps."""
_KEY_FILE = "key.json"


def vision_folder(setting: str) -> Path:
    """The folder that `model.backbone.vision_cache` names; what lies behind a URL is kept in the user's own, too."""
    if setting == AUTO_CACHE or is_remote(setting):
        return cache_folder() / "vision"
    return local_path(setting).expanduser()


def _changed(path: Path) -> float:
    return path.stat().st_mtime


class _Place(NamedTuple):
    """Where the states of an image stand."""

    part: int
    start: int
    tokens: int


class VisionCache:
    """States by the SHA-256 of images, memory-mapped.

    Args:
        folder: of the cache, for all keys; made when something is written.
        key: of the states that are looked for.
        url: of a second cache, for all keys: what is needed of it is copied here (`fetch`), and what is computed here is put there.
        like: (1, width), of the states of one token; None takes parts of any width and type.
    """

    def __init__(self, folder: Path, key: VisionKey, url: str | None = None, like: Tensor | None = None) -> None:
        self.folder, self.key, self.like = folder / key.name, key, like
        self.remote = None if url is None else RemoteFolder(within(url, key.name))
        self.copies = self.folder / COPIED_PARTS
        if self.remote is not None or self.copies.is_dir():
            # Before it is looked through: what is found is there until this process ends.
            hold(self.copies, str(self.folder) if self.remote is None else self.remote.url)
        self._asked: set[str] = set()
        """Images that this process needs."""
        self._paths: list[Path] = []
        self._places: dict[str, _Place] = {}
        self._open: OrderedDict[int, Tensor] = OrderedDict()
        self._left_out: dict[str, tuple[str, Tensor]] = {}
        self.damaged: dict[Path, str] = {}
        """Parts that were passed over when the folder was looked through, and why."""
        self._far: dict[str, tuple[frozenset[str], int]] = {}
        """Name of a part behind the URL -> its images, and its size; none of one that is damaged."""
        self.look()

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._places

    def look(self) -> None:
        """Look through the folder for parts that are not known yet; what is damaged is passed over, and named in `damaged`."""
        known = {*self._paths, *self.damaged}
        for path in sorted([*self.folder.glob(VISION_PARTS), *self.copies.glob(VISION_PARTS)]):
            if path in known or not path.is_file():
                continue
            try:
                images, ends = read_contents(path, self.key, self.like)
            except PartError as error:
                self.damaged[path] = str(error)
                continue
            number, start = len(self._paths), 0
            self._paths.append(path)
            for sha256, end in zip(images, ends, strict=True):
                # Two processes may have computed the same image.
                self._places.setdefault(sha256, _Place(number, start, end - start))
                start = end

    def fetch(self, images: Sequence[str]) -> None:
        """Copy the parts that lie behind the URL and hold what is missing here; one process of a machine does so, the others wait.

        Args:
            images: SHA-256 of those that are needed; of no other ones a part is copied.

        Raises:
            StoreError: that place does not answer.
            InputError: the disk has not the room for the copies, or they are more than may be kept here.
        """
        self._asked.update(images)
        if self.remote is None or not self.missing(images):
            return
        with copying(self.copies):
            # Another process may have copied them meanwhile.
            self.look()
            wanted = {images[place] for place in self.missing(images)}
            chosen = []
            for name in self._far_parts(self.remote):
                if held := self._far[name][0] & wanted:
                    wanted -= held
                    chosen.append(name)
            size = sum(self._far[name][1] for name in chosen)
            if not size:
                return
            self._make_room(size, self.remote.url)
            say(f"vision cache {self.folder}: {len(chosen)} parts are copied from {self.remote.url}, {gigabytes(size)}")
            require_room(self.folder, size, "free some, or name another folder by $EMO_CACHE")
            for name in chosen:
                copy_here(RemoteStore(self.remote.of(name), cached=False), self.copies / name)
        self.look()

    def _make_room(self, size: int, url: str) -> None:
        """Have room for copies within the limit of all: other ones go first, then those of this key that this process has no need of.

        Args:
            size: bytes that are about to be copied.
            url: of them.

        Raises:
            InputError: there is none.
        """
        needed = {self._paths[place.part] for image in self._asked if (place := self._places.get(image)) is not None}
        unasked = sorted((path for path in self._paths if path.parent == self.copies and path not in needed), key=_changed)
        wanted = size_of(self.copies) + size
        check_allowed(wanted - sum(path.stat().st_size for path in unasked), url)
        excess, used = make_room(wanted, self.copies)
        if excess > 0 and unasked and used_by_others(self.copies):
            used.append(Copy(0.0, size_of(self.copies), self.copies))
            unasked.clear()
        if excess > 0 and unasked:
            for path in unasked:
                if excess <= 0:
                    break
                excess -= path.stat().st_size
                path.unlink()
            self._paths.clear()
            self._places.clear()
            self._open.clear()
            self.look()
        if excess > 0:
            raise no_room(size, url, used)

    def _far_parts(self, remote: RemoteFolder) -> list[str]:
        """Names of the parts behind the URL that are not here; what each of them holds is known then."""
        here = {path.name for place in (self.folder, self.copies) for path in place.glob(VISION_PARTS)}
        names = [name for name in remote.names(VISION_PARTS) if name not in here]
        unknown = [name for name in names if name not in self._far]
        self._far |= dict(zip(unknown, each_at_once(partial(self._look_far, remote), unknown), strict=True))
        return names

    def _look_far(self, remote: RemoteFolder, name: str) -> tuple[frozenset[str], int]:
        url = remote.of(name)
        store = RemoteStore(url, cached=False)
        try:
            return frozenset(
                images_of(url, summed_text(url, far_metadata(url, store), VISION_HEADER_KEY), self.key)
            ), store.size
        except PartError as error:
            say(f"note: vision cache: {error}; it is not copied")
            return frozenset(), 0

    def share(self, path: Path) -> None:
        """Put a part behind the URL; a place that takes none is said once, and stops nobody."""
        if self.remote is None:
            return
        try:
            self.remote.put(path, path.name)
        except RemoteError as error:
            say(f"note: vision cache: {error}; what is computed here stays here")
            self.remote = None

    def remove_damaged(self) -> None:
        """Delete the parts that were passed over, and say so: what they held is computed anew."""
        for path, why in self.damaged.items():
            say(f"vision cache: {why}; deleted, its images are computed anew")
            path.unlink(missing_ok=True)
        self.damaged.clear()

    def missing(self, images: Sequence[str]) -> list[int]:
        """Places in `images` (SHA-256) of those that the cache has not, each image once; none of those that are left out."""
        wanted: dict[str, int] = {}
        for place, sha256 in enumerate(images):
            if sha256 not in self._places and sha256 not in self._left_out:
                wanted.setdefault(sha256, place)
        return list(wanted.values())

    def leave_out(self, sha256: str, fault: str, states: Tensor) -> None:
        """Note an image that cannot be read (`data.on_error: skip`); for this process alone.

        Args:
            sha256: that its record says.
            fault: why.
            states: (tokens, width) that stand in its place, and count nowhere.
        """
        self._left_out[sha256] = (fault, states)

    def fault(self, record: Record) -> str | None:
        """Why the image of a record is left out; None if it is not."""
        return self._left_out[record.sha256][0] if record.sha256 in self._left_out else None

    def picture(self, record: Record) -> CachedPicture:
        """What stands for the picture of a record; nothing of it is read before it is used."""
        left = self._left_out.get(record.sha256)
        states = self.states(record.sha256) if left is None else left[1]
        return CachedPicture((record.width, record.height), states, self.key.part)

    def states(self, sha256: str) -> Tensor:
        """(tokens, width) of an image, mapped.

        Raises:
            KeyError: the cache has it not.
            PartError: its part is damaged.
        """
        part, start, tokens = self._places[sha256]
        return self._part(part)[start : start + tokens]

    def _part(self, number: int) -> Tensor:
        if number not in self._open:
            self._open[number] = self._opened(self._paths[number])
            if len(self._open) > MAX_OPEN_VISION_PARTS:
                self._open.popitem(last=False)
        self._open.move_to_end(number)
        return self._open[number]

    def _opened(self, path: Path) -> Tensor:
        try:
            # Read once as a whole, in the order of the file: what follows finds it in memory.
            return checked_tensor(path, open_part(path), VISION_HEADER_KEY, "states")
        except PartError as error:
            aside = path.with_suffix(".damaged")
            with contextlib.suppress(OSError):
                path.rename(aside)
            msg = f"{error}. It is called {aside.name} now: run again, and its images are computed anew"
            raise PartError(msg) from None

    def is_checked(self, content: str) -> bool:
        """Whether the bytes of all images of a data set have been compared with their records (`mark_checked`)."""
        return self._checked(content).exists()

    def mark_checked(self, content: str) -> None:
        """Remember that they are those of the records, by the content of the data set."""
        write_text(self._checked(content), "", shared=True)

    def _checked(self, content: str) -> Path:
        return self.folder.parent / "checked" / content

    def __getstate__(self) -> dict[str, object]:
        # Mapped files do not travel to worker processes; each opens its own.
        return self.__dict__ | {"_open": OrderedDict()}


class VisionWriter:
    """Appends states to a cache, part by part; use as a context manager.

    Args:
        cache: which finds what has been written only when it looks again.
        part_bytes: size of a part, about; what a kill can lose.
    """

    def __init__(self, cache: VisionCache, part_bytes: int = PART_BYTES) -> None:
        self.cache, self.part_bytes = cache, part_bytes
        self._images: list[str] = []
        self._states: list[Tensor] = []
        self._bytes = 0
        self._name = this_writer()
        remove_left_behind(cache.folder)
        # For people: no program reads it.
        facts = json.dumps({"part": cache.key.part, **cache.key.facts}, indent=1)
        write_text(cache.folder / _KEY_FILE, facts + "\n", shared=True)

    def append(self, sha256: str, states: Tensor) -> None:
        """Add the states (tokens, width) of an image.

        Raises:
            PartError: they are not finite.
        """
        states = states.detach().to("cpu", copy=True)
        if not bool(states.isfinite().all()):
            msg = f"image {sha256}: the vision tower's states are not finite"
            raise PartError(msg)
        self._images.append(sha256)
        self._states.append(states)
        self._bytes += states.nbytes
        if self._bytes >= self.part_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one part."""
        if not self._images:
            return
        images, states, self._images, self._states, self._bytes = self._images, self._states, [], [], 0
        path = write_vision_part(self.cache.folder, self.cache.key, images, states, self._name)
        self.cache.share(path)

    def __enter__(self) -> VisionWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.flush()
