"""What the report shows of one run: every section's tables and figures, each with what it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from markupsafe import Markup

from emo_lightning.core.logged import start_of
from emo_lightning.core.tables.provenance import Provenance
from emo_lightning.core.tables.table import Cell, Result, Table, of_stage
from emo_lightning.report.arms import explained_arms
from emo_lightning.report.cautions import few_steps
from emo_lightning.report.examples import Examples, right_and_wrong
from emo_lightning.report.forms import TrainingForm
from emo_lightning.report.kinds import SHOWN_KINDS, AnsweredPictures, Arms, StageResult, Table5Details
from emo_lightning.report.opening import Opening, opening_of
from emo_lightning.report.page import PAGE_FILE, PageFigure, read_page
from emo_lightning.report.pictures import Figure, drawn_figure
from emo_lightning.report.provenance import Sources
from emo_lightning.report.run_folder import COMPLETE, RunFolder, StageFolder, own_file
from emo_lightning.report.svg import Curves, joined_losses, loss_svg, read_losses
from emo_lightning.report.tables.overview import overview_table6, overview_tables
from emo_lightning.report.tables.training import (
    answered_rows,
    answered_table,
    speed_row,
    speed_table,
    training_row,
    training_table,
)

TRAINING = "training.json"
"""Of every stage that trained (`stages.execute`)."""

_T = TypeVar("_T")

MAX_CURVES = 40
"""Trainings whose losses are drawn; a drawing has 20 KB."""

CONFIG_LIMIT = 20_000
"""Characters of a stage's config.yaml that are shown."""


@dataclass
class Section:
    """Of one stage, or of several of one kind."""

    key: str
    title: str
    text: str = ""
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    details: dict[str, Table5Details | AnsweredPictures | Examples | Arms | None] = field(default_factory=dict)
    """Stage -> what only the template of this section knows."""


class RunSections:
    """Reads one run into sections; what is absent, skipped or damaged goes to `run.notes`.

    Args:
        path: `runs/NAME`.
        samples: images shown that were answered rightly, and as many that were answered wrongly.
        name: of the run on the page; default is the directory's.

    Raises:
        MissingFileError: no such directory.
    """

    def __init__(self, path: Path, samples: int = 4, name: str | None = None) -> None:
        self.run = RunFolder(path, {*(kind.file for kind in SHOWN_KINDS.values()), PAGE_FILE}, name)
        self.sources = Sources(self.run)
        self.samples = samples
        self.bugs: list[Exception] = []
        """Of ours: what each would have shown is left out, and `build_report` raises them once the rest is written."""
        first = {name for name, kind in SHOWN_KINDS.items() if kind.place == "first"}
        built: list[Section | None] = [self._overview()]
        for name in (name for name in SHOWN_KINDS if name in first):
            built += _merged(self._of_kind(name), list(self._pages({name})), SHOWN_KINDS[name].with_page)
        built += self._pages({stage.kind for stage in self.run.stages} - first)
        built += [self._of_kind(name) for name, kind in SHOWN_KINDS.items() if kind.place == "pictures"]
        built += [self._examples(), self._training()]
        built += [self._of_kind(name) for name, kind in SHOWN_KINDS.items() if kind.place == "last"]
        # The map is seen before tables are read.
        self.sections = sorted(
            (section for section in built if section), key=lambda section: section.key != SHOWN_KINDS["mds"].key
        )
        self.opening = self._opening()
        self.notes = self.run.unfinished() + self.run.notes + self._missing()

    @property
    def tables(self) -> list[Table]:
        """All tables, in the page's order."""
        return [table for section in self.sections for table in section.tables]

    def section(self, key: str) -> Section | None:
        """The section of that key."""
        return next((section for section in self.sections if section.key == key), None)

    def config(self, stage: StageFolder) -> str | None:
        """A stage's settings, cut where they are very long."""
        if stage.config and len(stage.config) > CONFIG_LIMIT:
            return stage.config[:CONFIG_LIMIT] + f"\n… cut at {CONFIG_LIMIT} characters; the rest is in config.yaml"
        return stage.config

    def _attempt(self, path: Path, read: Callable[[], _T]) -> _T | None:
        """As `RunFolder.attempt`; a bug of ours costs no more of the page than a damaged file."""
        try:
            return self.run.attempt(path, read)
        except Exception as error:
            error.add_note(f"while {self.run.shown(path)} of {self.run.path} was to be shown")
            self.bugs.append(error)
            self.run.note(
                f"{self.run.shown(path)} could not be shown, by a bug of emo-lightning: {type(error).__name__}: {error}"
            )
            return None

    def _found(self, name: str) -> Iterator[tuple[StageFolder, Result]]:
        kind = SHOWN_KINDS[name]
        for stage in self.run.stages:
            path = stage.path / kind.file
            if path.is_file():
                found = self._attempt(path, partial(self.run.read_object, path, kind.form))
                if found is not None:
                    yield stage, found
            elif stage.kind == name and stage.info.get("status") == COMPLETE:
                self.run.note(f"stage {stage.name!r} is complete but has no {path.name}")

    def _of_kind(self, name: str) -> Section | None:
        """A section filled stage by stage; a stage that cannot be shown leaves nothing of itself but a note."""
        kind = SHOWN_KINDS[name]
        section = Section(kind.key, kind.title, kind.text)
        for stage, found in self._found(name):
            shown = self._attempt(stage.path / kind.file, partial(kind.show, StageResult(stage, found, self.sources)))
            if shown:
                section.tables += shown.tables
                section.figures += shown.figures
                section.details[stage.name] = shown.details
                for note in shown.notes:
                    self.run.note(note)
        return section if section.details else None

    def _overview(self) -> Section | None:
        """Arms down, a few metrics across, of every Table 5 and 6, and what each arm is."""
        section = Section("overview", "Arms and metrics")
        lines: dict[str, str] = {}
        for name, builder in (("table5", overview_tables), ("table6", overview_table6)):
            for stage, found in self._found(name):
                path = stage.path / SHOWN_KINDS[name].file
                tables = self._attempt(path, partial(_all_of, builder, found))
                section.tables += of_stage(tables or [], stage.name, self.sources.of(stage))
                lines |= self._attempt(path, partial(explained_arms, self.run, stage, found)) or {}
        section.details["arms"] = Arms(lines)
        return section if section.tables else None

    def _opening(self) -> Opening | None:
        details = [
            d for section in self.sections for d in section.details.values() if isinstance(d, AnsweredPictures | Examples)
        ]
        # The panel's were drawn without regard to the answers.
        pictures = next((d for d in details if isinstance(d, AnsweredPictures)), next(iter(details), None))
        for stage, found in self._found("table5"):
            return self._attempt(
                stage.path / SHOWN_KINDS["table5"].file, partial(opening_of, self.run, self.sources, stage, found, pictures)
            )
        return None

    def _missing(self) -> list[str]:
        kinds = {stage.kind for stage in self.run.stages}
        there = {name for name, kind in SHOWN_KINDS.items() if any((s.path / kind.file).is_file() for s in self.run.stages)}
        absent = [kind.short for name, kind in SHOWN_KINDS.items() if kind.short and name not in kinds | there]
        return [f"not part of this run: {', '.join(absent)}"] if absent and self.run.stages else []

    def _pages(self, kinds: Set[str | None]) -> Iterator[Section]:
        """The `page.json` of the stages of these kinds."""
        for stage in self.run.stages:
            path = stage.path / PAGE_FILE
            if path.is_file() and stage.kind in kinds:
                section = self._attempt(path, partial(self._page, stage, path))
                if section:
                    yield section

    def _page(self, stage: StageFolder, path: Path) -> Section:
        page = read_page(stage.own(path.name))
        source = self.sources.of(stage)
        section = Section(f"page-{stage.name}", page.title, page.text, of_stage(page.tables, stage.name, source))
        for note in page.notes:
            self.run.note(f"stage {stage.name!r}: {note}")
        for table in section.tables:
            if not table.rows:
                self.run.note(f"stage {stage.name!r}: the table {table.title!r} has no row")
        for figure in page.figures:
            file = stage.path / figure.file
            drawn = self._attempt(file, partial(self._drawn, file, figure, source))
            if drawn:
                section.figures.append(drawn)
        return section

    def _examples(self) -> Section | None:
        section = Section("answers", "Right and wrong answers")
        for stage, _ in self._found("table5") if self.samples else ():
            name = f"stage {stage.name!r}"
            if not {"references", "predictions"} <= set(stage.settings):
                self.run.note(f"{name}: no samples, its settings name no references and predictions")
                continue
            source = self.sources.of(stage)
            chosen = self._attempt(stage.path / "config.yaml", partial(right_and_wrong, self.run, stage, source, self.samples))
            if chosen is None:
                continue
            if not chosen.arms:
                self.run.note(f"{name}: no samples, its references are JSON lines, which hold no images")
                continue
            if len(chosen.emotions) == 1:
                only = next(iter(chosen.emotions))
                self.run.note(f"{name}: every reference is labelled {only!r}; accuracy says nothing of other emotions")
            section.details[stage.name] = chosen
        return section if section.details else None

    def _training(self) -> Section | None:
        section = Section("training", "Training")
        rows, sources = [], []
        speeds, timed = [], []
        answers: list[list[Cell]] = []
        answered: list[Provenance] = []
        for stage in self.run.stages:
            path = stage.path / TRAINING
            found = self._attempt(path, partial(self.run.read_object, path, TrainingForm)) if path.is_file() else None
            if found is None:
                continue
            row = self._attempt(path, partial(training_row, stage, found))
            if row is not None:
                rows.append(row)
                sources.append(self.sources.of(stage))
            if speed := self._attempt(path, partial(speed_row, stage.name, found)):
                speeds.append(speed)
                timed.append(self.sources.of(stage))
            if lines := self._attempt(path, partial(answered_rows, stage.name, found)):
                answers += lines
                answered += [self.sources.of(stage)] * len(lines)
            self._attempt(path, partial(self._training_notes, stage, found))
        if rows:
            section.tables.append(training_table(rows, sources))
        for note in few_steps({str(row[0]): row[4] for row in rows if isinstance(row[4], int)}):
            self.run.note(note)
        if answers:
            section.tables.append(answered_table(answers, answered))
        if speeds:
            section.tables.append(speed_table(speeds, timed))
        self._losses(section)
        return section if section.tables or section.figures else None

    def _drawn(self, file: Path, figure: PageFigure, source: Provenance) -> Figure:
        return drawn_figure(own_file(self.run.path, file), figure, source)

    def _curves(self, path: Path) -> Curves:
        return read_losses(own_file(self.run.path, path))

    def _training_notes(self, stage: StageFolder, found: Result) -> None:
        for remark in found.get("remarks", []):
            self.run.note(f"stage {stage.name!r}: {remark}")
        for split, count in found.get("skipped", {}).items():
            if count:
                self.run.note(f"stage {stage.name!r}: {count} {split} records without a label that was asked for were skipped")
        if unreadable := found.get("unreadable"):
            named = ", ".join(list(unreadable)[:3]) + (" …" if len(unreadable) > 3 else "")
            self.run.note(f"stage {stage.name!r}: {len(unreadable)} images could not be read and were left out: {named}")

    def _losses(self, section: Section) -> None:
        found = [(stage, paths) for stage in self.run.stages for paths in _tables_of_trainings(stage.path)]
        if len(found) > MAX_CURVES:
            self.run.note(
                f"the losses of {MAX_CURVES} of {len(found)} trainings are drawn, the first ones; those of the others are in their metrics.csv"
            )
        for stage, paths in found[:MAX_CURVES]:
            read = [self._attempt(path, partial(self._curves, path)) for path in paths]
            starts = [curves for curves in read if curves is not None]
            if curves := joined_losses(starts):
                drawing = Markup(loss_svg(curves, stage.name))
                section.figures.append(Figure(stage.name, drawing, self.sources.of(stage)))
            elif starts:
                self.run.note(f"{self.run.shown(paths[-1])} holds no loss")


def _tables_of_trainings(folder: Path) -> list[list[Path]]:
    """Of each training that has logged in a stage's folder: the tables of its starts, in order."""
    found: dict[Path, list[Path]] = {}
    for path in sorted(folder.rglob("metrics.csv")):
        found.setdefault(path.parent if start_of(path) < 0 else path.parent.parent, []).append(path)
    return [sorted(paths, key=start_of) for paths in found.values()]


def _all_of(builder: Callable[[Result], Iterator[Table]], found: Result) -> list[Table]:
    return list(builder(found))


def _merged(own: Section | None, pages: list[Section], together: bool) -> list[Section]:
    """A kind's section and the pages of its stages, all under one heading or each under its own."""
    if own is None or not together:
        return [*([own] if own else []), *pages]
    for page in pages:
        # What can be explored takes the place of the stage's still drawings.
        framed = {figure.source.stage for figure in page.figures if "<iframe" in figure.drawing}
        own.figures = [figure for figure in own.figures if figure.source.stage not in framed] + page.figures
        own.tables += page.tables
    return [own]
