"""What a page opens with: three sentences, the figure behind them, and six images with what the model says of them.

The sentences follow the numbers of the run: what was trained on what, what is gained by looking at the image, and what else is, or is not.
They speak of one arm, the last of Table 5, which in the project's experiments is the paper's own way of training.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from markupsafe import Markup

from emo_lightning.core.foreign import as_number
from emo_lightning.core.images import media_type
from emo_lightning.core.tables.provenance import Provenance
from emo_lightning.core.tables.table import Result, Spread, number_of
from emo_lightning.report.arms import explained_arms
from emo_lightning.report.examples import Examples
from emo_lightning.report.forms import TrainingForm
from emo_lightning.report.kinds import AnsweredPictures
from emo_lightning.report.pictures import ReportPicture, ShownAnswer
from emo_lightning.report.provenance import Sources
from emo_lightning.report.run_folder import RunFolder, StageFolder
from emo_lightning.report.svg import linked_svg
from emo_lightning.report.tables.overview import METRICS, best_blind, scored

PICTURES = 6
"""Images of the strip."""

LEARNED = {
    "attributes": "to name background, attribute and subject, and to box the subject",
    "emotion": "to name the emotion and its strength",
    "explain": "to name the emotion, its strength and what brings it about",
    "neutral": "to describe images neutrally",
    "caption": "to describe images neutrally",
    "grounding": "to find things in images",
}
"""Objective of a training -> what it teaches, in words."""

_DOES = {
    "emotion_acc": "the emotion",
    "intensity_kappa": "the strength of the emotion",
    "bbox_iou": "the box around the subject",
    "subject": "the subject",
    "triplet": "background, attribute and subject together",
}
"""Row of Table 5 -> what a sentence calls it."""

_ABOUT = {
    "emotion_acc": "images whose emotion is named rightly, %",
    "intensity_kappa": "how strong the emotion is: agreement on a scale of 1 to 10, 100 at most, chance is 0",
    "bbox_iou": "overlap of the box around the subject with the true one, %",
    "subject": "images whose subject is named rightly, %",
    "triplet": "images whose background, attribute and subject are all named rightly, %",
}


@dataclass(frozen=True)
class Gain:
    """What the model reaches in one row of Table 5, beside the best answer that is given without looking."""

    key: str
    value: Spread
    blind: Spread | None
    difference: Spread | None
    """Model minus blind; with an interval where the run measured one."""

    @property
    def title(self) -> str:
        """Of its line in the figure."""
        return METRICS[self.key]

    @property
    def about(self) -> str:
        """What is counted."""
        return _ABOUT[self.key]

    @property
    def verdict(self) -> str:
        """`better`, `worse`, `open` where the interval holds 0, `unmeasured` where there is none, as in runs of before 0.3."""
        gap = self.difference
        if gap is None or gap.low is None or gap.high is None:
            return "unmeasured"
        return "better" if gap.low > 0 else "worse" if gap.high < 0 else "open"


@dataclass(frozen=True)
class OpeningImage:
    """An image with what the model says of it, and what is true."""

    id: str
    svg: Markup
    said: ShownAnswer | None
    truth: ShownAnswer
    right: bool | None
    """Whether the emotion is; None without one to compare with."""


@dataclass(frozen=True)
class Opening:
    """Everything above the map and the tables."""

    arm: str
    about: str
    """What that arm is, in one line; empty where the run does not say it."""
    sentences: list[Markup]
    gains: list[Gain]
    strip: list[OpeningImage]
    strip_note: str
    source: Provenance


def opening_of(
    run: RunFolder, sources: Sources, stage: StageFolder, found: Result, pictures: AnsweredPictures | Examples | None
) -> Opening | None:
    """The opening of a run with a Table 5; None where its last arm has none of the rows that a sentence could speak of.

    Args:
        run: the run.
        sources: of its stages.
        stage: of kind `table5`.
        found: its `table5.json`.
        pictures: of the panel, of which the strip shows the first, or images with right and wrong answers; None shows none.
    """
    arm = list(found["arms"])[-1]
    gains = [gain for key in METRICS if (gain := _gain(found, arm, key)) is not None]
    if not gains:
        return None
    sentences = [_trained(run, stage, found, arm), _looking(gains[0])]
    if more := _the_rest(gains[1:]):
        sentences.append(more)
    shown = list(_strip(pictures, arm)) if pictures else []
    note = ""
    if isinstance(pictures, AnsweredPictures):
        note = f"{len(shown)} of {pictures.of} images, drawn by chance (seed {pictures.seed}) without regard to the answers."
    elif pictures:
        wrong = sum(not seen.right for seen in shown)
        note = f"{len(shown) - wrong} of the {pictures.rights} images that are named rightly and {wrong} of the others, drawn by chance."
    line = explained_arms(run, stage, found).get(arm, "")
    return Opening(arm, line, sentences, gains, shown, note, sources.of(stage))


def _gain(found: Result, arm: str, key: str) -> Gain | None:
    cell = scored(found["arms"][arm], key)
    value = number_of(cell)
    if value is None:
        return None
    blind = best_blind(found, key)
    known = ((found.get("over_blind") or {}).get(arm) or {}).get("strict", {}).get(key)
    difference = None
    if known:
        difference = Spread(known["difference"], *(known["interval"] or (None, None)))
    elif (floor := number_of(blind)) is not None:
        difference = Spread(value - floor)
    return Gain(key, _spread(cell), None if number_of(blind) is None else _spread(blind), difference)


def _spread(cell: object) -> Spread:
    return cell if isinstance(cell, Spread) else Spread(float(cell))  # type: ignore[arg-type]  # The caller has its number.


def _trained(run: RunFolder, stage: StageFolder, found: Result, arm: str) -> Markup:
    """What was trained on what, as far as the run's own stages say it."""
    path = stage.setting("predictions", arm)
    lessons = list(_lessons(run, run.owner(str(path)) if path else None))
    tested = Markup("is tested on <b>{:,}</b> other images").format(found["references"])
    if not lessons:
        return Markup("The model <b>{}</b> {}.").format(arm, tested)
    words = _listed([Markup("{} (<b>{:,}</b> images)").format(what, images) for what, images in reversed(lessons)])
    return Markup("The model <b>{}</b> was taught {}; it {}.").format(arm, words, tested)


def _lessons(run: RunFolder, stage: StageFolder | None) -> Iterator[tuple[str, int]]:
    """(what a training taught, its images), the last training first."""
    passed: set[str] = set()
    while stage is not None and stage.name not in passed:
        passed.add(stage.name)
        path = stage.path / "training.json"
        taught = run.attempt(path, partial(_lesson, run, stage)) if path.is_file() else None
        if taught:
            yield taught
        place = stage.setting("model", "backbone", "path") or stage.setting("model", "backbone")
        stage = run.owner(place) if isinstance(place, str) else None


def _lesson(run: RunFolder, stage: StageFolder) -> tuple[str, int] | None:
    images = run.read_object(stage.path / "training.json", TrainingForm).get("images", {}).get("train")
    objectives = stage.setting("data", "objectives")
    match objectives:
        case Mapping():
            weights = {name: weight for name, value in objectives.items() if (weight := as_number(value)) is not None}
            main = max(weights, key=weights.__getitem__, default=None)
        case [main, *_]:
            pass
        case _:
            main = None
    return (LEARNED[main], images) if isinstance(main, str) and main in LEARNED and images is not None else None


def _looking(gain: Gain) -> Markup:
    """What the model does, and what is done without looking at the image."""
    unit = " %" if gain.key != "intensity_kappa" else ""
    reached = Markup("<b>{}{}</b>").format(_points(gain.value.value), unit)
    does = {
        "emotion_acc": "It names the right emotion in {} of them",
        "intensity_kappa": "It agrees on the strength of the emotion by {} (chance is 0, 100 the most)",
        "bbox_iou": "Its box around the subject overlaps the true one by {}",
        "subject": "It names the right subject in {} of them",
        "triplet": "It names background, attribute and subject rightly in {} of them",
    }
    sentence = Markup(does[gain.key]).format(reached)
    # The interval of the difference is enough for a sentence; those of its two sides are in the figure.
    if gain.blind is None or gain.difference is None:
        return sentence + "."
    compared = {
        "better": "looking is worth <b>{} points</b>{}",
        "worse": "looking costs <b>{} points</b>{}",
        "open": "the difference of <b>{} points</b>{} may be chance",
        "unmeasured": "a difference of <b>{} points</b>{}, of which this run has no interval",
    }[gain.verdict]
    size = gain.difference if gain.verdict != "worse" else _turned(gain.difference)
    return sentence + Markup("; the best answer without looking at the image reaches {}{}: {}.").format(
        _points(gain.blind.value), unit, Markup(compared).format(_points(size.value), _between(size))
    )


def _turned(gap: Spread) -> Spread:
    return Spread(*(None if v is None else -v for v in (gap.value, gap.high, gap.low)))


def _the_rest(gains: Sequence[Gain]) -> Markup | None:
    """Where else looking helps, and where it does not."""
    said = {
        "better": "helps with",
        "open": "makes no sure difference for",
        "worse": "does worse than not looking for",
        "unmeasured": "changes, without an interval,",
    }
    parts = []
    for verdict, words in said.items():
        own = [
            Markup("{} ({:+.0f} points{})").format(_DOES[gain.key], gap.value, _within(gap))
            for gain in gains
            if gain.verdict == verdict and (gap := gain.difference) is not None
        ]
        if own:
            parts.append(Markup("{} {}").format(words, _listed(own)))
    also = "also " if parts and parts[0].startswith("helps") else ""
    return Markup("Looking {}{}.").format(also, Markup("; it ").join(parts)).replace("-", "−") if parts else None


def _points(value: float | None) -> str:
    return f"{value:.0f}".replace("-", "−")


def _between(cell: Spread) -> Markup:
    if cell.low is None or cell.high is None:
        return Markup("")
    return Markup(" (95 % interval {} to {})").format(_points(cell.low), _points(cell.high))


def _within(cell: Spread) -> str:
    return "" if cell.low is None or cell.high is None else f", {cell.low:.0f} to {cell.high:.0f}"


def _listed(parts: Sequence[Markup]) -> Markup:
    """`a, b and c`."""
    *first, last = parts
    return Markup(", ").join(first) + Markup(" and ") + last if first else last


def _strip(pictures: AnsweredPictures | Examples, arm: str) -> Iterator[OpeningImage]:
    if isinstance(pictures, AnsweredPictures):
        items = pictures.items[:PICTURES]
    else:
        half = PICTURES // 2
        items = [*pictures.right[:half], *pictures.wrong[:half]]
    for item in items:
        yield _seen(item, item["predictions"].get(arm))


def _seen(item: ReportPicture, said: ShownAnswer | None) -> OpeningImage:
    truth = item["truth"]
    right = None
    if truth["emotion"] is not None:
        right = ((said["emotion"] if said else None) or "").strip().casefold() == truth["emotion"]
    boxes = said["boxes"] if said else []
    svg = linked_svg(item["image"], media_type(item["image"]), item["size"], truth["boxes"], boxes)
    return OpeningImage(item["id"], Markup(svg), said, truth, right)
