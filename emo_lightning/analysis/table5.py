"""Table 5 (paper section 4.3.1): boxes, text, emotion and intensity of predictions against references, in two modes.

`paper` scores as the authors do, which flatters: it looks only at boxes that found a partner. `strict` charges for every box
too many or too few and for every answer that cannot be read. Both stand side by side, with answers given without looking (without
the image) beside them. In both modes a reference without a prediction counts as wrong, and as unparsable. Intervals, and differences
between models on the same images, come from a bootstrap over images (`bootstrap`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from emo_lightning.analysis import baselines
from emo_lightning.analysis.affect import has_ratings
from emo_lightning.analysis.references import UNKNOWN_SPLIT, References, require
from emo_lightning.analysis.table5_differences import Replicates, ahead, over_blind, paired
from emo_lightning.analysis.table5_result import (
    ArmColumn,
    BaselineColumn,
    ByEmotion,
    RowValues,
    ScoredColumn,
    SplitScores,
    Table5Result,
)
from emo_lightning.analysis.table5_rows import SCORING_MODES, TABLE5_ROWS, ScoringMode, definition
from emo_lightning.core.intervals import CONFIDENCE_LEVEL
from emo_lightning.core.records import EMOTIONS, TRIPLET_PARTS, Prediction, Reference, SchemaError, Triplet
from emo_lightning.metrics import bootstrap
from emo_lightning.metrics.accumulators import Accumulator, RowScores, ScoredBatch
from emo_lightning.metrics.arrays import Array, Classes
from emo_lightning.metrics.clip import ClipScorer, cosine01
from emo_lightning.metrics.scores import (
    BoxScores,
    ClipScores,
    EmotionScores,
    IntensityScores,
    ReferenceCoverage,
    UnreadableAnswers,
)
from emo_lightning.metrics.triplets import TripletScores


class Table5:
    """Accumulates one column of Table 5. Give each rank its share; the metrics reduce on `compute`, exactly.

    Args:
        scorer: CLIP; without it the CLIP rows are None ("not computed").
        resamples: of the bootstrap; 0 gives no intervals.
        seed: of the bootstrap.
    """

    def __init__(self, scorer: ClipScorer | None = None, resamples: int = bootstrap.RESAMPLES, seed: int = 0) -> None:
        self.scorer, self.resamples, self.seed = scorer, resamples, seed
        self.emotion = EmotionScores(resamples)
        self.per_image = (
            *(ReferenceCoverage(resamples), BoxScores(resamples), self.emotion, IntensityScores(resamples)),
            *(TripletScores(resamples), UnreadableAnswers(resamples)),
        )
        self.clip = ClipScores(resamples)

    @property
    def metrics(self) -> tuple[Accumulator, ...]:
        """The torchmetrics, e.g. for `.to(device)` or `merge_state`."""
        return (*self.per_image, self.clip)

    def update(
        self,
        predictions: Sequence[Prediction | None],
        records: Sequence[Reference],
        image_features: Tensor | None = None,
        draws: Array | None = None,
    ) -> None:
        """Add a batch.

        Args:
            predictions: one per record, None where there is no answer.
            records: the references.
            image_features: (len(records), dim), unit norm, from `ClipScorer.images`, NaN of an image that cannot be read; None where there
                are no images.
            draws: `bootstrap.draws` of the records, where they are at hand already.

        Raises:
            ValueError: a prediction stands beside a record of another id.
        """
        for prediction, record in zip(predictions, records, strict=True):
            if prediction is not None and prediction.id != record.id:
                msg = f"prediction {prediction.id!r} was paired with reference {record.id!r}"
                raise ValueError(msg)
        if draws is None:
            draws = bootstrap.draws([r.id for r in records], self.resamples, self.seed)
        batch = ScoredBatch(predictions, records, draws)
        for metric in self.per_image:
            metric.update(batch)
        self._update_clip(batch, image_features)

    def _update_clip(self, batch: ScoredBatch, image_features: Tensor | None) -> None:
        if self.scorer is None:
            self.clip.update(batch)
            return
        texts = [p.description.strip() if p and p.description else "" for p in batch.predictions]
        by_text = self._text_scores(texts, [r.description or "" for r in batch.records])
        by_triplet = self._text_scores(*([_triplet(one) for one in side] for side in (batch.predictions, batch.records)))
        by_image = None if image_features is None else np.where(image_features.isnan().any(1).numpy(), np.nan, 0.0)
        said = [i for i, text in enumerate(texts) if text]
        if by_image is not None and image_features is not None and said:
            by_image[said] = cosine01(self.scorer.texts([texts[i] for i in said]), image_features[said])
        self.clip.update(batch, by_text, by_image, by_triplet)

    def _text_scores(self, said: Sequence[str], true: Sequence[str]) -> Array:
        """Similarity of each pair, 0 where nothing is said, NaN where nothing is true."""
        assert self.scorer is not None
        # An empty text would have a similarity far above 0 as well: it must not earn that.
        scores = np.array([0.0 if truth else np.nan for truth in true])
        if both := [i for i, (text, truth) in enumerate(zip(said, true, strict=True)) if text and truth]:
            scores[both] = self.scorer.text_text([said[i] for i in both], [true[i] for i in both])
        return scores

    def compute(self) -> ArmColumn:
        """The column over all images of all ranks, JSON-ready."""
        return self.with_replicates()[0]

    def with_replicates(self) -> tuple[ArmColumn, Replicates]:
        """The column, and its values in each resample."""
        parts = [metric.compute() for metric in self.metrics]
        support = {row: n for part in parts for row, n in part["support"].items()}
        point, emotions, replicates = (
            _in_order(rows)
            for rows in (
                [part["point"] for part in parts],
                [part["emotions"] for part in parts],
                [part["replicates"] for part in parts],
            )
        )
        scored: ScoredColumn = {
            "paper": _values(point["paper"], 0),
            "strict": _values(point["strict"], 0),
            "counts": {key: value for part in parts for key, value in part["counts"].items()},
            "support": {mode: {row: support[row] for row in point[mode]} for mode in SCORING_MODES},
        }
        if self.resamples:
            scored["intervals"] = {
                mode: {row: bootstrap.interval(value, support[row]) for row, value in replicates[mode].items()}
                for mode in SCORING_MODES
            }
        cells = next(part for part, metric in zip(parts, self.metrics, strict=True) if metric is self.emotion)["cells"]
        confusion = cells.reshape(len(EMOTIONS), -1)
        column: ArmColumn = {
            **scored,
            "by_emotion": {str(emotion): _by_emotion(confusion, emotions, i) for i, emotion in enumerate(EMOTIONS)},
            "confusion": {
                "rows": [*map(str, EMOTIONS)],
                "columns": [*map(str, EMOTIONS), UNREADABLE_TITLE],
                "counts": confusion.tolist(),
            },
        }
        return column, replicates


def _triplet(item: Prediction | Reference | None) -> str:
    """A whole triplet in one line; empty where a part is missing or blank."""
    parts = [" ".join(part.split()) for part in (item.background, item.attribute, item.subject) if part] if item else []
    return str(Triplet.of(*parts)) if len(parts) == 3 and all(parts) else ""


UNREADABLE_TITLE = "no emotion"
"""Last column of the confusion matrix: missing answers, and those without one of the eight emotions."""


def table5(
    arms: Mapping[str, Mapping[str, Prediction]],
    references: References,
    train: References | None = None,
    scorer: ClipScorer | None = None,
    batch_size: int | None = None,
    *,
    against: str | None = None,
    resamples: int = bootstrap.RESAMPLES,
    seed: int = 0,
) -> Table5Result:
    """Score several sets of predictions and the baselines in one pass over the references.

    Args:
        arms: name -> predictions by id (`load_predictions` checks the ids).
        references: what is true.
        train: where the baselines' answers come from; without it the references themselves (which flatters them, and is said).
        scorer: CLIP, or None.
        batch_size: images scored together; None takes 32 where CLIP looks at images, else 1024.
        against: arm that the others are compared with; None compares nothing.
        resamples: of the bootstrap over images; 0 gives no intervals.
        seed: of the bootstrap and of the shuffled labels.

    Raises:
        SchemaError: `against` is no arm, resamples are negative, no reference has a label, or one has boxes and no size.
    """
    if against is not None and against not in arms:
        msg = f"against: {against!r} is no arm; allowed: {', '.join(arms)}"
        raise SchemaError(msg)
    if resamples < 0:
        msg = f"resamples: {resamples}; expected 0 or more"
        raise SchemaError(msg)
    _check_references(references, train)
    unseeing, omitted = baselines.all_baselines(references.records, train.records if train else None, seed)
    columns = {name: Table5(scorer, resamples, seed) for name in (*arms, *unseeing)}
    splits = references.by_split
    apart = {split: {name: Table5(None, resamples, seed) for name in columns} for split in (splits if len(splits) > 1 else ())}
    size = batch_size or (32 if scorer is not None and references.has_images else 1024)
    for start in range(0, len(references), size):
        records = references.records[start : start + size]
        features = None
        if scorer is not None and references.has_images:
            features = _seen(scorer, [references.picture(start + i) for i in range(len(records))])
        draws = bootstrap.draws([r.id for r in records], resamples, seed)
        said = {name: [predictions.get(r.id) for r in records] for name, predictions in arms.items()}
        said |= {name: list(baseline.answers(records)) for name, baseline in unseeing.items()}
        for name, answers in said.items():
            columns[name].update(answers, records, features, draws)
        for split, parts in apart.items():
            rows = [i for i, record in enumerate(records) if (record.split or UNKNOWN_SPLIT) == split]
            for name, answers in said.items() if rows else ():
                parts[name].update([answers[i] for i in rows], [records[i] for i in rows], None, draws[rows])
    found = {name: column.with_replicates() for name, column in columns.items()}
    by_split: dict[str, SplitScores] = {
        split: {
            "references": splits[split],
            "arms": {name: _scored(parts[name].compute()) for name in arms},
            "baselines": {
                name: _scored(_baseline_column(parts[name].compute(), baseline)) for name, baseline in unseeing.items()
            },
        }
        for split, parts in apart.items()
    }
    own = {name: found[name] for name in arms}
    floors = {
        name: (_baseline_column(found[name][0], baseline), found[name][1])
        for name, baseline in unseeing.items()
        if name not in baselines.UPPER_READINGS
    }
    result: Table5Result = {
        "arms": {name: column for name, (column, _) in own.items()},
        "baselines": {name: _baseline_column(found[name][0], baseline) for name, baseline in unseeing.items()},
        "omitted": omitted,
        "paired": None if against is None else paired(own, against),
        "over_blind": {name: {mode: over_blind(one, floors, mode) for mode in SCORING_MODES} for name, one in own.items()},
        "ahead": {mode: ahead(own, mode) for mode in SCORING_MODES} if resamples and len(own) > 1 else None,
        "bootstrap": {"resamples": resamples, "seed": seed, "confidence_level": CONFIDENCE_LEVEL, "unit": "image"}
        if resamples
        else None,
        "baseline_source": f"{len(train)} records of the training set" if train else "the references themselves",
        "split": references.splits,
        "references": len(references),
        "clip": scorer is not None,
        "clip_truncated": scorer.truncated if scorer else None,
        "definition": definition(),
    }
    if references.unreadable:
        result["unreadable"] = sorted(references.unreadable)
    if by_split:
        result["by_split"] = by_split
    return result


def _seen(scorer: ClipScorer, pictures: Sequence[Image | None]) -> Tensor:
    """(N, dim) of N pictures; NaN where there is none."""
    there = [n for n, picture in enumerate(pictures) if picture is not None]
    features = scorer.images([picture for picture in pictures if picture is not None])
    return torch.full((len(pictures), features.shape[1]), torch.nan).index_copy(
        0, torch.tensor(there, dtype=torch.long), features
    )


SCORED_LABELS = ("description", *TRIPLET_PARTS, "emotion", "intensity", "objects")
"""What the rows of the table score."""


def _check_references(references: References, train: References | None) -> None:
    if not (
        any(getattr(record, label) for record in references.records for label in SCORED_LABELS)
        or has_ratings(references.records)
    ):
        msg = f"none of the {len(references)} references has a label that Table 5 scores; expected any of {', '.join(SCORED_LABELS)}"
        raise SchemaError(msg)
    for records in (references.records, train.records if train else []):
        boxed = (record for record in records if record.objects)
        require(boxed, ["width", "height"], "its boxes are scored, and the baselines' boxes are shares of the image")


def in_modes(result: Table5Result, modes: Sequence[ScoringMode]) -> dict[str, object]:
    """What `table5` returned with the values of these modes alone."""

    def kept(value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {key: kept(inner) for key, inner in value.items() if key not in SCORING_MODES or key in modes}

    # An arm may be called like a mode: names of arms are not looked at.
    paired, ahead = result["paired"], result["ahead"]
    by_split = {
        split: {
            "references": one["references"],
            "arms": {name: kept(column) for name, column in one["arms"].items()},
            "baselines": {name: kept(column) for name, column in one["baselines"].items()},
        }
        for split, one in result.get("by_split", {}).items()
    }
    return {
        **result,
        **({"by_split": by_split} if by_split else {}),
        "over_blind": {name: kept(rows) for name, rows in result["over_blind"].items()},
        "ahead": ahead and kept(ahead),
        "arms": {name: kept(column) for name, column in result["arms"].items()},
        "baselines": {name: kept(column) for name, column in result["baselines"].items()},
        "paired": paired and {**paired, "arms": {name: kept(rows) for name, rows in paired["arms"].items()}},
    }


def _in_order(parts: Sequence[RowScores]) -> dict[ScoringMode, dict[str, Array]]:
    """The rows of all metrics, in the order of the table."""
    merged = {mode: {row: values for part in parts for row, values in part[mode].items()} for mode in SCORING_MODES}
    return {mode: {row.key: merged[mode][row.key] for row in TABLE5_ROWS[mode]} for mode in SCORING_MODES}


def _baseline_column(column: ArmColumn, baseline: baselines.Baseline) -> BaselineColumn:
    """Rows that a baseline has no answer to are not computed, rather than 0."""
    none: dict[str, None] = dict.fromkeys(baseline.inapplicable)
    scored: ScoredColumn = {
        "paper": column["paper"] | {row: None for row in none if row in column["paper"]},
        "strict": column["strict"] | {row: None for row in none if row in column["strict"]},
        "counts": column["counts"],
        "support": column["support"],
    }
    if "intervals" in column:
        scored["intervals"] = {
            mode: rows | {row: None for row in none if row in rows} for mode, rows in column["intervals"].items()
        }
    return {**scored, "answer": baseline.describe(), "inapplicable": list(baseline.inapplicable)}


def _scored(column: ScoredColumn) -> ScoredColumn:
    """What all columns have."""
    scored: ScoredColumn = {
        "paper": column["paper"],
        "strict": column["strict"],
        "counts": column["counts"],
        "support": column["support"],
    }
    if "intervals" in column:
        scored["intervals"] = column["intervals"]
    return scored


def _by_emotion(confusion: Classes, values: Replicates, emotion: int) -> ByEmotion:
    """Images of an emotion, how well it is found, and every row on them alone."""
    images, said, right = int(confusion[emotion].sum()), int(confusion[:, emotion].sum()), int(confusion[emotion, emotion])
    return {
        "images": images,
        "precision": 100 * right / said if said else None,
        "recall": 100 * right / images if images else None,
        "f1": 200 * right / (images + said) if images + said else None,
        "paper": _values(values["paper"], emotion),
        "strict": _values(values["strict"], emotion),
    }


def _values(rows: Mapping[str, Array], at: int) -> RowValues:
    return {row: float(values[at]) if np.isfinite(values[at]) else None for row, values in rows.items()}
