"""Published suites as sources: what `emo_lightning.core.suites` reads of their files, image by image.

A suite asks several things of one image; the image is stored once, with all of them (`questions`), and what they say of it as labels.
All of it is evaluation: the split is `test`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.sources.base import RefusedError, SourceRefusal
from data_prep.sources.index_files import Place
from data_prep.sources.indexed import Entry, IndexedSource
from data_prep.sources.labels import SourceLabels
from data_prep.sources.tree import Tree, key_of
from emo_lightning.core.suites import SUITE_READERS, BadRow, SuiteItem, possible_paths

_FOLDERS = ("", "images/", "benchmarks/")


class SuiteSource(IndexedSource):
    """Images of a suite whose files are read by `SUITE_READERS`."""

    suite: str
    """The reader."""
    files: tuple[str, ...]
    """Where its files may lie; all that are there are read."""

    @abstractmethod
    def labels(self, items: Sequence[SuiteItem]) -> SourceLabels:
        """What the items of one image say of it.

        Raises:
            RefusedError: it cannot be used; the image is left out.
        """

    def wanted(self, item: SuiteItem) -> bool:  # noqa: ARG002 - others ask it
        """Whether the item is of this source."""
        return True

    def index_files(self, tree: Tree) -> list[Path]:
        """Those that are there, in the order of `files`."""
        return [file for name in self.files if (file := tree.index(name)) is not None]

    def entries(self, tree: Tree) -> Iterator[Entry | SourceRefusal]:
        """One entry an image, in the order of the rows; the files are read to their end before the first."""
        files = self.index_files(tree)
        if not files:
            msg = f"the suite's file ({self.suite})"
            raise tree.missing(msg, *self.files)
        found: dict[str, list[SuiteItem]] = {}
        places: dict[str, Place] = {}
        for file in files:
            for item in SUITE_READERS[self.suite](file):
                if isinstance(item, BadRow):
                    yield SourceRefusal(item.where, None, item.reason)
                elif self.wanted(item):
                    place = Place(f"{file}[{item.id}]", None)
                    for written in item.images:
                        name = place.attempt(_name_of, tree, written)
                        if isinstance(name, SourceRefusal):
                            yield name
                            continue
                        found.setdefault(name, []).append(item)
                        places.setdefault(name, place)
        for name, items in found.items():
            yield places[name].attempt(self._entry, places[name], name, items)

    def _entry(self, place: Place, name: str, items: list[SuiteItem]) -> Entry:
        labels = self.labels(items)
        if questions := [_question(item) for item in items if item.prompt is not None]:
            labels["questions"] = questions
        return Entry(place, key_of(name), name, labels, "test")


def _name_of(tree: Tree, written: str) -> str:
    """The file that a suite means, below the folder; its paths begin where its authors stood.

    Raises:
        RefusedError: there is none.
    """
    for name in possible_paths(written):
        for folder in _FOLDERS:
            if tree.has(folder + name):
                return folder + name
    msg = f"no such file: {written[:160]!r}, whole or from any of its folders on, in the folder or in images/ or benchmarks/"
    raise RefusedError(msg)


def _question(item: SuiteItem) -> dict[str, object]:
    """What is asked and what is right, as a record keeps it."""
    said: dict[str, object] = {"id": item.id, "task": item.task, "prompt": item.prompt}
    more = {
        "question": item.question,
        "candidates": list(item.candidates),
        "options": dict(item.options),
        "truth": item.truth,
        "images": list(item.images) if len(item.images) > 1 else [],
    }
    return said | {key: value for key, value in more.items() if value}
