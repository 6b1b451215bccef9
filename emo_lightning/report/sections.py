"""What the report shows of one run: every section's tables and figures, each with what it came from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from emo_lightning.analysis.table5_rows import definition
from emo_lightning.report import paper_tables
from emo_lightning.report import svg as figures
from emo_lightning.report.examples import right_and_wrong
from emo_lightning.report.page import PAGE, Page, read_page
from emo_lightning.report.pictures import Figure, embedded, is_wide, with_boxes
from emo_lightning.report.provenance import Sources
from emo_lightning.report.run_folder import COMPLETE, RunFolder, Stage
from emo_lightning.report.table import ReportTable, page_tables, plain_tables

OUTPUTS = {"table5": "table5.json", "table6": "table6.json", "mds": "mds.json", "panel": "panel.json", "prep": "prep.json"}
"""Kind of stage -> the file that the page reads of it. Any stage may have a `page.json` besides."""

TITLES = {"table5": "Table 5", "table6": "Table 6", "mds": "MDS", "panel": "image panel", "prep": "dataset statistics"}

TRAINING = "training.json"
"""Of every stage that trained (`stages.execute`)."""

CONFIG_LIMIT = 20_000
"""Characters of a stage's config.yaml that are shown."""


_ONE_ANSWER = 0.75
"""Share of the images from which on an answer is one that is given whatever they show."""


@dataclass
class Section:
    """Of one stage, or of several of one kind."""

    key: str
    title: str
    text: str = ""
    tables: list[ReportTable] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    """What only the template of this section knows."""


class RunSections:
    """Reads one run into sections; what is absent, skipped or damaged goes to `run.notes`.

    Args:
        path: `runs/NAME`.
        samples: images shown that were answered rightly, and as many that were answered wrongly.
        name: of the run on the page; default is the directory's.

    Raises:
        FileNotFoundError: no such directory.
    """

    def __init__(self, path: Path, samples: int = 4, name: str | None = None) -> None:
        self.run = RunFolder(path, {*OUTPUTS.values(), PAGE}, name)
        self.sources = Sources(self.run)
        self.samples = samples
        first = [(self._table5(), "table5"), (self._table6(), "table6"), (self._mds(), "mds")]
        built: list[Section | None] = [section for own, kind in first for section in _merged(own, list(self._pages(kind)))]
        built += [*self._pages(None), self._panel(), self._answers(), self._training(), self._prep()]
        self.sections = [section for section in built if section]
        self.notes = self.run.unfinished() + self.run.notes + self._missing()

    @property
    def tables(self) -> list[ReportTable]:
        """All tables, in the page's order."""
        return [table for section in self.sections for table in section.tables]

    def section(self, key: str) -> Section | None:
        """The section of that key."""
        return next((section for section in self.sections if section.key == key), None)

    def config(self, stage: Stage) -> str | None:
        """A stage's settings, cut where they are very long."""
        if stage.config and len(stage.config) > CONFIG_LIMIT:
            return stage.config[:CONFIG_LIMIT] + f"\n… cut at {CONFIG_LIMIT} characters; the rest is in config.yaml"
        return stage.config

    def _found(self, kind: str) -> Iterator[tuple[Stage, dict[str, Any]]]:
        for stage in self.run.stages:
            path = stage.path / OUTPUTS[kind]
            if path.is_file():
                found = self.run.attempt(path, lambda path=path: self.run.read_object(path))  # type: ignore[misc]
                if found is not None:
                    yield stage, found
            elif stage.kind == kind and stage.info.get("status") == COMPLETE:
                self.run.note(f"stage {stage.name!r} is complete but has no {path.name}")

    def _each(self, kind: str, section: Section, show: Callable[[Stage, dict[str, Any], Section], None]) -> Section | None:
        """A section filled stage by stage; a stage that cannot be shown leaves nothing of itself but a note."""
        for stage, found in self._found(kind):
            own = Section(section.key, section.title)

            def shown(stage: Stage = stage, found: dict[str, Any] = found, own: Section = own) -> Section:
                show(stage, found, own)
                return own

            if self.run.attempt(stage.path / OUTPUTS[kind], shown):
                section.tables += own.tables
                section.figures += own.figures
                section.extra[stage.name] = own.extra
        return section if section.extra else None

    def _missing(self) -> list[str]:
        kinds = {stage.kind for stage in self.run.stages}
        there = {kind for kind, name in OUTPUTS.items() if any((s.path / name).is_file() for s in self.run.stages)}
        absent = [title for kind, title in TITLES.items() if kind not in kinds | there]
        return [f"not part of this run: {', '.join(absent)}"] if absent and self.run.stages else []

    def _table5(self) -> Section | None:
        def show(stage: Stage, found: dict[str, Any], own: Section) -> None:
            own.tables = paper_tables.table5_tables(stage.name, found, self.sources.of(stage))
            own.extra = {"baselines": {n: c["answer"] for n, c in found["baselines"].items() if c.get("answer")}}
            own.extra |= {"remarks": found.get("remarks", []), "definition": found["definition"]}
            hashes = [d.sha256[:12] for d in self.sources.behind(stage.settings.get("references")) if d.sha256]
            own.extra["references"] = (
                f"{found['references']} images, split {found['split']}, data {', '.join(hashes) or 'unknown'}"
            )
            self._table5_notes(stage, found)

        return self._each("table5", Section("table5", "Table 5: what the model says of an image"), show)

    def _table5_notes(self, stage: Stage, found: dict[str, Any]) -> None:
        name = f"stage {stage.name!r}"
        if not found["clip"]:
            self.run.note(f"{name}: CLIP rows were not computed, no CLIP model was given")
        elif found["clip_truncated"]:
            self.run.note(f"{name}: {found['clip_truncated']} descriptions were cut to CLIP's text length")
        for arm, column in found["arms"].items():
            counts = {k.replace("_", " "): v for k, v in column["counts"].items() if v and k != "references"}
            if counts:
                listed = ", ".join(f"{v} {k}" for k, v in counts.items())
                self.run.note(f"{name}, {arm}, of {found['references']} images: {listed}")
            if one := _one_answer(column["confusion"]):
                self.run.note(f"{name}, {arm} says one emotion of nearly all images: {one}")
        if found["definition"] != definition():
            self.run.note(f"{name} was scored by another version of the definitions than the installed one")
        for baseline, reason in (found.get("omitted") or {}).items():
            self.run.note(f"{name}: the baseline {baseline!r} was left out: {reason}")
        if found["references"] < 2:
            self.run.note(f"{name}: {found['references']} image alone was scored; its figures say nothing of others")

    def _table6(self) -> Section | None:
        def show(stage: Stage, found: dict[str, Any], own: Section) -> None:
            own.tables = paper_tables.table6_tables(stage.name, found, self.sources.of(stage))
            if not own.tables:
                self.run.note(f"stage {stage.name!r} measured no set")
            single = [arm for arm, seeds in found["seeds"].items() if seeds == 1]
            if single:
                self.run.note(f"stage {stage.name!r}: one seed for {', '.join(single)}, so no deviation is known")

        return self._each("table6", Section("table6", "Table 6: a linear probe on frozen embeddings"), show)

    def _mds(self) -> Section | None:
        text = (
            "Metric MDS of the embeddings. Stress 0 is a faithful picture. Purity is the share of the nearest neighbours with a "
            "point's own emotion, silhouette lies between −1 and 1; both in the embedding (DES) and in the picture (2-D)."
        )

        def show(stage: Stage, found: dict[str, Any], own: Section) -> None:
            with np.load(stage.path / "mds.npz", allow_pickle=False) as points:
                for n, (arm, cloud) in enumerate(found["arms"].items()):
                    labels = points[f"labels_{n}"].tolist()
                    drawn = Markup(figures.cloud_svg(points[f"coords_{n}"], labels, arm))
                    own.figures.append(Figure(arm, drawn, self.sources.of(stage)))
                    if cloud["without_emotion"]:
                        self.run.note(f"stage {stage.name!r}, {arm}: {cloud['without_emotion']} embeddings have no emotion")
                    if len(set(labels)) < 2:
                        only = f"every embedding is labelled {labels[0]!r}" if labels else "there is no embedding"
                        self.run.note(f"stage {stage.name!r}, {arm}: {only}; silhouette and purity say nothing")
            own.tables = paper_tables.cloud_tables(stage.name, found, self.sources.of(stage))

        return self._each("mds", Section("mds", "The emotion cloud", text), show)

    def _pages(self, kind: str | None) -> Iterator[Section]:
        """The `page.json` of stages of one kind, right after that kind's own section; None: of all other kinds."""
        for stage in self.run.stages:
            path = stage.path / PAGE
            if path.is_file() and (stage.kind if stage.kind in ("table5", "table6", "mds") else None) == kind:
                section = self.run.attempt(path, lambda stage=stage, path=path: self._page(stage, read_page(path)))  # type: ignore[misc]
                if section:
                    yield section

    def _page(self, stage: Stage, page: Page) -> Section:
        source = self.sources.of(stage)
        section = Section(f"page-{stage.name}", page.title, page.text, page_tables(stage.name, page, source))
        for note in page.notes:
            self.run.note(f"stage {stage.name!r}: {note}")
        for table in section.tables:
            if not table.rows:
                self.run.note(f"stage {stage.name!r}: the table {table.title!r} has no row")
        for figure in page.figures:
            file = stage.path / figure.file
            drawn = self.run.attempt(file, lambda f=file, t=figure.title: (embedded(f, t), is_wide(f)))  # type: ignore[misc]
            if drawn:
                section.figures.append(Figure(figure.title, drawn[0], source, figure.note, wide=drawn[1]))
        return section

    def _panel(self) -> Section | None:
        def show(stage: Stage, found: dict[str, Any], own: Section) -> None:
            items = [{**item, "image": (stage.path / item["image"]).read_bytes()} for item in found["items"]]
            own.extra = {
                **found,
                "items": [with_boxes(item, found["arms"]) for item in items],
                "source": self.sources.of(stage),
            }

        return self._each("panel", Section("panel", "Images: predicted and true"), show)

    def _answers(self) -> Section | None:
        section = Section("answers", "Right and wrong answers")
        for stage, _ in self._found("table5") if self.samples else ():
            path = stage.path / "config.yaml"
            if not {"references", "predictions"} <= set(stage.settings):
                self.run.note(f"stage {stage.name!r}: no samples, its settings name no references and predictions")
                continue
            found = self.run.attempt(path, lambda stage=stage: (right_and_wrong(self.run, stage, self.samples),))  # type: ignore[misc]
            if found is None:
                continue
            if found[0] is None:
                self.run.note(f"stage {stage.name!r}: no samples, its references are JSON lines, which hold no images")
                continue
            chosen = found[0]
            if len(chosen["emotions"]) == 1:
                only = next(iter(chosen["emotions"]))
                self.run.note(
                    f"stage {stage.name!r}: every reference is labelled {only!r}; accuracy says nothing of other emotions"
                )
            drawn = {sort: [with_boxes(item, chosen["arms"]) for item in chosen[sort]] for sort in ("right", "wrong")}
            section.extra[stage.name] = {**chosen, **drawn, "source": self.sources.of(stage)}
        return section if section.extra else None

    def _training(self) -> Section | None:
        section = Section("training", "Training")
        rows, sources = [], []
        for stage in self.run.stages:
            path = stage.path / TRAINING
            found = self.run.attempt(path, lambda path=path: self.run.read_object(path)) if path.is_file() else None  # type: ignore[misc]
            if found is None:
                continue
            row = self.run.attempt(path, lambda s=stage, f=found: paper_tables.training_row(s.name, s.settings, f))  # type: ignore[misc]
            if row is not None:
                rows.append(row)
                sources.append(self.sources.of(stage))
            for remark in found.get("remarks", []):
                self.run.note(f"stage {stage.name!r}: {remark}")
            for split, count in found.get("skipped", {}).items():
                if count:
                    self.run.note(
                        f"stage {stage.name!r}: {count} {split} records without a label that was asked for were skipped"
                    )
        if rows:
            section.tables.append(paper_tables.training_table(rows, sources))
        self._losses(section)
        return section if section.tables or section.figures else None

    def _losses(self, section: Section) -> None:
        for stage in self.run.stages:
            for path in sorted(stage.path.rglob("metrics.csv")):
                curves = self.run.attempt(path, lambda path=path: figures.read_losses(path))  # type: ignore[misc]
                if curves:
                    drawing = Markup(figures.loss_svg(curves, stage.name))
                    section.figures.append(Figure(stage.name, drawing, self.sources.of(stage)))
                elif curves is not None:
                    self.run.note(f"{self.run.shown(path)} holds no loss")

    def _prep(self) -> Section | None:
        def show(stage: Stage, found: dict[str, Any], own: Section) -> None:
            own.tables = plain_tables(stage.name, found, self.sources.of(stage))

        return self._each("prep", Section("data", "Dataset and annotation"), show)


def _merged(own: Section | None, pages: list[Section]) -> list[Section]:
    """A kind's section and its stages' own; what has the same title goes under the same heading."""
    if own is None:
        return pages
    for page in (page for page in pages if page.title == own.title):
        # What can be explored takes the place of the stage's still drawings.
        framed = {figure.source.stage for figure in page.figures if "<iframe" in figure.drawing}
        own.figures = [figure for figure in own.figures if figure.source.stage not in framed] + page.figures
        own.tables += page.tables
    return [own, *(page for page in pages if page.title != own.title)]


def _one_answer(confusion: dict[str, Any]) -> str | None:
    """The emotion that an arm gives most images whatever they show, in words; None where its answers vary."""
    counts = np.array(confusion["counts"])  # (annotated, said)
    said, images = counts.sum(0), int(counts.sum())
    # The last column is no emotion.
    most = int(said[:-1].argmax())
    if said[most] < _ONE_ANSWER * max(images, 1) or counts[most].sum() >= _ONE_ANSWER * images:
        return None
    return f"{confusion['columns'][most]}, {said[most]} of {images} (annotated so: {counts[most].sum()})"
