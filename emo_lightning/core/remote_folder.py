"""Folders behind URLs: what is in them, small files of them read whole, and files put there and looked at again."""

from __future__ import annotations

import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.remote import RemoteError, RemotePlace
from emo_lightning.core.stores import within

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

MAX_SMALL_FILE_BYTES = 256 << 20
"""Bytes of a file that is read whole."""


class RemoteFolder:
    """A folder behind a URL that fsspec knows.

    Args:
        url: with or without a slash at its end.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._place = RemotePlace(self.url)

    def of(self, name: str) -> str:
        """URL of a file in it."""
        return within(self.url, name)

    def names(self, pattern: str) -> list[str]:
        """Names of the files in it that match, sorted; none where there is no such folder.

        Raises:
            StoreError: the place does not answer, or lists nothing.
        """

        def listed(files: AbstractFileSystem, path: str) -> list[str]:
            # A listing of before is no answer: another machine may have written since.
            files.invalidate_cache()
            try:
                found = files.ls(path, detail=True)
            except (FileNotFoundError, NotADirectoryError):
                return []
            return [str(one["name"]).rstrip("/").rpartition("/")[2] for one in found if one.get("type") != "directory"]

        return sorted(set(fnmatch.filter(self._place.ask(listed), pattern)))

    def read(self, name: str) -> bytes | None:
        """The bytes of a file in it; None where there is none.

        Raises:
            StoreError: the place does not answer, or it is too long for what is read whole.
        """

        def whole(files: AbstractFileSystem, _: str) -> bytes:
            files.invalidate_cache()
            path = self._path(files, name)
            size = files.info(path).get("size")
            if size is not None and size > MAX_SMALL_FILE_BYTES:
                msg = f"{size:,} bytes; at most {MAX_SMALL_FILE_BYTES:,} are read at once"
                raise ValueError(msg)
            data = bytes(files.cat_file(path))
            if size is not None and len(data) < size:
                msg = f"expected {size} bytes, got {len(data)}: the answer was cut"
                raise OSError(msg)
            return data

        try:
            return self._place.ask(whole, self.of(name))
        except RemoteError as error:
            if error.missing:
                return None
            raise

    def put(self, local: Path, name: str) -> None:
        """Copy a file there, under its name only when all of it is; then hold the length that the place says against its own.

        Raises:
            StoreError: the place does not answer, takes no files, or has another length.
        """
        size = local.stat().st_size

        def once(files: AbstractFileSystem, _: str) -> None:
            path = self._path(files, name)
            files.put_file(str(local), path)
            files.invalidate_cache()
            if (there := files.info(path).get("size")) != size:
                msg = f"{size} bytes were written, {there} are there"
                raise OSError(msg)

        self._place.ask(once, self.of(name), "written")

    def remove(self, name: str) -> None:
        """Remove a file, if it is there.

        Raises:
            StoreError: the place does not answer, or refuses.
        """

        def once(files: AbstractFileSystem, _: str) -> None:
            files.invalidate_cache()
            path = self._path(files, name)
            # `exists` of most file systems says no where the place does not answer; and not all refuse to remove what is not there.
            files.info(path)
            files.rm_file(path)

        try:
            self._place.ask(once, self.of(name), "removed")
        except RemoteError as error:
            if not error.missing:
                raise

    def _path(self, files: AbstractFileSystem, name: str) -> str:
        return str(files._strip_protocol(self.of(name)))
