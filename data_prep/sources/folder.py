"""A tree of photographs: every JPEG, PNG and WebP below a folder, whatever its name. Folder names carry no meaning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.base import RefusedError, SourceError, SourceItem, SourceRefusal
from data_prep.sources.tree import encodable, read_source_image
from data_prep.sources.walk import FoundFile, files_below


class FolderSource:
    """Reads a tree in sorted order; images of other formats are refused, other files passed over by name, hidden ones too.

    Args:
        name: written as the source into every record.
        licence: of all images, if known.
    """

    def __init__(self, name: str = "folder", licence: str | None = None) -> None:
        self.name = name
        self.licence = licence

    def read(self, path: Path) -> Iterator[SourceItem | SourceRefusal]:
        """Stream images, refusals (undecodable, absurd, a bomb, a link out of the tree) and what is passed over.

        Raises:
            SourceError: `path` is no folder.
        """
        if not path.is_dir():
            msg = f"{path}: no such folder"
            raise SourceError(msg)
        root = path.resolve()
        for found in files_below(root, root):
            if isinstance(found, FoundFile):
                yield self._item(found.path, root) if found.kind == "picture" else found.refusal()
            else:
                yield found

    def _item(self, file: Path, root: Path) -> SourceItem | SourceRefusal:
        key = file.relative_to(root).as_posix()
        if not encodable(key):
            return SourceRefusal(str(file), None, "name is not UTF-8: rename the file or its folder")
        try:
            checked = read_source_image(file, root)
        except RefusedError as error:
            return SourceRefusal(str(file), None, str(error))
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
