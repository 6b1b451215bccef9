"""What the report shows of the kinds of stages that it knows: one entry of `KINDS` each. All others show their `page.json`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, cast

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from emo_lightning.analysis.table5_rows import definition
from emo_lightning.core.arrays import read_npz
from emo_lightning.core.foreign import read_capped
from emo_lightning.core.images import MAX_IMAGE_BYTES
from emo_lightning.core.records import SchemaError
from emo_lightning.core.replies import UNREADABLE_ANSWERS
from emo_lightning.core.tables.provenance import Provenance
from emo_lightning.core.tables.table import Result, Table, of_stage
from emo_lightning.report import cautions
from emo_lightning.report.forms import Form, MdsForm, PanelForm, Table5Form, Table6Form
from emo_lightning.report.pictures import Figure, ReportPicture, with_boxes
from emo_lightning.report.provenance import Sources
from emo_lightning.report.run_folder import StageFolder
from emo_lightning.report.svg import mds_svg
from emo_lightning.report.tables.affect import affect_tables
from emo_lightning.report.tables.mds import mds_tables
from emo_lightning.report.tables.objects import object_tables
from emo_lightning.report.tables.table5 import BASELINE_TITLES, detail_tables, paired_tables, table5_tables, unreadable_tables
from emo_lightning.report.tables.table6 import table6_tables

if TYPE_CHECKING:
    from emo_lightning.report.panel import Panel

_ONE_ANSWER = 0.75
"""Share of the images from which on an answer is one that is given whatever they show."""

_MISSING = {
    "unparsable_emotions": "without one of the eight emotions",
    "unparsable_intensities": "without an intensity",
}
"""Count of `table5.json` -> what a note says of as many images; others are called as there."""


@dataclass(frozen=True)
class Table5Details:
    """What the page says below Table 5."""

    remarks: list[str]
    baselines: dict[str, object]
    """Baseline -> what it answers."""
    definition: str
    references: str
    """Which images it was scored on, in words."""


@dataclass(frozen=True)
class Arms:
    """What each arm is, in one line."""

    lines: dict[str, str]


@dataclass(frozen=True)
class AnsweredPictures:
    """Images under their boxes, with everything that was said of them."""

    arms: list[str]
    seed: int
    of: int
    items: list[ReportPicture]
    source: Provenance


@dataclass
class Shown:
    """What one stage puts into the section of its kind."""

    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What is missing, or must be read before any number; stands on top of the report."""
    details: Table5Details | AnsweredPictures | None = None
    """What only the template of this section knows."""


@dataclass(frozen=True)
class StageResult:
    """A stage with the JSON that it wrote."""

    stage: StageFolder
    found: Result
    sources: Sources

    def placed(self, tables: Sequence[Table]) -> list[Table]:
        """The tables, with the stage in their files' names and as their source."""
        return of_stage(tables, self.stage.name, self.sources.of(self.stage))


SectionPlace: TypeAlias = Literal["first", "pictures", "last"]
"""Of a section: before the pages that other stages wrote, behind them among the pictures, or at the end."""


@dataclass(frozen=True)
class Kind:
    """How the report shows one kind of stage."""

    file: str
    """What the page reads of the stage."""
    short: str
    """How a note calls it where a run has no such stage; empty where no run is expected to have one."""
    key: str
    """Of its section: the anchor on the page."""
    title: str
    tables: Callable[[Result], Sequence[Table]] | None = None
    """Makes the tables of the stage's JSON."""
    more: Callable[[StageResult, Shown], None] | None = None
    """Adds what is more than tables of the JSON alone."""
    text: str = ""
    with_page: bool = False
    """Whether the `page.json` of such a stage stands under the same heading, and not under one of its own."""
    place: SectionPlace = "first"
    form: type[Form] = Form
    """What the file must hold; by default any JSON object will do."""

    def show(self, result: StageResult) -> Shown:
        """What a stage of this kind puts into the section."""
        shown = Shown(result.placed(self.tables(result.found)) if self.tables else [])
        if self.more:
            self.more(result, shown)
        return shown


def _table5_tables(found: Result) -> list[Table]:
    return [
        *table5_tables(found),
        *affect_tables(found),
        *unreadable_tables(found),
        *paired_tables(found),
        *detail_tables(found),
    ]


def _more_of_table5(result: StageResult, shown: Shown) -> None:
    found, stage = result.found, result.stage
    hashes = [d.sha256[:12] for d in result.sources.behind(stage.settings.get("references")) if d.sha256]
    shown.details = Table5Details(
        found.get("remarks", []),
        {
            BASELINE_TITLES.get(name, name): column["answer"]
            for name, column in found["baselines"].items()
            if column.get("answer")
        },
        found["definition"],
        f"{found['references']} images, split {found['split']}, data {', '.join(hashes) or 'unknown'}",
    )
    shown.notes += _table5_notes(stage.name, found)


def _table5_notes(stage: str, found: Result) -> list[str]:
    name, notes = f"stage {stage!r}", []
    if not found["clip"]:
        notes.append(f"{name}: CLIP rows were not computed, no CLIP model was given")
    elif found["clip_truncated"]:
        notes.append(f"{name}: {found['clip_truncated']} descriptions were cut to CLIP's text length")
    for arm, column in found["arms"].items():
        if counted := _counted(column["counts"]):
            notes.append(f"{name}, {arm}, of {found['references']} images: {counted}")
        if one := _one_answer(column["confusion"]):
            notes.append(f"{name}, {arm} says one emotion of nearly all images: {one}")
    if found["definition"] != definition():
        notes.append(f"{name} was scored by another version of the definitions than the installed one")
    for baseline, reason in (found.get("omitted") or {}).items():
        notes.append(f"{name}: the baseline {baseline!r} was left out: {reason}")
    notes += cautions.of_table5(stage, found)
    if found["references"] < 2:
        notes.append(f"{name}: {found['references']} image alone was scored; its numbers say nothing of others")
    return notes


def _counted(counts: Mapping[str, int]) -> str:
    """What was missing in images, and why answers to them could not be read; empty where there is nothing to say."""
    missing, unreadable = [], []
    for key, count in counts.items():
        if count and key.startswith(UNREADABLE_ANSWERS):
            unreadable.append(f"{count} {key.removeprefix(UNREADABLE_ANSWERS)}")
        elif count and key != "references":
            missing.append(f"{count} {_MISSING.get(key, key.replace('_', ' '))}")
    parts = [", ".join(missing), f"unreadable answers: {', '.join(unreadable)}" if unreadable else ""]
    return "; ".join(filter(None, parts))


def _one_answer(confusion: Result) -> str | None:
    """The emotion that an arm gives most images whatever they show, in words; None where its answers vary."""
    counts = np.array(confusion["counts"])  # (annotated, said)
    said, images = counts.sum(0), int(counts.sum())
    # The last column is no emotion.
    most = int(said[:-1].argmax())
    if said[most] < _ONE_ANSWER * max(images, 1) or counts[most].sum() >= _ONE_ANSWER * images:
        return None
    return f"{confusion['columns'][most]}, {said[most]} of {images} (annotated so: {counts[most].sum()})"


def _more_of_table6(result: StageResult, shown: Shown) -> None:
    name = f"stage {result.stage.name!r}"
    if not shown.tables:
        shown.notes.append(f"{name} measured no set")
    shown.notes += cautions.of_table6(result.stage.name, result.found)
    if single := [arm for arm, seeds in result.found["seeds"].items() if seeds == 1]:
        shown.notes.append(f"{name}: one seed for {', '.join(single)}, so no deviation is known")


def _more_of_mds(result: StageResult, shown: Shown) -> None:
    path = result.stage.own("mds.npz")
    points = read_npz(path)
    for n, (arm, found) in enumerate(result.found["arms"].items()):
        coords, labels = _layout(path, points, n)
        drawing = Markup(mds_svg(coords, labels, arm))
        shown.figures.append(Figure(arm, drawing, result.sources.of(result.stage)))
        name = f"stage {result.stage.name!r}, {arm}"
        if found["without_emotion"]:
            shown.notes.append(f"{name}: {found['without_emotion']} embeddings have no emotion")
        if len(set(labels)) < 2:
            only = f"every embedding is labelled {labels[0]!r}" if labels else "there is no embedding"
            shown.notes.append(f"{name}: {only}; silhouette and purity say nothing")


def _layout(path: Path, points: Mapping[str, NDArray[np.generic]], arm: int) -> tuple[NDArray[np.float64], list[str]]:
    """The (N, 2) places of an arm, and N labels."""
    coords, labels = points.get(f"coords_{arm}"), points.get(f"labels_{arm}")
    if coords is None or labels is None or coords.dtype.kind not in "iuf" or (*labels.shape, 2) != coords.shape:
        msg = f"{path}: coords_{arm} and labels_{arm}: expected numbers of shape (N, 2), and N labels"
        raise SchemaError(msg)
    return coords.astype(np.float64), [str(label) for label in labels]


def _more_of_panel(result: StageResult, shown: Shown) -> None:
    panel = cast("Panel", result.found)  # `PanelForm` has seen it.
    items = [
        with_boxes(item, read_capped(result.stage.own(item["image"]), MAX_IMAGE_BYTES), panel["arms"])
        for item in panel["items"]
    ]
    source = result.sources.of(result.stage)
    shown.details = AnsweredPictures(panel["arms"], panel["seed"], panel["of"], items, source)


def _more_of_prep(result: StageResult, shown: Shown) -> None:
    shown.tables += result.placed(object_tables(result.stage.name, result.found))


KINDS: dict[str, Kind] = {
    "table5": Kind(
        "table5.json",
        "Table 5",
        "table5",
        "Table 5: what the model says of an image",
        _table5_tables,
        _more_of_table5,
        form=Table5Form,
    ),
    "table6": Kind(
        "table6.json",
        "Table 6",
        "table6",
        "Table 6: a linear probe on frozen embeddings",
        table6_tables,
        _more_of_table6,
        form=Table6Form,
    ),
    "mds": Kind(
        "mds.json",
        "MDS",
        "mds",
        "The map of emotions",
        mds_tables,
        _more_of_mds,
        "Every point is an image. The closer two points are, the more alike the model's embeddings (DES) of the two images are: the numbers "
        "that it makes of an image, drawn in two dimensions by multidimensional scaling (MDS). Colour and shape: the true emotion.",
        with_page=True,
        form=MdsForm,
    ),
    "panel": Kind(
        "panel.json",
        "image panel",
        "panel",
        "Images: predicted and true",
        more=_more_of_panel,
        place="pictures",
        form=PanelForm,
    ),
    "prep": Kind("prep.json", "dataset statistics", "data", "Dataset and annotation", more=_more_of_prep, place="last"),
}
"""Kind of stage -> how it is shown; of one place, in the page's order."""
