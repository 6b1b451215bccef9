"""Figures 6 and 7 of the paper for print: PNG and PDF on white, the same bytes for the same input."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf, PdfPages
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL.Image import Image

from emo_lightning.analysis.mds import MdsMap
from emo_lightning.core.colours import EMOTION_COLOURS, EMOTION_MARKERS
from emo_lightning.core.files import write_bytes
from emo_lightning.core.records import EMOTIONS
from emo_lightning.report.pictures import AnsweredImage, ShownAnswer
from emo_lightning.report.svg import ARM_COLOURS

FIGURE_STYLE: Any = {
    "pdf.fonttype": 42,  # text that can be searched and edited, as publishers ask
    "svg.fonttype": "none",
    "svg.hashsalt": "emo-lightning",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # The figure's own white shows through in PNG and PDF; an SVG stands on the page's colour, dark or light.
    "axes.facecolor": "none",
}
"""Of every figure that is written to a file."""

INK_PLACEHOLDER = "#010203"
"""Stands for the page's own ink: `save` turns it into `currentColor` in SVG, so that one drawing serves light and dark."""

_DPI = 200
_TIGHT: Any = {"bbox_inches": "tight", "pad_inches": 0.05}


def save(figure: Figure, stem: Path, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Write `stem.png`, `stem.pdf` and, if asked, `stem.svg`; returns the files.

    Args:
        figure: made under `matplotlib.rc_context(STYLE)`.
        stem: path without suffix.
        formats: of png, pdf, svg.
    """
    files = []
    # The layout is solved once: it is the same in every format, and takes longer than the drawing.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for kind in formats:
        buffer = io.BytesIO()
        # The backends are named, so that no display is looked for; a date would make two files differ.
        with matplotlib.rc_context(FIGURE_STYLE):
            match kind:
                case "png":
                    FigureCanvasAgg(figure).print_figure(
                        buffer, dpi=_DPI, metadata={"Software": None}, facecolor="white", **_TIGHT
                    )
                case "pdf":
                    about = {"CreationDate": None, "Producer": None, "Creator": None}
                    FigureCanvasPdf(figure).print_figure(
                        buffer, format="pdf", dpi=_DPI, metadata=about, facecolor="white", **_TIGHT
                    )
                case "svg":
                    FigureCanvasSVG(figure).print_figure(
                        buffer, format="svg", metadata={"Date": None, "Creator": None}, facecolor="none", **_TIGHT
                    )
                case _:
                    msg = f"format {kind!r}; allowed: png, pdf, svg"
                    raise ValueError(msg)
        data = buffer.getvalue().replace(INK_PLACEHOLDER.encode(), b"currentColor") if kind == "svg" else buffer.getvalue()
        write_bytes(stem.with_name(f"{stem.name}.{kind}"), data)
        files.append(stem.with_name(f"{stem.name}.{kind}"))
    return files


def draw_mds_maps(maps: Mapping[str, MdsMap], stem: Path) -> list[Path]:
    """Figure 6: the arms beside each other, the same images in the same colours, with the figures of merit below each.

    Args:
        maps: arm -> its layout.
        stem: path without suffix.
    """
    columns = min(3, len(maps))
    rows = -(-len(maps) // columns)
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(2.7 * columns, 3.1 * rows + 0.5), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        present = {label for layout in maps.values() for label in layout.labels}
        names = [str(e) for e in EMOTIONS if e in present] + sorted(present - set(EMOTIONS))
        for axes, (arm, layout) in zip(grid.flat, maps.items(), strict=False):
            _scatter(axes, layout.coords, layout.labels, names)
            axes.set_title(arm, fontsize=11, parse_math=False)
            # The empty line keeps the legend away.
            merit = f"{_merit(layout)}\n"
            axes.text(0.5, -0.02, merit, transform=axes.transAxes, ha="center", va="top", fontsize=7.5, linespacing=1.4)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(8, 4 if columns < 3 else 8),
            frameon=False,
            handletextpad=0.1,
            columnspacing=1,
            markerscale=1.6,
            fontsize=8,
        )
        return save(figure, stem)


def _scatter(axes: Axes, coords: NDArray[np.floating], labels: Sequence[str], names: Sequence[str]) -> None:
    given = np.asarray(labels)
    size = float(np.clip(3000 / max(len(given), 1), 3, 14))
    for name in names:
        x, y = coords[given == name].T
        colour, marker = EMOTION_COLOURS.get(name, "#888888"), EMOTION_MARKERS.get(name, ".")
        axes.scatter(x, y, s=size, c=colour, marker=marker, linewidths=0, alpha=0.85, label=name)
    middle, reach = (coords.max(axis=0) + coords.min(axis=0)) / 2, 0.53 * float(np.ptp(coords, axis=0).max() or 1)
    axes.set_xlim(middle[0] - reach, middle[0] + reach)
    axes.set_ylim(middle[1] - reach, middle[1] + reach)
    axes.set_aspect("equal")


def _merit(layout: MdsMap) -> str:
    silhouette = "–" if layout.silhouette_des is None else f"{layout.silhouette_des:.3f} (2-D {layout.silhouette_2d:.3f})"
    return (
        (
            f"{len(layout.ids)} images, stress-1 {layout.stress:.3f}\nsilhouette {silhouette}\n"
            f"{layout.k}-NN purity {layout.knn_purity_des:.3f} (2-D {layout.knn_purity_2d:.3f})"
        )
        .replace(" -", " −")
        .replace("D -", "D −")
    )


@contextmanager
def pdf_pages(path: Path) -> Iterator[PdfPages]:
    """A PDF that is written at the end, with a page for each `PdfPages.savefig`: fonts are cut down to what is used once, not once a figure."""
    buffer = io.BytesIO()
    about = {"CreationDate": None, "Producer": None, "Creator": None}
    with matplotlib.rc_context(FIGURE_STYLE), PdfPages(buffer, metadata=about) as pages:
        yield pages
    write_bytes(path, buffer.getvalue())


def draw_comparison(image: Image, item: AnsweredImage, arms: Sequence[str], stem: Path, pages: PdfPages) -> Path:
    """Figure 7: one image, the truth and every arm beside each other: boxes, triplet, emotion, intensity.

    Returns the PNG.

    Args:
        image: RGB, perhaps scaled down.
        item: one of `panel.json`'s: `size` (of the original, whose pixels the boxes are in), `truth`, `predictions`.
        arms: in the order of the columns.
        stem: of the PNG, path without suffix.
        pages: the PDF that gets a page of it.
    """
    answers: list[tuple[str, ShownAnswer | None, str]] = [("annotation", item["truth"], INK_PLACEHOLDER)]
    answers += [(arm, item["predictions"].get(arm), ARM_COLOURS[i % len(ARM_COLOURS)]) for i, arm in enumerate(arms)]
    width, height = item["size"]
    # The panel's own shape, within reason, so that neither a tall nor a wide image is lost in white.
    tall = 2.1 * float(np.clip(height / width, 0.5, 1.6))
    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(2.2 * len(answers), tall + 1.25), layout="constrained")
        grid = figure.subplots(1, len(answers), squeeze=False)
        for axes, (name, answer, colour) in zip(grid.flat, answers, strict=True):
            axes.imshow(image, extent=(0, width, height, 0))
            axes.set_axis_off()
            axes.set_title(name, fontsize=10, color=colour if colour == INK_PLACEHOLDER else "black", parse_math=False)
            for x1, y1, x2, y2 in answer.get("boxes", []) if answer else []:
                if x1 < x2 and y1 < y2:
                    # A white line beneath keeps every colour visible on every picture.
                    for edge, thick in (("white", 3.2), ("black" if colour == INK_PLACEHOLDER else colour, 1.6)):
                        axes.add_patch(
                            Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, clip_on=True, edgecolor=edge, linewidth=thick)
                        )
            axes.set_xlim(0, width)
            axes.set_ylim(height, 0)
            head, words, right = _words(answer, item["truth"])
            ink = {None: "black", True: "#1a7f37", False: "#b3261e"}[right if name != "annotation" else None]
            for n, line in enumerate((head, *words)):
                # Each line at its own place: a dash is not as high as a word.
                axes.annotate(
                    line,
                    (0.5, 0),
                    xycoords="axes fraction",
                    xytext=(0, -13 - 12 * n),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8 if n else 9,
                    color="black" if n else ink,
                    weight="normal" if n else "bold",
                    parse_math=False,
                )
        (png,) = save(figure, stem, ("png",))
        pages.savefig(figure, dpi=_DPI, facecolor="white", **_TIGHT)  # type: ignore[no-untyped-call]
        return png


def _words(answer: ShownAnswer | None, truth: ShownAnswer) -> tuple[str, list[str], bool | None]:
    """(emotion and intensity, background, attribute and subject, whether the emotion is right)."""
    if not answer:
        return "no reply", [], False
    intensity = "" if answer["intensity"] is None else f", {answer['intensity']:g}/10"
    right = None if truth["emotion"] is None else answer["emotion"] == truth["emotion"]
    # ✓ and ✗ beside the colour: a print may be grey.
    mark = "" if right is None or answer is truth else (" ✓" if right else " ✗")
    head = f"{_short(answer['emotion'] or 'no emotion')}{intensity}{mark}"
    return head, [_short(answer[key] or "–") for key in ("background", "attribute", "subject")], right


def _short(text: str, limit: int = 30) -> str:
    """What a model says may be long, or hold line breaks."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
