"""What an experiment calls: each function is one kind of stage, writes its files into `out` and prints its table.

Arguments come from YAML; heavy imports wait inside, so that an experiment can be checked before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.records import Prediction, SchemaError
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from emo_lightning.analysis.references import References
    from emo_lightning.analysis.table5_result import Table5Result


def table5_stage(
    out: Path,
    predictions: dict[str, Path],
    references: list[str],
    train: list[str] | None = None,
    clip: str | None = None,
    remarks: list[str] | None = None,
    against: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> None:
    """Score predictions, write `table5.json` (see `table5.table5`) and print both modes.

    Args:
        out: the stage's directory.
        predictions: arm -> predictions file (.jsonl).
        references: .jsonl files of records, or tars (files, folders, globs); only tars have images.
        train: records that the baselines' answers come from; without it the references themselves.
        clip: folder or hub id of a CLIP model; without it the CLIP rows are not computed.
        remarks: what a reader of the table should know of its arms; shown below it.
        against: arm that the others are compared with, image by image: differences with their intervals.
        resamples: of the bootstrap over images that gives the intervals; 0 for none.
        seed: of the bootstrap and of the shuffled labels.
    """
    from emo_lightning.core.files import write_json
    from emo_lightning.report.tables.table5 import table5_page
    from emo_lightning.report.terminal import show_page

    scored = score(predictions, references, train, clip, against=against, resamples=resamples, seed=seed)
    result = {**scored, "remarks": remarks or []}
    write_json(out / "table5.json", result)
    show_page(table5_page(result))


def score(
    predictions: Mapping[str, Path],
    references: list[str],
    train: list[str] | None = None,
    clip: str | None = None,
    *,
    against: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Table5Result:
    """Load everything and compute Table 5; arguments as `table5_stage`."""
    from emo_lightning.analysis.references import References
    from emo_lightning.analysis.table5 import table5
    from emo_lightning.metrics.clip import ClipScorer

    truth = References.load(references)
    arms = _arms(predictions, truth)
    training = References.load(train) if train else None
    scorer = ClipScorer.load(clip) if clip else None
    return table5(arms, truth, training, scorer, against=against, resamples=resamples, seed=seed)


def table6_stage(out: Path, probes: dict[str, list[Path]], resamples: int = 2000, seed: int = 0) -> None:
    """Gather probe runs, compare the arms image by image, write `table6.json` and `page.json`, and print the tables.

    `table6.json` holds what `table6.table6` returns and, as `paired`, what `table6_paired.paired_tests` does.

    Args:
        out: the stage's directory.
        probes: arm -> directories of its probe stages, one per seed, each with `metrics.json`; the paired test also needs
            `predictions.jsonl` and `des.parquet`, and is left out, with a note, where they are missing.
        resamples: of the bootstrap behind the intervals of differences.
        seed: of bootstrap and permutation.
    """
    from emo_lightning.analysis.table6 import table6
    from emo_lightning.analysis.table6_paired import paired_tests
    from emo_lightning.core.files import write_json
    from emo_lightning.report.page import write_page
    from emo_lightning.report.tables.table6 import paired_page, table6_tables
    from emo_lightning.report.terminal import show, show_page

    if not probes:
        msg = "probes: no arm is named"
        raise SchemaError(msg)
    paired = paired_tests(probes, resamples=resamples, seed=seed)
    result = {**table6(probes), "paired": paired}
    page = paired_page(paired)
    write_json(out / "table6.json", result)
    write_page(out, page)
    show(table6_tables(result))
    show_page(page)


def mds_stage(
    out: Path,
    embeddings: dict[str, Path],
    seed: int = 0,
    max_points: int = 2000,
    references: list[str] | None = None,
    megabytes: float = 6.0,
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
    """
    import numpy as np

    from emo_lightning.analysis.mds_arms import map_arms
    from emo_lightning.analysis.references import References
    from emo_lightning.core.files import write_json, write_npz
    from emo_lightning.report.mds_page import write_mds_page
    from emo_lightning.report.page import Page, PageFigure, write_page
    from emo_lightning.report.paper_figures import draw_mds_maps
    from emo_lightning.report.tables.mds import mds_tables
    from emo_lightning.report.terminal import show

    truth = References.load(references) if references else None
    found = map_arms(embeddings, seed, max_points)
    maps = {arm: one.layout for arm, one in found.items()}
    arms = {arm: one.summary for arm, one in found.items()}
    shown = write_mds_page(out / "mds.html", maps, truth, megabytes)
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
    figure = PageFigure("The emotion cloud, to explore", "mds.html", "Point at, tap or walk to an image; for print: mds.pdf.")
    write_page(out, Page("The emotion cloud", figures=[figure], notes=notes))
    show(mds_tables({"arms": arms}))
    for note in notes:
        say(note)
    say(f"MDS: {out / 'mds.html'} ({shown['points']} images, {shown['bytes'] / 1e6:.1f} MB), mds.pdf, mds.png")


def panel_stage(out: Path, predictions: dict[str, Path], references: list[str], count: int = 6, seed: int = 0) -> None:
    """Figure 7: pick some images; write `panel.json`, `panel/*.jpg`, and each as `panel/*.png` and `panel/*.pdf` for print.

    Args:
        out: the stage's directory.
        predictions: arm -> predictions file (.jsonl).
        references: tars; JSON lines have no images.
        count: images, spread over the emotions.
        seed: of the choice.
    """
    from emo_lightning.analysis.references import References
    from emo_lightning.report.panel import write_panel

    truth = References.load(references)
    panel = write_panel(out, _arms(predictions, truth), truth, count, seed)
    say(f"panel: {len(panel['items'])} of {panel['of']} images, {out / 'panel'}/*.png and *.pdf")


def report_stage(out: Path, run_dir: Path, samples: int = 4, wandb: bool = False) -> None:
    """Write `run_dir/report.html` and `run_dir/report_tables/` from whatever stages of the run exist, and print where they are.

    Args:
        out: the stage's directory; receives `report.json` with the paths.
        run_dir: the run's directory.
        samples: images shown of right and of wrong answers each.
        wandb: also log tables, images and the page as an artifact to W&B, offline unless `WANDB_MODE=online`.
    """
    from emo_lightning.core.files import write_json
    from emo_lightning.report.build import build_report

    report = build_report(run_dir, run_dir / "report.html", samples)
    written = {"report": str(report.html), "tables": str(report.tables_dir), "notes": report.notes}
    say(f"report: {report.html}")
    if wandb:
        from emo_lightning.report.wandb import log_report

        written["wandb"] = str(log_report(report, out))
        say(f"W&B: {written['wandb']}")
    write_json(out / "report.json", written)


def _arms(predictions: Mapping[str, Path], references: References) -> dict[str, dict[str, Prediction]]:
    from emo_lightning.analysis.references import load_predictions

    if not predictions:
        msg = "predictions: no arm is named"
        raise SchemaError(msg)
    return {arm: load_predictions(path, references) for arm, path in predictions.items()}
