"""The leaderboard of the suites as one page that asks nothing of the network: places, checks, every scorer, rules of submission."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from emo_lightning.analysis.suites.asked import TITLES
from emo_lightning.analysis.suites.benchmark import Benchmark
from emo_lightning.analysis.suites.submissions import RULES, Checks, Submission
from emo_lightning.core.files import write_text
from emo_lightning.core.tables.table import Cell, Table, best_of, columns, with_unique_names
from emo_lightning.report.build import tables_dir
from emo_lightning.report.html import environment
from emo_lightning.report.table_files import write_tables
from emo_lightning.report.tables.benchmark import HEADS, arm_tables, models_table, own_cell

OURS = "ours"
_ORDER = ("total", "overall", "pooled", "single-overall", "pair-overall", "ranking")
"""Metrics by which rows are ordered: the first that all submissions have."""
NOT_KNOWN = "not known"


@dataclass
class Board:
    """One suite."""

    result: Benchmark
    submissions: Mapping[str, Submission]
    checks: Mapping[str, Checks]
    tables: list[Table] = field(init=False)

    def __post_init__(self) -> None:
        details = [table for name in self.result["arms"] for table in arm_tables(self.result, name)]
        for table in details:
            table.folded = True
        tables = [self._places(), self._checked(), models_table(self.result), *details]
        self.tables = [replace(table, name=f"{self.key} {table.title}") for table in tables]

    @property
    def title(self) -> str:
        """Of the suite."""
        return TITLES[self.result["suite"]]

    @property
    def key(self) -> str:
        """Of its anchor."""
        return self.result["suite"].replace("_", "-")

    def _ordered(self) -> tuple[str | None, list[str]]:
        """The metric that orders, and the names: the ranked first, the best first."""
        ours = {name: arm["scorers"].get(OURS) for name, arm in self.result["arms"].items()}
        metrics = {name: {} if found is None else found["metrics"] for name, found in ours.items()}
        by = next((key for key in _ORDER if all(key in found for found in metrics.values())), None)

        def place(name: str) -> tuple[bool, float, str]:
            value = None if by is None else metrics[name][by]["value"]
            return not self.checks[name].ranked, -(value or 0.0), name

        return by, sorted(metrics, key=place)

    def _places(self) -> Table:
        by, names = self._ordered()
        suite = self.result["suite"]
        scorers = list(dict.fromkeys(s for arm in self.result["arms"].values() for s in arm["scorers"]))
        given = [s for s in scorers if by is not None and s != OURS and any(self._cell(n, s, by) is not None for n in names)]
        heads = [
            head for head in HEADS[suite] if head.key != by and any(self._cell(n, OURS, head.key) is not None for n in names)
        ]
        rows: list[list[Cell]] = []
        ranked = 0
        for name in names:
            ranked += self.checks[name].ranked
            first = [] if by is None else [self._cell(name, OURS, by), *(self._cell(name, s, by) for s in given)]
            more = [self._cell(name, OURS, head.key) for head in heads]
            place = str(ranked) if self.checks[name].ranked else "–"
            rows.append([name, place, *first, *more, self.submissions[name].decoding])
        titles = [] if by is None else [(by, f"{by}, {OURS} ↑"), *((f"{by}/{s}", f"{by}, {s} ↑") for s in given)]
        shown = [(head.key, head.title) for head in heads]
        # Only what has a place can be the best.
        standing = [row for row, name in zip(rows, names, strict=True) if self.checks[name].ranked]
        lower = [*(False for _ in titles), *(head.lower_is_better for head in heads)]
        best = {(n, m) for m, low in enumerate(lower, 2) for n in best_of([row[m] for row in standing], lower=low)}
        return Table(
            f"leaderboard/{suite}",
            "Places",
            columns("model", "place", *titles, *shown, "replies"),
            rows,
            "Where no other scorer is named a column is by ours: an answer counts where it can be read in one way alone. Intervals: 95 %, bootstrap "
            "over images; places whose intervals overlap may be chance. Without a place (–): replies are missing, the model was trained on images of "
            "the suite, or it is not known on which it was trained.",
            best=best,
        )

    def _cell(self, name: str, scorer: str, key: str) -> Cell:
        found = self.result["arms"][name]["scorers"].get(scorer)
        return None if found is None else own_cell(found, key)

    def _checked(self) -> Table:
        rows: list[list[Cell]] = []
        for name in self._ordered()[1]:
            one, found = self.submissions[name], self.checks[name]
            seen = NOT_KNOWN if found.seen is None else f"{found.seen:,} of {found.checked:,}"
            listed = NOT_KNOWN if one.trained_on is None else f"{len(one.trained_on):,} listed"
            rows.append(
                [
                    name,
                    found.missing,
                    found.unknown,
                    listed,
                    seen,
                    ", ".join(found.alike) or "none",
                    one.prompts,
                    one.base or "none named",
                ]
            )
        return Table(
            f"leaderboard-checks/{self.result['suite']}",
            "What was checked",
            columns(
                "model",
                ("missing", "questions without a reply"),
                ("unknown", "replies to other questions"),
                ("listed", "sums of training images"),
                ("seen", "images of the suite among them"),
                ("alike", "same replies as"),
                "prompts",
                ("base", "untuned base"),
            ),
            rows,
            "Images are compared by the SHA-256 of their files, as they are, and upright without metadata: one that others wrote anew, "
            "resized or cropped is not found. What is listed is "
            "what the submitter says.",
        )


def write_leaderboard(out: Path, boards: Sequence[Board]) -> Path:
    """Write the page, and every table of it as Markdown, LaTeX and CSV beside it; returns the tables' folder.

    Args:
        out: the .html file.
        boards: a suite each.
    """
    tables = with_unique_names([table for board in boards for table in board.tables])
    page = environment().get_template("leaderboard.html.j2").render(boards=boards, rules=RULES, tables_dir=tables_dir(out).name)
    folder = write_tables(tables_dir(out), tables, "Leaderboard", RULES)
    write_text(out, page)
    return folder
