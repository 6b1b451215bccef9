"""Sources of images by name.

A published data set is a class in a module of its own, and a row of `PUBLISHED`; `docs/recipes/data-source.md` adds one, line by line. `indexed`
is the base of nearly all: it reads each image once, checks it, and counts repeated rows. `index_files` reads rows with their place in the file,
`tree` finds files safely below the folder, `labels` has the keys of labels and the maps to the eight emotions. What cannot be used
raises `base.RefusedError`, and the import goes on with the next row.

`stats.table1` shows a source that it does not know under its own name; a row in its `_TYPES` gives the image type of the paper.
"""

from __future__ import annotations

import importlib

from data_prep.sources.base import Source, SourceError, SourceItem, SourceRefusal
from emo_lightning.core.label_map import EMOTION_BY_NAME, LabelMap
from emo_lightning.core.text import name_fault

__all__ = ["SOURCES", "Source", "SourceError", "SourceItem", "SourceRefusal", "open_source"]

PUBLISHED = {
    "emoset": ("EmoSetSource", "EmoSet-118K: train.json, val.json, test.json, annotation/, image/"),
    "emoart": ("EmoArtSource", "EmoArt: Annotation.json, Images/<Style>/ or <Style>.tar.gz"),
    "flickr30k": ("Flickr30kSource", "Flickr30k: .token, dataset_flickr30k.json or .csv, flickr30k_images/"),
    "fi": ("FISource", "FI: emotion_dataset/<emotion>/, or CSVs emotion,url,disagree,agree"),
    "emotion6": ("Emotion6Source", "Emotion6: ground_truth.txt, images/"),
    "artemis": ("ArtEmisSource", "ArtEmis: artemis_dataset_release_v0.csv, wikiart/<art_style>/"),
    "findingemo": ("FindingEmoSource", "FindingEmo: data/annotations_single.ann, images/"),
    "emoverse": ("EmoVerseSource", "EmoVerse: JSON records with images/, or data/train-*.parquet"),
    "mvei": ("MVEISource", "MVEI: Std-MVEI.json, and the images that it names"),
    "vecbench": ("VECBenchSource", "VECBench: Std-VECBench.json or test_8k.jsonl, and the images that it names"),
    "eemo_bench": ("EEmoBenchSource", "EEmo-Bench: Ebench_1_data(jac_en_check).json or the questions, images/"),
    "multiemo": ("MultiEmoSource", "MultiEmo-Bench: one .csv, .json or .jsonl with votes for each of the eight, images/"),
    "webemo": ("WebEmoSource", "WebEmo: its rows in VECBench's file, and the images that they name"),
    "unbiasedemo": ("UnbiasedEmoSource", "UnbiasedEmo: <emotion>/<folder>/, or its rows in VECBench's file"),
    "abstract": ("AbstractSource", "Abstract: its rows in VECBench's file, and the images that they name"),
    "artphoto": ("ArtphotoSource", "Artphoto: testImages_artphoto/<emotion>_<number>.jpg, or its rows in VECBench's file"),
}
"""Published data sets by the name of their module: the class in it, and what has to lie in PATH."""

_LONGEST_NAME = 60
_LONGEST_LICENCE = 500

SOURCES = ("folder", "urls", "labelled", *PUBLISHED)
"""Names that `open_source` knows."""


def open_source(
    name: str, *, licence: str | None = None, source_name: str | None = None, labels: LabelMap = EMOTION_BY_NAME
) -> Source:
    """The reader of a layout.

    Args:
        name: one of `SOURCES`.
        licence: of all images.
        source_name: written into the records in place of `name` (folder, urls and labelled alone).
        labels: words of `labelled` -> emotions.

    Raises:
        SourceError: unknown name, or a published data set under another name.
    """
    if name in PUBLISHED:
        if source_name is not None:
            msg = f"source {name!r} keeps its name, found {source_name!r}; only a folder, urls and labelled may have another"
            raise SourceError(msg)
        module = importlib.import_module(f"data_prep.sources.{name}")
        published: Source = getattr(module, PUBLISHED[name][0])(licence)
        return published
    if source_name is not None and (
        name_fault(source_name) or len(source_name) > _LONGEST_NAME or not source_name.isprintable()
    ):
        msg = f"--name {source_name[:100]!r}: allowed are 1–{_LONGEST_NAME} printable characters without slashes, '..' and outer blanks"
        raise SourceError(msg)
    if licence is not None and (not licence.isprintable() or len(licence) > _LONGEST_LICENCE):
        msg = f"--licence {licence[:100]!r}: allowed are printable characters, at most {_LONGEST_LICENCE}"
        raise SourceError(msg)
    match name:
        case "folder":
            from data_prep.sources.folder import FolderSource

            return FolderSource(source_name or "folder", licence)
        case "labelled":
            from data_prep.sources.labelled import LabelledSource

            return LabelledSource(source_name or "labelled", licence, labels)
        case "urls":
            from data_prep.sources.urls import UrlSource

            return UrlSource(source_name or "urls", licence)
        case _:
            msg = f"unknown source {name!r}; allowed: {', '.join(SOURCES)}"
            raise SourceError(msg)
