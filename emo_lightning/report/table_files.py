"""The report's tables as files: Markdown and LaTeX (booktabs) to paste, CSV to compute with. Each carries what it came from."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from emo_lightning.core.files import write_bytes
from emo_lightning.report.page import Cell, Spread, cell_text, with_minus
from emo_lightning.report.provenance import Provenance
from emo_lightning.report.table import ReportTable

SUFFIXES = (".md", ".tex", ".csv")

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # A bracket at the start of a line would be an argument of the line break before it.
    "[": "{[}",
    "]": "{]}",
    "↑": r"$\uparrow$",
    "↓": r"$\downarrow$",
    "→": r"$\rightarrow$",
    "±": r"$\pm$",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "…": r"\ldots{}",
    "α": r"$\alpha$",
    "Δ": r"$\Delta$",
    "κ": r"$\kappa$",
    "ρ": r"$\rho$",
    "τ": r"$\tau$",
    "σ": r"$\sigma$",
    "\u2011": "-",
    "\u00a0": "~",
}
"""Also without Unicode fonts these compile."""


def write_tables(folder: Path, tables: Sequence[ReportTable], title: str, notes: Sequence[str] = ()) -> Path:
    """Replace `folder` by NAME.md, NAME.tex and NAME.csv of each table, and all of them in `all.md` and `all.tex`.

    Args:
        folder: the report's own; made anew whole, so that no table of an earlier report stays.
        tables: with unique names.
        title: of the report.
        notes: what was missing or skipped; in `all.md`.

    Raises:
        FileExistsError: `folder` holds something that no report writes; nothing is touched then.
    """
    folder = Path(folder)
    foreign = [path.name for path in folder.iterdir() if path.suffix not in SUFFIXES] if folder.is_dir() else []
    if foreign or folder.is_file():
        msg = f"{folder}: holds {', '.join(foreign[:3]) or 'no folder'}, which no report writes; choose another --out"
        raise FileExistsError(msg)
    fresh = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for table in tables:
        for suffix, write in ((".md", markdown), (".tex", latex), (".csv", as_csv)):
            write_bytes(fresh / f"{table.name}{suffix}", write(table).encode())
    skipped = (
        ["## Warnings, and what is missing or skipped", "", *(f"- {_markdown(note)}" for note in notes), ""] if notes else []
    )
    write_bytes(fresh / "all.md", "\n".join([f"# {_markdown(title)}", "", *skipped, *map(markdown, tables)]).encode())
    write_bytes(fresh / "all.tex", "\n".join(["% Needs \\usepackage{booktabs,graphicx}", *map(latex, tables)]).encode())
    if folder.exists():
        shutil.rmtree(folder)
    fresh.rename(folder)
    return folder


def markdown(table: ReportTable) -> str:
    """A GitHub table with its title, note and sources; the best figures bold."""
    head = _headings(table)
    sides = ["---" if m == 0 or m in table.words else "---:" for m in range(len(head))]
    lines = [f"### {_markdown(table.title)}", "", _line(map(_markdown, head)), _line(sides)]
    for n, row in enumerate(table.rows):
        cells = [_markdown(cell_text(cell, table.digits)) for cell in row]
        lines.append(_line(f"**{c}**" if (n, m) in table.best else c for m, c in enumerate(cells)))
    lines += ["", _markdown(table.remark_without_grey), ""] if table.remark_without_grey else [""]
    return "\n".join([*lines, *(f"- source: {_markdown(text)}" for text in _sources(table)), ""])


def latex(table: ReportTable) -> str:
    """A booktabs `table`, no wider than the line; the best figures bold, intervals below their figures, sources as comments."""
    lines = [f"% source: {' '.join(text.split())}" for text in _sources(table)]
    lines += [r"\begin{table}", r"\centering", rf"{_FIT}{{\begin{{tabular}}{{{_sides(table)}}}", r"\toprule"]
    if table.groups:
        spans = [rf"\multicolumn{{{n}}}{{{'c' if title else 'l'}}}{{{_latex(title)}}}" for title, n in table.groups]
        lines += [" & ".join(spans) + r" \\", *_rules(table.groups)]
    lines += [" & ".join(map(_latex, table.columns)) + r" \\", r"\midrule"]
    for n, row in enumerate(table.rows):
        lines.append(" & ".join(_latex_cell(cell, table.digits, (n, m) in table.best) for m, cell in enumerate(row)) + r" \\")
    caption = _latex(" ".join([table.title + ".", table.remark_without_grey]).strip())
    lines += [r"\bottomrule", r"\end{tabular}}", rf"\caption{{{caption}}}", rf"\label{{tab:{table.name}}}", r"\end{table}", ""]
    return "\n".join(lines)


_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"
"""Shrinks what is too wide, and nothing else."""

_WRAPPED = 40
"""Characters of a text from which its column has a width of its own and breaks."""


def _sides(table: ReportTable) -> str:
    def side(m: int) -> str:
        longest = max((len(row[m]) for row in table.rows if isinstance(row[m], str)), default=0)  # type: ignore[arg-type]
        if m == 0 or m in table.words:
            return r"p{7cm}" if longest > _WRAPPED else "l"
        return "r"

    return "".join(map(side, range(len(table.columns))))


def _latex_cell(cell: Cell, digits: int, best: bool) -> str:
    text = with_minus(cell_text(cell, digits))
    if isinstance(cell, Spread) and cell.low is not None and " " in text:
        number, _, about = text.partition(" ")
        number = rf"\textbf{{{_latex(number)}}}" if best else _latex(number)
        return rf"\begin{{tabular}}[t]{{@{{}}r@{{}}}}{number}\\ \scriptsize {_latex(about)}\end{{tabular}}"
    return rf"\textbf{{{_latex(text)}}}" if best else _latex(text)


def as_csv(table: ReportTable) -> str:
    """Full precision; every row ends with the sources (one JSON list)."""
    columns, rows = flat_rows(table)
    sources = json.dumps([source.as_json() for source in table.sources], ensure_ascii=False)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*columns, "sources"])
    writer.writerows([*row, sources] for row in rows)
    return out.getvalue()


def flat_rows(table: ReportTable) -> tuple[list[str], list[list[str | int | float | None]]]:
    """Columns and rows of plain values: an interval or a deviation stands in columns of its own."""
    extras = [_extras([row[m] for row in table.rows]) for m in range(len(table.columns))]
    named = zip(_headings(table), extras, strict=True)
    columns = [column for name, extra in named for column in [name, *(f"{name} {e}" for e in extra)]]
    rows = [[v for cell, extra in zip(row, extras, strict=True) for v in _values(cell, extra)] for row in table.rows]
    return columns, rows


def source_lines(source: Provenance) -> Mapping[str, str]:
    """Name -> value of everything that a source says."""
    data = "; ".join(f"{d.path} {'sha256 ' + d.sha256 if d.sha256 else d.problem}" for d in source.data)
    return {
        "run": source.run,
        "stage": source.stage,
        "command": source.command or "unknown",
        "commit": source.commit or "unknown",
        "config sha256": source.config_sha256 or "unknown",
        "started": source.started or "unknown",
        "data": data or "unknown",
    }


def _sources(table: ReportTable) -> list[str]:
    return [", ".join(f"{key} {value}" for key, value in source_lines(source).items()) for source in table.sources]


def _headings(table: ReportTable) -> list[str]:
    """Columns with the title above them in front."""
    over = [title for title, n in table.groups for _ in range(n)] or [""] * len(table.columns)
    return [f"{title}: {column}" if title else column for title, column in zip(over, table.columns, strict=True)]


def _extras(cells: Sequence[Cell]) -> list[str]:
    spreads = [cell for cell in cells if isinstance(cell, Spread)]
    return [key for key in ("low", "high", "std") if any(getattr(s, key) is not None for s in spreads)]


def _values(cell: Cell, extras: Sequence[str]) -> list[str | int | float | None]:
    if isinstance(cell, Spread):
        return [cell.value, *(getattr(cell, key) for key in extras)]
    return [cell, *[None] * len(extras)]


def _rules(groups: Sequence[tuple[str, int]]) -> list[str]:
    rules, start = "", 1
    for title, span in groups:
        if title:
            rules += rf"\cmidrule(lr){{{start}-{start + span - 1}}}"
        start += span
    return [rules] if rules else []


def _line(cells: object) -> str:
    return "| " + " | ".join(cells) + " |"  # type: ignore[arg-type]


def _markdown(text: str) -> str:
    for char in "\\`*_|<>[]":
        text = text.replace(char, "\\" + char)
    return " ".join(text.split())


def _latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in " ".join(text.split()))
