"""The rows of Table 5 in each mode, what each of them means, and the version of their definitions."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from emo_lightning.core.records import TRIPLET_PARTS
from emo_lightning.metrics.spelling import SAME_WORD_RATIO, SIMILAR_F1, WHOLE_TRIPLET

ScoringMode = Literal["paper", "strict"]
SCORING_MODES: tuple[ScoringMode, ...] = ("paper", "strict")


DEFINITION_VERSIONS = {"boxes": 1, "clip": 2, "triplet": 1, "emotion": 1, "intensity": 1, "baselines": 2, "bootstrap": 1}
"""Part of the table -> version of how it is scored. A change that may change a value raises it, by hand.

`tests/analysis/test_table5_versions.py` holds values of every part, and fails when one changes under the same version.
"""


def definition() -> str:
    """The versions in one line, as `table5.json` holds them: equal lines, comparable values."""
    return ", ".join(f"{part} {version}" for part, version in DEFINITION_VERSIONS.items())


def short_definition(text: str) -> str:
    """How a table shows a definition: a hash over source files, which runs before version 0.2.0 have, is cut.

    Args:
        text: `definition` of a `table5.json`.
    """
    return text[:12] if re.fullmatch("[0-9a-f]{64}", text) else text


class Row(NamedTuple):
    """One line of the table."""

    key: str
    title: str
    definition: str
    lower_is_better: bool = False


_CLIP_TEXT = "CLIP similarity of predicted and reference description, (cos+1)/2; no description: 0"
_CLIP_TRIPLET = "the same of predicted and reference triplet, both written as background - attribute - subject; a part missing in the answer: 0"
_CLOSENESS = "1 − |difference|/10, at least 0; no number: 0"
_NAMED = {part: f"the {part} said is the annotated one" for part in TRIPLET_PARTS} | {
    WHOLE_TRIPLET: "all three parts of an image are"
}
_SIMILAR = (
    f"the same where similar words are enough: F1 over words as for SQuAD, articles aside, of at least {SIMILAR_F1}; words that are spelt alike "
    f"(Ratcliff and Obershelp's similarity, Python's difflib, of at least {SAME_WORD_RATIO}) are one. It forgives endings and knows no synonyms"
)


def _triplet_rows() -> tuple[Row, ...]:
    """Each part and the whole, exactly named, and in similar words."""
    exact = [
        Row(key, f"{key.capitalize()}, exact", f"{what}, case and blanks aside; none said: wrong")
        for key, what in _NAMED.items()
    ]
    return (*exact, *(Row(f"{key}_similar", f"{key.capitalize()}, similar", _SIMILAR) for key in _NAMED))


TABLE5_ROWS: dict[ScoringMode, tuple[Row, ...]] = {
    "paper": (
        Row("bbox_iou", "BBox IoU", "per image: boxes matched greedily by IoU, mean IoU of the matched pairs (> 0); none: 0"),
        Row(
            "bbox_center_dist",
            "BBox Center Dist",
            "per image: boxes matched greedily by 1 − distance of centres / diagonal of the box around both; "
            "mean over matched pairs; none: 0",
        ),
        Row("f1", "F1", "per image: F1 of area precision and area recall of each IoU-matched pair, mean over pairs; none: 0"),
        Row("clip_score", "CLIP Score, description", _CLIP_TEXT),
        Row("clip_triplet", "CLIP Score, triplet", _CLIP_TRIPLET),
        Row("emotion_acc", "Emotion Acc", "the answer is exactly the label"),
        Row("intensity_acc", "Intensity Acc", _CLOSENESS),
    ),
    "strict": (
        Row(
            "bbox_iou",
            "BBox IoU",
            "per image: Hungarian matching by IoU, sum over the pairs / the larger number of boxes (unmatched: 0)",
        ),
        Row("bbox_center_dist", "BBox Center Dist", "the same with 1 − distance of centres / diagonal of the box around both"),
        Row(
            "f1", "F1 at IoU ≥ 0.5", "over all boxes of all images: 2·hits / (predicted + reference), Hungarian matching by IoU"
        ),
        Row("clip_score", "CLIP Score, description", _CLIP_TEXT),
        Row("clip_triplet", "CLIP Score, triplet", _CLIP_TRIPLET),
        Row("clip_image_text", "CLIP image–text", "CLIP similarity of predicted description and image, (cos+1)/2"),
        *_triplet_rows(),
        Row("emotion_acc", "Emotion Acc", "the answer is the label, case and outer blanks aside"),
        Row("parse_failure", "Parse failures", "answers without one of the eight emotions", lower_is_better=True),
        Row("intensity_acc", "Intensity Acc", _CLOSENESS),
        Row("intensity_level_acc", "Intensity level Acc", "low 1–3, medium 4–7, high 8–10; no level: wrong"),
        Row(
            "intensity_kappa",
            "Intensity kappa",
            "quadratic-weighted kappa over 1–10; no number on the scale: the end of the scale farthest from the truth",
        ),
    ),
}
