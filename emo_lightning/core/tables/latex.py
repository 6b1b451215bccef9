"""A table as LaTeX (booktabs), to paste."""

from __future__ import annotations

from collections.abc import Sequence

from emo_lightning.core.tables.provenance import source_texts
from emo_lightning.core.tables.table import Cell, Spread, Table, cell_text, slug, with_minus
from emo_lightning.core.text import plain

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
    # No package is needed for it, as for a check mark.
    "✓": r"$\surd$",
    "²": "$^2$",
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
"""What LaTeX reads as its own, or has no letter for: what stands here instead compiles without Unicode fonts too."""

_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"
"""Shrinks what is too wide, and nothing else."""

_WRAPPED = 40
"""Characters of a text from which its column has a width of its own and breaks."""


def latex(table: Table) -> str:
    """A booktabs `table`, no wider than the line; the best numbers bold, intervals below their numbers, sources as comments."""
    lines = [f"% source: {plain(text)}" for text in source_texts(table.sources)]
    lines += [r"\begin{table}", r"\centering", rf"{_FIT}{{\begin{{tabular}}{{{_sides(table)}}}", r"\toprule"]
    if table.groups:
        spans = [rf"\multicolumn{{{n}}}{{{'c' if title else 'l'}}}{{{_latex(title)}}}" for title, n in table.groups]
        lines += [" & ".join(spans) + r" \\", *_rules(table.groups)]
    lines += [" & ".join(_latex(column.title) for column in table.columns) + r" \\", r"\midrule"]
    for n, row in enumerate(table.rows):
        lines.append(" & ".join(_latex_cell(cell, table.digits, (n, m) in table.best) for m, cell in enumerate(row)) + r" \\")
    caption = _latex(" ".join([table.title + ".", table.remark_without_grey]).strip())
    lines += [
        r"\bottomrule",
        r"\end{tabular}}",
        rf"\caption{{{caption}}}",
        rf"\label{{tab:{slug(table.name)}}}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


def _sides(table: Table) -> str:
    def side(m: int) -> str:
        longest = max((len(cell) for row in table.rows if isinstance(cell := row[m], str)), default=0)
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


def _rules(groups: Sequence[tuple[str, int]]) -> list[str]:
    rules, start = "", 1
    for title, span in groups:
        if title:
            rules += rf"\cmidrule(lr){{{start}-{start + span - 1}}}"
        start += span
    return [rules] if rules else []


def _latex(text: str) -> str:
    return "".join(_LATEX.get(char, char) for char in plain(text))
