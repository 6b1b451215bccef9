"""One self-contained page of one or several runs: whatever stages exist are shown, whatever is missing is named.

The page asks nothing of the network: styles, pictures and drawings are inside it. Beside it lie the same tables as Markdown,
LaTeX and CSV. Every table and figure says which command, commit, settings and data it came from.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from emo_lightning.analysis.baselines import TEXT_ONLY
from emo_lightning.analysis.table5_rows import MODES, ROWS
from emo_lightning.core.files import write_bytes
from emo_lightning.report import svg as figures
from emo_lightning.report.page import MISSING, Cell, Spread, cell_text, with_minus
from emo_lightning.report.run_folder import COMPLETE
from emo_lightning.report.sections import RunSections
from emo_lightning.report.table import ReportTable, number_of, side_by_side, with_unique_names
from emo_lightning.report.table_files import source_lines, write_tables


@dataclass
class Report:
    """A written report."""

    html: Path
    tables_dir: Path
    runs: list[RunSections]
    tables: list[ReportTable]
    """All, side by side first; with the names of their files."""
    notes: list[str]
    """What was missing or skipped, over all runs."""


def build_report(run_dirs: Path | Sequence[Path], out: Path, samples: int = 4) -> Report:
    """Write the page and, beside it, `NAME_tables/` with every table as .md, .tex and .csv.

    Args:
        run_dirs: `runs/NAME`, one or several; with one directory per stage.
        out: the .html file.
        samples: images shown that were answered rightly, and as many that were answered wrongly; read from the tars.

    Raises:
        FileNotFoundError: a run is no directory. An empty or half-finished run is no error: the page says what is missing.
        ValueError: no run, one run twice, or `samples` is negative.
        FileExistsError: `NAME_tables/` holds something that no report writes.
    """
    folders = [Path(run_dirs)] if isinstance(run_dirs, str | Path) else [Path(path) for path in run_dirs]
    if not folders or len({path.resolve() for path in folders}) < len(folders):
        msg = f"runs {[str(path) for path in folders]}: expected at least one, and each once"
        raise ValueError(msg)
    if samples < 0:
        msg = f"samples={samples}; expected 0 or more"
        raise ValueError(msg)
    out = Path(out)
    names = _names(folders)
    runs = [RunSections(folder, samples, name) for folder, name in zip(folders, names, strict=True)]
    per_run = [(run.run.name, [table for table in run.tables if not table.folded]) for run in runs]
    compared = side_by_side(per_run) if len(runs) > 1 else []
    tables = with_unique_names(compared + [table for run in runs for table in run.tables])
    notes = _comparability(runs) + [f"{run.run.name}: {note}" if len(runs) > 1 else note for run in runs for note in run.notes]
    title = " and ".join(names) if len(names) < 4 else f"{len(names)} runs"
    html = (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            runs=runs,
            compared=compared,
            notes=notes,
            tables_dir=tables_dir(out).name,
            facts=[_facts(r) for r in runs],
            modes=MODES,
            rows=ROWS,
            arm_colours=figures.ARM_COLOURS,
            links=_links(runs[0]),
        )
    )
    # The tables first: a page whose tables could not be written would promise too much.
    folder = write_tables(tables_dir(out), tables, title, notes)
    write_bytes(out, html.encode())
    return Report(out, folder, runs, tables, notes)


def tables_dir(out: Path) -> Path:
    """Where the tables of a page lie: `report.html` -> `report_tables`."""
    return out.with_name(f"{out.stem}_tables")


def default_out(run_dirs: Sequence[Path]) -> Path:
    """`RUN/report.html` for one run, `report-A-B.html` beside the first for several."""
    if len(run_dirs) == 1:
        return run_dirs[0] / "report.html"
    names = [path.resolve().name for path in run_dirs]
    name = "-".join(names) if len(names) < 4 else f"{names[0]}-and-{len(names) - 1}-more"
    return run_dirs[0].resolve().parent / f"report-{name}.html"


def _names(folders: Sequence[Path]) -> list[str]:
    """Names of the runs, with the folder above where two are called alike."""
    names = [path.resolve().name for path in folders]
    return [
        f"{path.resolve().parent.name}/{name}" if names.count(name) > 1 else name
        for path, name in zip(folders, names, strict=True)
    ]


def _comparability(runs: Sequence[RunSections]) -> list[str]:
    """Why figures that stand side by side may not be compared."""
    notes = []
    found: dict[str, dict[str, set[str]]] = {"definition": {}, "references": {}}
    for run in runs:
        for about in (run.section("table5").extra if run.section("table5") else {}).values():  # type: ignore[union-attr]
            for what in found:
                found[what].setdefault(str(about[what]), set()).add(run.run.name)
    if len(found["definition"]) > 1:
        notes.append("Table 5 of these runs was scored by different versions of the definitions: the figures do not compare")
    if len(found["references"]) > 1:
        sets = "; ".join(f"{', '.join(sorted(names))}: {what}" for what, names in found["references"].items())
        notes.append(f"Table 5 of these runs was scored on different images ({sets}): the figures do not compare")
    return notes


def _facts(run: RunSections) -> list[tuple[str, str, str]]:
    """What a reader wants first: (title, figure, what it is)."""
    facts = []
    for table in run.tables:
        if table.title == "Table 5, strict mode":
            facts += [fact for title, key in _TILES.items() for fact in _tile(table, title, key)]
        elif table.title == "Table 6, test":
            arms = [(value, row) for row in table.rows if (value := number_of(row[1])) is not None]
            if arms:
                value, row = max(arms, key=lambda item: item[0])
                facts.append(
                    (
                        "Linear probe, accuracy",
                        f"{value:.2f} %",
                        f"{row[0]}, best of {len(arms)} arms{_about(row[1])}; seeds: {row[-1]}",
                    )
                )
        elif table.columns[-1] == "worst set":
            facts += _loss(table)
    # The stage that writes this page is still running.
    stages = [stage for stage in run.run.stages if stage.kind != "report"]
    seconds = [stage.info.get("seconds") for stage in stages]
    spent = sum(s for s in seconds if isinstance(s, int | float))
    done = sum(stage.info.get("status") == COMPLETE for stage in stages)
    if stages:
        facts.append(("Stages", f"{done} of {len(stages)} complete", f"{_seconds(spent)} before this page"))
    return facts


_TILES = {"Emotion accuracy": "Emotion Acc ↑", "Box IoU": "BBox IoU ↑"}


def _tile(table: ReportTable, title: str, key: str) -> list[tuple[str, str, str]]:
    """The best arm's figure in a row of Table 5, beside the best answer that sees neither image nor annotation."""
    row = next((row for row in table.rows if row[0] == key), [])
    known = [(value, m) for m, cell in enumerate(row) if (value := number_of(cell)) is not None]
    arms = [(value, m) for value, m in known if m not in table.quiet]
    floors = [value for value, m in known if m in table.quiet and table.columns[m] != TEXT_ONLY]
    if not arms:
        return []
    value, best = max(arms)
    beside = f"; without looking: {max(floors):.2f}" if floors else ""
    return [(title, f"{value:.2f} %", f"{table.columns[best]}, strict{_about(row[best])}{beside}")]


def _loss(table: ReportTable) -> list[tuple[str, str, str]]:
    """The largest loss of any arm on any set out of its domain, of a table across data sets."""
    worst = [(float(str(row[-1]).rpartition(" ")[2]), row) for row in table.rows if row[-1] is not None]
    if not worst:
        return []
    value, row = min(worst, key=lambda item: item[0])
    title = "Largest loss out of the domain" if value < 0 else "Smallest gain out of the domain"
    where = str(row[-1]).rpartition(" ")[0]
    return [(title, with_minus(f"{value:+.1f} points"), f"{row[0]} on {where}, against the untuned base")]


def _about(cell: Cell) -> str:
    text = cell_text(cell)
    return f", {text[text.index(' ') + 1 :]}" if isinstance(cell, Spread) and " " in text else ""


def _links(run: RunSections) -> list[tuple[str, str]]:
    """(anchor, short title) of a run's sections: of our own what stands before the colon, of a stage's what stands after it."""
    links: dict[str, str] = {}
    for section in run.sections:
        before, _, after = section.title.partition(": ")
        short = after if after and section.key.startswith("page-") else before
        links[section.key] = short[:1].upper() + short[1:]
    return list(links.items())


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("emo_lightning.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=_cell, heading=_heading, seconds=_seconds, day=_day, source_lines=source_lines)
    environment.tests["scalar"] = lambda value: not isinstance(value, dict | list)
    return environment


def _cell(cell: Cell, digits: int) -> Markup:
    """A figure, with its interval or deviation smaller beside it."""
    match cell:
        case Spread(value=float() | int()):
            number, _, about = cell_text(cell, digits).partition(" ")
            return Markup('{} <span class="about">{}</span>').format(with_minus(number), with_minus(about))
        case _ if cell_text(cell, digits) == MISSING:
            return Markup('<span class="none" title="not computed">{}</span>').format(MISSING)
        case _:
            text = with_minus(cell_text(cell, digits))
            return Markup.escape(_tied(text) if isinstance(cell, str) else text)


def _tied(text: str) -> str:
    """An arrow stays on the line of the word before it."""
    return re.sub(r" (?=[↑↓])", "\u00a0", text)


def _heading(text: str) -> str:
    """`2-D` and `Stress-1` do not break."""
    return re.sub(r"(?<=\d)-(?=[A-Z])|(?<=\w)-(?=\d\b)", "\u2011", _tied(text))


def _seconds(value: Any) -> str:
    if not isinstance(value, int | float):
        return MISSING
    minutes, seconds = divmod(round(value), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{value:.1f} s"


def _day(value: Any) -> str:
    """`2026-11-22 22:15` of an ISO time; what cannot be read stays as it is."""
    try:
        return datetime.fromisoformat(str(value)).strftime("%Y-%m-%d %H:%M %Z").strip()
    except ValueError:
        return str(value)
