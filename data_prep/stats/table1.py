"""The row of the paper's Table 1: how many images, and which annotations they have."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from data_prep.store.provenance import annotator_replies, source_labels
from emo_lightning.core.records import Record
from emo_lightning.core.tables.table import Table, columns

_TYPES = {
    "emoset": ("Social", "Artistic"),
    "emoart": ("Artistic",),
    "artemis": ("Artistic",),
    "flickr30k": ("Social",),
    "fi": ("Social",),
    "emotion6": ("Social",),
    "findingemo": ("Social",),
    "urls": ("Social",),
    "emoverse": ("Social", "Artistic"),
    "aigc": ("AI-generated",),
    "world": ("Drawn",),
}
"""Image types by source as in the paper's table; the last two have no place in it and say what they are."""

_ORDER = ("Social", "Artistic")

_ANNOTATIONS: dict[Literal["description", "word_level", "category_confidence", "subject_level"], str] = {
    "description": "Description",
    "word_level": "Word-level Anno.",
    "category_confidence": "Category Conf.",
    "subject_level": "Subject-level Anno.",
}
"""The last four columns, and their titles in the paper."""
_TEXT_COLUMNS: dict[Literal["label_source", "tasks", "image_type", "category"], str] = {
    "label_source": "Label Source",
    "tasks": "Tasks",
    "image_type": "Image Type",
    "category": "Category",
}


class Table1Row(TypedDict):
    """The columns of the paper's table; the last four in percent of the images."""

    images: int
    label_source: str
    tasks: str
    image_type: str
    category: str
    description: float
    word_level: float
    category_confidence: float
    subject_level: float


@dataclass
class Table1:
    """Counts for the row; feed it with `add`."""

    images: int = 0
    have: Counter[str] = field(default_factory=Counter)
    """Images by annotation."""
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Count one record."""
        self.images += 1
        self.sources[record.source] += 1
        human = record.provenance.get("human") or source_labels(record).get("emotion")
        found = {
            "category": record.emotion is not None,
            "des": record.des is not None,
            "human": bool(human),
            "llm": bool(annotator_replies(record)),
            "description": bool(record.description),
            "word_level": record.triplet is not None,
            "category_confidence": record.confidence is not None,
            "subject_level": bool(record.objects),
        }
        self.have.update(key for key, there in found.items() if there)

    def row(self) -> Table1Row:
        """The columns of the table; the last four with the share of images that have the annotation, in percent.

        R (recognition) needs categories, G (generation) descriptions. A source that the paper's table does not know stands under
        `Image Type` by its name.
        """
        label_source = [name for name, key in (("Human", "human"), ("LLM", "llm")) if self.have[key]]
        tasks = [name for name, key in (("G", "description"), ("R", "category")) if self.have[key]]
        found = {t for source in self.sources for t in _TYPES.get(source.lower(), (source,))}
        types = sorted(found, key=lambda t: (_ORDER.index(t) if t in _ORDER else len(_ORDER), t))
        category = [n for n, key in (("CES(Mikels'-8)", "category"), ("DES", "des")) if self.have[key]]
        return {
            "images": self.images,
            "label_source": "&".join(label_source) or "–",
            "tasks": "&".join(tasks) or "–",
            "image_type": "&".join(types) or "–",
            "category": "&".join(category) or "–",
            "description": self._share("description"),
            "word_level": self._share("word_level"),
            "category_confidence": self._share("category_confidence"),
            "subject_level": self._share("subject_level"),
        }

    def _share(self, annotation: str) -> float:
        """Images that have an annotation, percent."""
        return round(100 * self.have[annotation] / self.images, 2) if self.images else 0.0


def table1_table(name: str, row: Table1Row) -> Table:
    """The row as a table: ✓ from half of the images on, with the share that has the annotation."""
    return Table(
        "table1",
        "Table 1: data sets and their annotations",
        columns(("dataset", "Dataset"), ("images", "#Image"), *_TEXT_COLUMNS.items(), *_ANNOTATIONS.items()),
        [
            [
                name,
                row["images"],
                *(row[key] for key in _TEXT_COLUMNS),
                *(f"{'✓' if row[key] >= 50 else '×'} ({row[key]:.1f} %)" for key in _ANNOTATIONS),
            ]
        ],
        "✓ from half of the images on; in brackets the share that has the annotation.",
    )
