"""Sources of images by name."""

from __future__ import annotations

import importlib

from data_prep.sources.base import Refusal, Source, SourceError, SourceItem

__all__ = ["SOURCES", "Refusal", "Source", "SourceError", "SourceItem", "open_source"]

PUBLISHED = {
    "emoset": ("EmoSetSource", "EmoSet-118K: train.json, val.json, test.json, annotation/, image/"),
    "emoart": ("EmoArtSource", "EmoArt: Annotation.json, Images/<Style>/ or <Style>.tar.gz"),
    "flickr30k": ("Flickr30kSource", "Flickr30k: .token, dataset_flickr30k.json or .csv, flickr30k_images/"),
    "fi": ("FISource", "FI: emotion_dataset/<emotion>/, or CSVs emotion,url,disagree,agree"),
    "emotion6": ("Emotion6Source", "Emotion6: ground_truth.txt, images/"),
    "artemis": ("ArtEmisSource", "ArtEmis: artemis_dataset_release_v0.csv, wikiart/<art_style>/"),
    "findingemo": ("FindingEmoSource", "FindingEmo: data/annotations_single.ann, images/"),
    "emoverse": ("EmoVerseSource", "EmoVerse: JSON records with images/, or data/train-*.parquet"),
}
"""Published data sets by the name of their module: the class, and what has to lie in PATH."""

SOURCES = ("folder", "urls", *PUBLISHED)
"""Names that `open_source` knows."""


def open_source(name: str, *, licence: str | None = None, source_name: str | None = None) -> Source:
    """The reader of a layout.

    Args:
        name: one of `SOURCES`.
        licence: of all images.
        source_name: written into the records in place of `name` (folder and urls alone).

    Raises:
        SourceError: unknown name, or a published data set under another name.
    """
    if name in PUBLISHED:
        if source_name is not None:
            msg = f"source {name!r} keeps its name, found {source_name!r}; only a folder and urls may have another"
            raise SourceError(msg)
        module = importlib.import_module(f"data_prep.sources.{name}")
        published: Source = getattr(module, PUBLISHED[name][0])(licence)
        return published
    match name:
        case "folder":
            from data_prep.sources.folder import FolderSource

            return FolderSource(source_name or "folder", licence)
        case "urls":
            from data_prep.sources.urls import UrlSource

            return UrlSource(source_name or "urls", licence)
        case _:
            msg = f"unknown source {name!r}; allowed: {', '.join(SOURCES)}"
            raise SourceError(msg)
