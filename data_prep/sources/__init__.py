"""Sources of images by name.

To add a published data set, for example `mydata`:

1. Write `sources/mydata.py` with one class. An index (CSV, JSON, Parquet) that names the images is the usual case: subclass
   `indexed.IndexedSource`, set `name`, and give in `entries(tree)` one `Entry` for each row, or a `Refusal` that says why not.

       class MyDataSource(IndexedSource):
           # Its docstring says what the labels of this data set mean.
           name = "mydata"

           def entries(self, tree: Tree) -> Iterator[Entry | Refusal]:
               index = tree.index("labels.csv")
               if index is None:
                   raise tree.missing("the table of labels", "labels.csv")
               for place, row in table_rows(index, ("file", "emotion")):
                   yield row if isinstance(row, Refusal) else place.attempt(_entry, place, row)


       def _entry(place: Place, row: dict[str, str]) -> Entry:
           labels: SourceLabels = {"emotion": category(row["emotion"]), "emotion_raw": row["emotion"]}
           return Entry(place, key_of(row["file"]), row["file"], labels)

   The base class reads each image once, checks it, and counts repeated rows. `index_files` reads rows with their place in the file,
   `tree` finds files safely below the folder, `labels` has the keys of labels and the maps to the eight emotions. A function that
   cannot use a row raises `base.RefusedError`; the import then goes on with the next row. A layout without an index implements
   `base.Source` itself, as `folder` does.
2. Add one row to `PUBLISHED` below: `"mydata": ("MyDataSource", "MyData: labels.csv, images/")`. The text is what
   `emo prep import --help` says of the layout.
3. Write a small tree in `tests/data_prep/sources/` (`trees.write` makes pictures from numbers) and compare what `trees.read` gives.
   The tests that every published source must pass take the new row from `PUBLISHED`.

`stats.table1` shows a source that it does not know under its own name; a row in its `_TYPES` gives the image type of the paper.
"""

from __future__ import annotations

import importlib

from data_prep.sources.base import Refusal, Source, SourceError, SourceItem
from emo_lightning.core.text import name_fault

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
"""Published data sets by the name of their module: the class in it, and what has to lie in PATH."""

_LONGEST_NAME = 60
_LONGEST_LICENCE = 500

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
        case "urls":
            from data_prep.sources.urls import UrlSource

            return UrlSource(source_name or "urls", licence)
        case _:
            msg = f"unknown source {name!r}; allowed: {', '.join(SOURCES)}"
            raise SourceError(msg)
