"""Pictures as inline SVG that takes the page's own ink, so that one drawing serves light and dark."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from emo_lightning.core.colours import EMOTION_COLOURS, EMOTION_MARKERS
from emo_lightning.core.intervals import confidence_level
from emo_lightning.core.logged import logged_rows
from emo_lightning.core.records import EMOTIONS, SchemaError
from emo_lightning.core.tables.table import Result

ARM_COLOURS = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0C808", "#D55E00")
"""Of the arms' dashed boxes and curves, in the order of the arms."""

_INK = "#010203"
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "emo-lightning",
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


Curves = dict[str, tuple[list[float], list[float]]]
"""Name -> (steps, values)."""


def read_losses(path: Path) -> Curves:
    """Loss columns of a Lightning `metrics.csv`: name -> (steps, values); cells that are empty or not finite are left out.

    Raises:
        SchemaError: no `step` column, or a cell that is no number.
    """
    curves: Curves = {}
    for where, row in logged_rows(path, SchemaError):
        if "step" not in row:
            msg = f"{path}: no column 'step'; found {', '.join(row)[:300]}"
            raise SchemaError(msg)
        for name in row:
            if not row[name] or not re.search(r"loss(_epoch)?$", name):
                continue
            try:
                step, value = float(row["step"]), float(row[name])
            except ValueError:
                msg = f"{where}: {name}={row[name][:40]!r} at step {row['step'][:40]!r}; expected numbers"
                raise SchemaError(msg) from None
            if np.isfinite(value) and np.isfinite(step):
                curves.setdefault(name, ([], []))[0].append(step)
                curves[name][1].append(value)
    return curves


def joined_losses(starts: Sequence[Curves]) -> Curves:
    """The curves of one training: each step once, as the last of its starts has it.

    Args:
        starts: of each start, in order.
    """
    found: dict[str, dict[float, float]] = {}
    for curves in starts:
        for name, (steps, values) in curves.items():
            found.setdefault(name, {}).update(zip(steps, values, strict=True))
    return {name: (sorted(points), [points[step] for step in sorted(points)]) for name, points in found.items()}


def loss_svg(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str) -> str:
    """Loss over steps; training as a thin line, validation with points."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.2, 2.6), layout="constrained")
        axes = figure.add_subplot()
        for i, (name, (steps, values)) in enumerate(curves.items()):
            few = len(steps) < 30
            axes.plot(
                steps, values, label=name, color=ARM_COLOURS[i % len(ARM_COLOURS)], lw=1.4, marker="o" if few else "", ms=3
            )
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel("loss")
        axes.grid(alpha=0.15, color=_INK)
        axes.legend(frameon=False, fontsize="small")
        return _inline(figure, f"Loss curves of {title}")


def mds_svg(coords: NDArray[np.floating], labels: Sequence[str], title: str) -> str:
    """MDS scatter, one colour and marker per emotion, equal scale on both axes.

    Args:
        coords: (N, 2).
        labels: N names; one that is not an emotion is drawn grey.
        title: of the arm, for screen readers.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6, 4.6), layout="constrained")
        axes = figure.add_subplot()
        names = np.asarray(labels)
        for name in [e for e in EMOTIONS if e in names] + sorted(set(labels) - set(EMOTIONS)):
            x, y = coords[names == name].T
            colour, marker = EMOTION_COLOURS.get(name, "#888888"), EMOTION_MARKERS.get(name, ".")
            axes.scatter(x, y, s=16, c=colour, marker=marker, linewidths=0, alpha=0.85, label=str(name))
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_axis_off()
        figure.legend(loc="outside lower center", ncols=3, frameon=False, handletextpad=0.1, columnspacing=1, markerscale=1.8)
        return _inline(figure, f"MDS of the emotion embeddings of {title}")


def reliability_svg(arms: Mapping[str, Result]) -> str:
    """Accuracy over confidence, a panel per arm and a colour per set.

    Points grow with the images of their bin; lines join bins of at least five.

    Args:
        arms: arm -> `sets`: name -> `reliability`: bins with `confidence`, `accuracy` (percent) and `count`.
    """
    with matplotlib.rc_context(_STYLE):
        columns = min(3, len(arms))
        rows = -(-len(arms) // columns)
        figure = Figure(figsize=(2.6 * columns, 2.6 * rows + 0.4), layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for panel, (arm, body) in zip(panels, arms.items(), strict=False):
            panel.plot([0, 100], [0, 100], color=_INK, lw=0.8, ls=":")
            for i, (name, found) in enumerate(body["sets"].items()):
                bins = found["reliability"]
                most = max(b["count"] for b in bins)
                x, y = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
                colour = ARM_COLOURS[i % len(ARM_COLOURS)]
                # One image is right or wrong: a line through such bins would show nothing but noise.
                several = [n for n, b in enumerate(bins) if b["count"] >= 5]
                panel.plot([x[n] for n in several], [y[n] for n in several], color=colour, lw=1.2, label=name)
                panel.scatter(x, y, s=[4 + 60 * b["count"] / most for b in bins], color=colour, linewidths=0, clip_on=False)
            panel.set_title(arm, fontsize="medium")
            panel.set_xlim(0, 100)
            panel.set_ylim(0, 100)
            panel.set_aspect("equal")
            panel.grid(alpha=0.15, color=_INK)
        for panel in panels[len(arms) :]:
            panel.set_axis_off()
        figure.supxlabel("confidence (%)", fontsize="medium")
        figure.supylabel("accuracy (%)", fontsize="medium")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
        return _inline(figure, "Reliability: accuracy over confidence")


def guidance_svg(result: Result) -> str:
    """What `attribute_guidance` found: accuracy of the arms, and attribute minus CES, over the share of captions that name the attribute.

    Args:
        result: `bases` and `cells` as `analysis.attribute_guidance` gives them.
    """
    bases = result["bases"]
    shares = [100 * one["share"] for one in bases]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for place, arm in enumerate(bases[0]["accuracy"]):
            means = [one["accuracy"][arm]["mean"] for one in bases]
            worlds = [len(one["accuracy"][arm]["values"]) for one in bases]
            deviations = [one["accuracy"][arm]["std"] for one in bases]
            errors = [np.nan if std is None else std / np.sqrt(n) for std, n in zip(deviations, worlds, strict=True)]
            left.errorbar(shares, means, errors, color=ARM_COLOURS[place], marker="o", ms=4, lw=1.5, capsize=3, label=arm)
        left.set_ylabel("accuracy of the probe (%)")
        left.legend(frameon=False, fontsize="small")
        left.set_title("arms, ± standard error", fontsize="medium")
        sizes = list(dict.fromkeys(one["images"] for one in result["cells"]))
        for place, size in enumerate(sizes):
            gains = [one["contrast"]["mean"] for one in result["cells"] if one["images"] == size]
            right.plot(shares, gains, color=_INK, lw=0.8, alpha=0.6, ls=(":", "--", "-.")[place % 3], label=f"{size:,} images")
        contrasts = [one["contrasts"]["attribute-ces"] for one in bases]
        middle = [one["mean"] for one in contrasts]
        # NaN draws no bar: without an interval nothing is said of how exact a point is.
        half = [np.nan if one["low"] is None else (one["high"] - one["low"]) / 2 for one in contrasts]
        right.errorbar(shares, middle, half, color=ARM_COLOURS[3], marker="o", ms=5, lw=1.8, capsize=4, label="all sizes")
        right.axhline(0, color=_INK, lw=0.8)
        right.set_ylabel("attribute − CES (points)")
        right.legend(frameon=False, fontsize="small", loc="lower right")
        right.set_title(f"what guidance adds, {100 * confidence_level(result):g} % intervals", fontsize="medium")
        for panel in (left, right):
            panel.set_xticks(shares)
            panel.grid(alpha=0.15, color=_INK)
        figure.supxlabel("captions of the base that name the attribute (%)", fontsize="medium")
        return _inline(figure, "What attribute guidance adds, by what the base's captions named")


def overlay_svg(
    image: bytes,
    media_type: str,
    size: Sequence[int],
    true: Sequence[Sequence[float]],
    predicted: Mapping[str, Sequence[Sequence[float]]],
) -> str:
    """An image with its true boxes solid and every arm's predicted boxes dashed.

    Args:
        image: encoded bytes, perhaps scaled down.
        media_type: e.g. "image/jpeg".
        size: (width, height) of the original image, whose pixels the boxes are in.
        true: boxes (x1, y1, x2, y2).
        predicted: arm -> boxes, coloured in this order by `ARM_COLOURS`.
    """
    width, height = size
    data = base64.b64encode(image).decode()
    shapes = [_rectangle(box, "box true", "#ffffff") for box in true]
    for i, boxes in enumerate(predicted.values()):
        shapes += [_rectangle(box, "box predicted dashed", ARM_COLOURS[i % len(ARM_COLOURS)]) for box in boxes]
    return (
        f'<svg class="overlay" viewBox="0 0 {width} {height}" role="img" aria-label="image with true and predicted boxes">'
        f'<image href="data:{html.escape(media_type)};base64,{data}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none"/>{"".join(shapes)}</svg>'
    )


def linked_svg(
    image: bytes,
    media_type: str,
    size: Sequence[int],
    true: Sequence[Sequence[float]],
    said: Sequence[Sequence[float]],
) -> str:
    """An image whose boxes a page's style can pick out beside words: `true`, `said`, and `around` (all but what was said).

    Args:
        image: encoded bytes, perhaps scaled down.
        media_type: e.g. "image/jpeg".
        size: (width, height) of the original image, whose pixels the boxes are in.
        true: boxes (x1, y1, x2, y2).
        said: boxes of one model.
    """
    width, height = size
    data = base64.b64encode(image).decode()
    holes = "".join(f"M{x1:.1f} {y1:.1f}H{x2:.1f}V{y2:.1f}H{x1:.1f}z" for x1, y1, x2, y2 in filter(_is_box, said))
    around = f'<path class="around" fill-rule="evenodd" d="M0 0H{width}V{height}H0z{holes}"/>' if holes else ""
    shapes = [_rectangle(box, "box true", "#ffffff") for box in true]
    shapes += [_rectangle(box, "box said dashed", ARM_COLOURS[0]) for box in said]
    return (
        f'<svg class="overlay linked" viewBox="0 0 {width} {height}" role="img" aria-label="image with the true box and the model\'s">'
        f'<image href="data:{html.escape(media_type)};base64,{data}" width="{width}" height="{height}" '
        f'preserveAspectRatio="none"/>{around}{"".join(shapes)}</svg>'
    )


def _is_box(box: Sequence[float]) -> bool:
    x1, y1, x2, y2 = (float(v) for v in box)
    return bool(np.isfinite((x1, y1, x2, y2)).all()) and x1 < x2 and y1 < y2


def _rectangle(box: Sequence[float], kind: str, colour: str) -> str:
    if not _is_box(box):
        return ""  # nothing to draw; Table 5 counts these
    x1, y1, x2, y2 = (float(v) for v in box)
    place = f'x="{x1:.1f}" y="{y1:.1f}" width="{x2 - x1:.1f}" height="{y2 - y1:.1f}"'
    # A dark line beneath keeps every colour visible on every picture.
    dashed = " dashed" if "dashed" in kind else ""
    return f'<rect class="halo{dashed}" {place}/><rect class="{kind}" {place} stroke="{colour}"/>'


def _inline(figure: Figure, label: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Within HTML these are not needed, and the page then holds no address at all; ids of groups would repeat across figures.
    svg = re.sub(r'\s(?:xmlns(?::\w+)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg).replace(_INK, "currentColor")
    width, height = (72 * float(v) for v in figure.get_size_inches())
    head = f'<svg class="chart" viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(label, quote=True)}">'
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
