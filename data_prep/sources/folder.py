"""A tree of photographs: every JPEG, PNG and WebP below a folder. Folder names carry no meaning."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.base import Refusal, RefusedError, SourceError, SourceItem
from data_prep.sources.tree import OTHER_SUFFIXES, SUFFIXES, encodable, read_image


class FolderSource:
    """Reads a tree in sorted order; images of other formats are refused, other files ignored, hidden ones too.

    Args:
        name: written as the source into every record.
        licence: of all images, if known.
    """

    def __init__(self, name: str = "folder", licence: str | None = None) -> None:
        self.name = name
        self.licence = licence

    def read(self, path: Path) -> Iterator[SourceItem | Refusal]:
        """Stream images and refusals (undecodable, absurd, a bomb, a link out of the tree).

        Raises:
            SourceError: `path` is no folder.
        """
        if not path.is_dir():
            msg = f"{path}: no such folder"
            raise SourceError(msg)
        root = path.resolve()
        for folder, subfolders, files in os.walk(root, followlinks=False):
            here = Path(folder)
            for name in sorted(subfolders):
                if (here / name).is_symlink():
                    yield Refusal(str(here / name), None, "link to a folder, not followed")
            subfolders[:] = sorted(s for s in subfolders if not s.startswith(".") and not (here / s).is_symlink())
            for name in sorted(files):
                if name.startswith("."):
                    continue
                if name.lower().endswith(SUFFIXES):
                    yield self._item(here / name, root)
                elif name.lower().endswith(OTHER_SUFFIXES):
                    yield Refusal(
                        str(here / name), None, f"format not read: {Path(name).suffix.lower()}, allowed: JPEG, PNG, WebP"
                    )

    def _item(self, file: Path, root: Path) -> SourceItem | Refusal:
        key = file.relative_to(root).as_posix()
        if not encodable(key):
            return Refusal(str(file), None, "name is not UTF-8: rename the file or its folder")
        try:
            checked = read_image(file, root)
        except RefusedError as error:
            return Refusal(str(file), None, str(error))
        return SourceItem(
            key=key,
            image=checked.data,
            extension=checked.extension,
            width=checked.width,
            height=checked.height,
            source=self.name,
            licence=self.licence,
            origin=key,
        )
