"""What Table 5 computes, as it stands in `table5.json`."""

from __future__ import annotations

from typing import NotRequired, TypedDict

from emo_lightning.analysis.affect import AffectScores
from emo_lightning.analysis.table5_rows import ScoringMode
from emo_lightning.metrics.bootstrap import Difference

RowValues = dict[str, float | None]
"""Row -> x100, None where it was not computed or nothing could be scored; in the order of `TABLE5_ROWS`."""


class ByEmotion(TypedDict):
    """The images of one emotion, and how well it is found, x100."""

    images: int
    precision: float | None
    recall: float | None
    f1: float | None
    paper: RowValues
    strict: RowValues


class Confusion(TypedDict):
    """Counts of images, true emotions down, said ones across."""

    rows: list[str]
    columns: list[str]
    counts: list[list[int]]


class ScoredColumn(TypedDict):
    """One column of the table."""

    paper: RowValues
    strict: RowValues
    counts: dict[str, int]
    """What was missing or could not be read, and how often."""
    support: dict[ScoringMode, dict[str, int]]
    """Row -> images behind it."""
    intervals: NotRequired[dict[ScoringMode, dict[str, list[float] | None]]]
    """Row -> [low, high] at 95 %; without resamples there are none."""


class ArmColumn(ScoredColumn):
    """The column of an arm."""

    by_emotion: dict[str, ByEmotion]
    confusion: Confusion


class BaselineColumn(ScoredColumn):
    """The column of a baseline."""

    answer: dict[str, object]
    """What it answers, for the page."""
    inapplicable: list[str]
    """Rows that it has no answer to."""


class Paired(TypedDict):
    """Differences of all arms to one of them, on the same images; positive: the other scores higher."""

    against: str
    arms: dict[str, dict[ScoringMode, dict[str, Difference | None]]]


class OverBlind(Difference):
    """An arm minus the best answer that was given without looking, on the same images."""

    baseline: str
    """Which answer that is."""


LeadingArms = dict[ScoringMode, dict[str, str | None]]
"""Row -> the arm that is better than every other by more than chance: the intervals of its differences to them do not touch 0. None where
there is no such arm."""


class Resamples(TypedDict):
    """The bootstrap behind the intervals."""

    resamples: int
    seed: int
    confidence_level: float
    """Of the intervals, as a share."""
    unit: str


class SplitScores(TypedDict):
    """The images of one split alone; rows of CLIP are None."""

    references: int
    arms: dict[str, ScoredColumn]
    baselines: dict[str, ScoredColumn]


class Table5Result(TypedDict):
    """The whole table, JSON-ready."""

    arms: dict[str, ArmColumn]
    baselines: dict[str, BaselineColumn]
    omitted: dict[str, str]
    """Baseline -> why it could not be computed."""
    paired: Paired | None
    over_blind: dict[str, dict[ScoringMode, dict[str, OverBlind | None]]]
    """Arm -> row; None where the arm or all such answers have no value."""
    ahead: LeadingArms | None
    """None where there are no intervals, or one arm alone."""
    bootstrap: Resamples | None
    baseline_source: str
    split: str
    by_split: NotRequired[dict[str, SplitScores]]
    """Split -> its images alone; absent where the references are of one split."""
    references: int
    unreadable: NotRequired[list[str]]
    """Ids of images that CLIP could not look at, as their bytes are damaged; they are in no row of image and text."""
    clip: bool
    """Whether the rows of CLIP were computed."""
    clip_truncated: int | None
    """Texts that were cut to CLIP's length."""
    definition: str
    """`table5_rows.definition` of the version that scored it."""
    affect: NotRequired[AffectScores]
    """Valence, arousal and dominance; absent where no reference has a rating."""
