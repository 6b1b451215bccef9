"""Stages of Tables 5 and 6.

Heavy imports wait inside, so that an experiment can be checked before torch is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

from emo_lightning.core.records import SchemaError
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
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
    about: dict[str, str] | None = None,
    anchors: str | None = None,
) -> None:
    """Score predictions, write `table5.json` (see `table5.table5`) and print its overview; `emo report` and `emo eval` show all of it.

    Args:
        out: the stage's directory.
        predictions: arm -> predictions: .jsonl, .parquet or tars.
        references: .jsonl or .parquet files (`Reference`), or tars (files, folders, globs); only tars have images.
        train: records that the baselines' answers come from; without it the references themselves.
        clip: folder or hub id of a CLIP model; without it the CLIP rows are not computed.
        remarks: what a reader of the table should know of its arms; shown below it.
        against: arm that the others are compared with, image by image: differences with their intervals.
        resamples: of the bootstrap over images that gives the intervals; 0 for none.
        seed: of the bootstrap and of the shuffled labels.
        about: arm -> what it is, in one line.
        anchors: valence and arousal of the eight, by which an arm that gives `emotion_scores` alone is compared with people's ratings: the name
            of a file in `configs/anchors`, or a path; without it such an arm has no answer there.

    Raises:
        SchemaError: `about` explains an arm that there is not; and as `score`.
    """
    from emo_lightning.core.files import write_json
    from emo_lightning.core.tables.terminal import show
    from emo_lightning.report.tables.overview import OVERVIEW_WIDTH, overview_tables

    _check_about(about, predictions)
    scored = score(predictions, references, train, clip, against=against, resamples=resamples, seed=seed, anchors=anchors)
    result = {**scored, "remarks": remarks or [], "about": about or {}}
    write_json(out / "table5.json", result)
    # One table; what stands beside it is in the report.
    show(islice(overview_tables(result), 1), most=OVERVIEW_WIDTH)
    for arm, what in (about or {}).items():
        say(fill(f"{arm}: {what}", OVERVIEW_WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False))


def score(
    predictions: Mapping[str, Path],
    references: list[str],
    train: list[str] | None = None,
    clip: str | None = None,
    *,
    against: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    anchors: str | None = None,
) -> Table5Result:
    """Load everything and compute Table 5, and how near valence, arousal and dominance are where people rated them; arguments as `table5_stage`."""
    from emo_lightning.analysis.affect import affect_scores, has_ratings
    from emo_lightning.analysis.references import References, predictions_of_arms
    from emo_lightning.analysis.table5 import table5
    from emo_lightning.metrics.clip import ClipScorer
    from emo_lightning.metrics.emotion_space import read_anchors

    points = read_anchors(anchors) if anchors else None
    truth = References.load(references)
    arms = predictions_of_arms(predictions, truth)
    training = References.load(train) if train else None
    scorer = ClipScorer.load(clip) if clip else None
    result = table5(arms, truth, training, scorer, against=against, resamples=resamples, seed=seed)
    if has_ratings(truth.records):
        result["affect"] = affect_scores(arms, truth.records, points, resamples=resamples, seed=seed)
    return result


def _check_about(about: Mapping[str, str] | None, arms: Mapping[str, object]) -> None:
    if unknown := [arm for arm in about or {} if arm not in arms]:
        msg = f"about: {unknown[0]!r} is no arm; allowed: {', '.join(arms)}"
        raise SchemaError(msg)


def table6_stage(
    out: Path, probes: dict[str, list[Path]], resamples: int = 2000, seed: int = 0, about: dict[str, str] | None = None
) -> None:
    """Gather probe runs, compare the arms image by image, write `table6.json` and `page.json`, and print their overview.

    `table6.json` holds what `table6.table6` returns and, as `paired`, what `table6_paired.paired_tests` does.

    Args:
        out: the stage's directory.
        probes: arm -> directories of its probe stages, one per seed, each with `metrics.json`; the paired test also needs
            `predictions.jsonl` and `des.parquet`, and is left out, with a note, where they are missing.
        resamples: of the bootstrap behind the intervals of differences.
        seed: of bootstrap and permutation.
        about: arm -> what it is, in one line.

    Raises:
        SchemaError: no arm, or `about` explains an arm that there is not; and as `table6.table6`.
    """
    from emo_lightning.analysis.table6 import table6
    from emo_lightning.analysis.table6_paired import paired_tests
    from emo_lightning.core.files import write_json
    from emo_lightning.core.tables.terminal import show
    from emo_lightning.report.page import write_page
    from emo_lightning.report.tables.overview import OVERVIEW_WIDTH, overview_table6
    from emo_lightning.report.tables.table6 import paired_page

    if not probes:
        msg = "probes: no arm is named"
        raise SchemaError(msg)
    _check_about(about, probes)
    paired = paired_tests(probes, resamples=resamples, seed=seed)
    result = {**table6(probes), "paired": paired, "about": about or {}}
    write_json(out / "table6.json", result)
    page = paired_page(paired)
    write_page(out, page)
    show(overview_table6(result), most=OVERVIEW_WIDTH)
    for note in page.notes:
        say(note)
