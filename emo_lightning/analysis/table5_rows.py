"""The rows of Table 5 in each mode, and what each of them means."""

from __future__ import annotations

from typing import Literal, NamedTuple

Mode = Literal["paper", "strict"]
MODES: tuple[Mode, ...] = ("paper", "strict")


class Row(NamedTuple):
    """One line of the table."""

    key: str
    title: str
    definition: str
    lower_is_better: bool = False


_CLIP_TEXT = "CLIP similarity of predicted and reference description, (cos+1)/2; no description: 0"
_CLOSENESS = "1 − |difference|/10, at least 0; no number: 0"

ROWS: dict[Mode, tuple[Row, ...]] = {
    "paper": (
        Row("bbox_iou", "BBox IoU", "per image: boxes matched greedily by IoU, mean IoU of the matched pairs (> 0); none: 0"),
        Row(
            "bbox_center_dist",
            "BBox Center Dist",
            "per image: boxes matched greedily by 1 − distance of centres / diagonal of the box around both; "
            "mean over matched pairs; none: 0",
        ),
        Row("f1", "F1", "per image: F1 of area precision and area recall of each IoU-matched pair, mean over pairs; none: 0"),
        Row("clip_score", "CLIP Score", _CLIP_TEXT),
        Row("emotion_acc", "Emotion Acc", "the reply is exactly the label"),
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
        Row("clip_score", "CLIP Score", _CLIP_TEXT),
        Row("clip_image_text", "CLIP image–text", "CLIP similarity of predicted description and image, (cos+1)/2"),
        Row("emotion_acc", "Emotion Acc", "the reply is the label, case and outer blanks aside"),
        Row("parse_failure", "Parse failures", "replies without one of the eight emotions", lower_is_better=True),
        Row("intensity_acc", "Intensity Acc", _CLOSENESS),
        Row("intensity_level_acc", "Intensity level Acc", "low 1–3, medium 4–7, high 8–10; no level: wrong"),
        Row(
            "intensity_kappa",
            "Intensity kappa",
            "quadratic-weighted kappa over 1–10; no number on the scale: the end of the scale farthest from the truth",
        ),
    ),
}
