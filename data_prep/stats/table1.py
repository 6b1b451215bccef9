"""The row of the paper's Table 1: how many images, and which annotations they have."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from emo_lightning.core.records import Record

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

ANNOTATIONS = ("description", "word_level", "category_confidence", "subject_level")
"""The last four columns."""


@dataclass
class Table1:
    """Counts for the row; feed it with `add`."""

    images: int = 0
    have: Counter[str] = field(default_factory=Counter)
    """Images by annotation."""
    sources: Counter[str] = field(default_factory=Counter)

    def add(self, record: Record) -> None:
        """Count one record."""
        provenance = record.provenance
        self.images += 1
        self.sources[record.source] += 1
        human = provenance.get("human") or (provenance.get("source_labels") or {}).get("emotion")
        found = {
            "category": record.emotion is not None,
            "des": record.des is not None,
            "human": bool(human),
            "llm": bool(provenance.get("said")),
            "description": bool(record.description),
            "word_level": record.triplet is not None,
            "category_confidence": record.confidence is not None,
            "subject_level": bool(record.objects),
        }
        self.have.update(key for key, there in found.items() if there)

    def row(self) -> dict[str, Any]:
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
            **{key: round(100 * self.have[key] / self.images, 2) if self.images else 0.0 for key in ANNOTATIONS},
        }


def table1_text(name: str, row: dict[str, Any]) -> str:
    """The row as Markdown: ✓ from half of the images on, with the share that has the annotation."""
    head = ("Dataset", "#Image", "Label Source", "Tasks", "Image Type", "Category")
    columns = ("Description", "Word-level Anno.", "Category Conf.", "Subject-level Anno.")
    cells = [name, f"{row['images']:,}", *(row[key] for key in ("label_source", "tasks", "image_type", "category"))]
    cells += [f"{'✓' if row[key] >= 50 else '×'} ({row[key]:.1f} %)" for key in ANNOTATIONS]
    lines = [(*head, *columns), ("---",) * len(cells), cells]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
