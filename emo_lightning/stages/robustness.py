"""Stages of robustness: calibration, other data sets (of one training and over several), word-to-region faithfulness.

Each writes a JSON of its name and a `page.json`, and prints the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emo_lightning.analysis.cross_dataset import TestSet
from emo_lightning.core.records import Reference, SchemaError
from emo_lightning.report.page import Page

if TYPE_CHECKING:
    from emo_lightning.analysis.calibration import Calibration
    from emo_lightning.analysis.label_spaces import SpaceName


def calibration_stage(
    out: Path,
    predictions: dict[str, Path],
    sets: dict[str, list[str]],
    fit: str | None = "val",
    alpha: float = 0.1,
    score: Literal["lac", "aps"] = "lac",
    bins: int = 15,
    seed: int = 0,
) -> None:
    """Calibration, temperature, conformal sets and distances to annotated distributions: `calibration.json`.

    Args:
        out: the stage's directory; also gets `reliability.svg`.
        predictions: arm -> predictions file with `emotion_scores` (of `predict` with model.emotion_scores, or of a probe stage).
        sets: name -> references: .jsonl files of records, or tars (files, folders, globs).
        fit: the set on which temperature and conformal threshold are fitted, and which is not tested; null leaves both out.
        alpha: share of conformal sets that may miss.
        score: of the conformal sets; `lac` makes the smallest, `aps` ones that grow with doubt.
        bins: of the calibration error.
        seed: of the bootstrap.
    """
    from emo_lightning.analysis.calibration import measure_calibration
    from emo_lightning.analysis.references import by_id
    from emo_lightning.report.terminal import show_page

    _named("predictions", predictions)
    _named("sets", sets)
    said = {arm: by_id(Path(path)) for arm, path in predictions.items()}
    records = {name: _records(paths) for name, paths in sets.items()}
    show_page(write_calibration(out, measure_calibration(said, records, fit, alpha, score, bins, seed)))


def write_calibration(out: Path, result: Calibration) -> Page:
    """Write `calibration.json`, `reliability.svg` and `page.json` of a calibration; returns the page."""
    from emo_lightning.core.files import write_bytes
    from emo_lightning.report.page import PageFigure
    from emo_lightning.report.svg import reliability_svg
    from emo_lightning.report.tables.calibration import calibration_page

    page = calibration_page(result)
    write_bytes(out / "reliability.svg", reliability_svg(result["arms"]).encode())
    about = (
        "As predicted. On the dotted line a confidence of 60 % is right six times in ten; larger points stand for more images."
    )
    page.figures.append(PageFigure("Reliability", "reliability.svg", about))
    return write_result(out, "calibration", result, page)


def write_result(out: Path, name: str, result: Mapping[str, object], page: Page) -> Page:
    """Write `NAME.json` and `page.json`; returns the page."""
    from emo_lightning.core.files import write_json
    from emo_lightning.report.page import write_page

    write_json(out / f"{name}.json", result)
    write_page(out, page)
    return page


def cross_dataset_stage(
    out: Path,
    predictions: dict[str, Path],
    sets: dict[str, TestSet],
    base: str,
    in_domain: str,
    seed: int = 0,
    trained_on: list[str] | None = None,
) -> None:
    """Every arm on every data set against the untuned base: `cross_dataset.json` (see `cross_dataset.cross_dataset`).

    Args:
        out: the stage's directory.
        predictions: arm -> predictions file that covers all sets.
        sets: name -> references and label space.
        base: the arm that was not fine-tuned.
        in_domain: the set like the one that was trained on; all others are out of the domain.
        seed: of the bootstrap.
        trained_on: tars (or .jsonl) that any arm was trained on; an image of a set that is also there, byte for byte or as
            the same file of another type, is left out.
    """
    from emo_lightning.analysis.cross_dataset import cross_dataset
    from emo_lightning.analysis.references import by_id
    from emo_lightning.report.tables.cross_dataset import cross_page
    from emo_lightning.report.terminal import show_page

    _named("predictions", predictions)
    _named("sets", sets)
    said = {arm: by_id(Path(path)) for arm, path in predictions.items()}
    records, trained = _tested(sets, trained_on)
    result = cross_dataset(said, records, base, in_domain, seed, trained)
    show_page(write_result(out, "cross_dataset", result, cross_page(result)))


def across_seeds_stage(
    out: Path,
    predictions: dict[str, list[Path]],
    sets: dict[str, TestSet],
    against: list[str],
    seed: int = 0,
    trained_on: list[str] | None = None,
) -> None:
    """Every arm on every data set over several seeds, against some of the arms: `across_seeds.json` (see `across_seeds.across_seeds`).

    Args:
        out: the stage's directory.
        predictions: arm -> a predictions file of each seed, in the same order for all arms; one alone stands for all seeds.
        sets: name -> references and label space.
        against: arms that the others are compared with.
        seed: of the bootstrap.
        trained_on: as in `cross_dataset`.
    """
    from emo_lightning.analysis.across_seeds import across_seeds
    from emo_lightning.analysis.references import by_id
    from emo_lightning.report.tables.across_seeds import across_seeds_page
    from emo_lightning.report.terminal import show_page

    _named("predictions", predictions)
    _named("sets", sets)
    said = {arm: [by_id(Path(path)) for path in paths] for arm, paths in predictions.items()}
    records, trained = _tested(sets, trained_on)
    result = across_seeds(said, records, against, seed, trained)
    show_page(write_result(out, "across_seeds", result, across_seeds_page(result)))


def faithfulness_stage(
    out: Path,
    model: Path,
    references: list[str],
    boxes: Path | None = None,
    mask: Literal["mean", "blur"] = "mean",
    draws: int = 8,
    max_overlap: float = 0.3,
    limit: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
) -> None:
    """Does the emotion depend on the region that its words were grounded to: `faithfulness.json` (see `faithfulness.faithfulness`).

    Args:
        out: the stage's directory.
        model: bundle folder (with `emo.json`), with a probe.
        references: tars, whose primary boxes are masked.
        boxes: a predictions file whose boxes are masked instead: the model's own words and regions.
        mask: `mean` paints the image's mean colour, `blur` blurs.
        draws: random boxes per image.
        max_overlap: most that a random box may share with the grounded one (intersection over union).
        limit: only the first so many images.
        batch_size: images at a time.
        seed: of the random boxes and of the bootstrap.
    """
    from emo_lightning.analysis.faithfulness import MaskPlan, faithfulness
    from emo_lightning.report.tables.faithfulness import faithfulness_page
    from emo_lightning.report.terminal import show_page

    plan = MaskPlan(mask, draws, max_overlap, seed)
    result = faithfulness(model, references, boxes, plan, limit, batch_size)
    show_page(write_result(out, "faithfulness", result, faithfulness_page(result)))


def _named(key: str, values: Mapping[str, object]) -> None:
    if not values:
        msg = f"{key}: none is named"
        raise SchemaError(msg)


def _records(paths: list[str]) -> list[Reference]:
    from emo_lightning.analysis.references import References

    return References.load(list(paths)).records


def _tested(
    sets: Mapping[str, TestSet], trained_on: list[str] | None
) -> tuple[dict[str, tuple[list[Reference], SpaceName]], set[str]]:
    """References and label space of each set, and `Reference.image_hashes` of what was trained on."""
    from emo_lightning.analysis.cross_dataset import trained_images

    records = {name: (_records(one.references), one.space) for name, one in sets.items()}
    return records, trained_images(_records(trained_on)) if trained_on else set()
