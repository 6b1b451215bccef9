"""Stages of Figures 6 and 7: the emotion cloud, and images with what is said of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.records import SchemaError
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from numpy.typing import NDArray


def mds_stage(
    out: Path,
    embeddings: dict[str, Path],
    seed: int = 0,
    max_points: int = 2000,
    references: list[str] | None = None,
    megabytes: float = 6.0,
    predictions: dict[str, Path] | None = None,
) -> None:
    """Figure 6: lay each arm's embeddings out in two dimensions, the same images in the same colours.

    Each arm is turned towards the one before it.

    Writes `mds.json` (how much to believe), `mds.npz` (points), `mds.html` (to explore; one file, no requests), `mds.png` and `mds.pdf`
    (for print) and `page.json`. `mds.npz` holds, for the n-th arm of `mds.json`, `coords_n` (N, 2), `labels_n` and `ids_n`.

    Args:
        out: the stage's directory.
        embeddings: arm -> .parquet with the columns id, emotion, split, des; rows without an emotion, and images that not all arms
            have, are left out and counted.
        seed: of the sample.
        max_points: images, drawn in proportion to the emotions.
        references: .jsonl files of records, or tars (files, folders, globs); the page shows their triplets and intensities, and from
            tars their images. None shows id and emotion alone.
        megabytes: that the images of the page may take in all.
        predictions: arm -> predictions file; the page shows what each arm's model answers beside the truth. Images that it does not answer
            have no answer there.

    Raises:
        SchemaError: predictions of an arm that has no embeddings; and as `map_arms`.
    """
    import numpy as np

    from emo_lightning.analysis.mds_arms import map_arms
    from emo_lightning.analysis.references import References, by_id
    from emo_lightning.core.files import write_json, write_npz
    from emo_lightning.report.mds_page import write_mds_page
    from emo_lightning.report.page import Page, PageFigure, write_page
    from emo_lightning.report.paper_figures import draw_mds_maps

    if unknown := [arm for arm in predictions or {} if arm not in embeddings]:
        msg = f"predictions: {unknown[0]!r} has no embeddings; allowed: {', '.join(embeddings)}"
        raise SchemaError(msg)
    truth = References.load(references) if references else None
    said = {arm: by_id(path) for arm, path in (predictions or {}).items()}
    found = map_arms(embeddings, seed, max_points)
    maps = {arm: one.layout for arm, one in found.items()}
    arms = {arm: one.summary for arm, one in found.items()}
    shown = write_mds_page(out / "mds.html", maps, truth, megabytes, said=said)
    draw_mds_maps(maps, out / "mds")
    arrays: dict[str, NDArray[np.generic]] = {}
    for n, layout in enumerate(maps.values()):
        arrays |= {f"coords_{n}": layout.coords, f"labels_{n}": np.array(layout.labels), f"ids_{n}": np.array(layout.ids)}
    write_npz(out / "mds.npz", arrays)
    notes = [f"MDS, {a}: {v['not_in_all_arms']} images that not all arms have" for a, v in arms.items() if v["not_in_all_arms"]]
    if truth is not None and shown["with_record"] < shown["points"]:
        notes.append(f"MDS: {shown['points'] - shown['with_record']} of {shown['points']} images are not among the references")
    if truth is not None and truth.has_images and not shown["with_image"]:
        notes.append(f"MDS: the page has no images, as they take more than megabytes={megabytes:g}")
    write_json(out / "mds.json", {"arms": arms, "max_points": max_points, "page": shown})
    figure = PageFigure("To explore", "mds.html", "For print: mds.pdf.")
    write_page(out, Page("The map of emotions", figures=[figure], notes=notes))
    for note in notes:
        say(note)
    say(f"MDS: {out / 'mds.html'} ({shown['points']} images, {shown['bytes'] / 1e6:.1f} MB), mds.pdf, mds.png")


def panel_stage(out: Path, predictions: dict[str, Path], references: list[str], count: int = 6, seed: int = 0) -> None:
    """Figure 7: pick some images; write `panel.json`, `panel/*.jpg`, and for print each as `print/*.png` and as a page of `panel.pdf`.

    Args:
        out: the stage's directory.
        predictions: arm -> predictions file (.jsonl).
        references: tars; JSON lines have no images.
        count: images, spread over the emotions.
        seed: of the choice.
    """
    from emo_lightning.analysis.references import References, predictions_of_arms
    from emo_lightning.report.panel import write_panel

    truth = References.load(references)
    panel = write_panel(out, predictions_of_arms(predictions, truth), truth, count, seed)
    say(f"panel: {len(panel['items'])} of {panel['of']} images, {out / 'print'}/*.png, panel.pdf")
