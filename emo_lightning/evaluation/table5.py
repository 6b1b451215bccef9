"""Table 5 (paper section 4.3.1): boxes, text, emotion and intensity of predictions against references, in two modes.

`paper` scores as the authors do, which flatters: it looks only at boxes that found a partner. `strict` charges for every box
too many or too few and for every reply that cannot be read. Both stand side by side, with answers that never looked at the
image beside them. In both modes a reference without a prediction counts as wrong, and as unparsable.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from torch import Tensor

from emo_lightning.evaluation import baselines, clip, matching, metrics
from emo_lightning.evaluation.clip import ClipScorer, cosine01
from emo_lightning.evaluation.metrics import BoxScores, ClipScores, Coverage, EmotionScores, IntensityScores, Sums
from emo_lightning.evaluation.references import References
from emo_lightning.schema import Prediction, Record

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


def definition_hash() -> str:
    """sha256 over the source of all modules that decide a figure: equal hashes, comparable figures."""
    digest = hashlib.sha256()
    for path in [*sorted(str(m.__file__) for m in (baselines, clip, matching, metrics)), __file__]:
        digest.update(Path(path).read_text(encoding="utf-8").encode())
    return digest.hexdigest()


class Table5:
    """Accumulates one column of Table 5. Give each rank its share; the metrics reduce on `compute`, exactly.

    Args:
        scorer: CLIP; without it the CLIP rows are None ("not computed").
    """

    def __init__(self, scorer: ClipScorer | None = None) -> None:
        self.scorer = scorer
        self.per_image = (Coverage(), BoxScores(), EmotionScores(), IntensityScores())
        self.clip = ClipScores()

    @property
    def metrics(self) -> tuple[Sums, ...]:
        """The torchmetrics, e.g. for `.to(device)` or `merge_state`."""
        return (*self.per_image, self.clip)

    def update(
        self, predictions: Sequence[Prediction | None], records: Sequence[Record], image_features: Tensor | None = None
    ) -> None:
        """Add a batch.

        Args:
            predictions: one per record, None where there is no reply.
            records: the references.
            image_features: (len(records), dim), unit norm, from `ClipScorer.images`; None where there are no images.

        Raises:
            ValueError: a prediction stands beside a record of another id.
        """
        for prediction, record in zip(predictions, records, strict=True):
            if prediction is not None and prediction.id != record.id:
                raise ValueError(f"prediction {prediction.id!r} was paired with reference {record.id!r}")
        for metric in self.per_image:
            metric.update(predictions, records)
        texts = [p.description.strip() if p and p.description else "" for p in predictions]
        self._update_clip(texts, [r.description or "" for r in records], image_features)

    def _update_clip(self, texts: Sequence[str], truths: Sequence[str], image_features: Tensor | None) -> None:
        if self.scorer is None:
            self.clip.update([], [])
            return
        # An empty text would have a similarity far above 0 as well: it must not earn that.
        by_text, by_image = [0.0] * len(texts), [0.0] * len(texts)
        if both := [i for i, (text, truth) in enumerate(zip(texts, truths, strict=True)) if text and truth]:
            scores = self.scorer.text_text([texts[i] for i in both], [truths[i] for i in both])
            for i, score in zip(both, scores, strict=True):
                by_text[i] = score
        said = [i for i, text in enumerate(texts) if text]
        if image_features is not None and said:
            scores = cosine01(self.scorer.texts([texts[i] for i in said]), image_features[said])
            for i, score in zip(said, scores, strict=True):
                by_image[i] = score
        self.clip.update(
            [score for score, truth in zip(by_text, truths, strict=True) if truth],
            by_image if image_features is not None else [],
            unannotated=sum(not truth for truth in truths),
        )

    def compute(self) -> dict[str, Any]:
        """`{"paper": {row: x100 or None}, "strict": {…}, "counts": {…}}`, rows in the order of `ROWS`."""
        parts = [metric.compute() for metric in self.metrics]
        column: dict[str, Any] = {}
        for mode in MODES:
            merged = {key: value for part in parts for key, value in part[mode].items()}
            column[mode] = {row.key: merged[row.key] for row in ROWS[mode]}
        column["counts"] = {key: value for part in parts for key, value in part["counts"].items()}
        return column


def table5(
    arms: Mapping[str, Mapping[str, Prediction]],
    references: References,
    train: References | None = None,
    scorer: ClipScorer | None = None,
    batch_size: int = 32,
) -> dict[str, Any]:
    """Score several sets of predictions and the constant answers in one pass over the references.

    Args:
        arms: name -> predictions by id (`load_predictions` checks the ids).
        references: what is true.
        train: where the constant answers come from; without it the references themselves (which flatters them, and is said).
        scorer: CLIP, or None.
        batch_size: images per CLIP batch.

    Returns:
        JSON-ready: `arms` and `baselines` (name -> column), `split`, `definition`, `baseline_source`, `clip_truncated`.
    """
    source = (train or references).records
    constants = {
        baselines.MEAN_BOX: baselines.ConstantAnswer(source, "mean"),
        baselines.MEDIAN_BOX: baselines.ConstantAnswer(source, "median"),
    }
    columns = {name: Table5(scorer) for name in arms}
    floors = {name: Table5(scorer) for name in constants}
    for start in range(0, len(references), batch_size):
        records = references.records[start : start + batch_size]
        features = None
        if scorer is not None and references.has_images:
            features = scorer.images([references.image(start + i) for i in range(len(records))])
        for name, predictions in arms.items():
            columns[name].update([predictions.get(r.id) for r in records], records, features)
        for name, constant in constants.items():
            floors[name].update([constant(r) for r in records], records, features)
    return {
        "arms": {name: column.compute() for name, column in columns.items()},
        "baselines": {name: {**floors[name].compute(), "answer": constants[name].describe()} for name in constants},
        "baseline_source": f"{len(source)} records of the training set" if train else "the references themselves",
        "split": references.splits,
        "references": len(references),
        "clip": scorer is not None,
        "clip_truncated": scorer.truncated if scorer else None,
        "definition": definition_hash(),
    }
