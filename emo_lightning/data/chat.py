"""What is asked of the model and what it should answer: prompts, strict-JSON targets, and the way back from a reply.

Paper section 3.3: round 1 teaches attributes (description, triplet, boxes), round 2 the emotion; equation 1 is the loss on the
answer. The prompt is built from the keys alone, so that nothing of an annotation can reach the model's input.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeGuard

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.boxes import inside
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, Box, PredictedObject, Prediction, Record
from emo_lightning.core.replies import AMBIGUOUS, UNREADABLE_KEY, Reason, UnreadableReplyError, asked_values, json_values

if TYPE_CHECKING:
    from emo_lightning.data.tar_index import TarIndex
    from emo_lightning.models.families import BoxCodec, Size

KEY_GUIDE: dict[str, str] = {
    "bbox_2d": "a list of boxes [x1, y1, x2, y2] around the subject, in pixels",
    "description": "one sentence about what is seen",
    "background": "the scene in a few words",
    "attribute": "the state of the subject or scene that carries feeling",
    "subject": "the main subject in a few words",
    "emotion": f"one of {', '.join(EMOTIONS)}",
    "intensity": "a whole number from 1 to 10",
}
"""Every key that an answer may hold, in the order in which it is asked and answered, with its explanation in the prompt.

The box comes first: it then stands at a fixed distance from the image's tokens, which matters where positions are relative, and
the words that follow can attend to where they point."""

FURTHER_KEYS: dict[str, str] = {
    "words": "a list of five different English words for what people feel, the most fitting first",
    "polarity": "whether the feeling is positive or negative",
}
"""Keys that can be asked for and are no part of a prediction: what reads them asks for them."""

_OF_A_BOX = {"bbox_2d", "label", "sub_label", "score", "confidence"}
"""Keys of one entry of the list that Qwen's models write."""


@dataclass(frozen=True)
class Objective:
    """One kind of question: a name and the keys of its answer."""

    name: str
    keys: tuple[str, ...]

    def available(self, record: Record) -> tuple[str, ...]:
        """The keys for which this record has a label: training asks for no more than these."""
        return tuple(key for key in self.keys if _VALUES[key](record) is not None)

    def labelled(self, index: TarIndex) -> NDArray[np.bool_]:
        """Which records of an index have a label for any key, shape (N,): `available`, without reading them."""
        labels = [_LABELS.get(key, key) for key in self.keys if key not in _UNLABELLED]
        found: NDArray[np.bool_] = np.any([index.has(label) for label in labels], axis=0)
        return found


OBJECTIVES: dict[str, Objective] = {
    o.name: o
    for o in (
        Objective("attributes", ("bbox_2d", "description", "background", "attribute", "subject")),
        Objective("emotion", ("emotion", "intensity")),
        Objective("explain", tuple(KEY_GUIDE)),
        Objective("caption", ("description",)),
        Objective("grounding", ("bbox_2d", "subject")),
        Objective("neutral", ("bbox_2d", "description", "subject")),
        Objective("candidates", ("bbox_2d", "words", "emotion", "intensity")),
        Objective("polarity", ("polarity",)),
    )
}
"""`attributes` is round 1, `emotion` is round 2; `explain` asks all at once; the next three make a neutral base.
`candidates` is for rewards (`metrics.rewards.divergence`), `polarity` for `label_scoring: gated`."""

_VALUES: dict[str, Callable[[Record], object]] = {
    "description": lambda r: r.description,
    "background": lambda r: r.background,
    "attribute": lambda r: r.attribute,
    "subject": lambda r: r.subject,
    "bbox_2d": lambda r: _subject_boxes(r) or None,
    "emotion": lambda r: r.emotion,
    "intensity": lambda r: r.intensity,
    "words": lambda _: None,
    "polarity": lambda r: None if r.emotion is None else r.emotion.polarity,
}


_UNLABELLED = {"words"}
"""Keys that no annotation has."""
_LABELS = {"bbox_2d": "objects", "polarity": "emotion"}
"""What the index of a tar calls a key (`core.shard_index.LABEL_BITS`), where it has another name."""


def _subject_boxes(record: Record) -> list[Box]:
    """Largest first: an order that can be seen in the image, not in the annotation."""
    boxes = [o.bbox for o in record.primary_objects]
    return sorted(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]), reverse=True)


def objective(name: str) -> Objective:
    """The objective of that name.

    Raises:
        InputError: unknown name; lists the known ones.
    """
    if name not in OBJECTIVES:
        msg = f"unknown objective {name!r}; allowed: {', '.join(OBJECTIVES)}"
        raise InputError(msg)
    return OBJECTIVES[name]


def prompt(keys: tuple[str, ...]) -> str:
    """The question for these keys."""
    return "Look at the image. Answer with one JSON object: " + "; ".join(
        f"{key} ({(KEY_GUIDE | FURTHER_KEYS)[key]})" for key in keys
    )


def target_answer(keys: tuple[str, ...], record: Record, codec: BoxCodec, resized: Size) -> str:
    """The target text: one JSON object with these keys, boxes in the coordinates of the backbone.

    Args:
        keys: keys that the record has labels for (`Objective.available`).
        record: the annotation.
        codec: coordinate convention of the backbone.
        resized: (width, height) that the model sees.
    """
    values = {key: _VALUES[key](record) for key in keys}
    if values.get("bbox_2d"):
        values["bbox_2d"] = [codec.encode(box, (record.width, record.height), resized) for box in _subject_boxes(record)]
    return json.dumps(values, ensure_ascii=False)


def parse_answer(text: str, *, id: str, original: Size, resized: Size, codec: BoxCodec) -> Prediction:
    """What a model answered, as a prediction; whatever cannot be read stays None.

    Accepts the last JSON object with keys that were asked for, or several that share none, wherever they stand (`core.replies`), boxes flat or
    nested, also where they leave the image, and the list of
    `{"bbox_2d": …, "label": …}` that Qwen's models write. Values are taken as they are.

    Args:
        text: the answer.
        id: of the record.
        original: (width, height) of the image, in whose pixels boxes come back.
        resized: (width, height) that the model saw.
        codec: coordinate convention of the model.

    Returns:
        The prediction; its `provenance` has `reply`, the text as it came, `problems`: what was not readable, and `unreadable`: why
        nothing was (`core.replies.Reason`).
    """
    problems: list[str] = []
    found, reason = _answer(text, problems)
    phrases: dict[str, str] = {}
    for key in ("description", "background", "attribute", "subject", "emotion"):
        value = found.get(key)
        if isinstance(value, str):
            phrases[key] = _whole(value)
        elif key in found:
            problems.append(f"{key} is {type(value).__name__}, not a string")
    numbers: dict[str, float] = {}
    if "intensity" in found:
        if _is_number(value := found["intensity"]):
            numbers["intensity"] = float(value)
        else:
            problems.append(f"intensity is {str(value)[:60]!r}, not a number")
    objects = []
    for box, label in _boxes(found.get("bbox_2d"), problems):
        decoded = codec.decode(box, original, resized)
        if inside(decoded, original) is not None:
            # As it was said, also where it leaves the image: the field scores boxes uncut.
            objects.append(PredictedObject(phrase=label or phrases.get("subject"), bbox=decoded))
        else:
            outside = decoded[0] < decoded[2] and decoded[1] < decoded[3]
            problems.append(f"box {box} is {'outside of the image' if outside else 'empty or turned'}")
    width, height = original
    provenance: dict[str, object] = {"reply": text, "problems": problems} if problems else {"reply": text}
    if reason:
        provenance[UNREADABLE_KEY] = reason
    return Prediction.model_validate(
        {"id": id, "width": width, "height": height, "objects": objects, "provenance": provenance, **phrases, **numbers}
    )


def merge_predictions(parts: list[Prediction]) -> Prediction:
    """One prediction from the answers to several questions about one image; the first that has a value gives it."""
    merged = parts[0].model_dump()
    merged["provenance"] = {"replies": [part.provenance for part in parts]}
    for part in parts[1:]:
        for key, value in part.model_dump(exclude={"provenance"}).items():
            if merged[key] in (None, []):
                merged[key] = value
    return Prediction.model_validate(merged)


def _answer(text: str, problems: list[str]) -> tuple[dict[str, object], Reason | None]:
    """The values that an answer gives, and why it gives none."""
    try:
        values = json_values(text, "mark")
    except UnreadableReplyError as error:
        problems.append(str(error))
        return {}, error.reason
    lists = [boxes for value in values if (boxes := _box_list(value))]
    rest = [value for value in values if not _box_list(value)]
    try:
        found = asked_values(rest or ([{}] if lists else values), KEY_GUIDE, "mark")
    except UnreadableReplyError as error:
        if not lists or error.reason == "ambiguous":
            problems.append(str(error))
            return {}, error.reason
        found = {}
    twice = [key for key, value in found.items() if value is AMBIGUOUS]
    problems += [f"two values of {key}" for key in twice]
    found = {key: value for key, value in found.items() if value is not AMBIGUOUS}
    if lists and "bbox_2d" not in found and "bbox_2d" not in twice:
        found["bbox_2d"] = lists[-1]
    # What else it says has one meaning and is read.
    return found, "ambiguous" if twice and not found else None


def _box_list(value: object) -> list[object]:
    """Objects with a box and a label; empty where the value is none. One alone counts as well, and a list that is alone in an object."""
    if isinstance(value, dict) and "label" in value:
        value = [value]
    elif isinstance(value, dict) and len(value) == 1:
        value = next(iter(value.values()))
    if not isinstance(value, list) or not value:
        return []
    return value if all(isinstance(one, dict) and "bbox_2d" in one and one.keys() <= _OF_A_BOX for one in value) else []


def _boxes(value: object, problems: list[str]) -> list[tuple[list[float], str | None]]:
    """Four numbers and a label for each box that can be read."""
    if value is None:
        return []
    several = isinstance(value, list) and value and isinstance(value[0], list | dict)
    boxes: list[tuple[list[float], str | None]] = []
    for one in value if isinstance(value, list) and several else [value]:
        box, label = (one.get("bbox_2d"), one.get("label")) if isinstance(one, dict) else (one, None)
        if label is AMBIGUOUS:
            problems.append("two values of label")
        if isinstance(box, list) and len(box) == 4 and all(_is_number(x) for x in box):
            boxes.append((box, _whole(label) if isinstance(label, str) else None))
        elif box != []:
            problems.append(f"bbox_2d holds {str(box)[:60]!r}, not four numbers")
    return boxes


def _whole(text: str) -> str:
    """Half of a surrogate pair, which JSON can escape, is no text that a file can hold."""
    return text.encode("utf-8", "replace").decode()


def _is_number(value: object) -> TypeGuard[int | float]:
    """A JSON number of a size that means something here: JSON as Python reads it also has NaN, Infinity and numbers without end."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6
