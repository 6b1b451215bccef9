"""Images that a model got right and images that it got wrong, with the truth and every arm's answer.

Which tars are opened is written in the run's own settings, and whoever made the run may have named yours. So an image from outside the
run's folder is shown only if a predictions file inside it knows the sha256 of that image: the run has seen it already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emo_lightning.analysis.references import References, load_predictions
from emo_lightning.core.images import encoded
from emo_lightning.core.records import Prediction, Reference, SchemaError
from emo_lightning.core.tables.provenance import Provenance
from emo_lightning.report.panel import LONG_SIDE, answer_of, answers_to, choose
from emo_lightning.report.pictures import AnsweredImage, ReportPicture, with_boxes
from emo_lightning.report.run_folder import RunFolder, StageFolder, is_own, listed, own_file

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Examples:
    """Images whose emotion one arm has right, and images whose emotion it has wrong."""

    arm: str
    arms: list[str]
    """All whose answers are shown; empty where the references are JSON lines, which hold no images."""
    seed: int
    rights: int
    of: int
    emotions: dict[str, int]
    """Label -> images."""
    right: list[ReportPicture]
    wrong: list[ReportPicture]
    source: Provenance


def right_and_wrong(run: RunFolder, stage: StageFolder, source: Provenance, count: int, seed: int = 0) -> Examples:
    """A seeded choice, spread over the emotions, of images whose emotion the last arm of a Table 5 stage has right or wrong.

    Args:
        run: the run.
        stage: of kind `table5`; its settings name the predictions and the references.
        source: of the stage.
        count: images of either sort, at most.
        seed: of the choice.

    Raises:
        SchemaError, MissingFileError: predictions or references are not there any more, or do not belong together.
    """
    places = [run.located(str(path)) for path in listed(stage.setting("references"))]
    truth = References.load([str(place) for place in places])
    if not truth.has_images:
        return Examples("", [], seed, 0, 0, {}, [], [], source)
    files = {str(arm): run.located(str(path)) for arm, path in stage.table("predictions").items()}
    arms = {arm: load_predictions(own_file(run.path, file), truth) for arm, file in files.items() if is_own(run.path, file)}
    if outside := [arm for arm in files if arm not in arms]:
        run.note(
            f"stage {stage.name!r}: no answers of {', '.join(outside)} beside samples: their predictions lie outside the run's folder"
        )
    if not arms:
        msg = "no samples: the run's folder holds no predictions file that they could be checked by"
        raise SchemaError(msg)
    arm = list(arms)[-1]
    seen = {said.sha256 for answers in arms.values() for said in answers.values()}
    own = all(is_own(run.path, place) for place in places)
    known = [i for i, record in enumerate(truth.records) if own or not record.image_hashes.isdisjoint(seen)]
    if len(known) < len(truth.records):
        run.note(
            f"stage {stage.name!r}: {len(truth.records) - len(known)} of {len(truth.records)} images are not shown: they lie outside the "
            "run's folder, and no prediction in it is of the same bytes"
        )
    if not known:
        msg = "no samples: no prediction in the run's folder says of which bytes it is, as those of this version do"
        raise SchemaError(msg)
    labelled = [i for i in known if truth.records[i].emotion is not None]
    right = [i for i in labelled if is_right(arms[arm].get(truth.records[i].id), truth.records[i])]
    wrong = [i for i in labelled if i not in set(right)]
    shown = [_pictures(truth, rows, arms, count, seed) for rows in (right, wrong)]
    if truth.unreadable:
        run.note(f"stage {stage.name!r}: not shown, as their pictures cannot be read: {', '.join(truth.unreadable)}")
    return Examples(
        arm,
        list(arms),
        seed,
        rights=len(right),
        of=len(labelled),
        emotions=dict(Counter(str(truth.records[i].emotion) for i in labelled)),
        right=shown[0],
        wrong=shown[1],
        source=source,
    )


def is_right(prediction: Prediction | None, record: Reference) -> bool:
    """Emotion accuracy as in Table 5's strict mode: case and outer blanks aside."""
    said = prediction.emotion if prediction else None
    return record.emotion is not None and (said or "").strip().casefold() == record.emotion.value


def _pictures(
    truth: References, among: Sequence[int], arms: Mapping[str, Mapping[str, Prediction]], count: int, seed: int
) -> list[ReportPicture]:
    """The first `count` of a seeded order that can be read."""
    found: list[ReportPicture] = []
    for i in choose([truth.records[row] for row in among], len(among), seed):
        if len(found) == count:
            break
        image = truth.picture(among[i])
        if image is not None:
            found.append(_picture(truth.records[among[i]], image, arms))
    return found


def _picture(record: Reference, image: Image, arms: Mapping[str, Mapping[str, Prediction]]) -> ReportPicture:
    size = list(image.size)
    image.thumbnail((LONG_SIDE, LONG_SIDE))
    item = AnsweredImage(
        id=record.id,
        size=size,
        split=record.split or "",
        truth=answer_of(record),
        predictions=answers_to(record, arms),
    )
    return with_boxes(item, encoded(image, "JPEG", quality=85), list(arms))
