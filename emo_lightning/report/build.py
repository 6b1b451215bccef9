"""One self-contained page of one or several runs: whatever stages exist are shown, whatever is missing is named.

The page asks nothing of the network: styles, pictures and drawings are inside it. Beside it lie the same tables as Markdown,
LaTeX and CSV. Every table and figure says which command, commit, settings and data it came from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emo_lightning.analysis.table5_rows import MODES, ROWS
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import write_text
from emo_lightning.core.tables.table import Table, with_unique_names
from emo_lightning.report.facts import facts_of
from emo_lightning.report.html import environment
from emo_lightning.report.kinds import Table5Details
from emo_lightning.report.sections import RunSections
from emo_lightning.report.side_by_side import side_by_side
from emo_lightning.report.svg import ARM_COLOURS
from emo_lightning.report.table_files import write_tables


@dataclass
class Report:
    """A written report."""

    html: Path
    tables_dir: Path
    runs: list[RunSections]
    tables: list[Table]
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
        MissingFileError: a run is no directory. A half-finished run is no error: the page says what is missing.
        InputError: no run, one run twice, a folder without any stage, or `samples` is negative; or `NAME_tables/` holds something
            that no report writes.
        Exception: a bug of ours, once the page is written with everything else.
    """
    folders = [Path(run_dirs)] if isinstance(run_dirs, str | Path) else [Path(path) for path in run_dirs]
    if not folders or len({path.resolve() for path in folders}) < len(folders):
        msg = f"runs {[str(path) for path in folders]}: expected at least one, and each once"
        raise InputError(msg)
    if samples < 0:
        msg = f"samples={samples}; expected 0 or more"
        raise InputError(msg)
    out = Path(out)
    names = _names(folders)
    runs = [RunSections(folder, samples, name) for folder, name in zip(folders, names, strict=True)]
    if empty := next((run.run.path for run in runs if not run.run.stages), None):
        msg = f"{empty}: holds no stage of a run; expected runs/NAME, with one folder for each stage"
        raise InputError(msg)
    per_run = [(run.run.name, [table for table in run.tables if not table.folded]) for run in runs]
    compared = side_by_side(per_run) if len(runs) > 1 else []
    tables = with_unique_names(compared + [table for run in runs for table in run.tables])
    notes = _comparability(runs) + [f"{run.run.name}: {note}" if len(runs) > 1 else note for run in runs for note in run.notes]
    title = " and ".join(names) if len(names) < 4 else f"{len(names)} runs"
    html = (
        environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            runs=runs,
            compared=compared,
            notes=notes,
            tables_dir=tables_dir(out).name,
            facts=[facts_of(run.tables, run.run.stages) for run in runs],
            modes=MODES,
            rows=ROWS,
            arm_colours=ARM_COLOURS,
            links=_links(runs[0]),
        )
    )
    # The tables first: a page whose tables could not be written would promise too much.
    folder = write_tables(tables_dir(out), tables, title, notes)
    write_text(out, html)
    raise_bugs([bug for run in runs for bug in run.bugs])
    return Report(out, folder, runs, tables, notes)


def raise_bugs(bugs: Sequence[Exception]) -> None:
    """Raise what must not be passed over, one as it is and several as a group."""
    if len(bugs) > 1:
        msg = "bugs met while a report was built"
        raise ExceptionGroup(msg, bugs)
    for bug in bugs:
        raise bug


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
    """Why numbers that stand side by side may not be compared."""
    notes = []
    found: dict[str, dict[str, set[str]]] = {"definition": {}, "references": {}}
    for run in runs:
        section = run.section("table5")
        for details in section.details.values() if section else ():
            if isinstance(details, Table5Details):
                found["definition"].setdefault(details.definition, set()).add(run.run.name)
                found["references"].setdefault(details.references, set()).add(run.run.name)
    if len(found["definition"]) > 1:
        notes.append("Table 5 of these runs was scored by different versions of the definitions: the numbers do not compare")
    if len(found["references"]) > 1:
        sets = "; ".join(f"{', '.join(sorted(names))}: {what}" for what, names in found["references"].items())
        notes.append(f"Table 5 of these runs was scored on different images ({sets}): the numbers do not compare")
    return notes


def _links(run: RunSections) -> list[tuple[str, str]]:
    """(anchor, short title) of a run's sections: of our own what stands before the colon, of a stage's what stands after it."""
    links: dict[str, str] = {}
    for section in run.sections:
        before, _, after = section.title.partition(": ")
        short = after if after and section.key.startswith("page-") else before
        links[section.key] = short[:1].upper() + short[1:]
    return list(links.items())
