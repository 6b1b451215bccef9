"""Drawings of the four measurements: SVG that takes the page's ink, PNG and PDF for print."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from emo_lightning.analysis.des_space.inputs import DesSet
from emo_lightning.analysis.des_space.interpolation import Path as Interpolated
from emo_lightning.analysis.references import References
from emo_lightning.core.colours import EMOTION_COLOURS
from emo_lightning.core.records import EMOTIONS
from emo_lightning.core.tables.table import Result
from emo_lightning.report.paper_figures import INK, STYLE, save
from emo_lightning.report.svg import ARM_COLOURS

_FORMATS = ("svg", "png", "pdf")
_STYLE: Any = {
    **STYLE,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), INK),
}
_MARKERS = "osD^vP"

Arms: TypeAlias = Mapping[str, Result]
"""Arm -> what the measurement returned."""


def draw_retrieval(result: Arms, stem: Path) -> None:
    """Recall over k, one plot per target; chance dashed."""
    targets = [
        t for t in next(iter(result.values()))["targets"] if any(arm["targets"][t]["queries"] for arm in result.values())
    ]
    with matplotlib.rc_context(_STYLE):
        columns = min(3, max(len(targets), 1))
        rows = -(-max(len(targets), 1) // columns)
        figure = Figure(figsize=(2.3 * columns, 2.2 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        for axes in grid[len(targets) :]:
            axes.set_axis_off()
        if not targets:
            _say(grid[0], "no image has another relevant one")
        for axes, target in zip(grid, targets, strict=False):
            for i, (arm, found) in enumerate(result.items()):
                recall = found["targets"][target].get("recall")
                if not recall:
                    continue
                ks = [int(k) for k in recall]
                values, lows, highs, chance = (
                    np.array([100 * at_k[n] for at_k in recall.values()]) for n in ("value", "low", "high", "chance")
                )
                shift = np.array(ks) * (1 + 0.03 * i)  # so that intervals do not cover each other
                axes.errorbar(
                    shift,
                    values,
                    [values - lows, highs - values],
                    color=_colour(i),
                    marker=_MARKERS[i % 6],
                    ms=4,
                    lw=1.3,
                    label=arm,
                    clip_on=False,  # a mark at 0 or 100 stays whole
                )
                if i == 0:
                    axes.plot(ks, chance, color=INK, lw=1, ls="--", label="chance")
            axes.set_xscale("log")
            axes.set_xticks(ks, [str(k) for k in ks])
            axes.minorticks_off()
            axes.set_title(target, fontsize=9)
            axes.set_xlabel("k")
            axes.grid(alpha=0.15, color=INK)
        figure.supylabel("recall@k, percent", fontsize=9)
        grid[0].set_ylim(0, 100)
        _legend(figure, grid[0])
        save(figure, stem, _FORMATS)


def draw_distance(result: Arms, stem: Path) -> bool:
    """Embedding distance over deciles of affective distance; returns whether there was anything to draw."""
    parts = {"distribution": "Jensen–Shannon distance of emotions", "intensity": "difference of intensity"}
    shown = [p for p in parts if any("bins" in arm[p] for arm in result.values())]
    if not shown:
        return False
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.7 * len(shown), 3.2), layout="constrained")
        grid = figure.subplots(1, len(shown), squeeze=False)[0]
        for axes, part in zip(grid, shown, strict=True):
            for i, (arm, found) in enumerate(result.items()):
                if bins := found[part].get("bins"):
                    x, y = np.array(bins).T
                    label = f"{arm} (ρ = {found[part]['rho']:.3f})"
                    axes.plot(x, y, color=_colour(i), marker=_MARKERS[i % 6], ms=4, lw=1.3, label=label)
            axes.set_xlabel(parts[part])
            axes.grid(alpha=0.15, color=INK)
            axes.legend(frameon=False, fontsize=8)
        grid[0].set_ylabel("mean embedding distance\n(1 = mean of all pairs)")
        save(figure, stem, _FORMATS)
    return True


def draw_interpolation(result: Arms, stem: Path) -> bool:
    """The mean way from a to b, and monotonicity by pair of emotions; returns whether there was anything to draw."""
    arms = {arm: found for arm, found in result.items() if "pairs" in found}
    if not arms:
        return False
    with matplotlib.rc_context(_STYLE):
        columns = 2
        rows = -(-(len(arms) + 1) // columns)
        figure = Figure(figsize=(3.6 * columns, 3.3 * rows), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes in grid[len(arms) + 1 :]:
            axes.set_axis_off()
        for i, (arm, found) in enumerate(arms.items()):
            t = np.linspace(0, 1, found["steps"])
            grid[0].plot(t, found["mean_position"], color=_colour(i), marker=_MARKERS[i % 6], ms=3, lw=1.3, label=arm)
        grid[0].plot([0, 1], [0, 1], color=INK, lw=1, ls="--", label="all the way, evenly")
        grid[0].set_xlabel("t, along the path")
        grid[0].set_ylabel("mean position s(t)\n0 feels like a, 1 like b")
        grid[0].grid(alpha=0.15, color=INK)
        grid[0].legend(frameon=False, fontsize=8)
        for axes, (arm, found) in zip(grid[1:], arms.items(), strict=False):
            _heatmap(axes, found["pairs"])
            axes.set_title(f"{arm}: monotonicity", fontsize=9, parse_math=False)
        figure.supxlabel(
            "monotonicity by pair of emotions: 1 never backward, 0 as much back as forth, −1 always backward", fontsize=8
        )
        save(figure, stem, _FORMATS)
    return True


def _heatmap(axes: Axes, pairs: Mapping[str, float]) -> None:
    names = [str(e) for e in EMOTIONS]
    grid = np.full((len(names), len(names)), np.nan)
    for pair, value in pairs.items():
        a, b = (names.index(name) for name in pair.split("-"))
        grid[b, a] = value
    # Drawn as shapes: an SVG that holds a picture does not take the page's ink.
    edges = np.arange(len(names) + 1) - 0.5
    axes.pcolormesh(edges, edges, np.ma.masked_invalid(grid), vmin=-1, vmax=1, cmap="PuOr", edgecolors="none")
    axes.set_aspect("equal")
    for (row, column), value in np.ndenumerate(grid):
        if np.isfinite(value):
            axes.text(
                column,
                row,
                f"{round(value, 1) + 0:.1f}".replace("-", "−"),
                ha="center",
                va="center",
                fontsize=6.5,
                color="black" if abs(value) < 0.62 else "white",
            )
    axes.set_xticks(range(7), names[:7], rotation=60, ha="right", rotation_mode="anchor", fontsize=7)
    axes.set_yticks(range(1, 8), names[1:], fontsize=7)
    axes.set_xlim(-0.5, 6.5)
    axes.set_ylim(7.5, 0.5)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)


def draw_strips(found: DesSet, paths: Sequence[Interpolated], references: References, stem: Path, columns: int = 7) -> None:
    """The real image nearest to each point of a few paths, with the mood of the neighbourhood below it.

    Args:
        found: the images that the paths' rows count.
        paths: one row each; the ends stand at both sides.
        references: with images.
        stem: path without suffix.
        columns: pictures per row, both ends among them.
    """
    rows = {record.id: i for i, record in enumerate(references.records)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.15 * columns, 1.5 * len(paths) + 0.2), layout="constrained")
        grid = figure.subplots(len(paths), columns, squeeze=False)
        for line, path in zip(grid, paths, strict=True):
            at = np.linspace(0, len(path.position) - 1, columns).round().astype(int)
            for n, (axes, step) in enumerate(zip(line, at, strict=True)):
                end = {0: path.a, columns - 1: path.b}.get(n)
                row = int(path.nearest[step]) if end is None else end
                picture = references.picture(rows[found.ids[row]])
                if picture is None:
                    axes.text(0.5, 0.5, "cannot\nbe read", fontsize=6.5, ha="center", va="center", transform=axes.transAxes)
                else:
                    picture.thumbnail((200, 200))
                    axes.imshow(picture)
                axes.set_xticks([])
                axes.set_yticks([])
                name = str(EMOTIONS[int(path.moods[step].argmax())]) if end is None else str(found.emotions[row])
                axes.spines[:].set_visible(True)
                axes.spines[:].set_edgecolor(EMOTION_COLOURS[name])
                axes.spines[:].set_linewidth(2.5 if end is not None else 1.2)
                text = name if end is not None else f"{name}\ns = {path.position[step]:.2f}".replace("-", "−")
                axes.set_xlabel(text, fontsize=6.5, labelpad=2, weight="bold" if end is not None else "normal")
        save(figure, stem)


def draw_stability(result: Arms, stem: Path) -> None:
    """Cosine and neighbour overlap for every change; other images and chance dashed."""
    names = [row["change"] for row in next(iter(result.values()))["changes"]]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(8.4, 0.9 + 0.36 * len(names) + 0.12 * len(result)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        for i, (arm, found) in enumerate(result.items()):
            y = np.arange(len(names)) + 0.18 * (i - (len(result) - 1) / 2)
            for axes, key, other in ((left, "cosine", "other_cosine"), (right, "overlap", "overlap_chance")):
                values, lows, highs = (np.array([row[key][n] for row in found["changes"]]) for n in ("value", "low", "high"))
                bars = [np.maximum(values - lows, 0), np.maximum(highs - values, 0)]
                axes.errorbar(
                    values, y, xerr=bars, color=_colour(i), marker=_MARKERS[i % 6], ms=4, lw=0, elinewidth=1.3, label=arm
                )
                axes.axvline(found[other], color=_colour(i), lw=1, ls="--")
        left.set_yticks(range(len(names)), [_cut(name) for name in names], fontsize=8)
        left.invert_yaxis()
        left.set_xlabel("cosine with the unchanged image's\n(dashed: between different images)")
        right.set_xlabel("shared nearest neighbours\n(dashed: chance)")
        right.set_xlim(-0.02, 1.02)
        for axes in (left, right):
            axes.grid(alpha=0.15, color=INK, axis="x")
        if len(result) > 1:
            _legend(figure, left)
        save(figure, stem, _FORMATS)


def _cut(text: str, width: int = 34) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width, max_lines=2, placeholder="…"))


def _colour(i: int) -> str:
    return ARM_COLOURS[i % len(ARM_COLOURS)]


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False, fontsize=8)


def _say(axes: Axes, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
