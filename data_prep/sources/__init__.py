"""Sources of images by name."""

from __future__ import annotations

from data_prep.sources.base import Refusal, Source, SourceError, SourceItem

__all__ = ["SOURCES", "Refusal", "Source", "SourceError", "SourceItem", "open_source"]

SOURCES = ("folder", "world")
"""Names that `open_source` knows."""


def open_source(name: str, *, licence: str | None = None, source_name: str | None = None) -> Source:
    """The reader of a layout.

    Args:
        name: one of `SOURCES`.
        licence: of all images (folder alone).
        source_name: written into the records in place of `name` (folder alone).

    Raises:
        SourceError: unknown name.
    """
    match name:
        case "folder":
            from data_prep.sources.folder import FolderSource

            return FolderSource(source_name or "folder", licence)
        case "world":
            from data_prep.sources.world_source import WorldSource

            return WorldSource()
        case _:
            raise SourceError(f"unknown source {name!r}; allowed: {', '.join(SOURCES)}")
