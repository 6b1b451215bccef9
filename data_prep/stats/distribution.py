"""Balance of the eight emotions (paper Figure 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from emo_lightning.core.files import replacing
from emo_lightning.core.records import EMOTIONS


class DistributionJSON(TypedDict):
    """See `Distribution`."""

    images: int
    counts: dict[str, int]
    shares: dict[str, float]
    """Percent."""
    delta_points: float
    sigma_points2: float


@dataclass(frozen=True)
class Distribution:
    """Images per emotion."""

    counts: dict[str, int]
    """All eight, in the order of `EMOTIONS`."""

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> Distribution:
        """From counts by emotion; one that is missing has none."""
        return cls({str(e): counts.get(str(e), 0) for e in EMOTIONS})

    @property
    def total(self) -> int:
        """Images with an emotion."""
        return sum(self.counts.values())

    @property
    def shares(self) -> dict[str, float]:
        """Percent per emotion; all 0 without images."""
        return {e: 100 * n / self.total if self.total else 0.0 for e, n in self.counts.items()}

    @property
    def delta(self) -> float:
        """Δ: largest minus smallest share, in percentage points."""
        return max(self.shares.values()) - min(self.shares.values())

    @property
    def sigma(self) -> float:
        """σ as the paper's figure uses it: the *variance* of the eight shares, in points² (divided by 8: they are all there is)."""
        shares = self.shares.values()
        mean = math.fsum(shares) / len(shares)
        return math.fsum((s - mean) ** 2 for s in shares) / len(shares)

    def as_json(self) -> DistributionJSON:
        """Counts, shares, Δ and σ."""
        return {
            "images": self.total,
            "counts": self.counts,
            "shares": {e: round(s, 4) for e, s in self.shares.items()},
            "delta_points": round(self.delta, 4),
            "sigma_points2": round(self.sigma, 4),
        }


COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0C808", "#D55E00", "#8C6D31", "#5B5BD6", "#CC79A7")
"""Okabe and Ito's colour-blind-safe set, its black replaced by brown and its blue lightened; in the order of `EMOTIONS`."""


def draw(rows: Sequence[tuple[str, Distribution]], out: Path) -> list[Path]:
    """Figure 5: a bar of coloured segments per row (all images first, then what the caller splits by), as PNG and PDF.

    Args:
        rows: label and distribution.
        out: directory.

    Returns:
        The files; the same bytes for the same rows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.3 + 0.62 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    height = 0.62
    for row, (_, distribution) in enumerate(rows):
        left = 0.0
        for (emotion, share), colour in zip(distribution.shares.items(), COLOURS, strict=True):
            axes.barh(
                row, share, height, left=left, color=colour, edgecolor="white", linewidth=1, label=emotion if row == 0 else None
            )
            if share >= 5:
                # Black on every one of these colours has a contrast of at least 4.5, but on the brown and the blue white has.
                ink = "white" if colour in ("#8C6D31", "#5B5BD6") else "black"
                axes.text(left + share / 2, row, f"{share:.1f}", ha="center", va="center", fontsize=8, color=ink)
            left += share
        note = f"n = {distribution.total:,}   Δ = {distribution.delta:.2f}   σ = {distribution.sigma:.2f}"
        axes.text(101, row, note, va="center", fontsize=8)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of images, percent   (Δ in points, σ: variance in points²)", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper center", ncols=8, frameon=False, fontsize=8, handlelength=1, columnspacing=1)
    files = []
    for name, canvas, metadata in (
        ("figure5.png", FigureCanvasAgg, {"Software": None}),
        ("figure5.pdf", FigureCanvasPdf, {"CreationDate": None, "Producer": None, "Creator": None}),
    ):
        # The backends are named, so that no display is looked for; a date would make two files differ.
        with replacing(out / name) as temporary:
            kind = name.rpartition(".")[2]
            canvas(figure).print_figure(temporary, dpi=160, format=kind, metadata=metadata, bbox_inches="tight")
        files.append(out / name)
    return files
