"""Table 5 (paper section 4.3.1): boxes, text, emotion and intensity of predictions against references, in two modes.

`paper` scores as the authors do, which flatters: it looks only at boxes that found a partner. `strict` charges for every box
too many or too few and for every reply that cannot be read. Both stand side by side, with answers that never looked at the
image beside them. In both modes a reference without a prediction counts as wrong, and as unparsable. Intervals, and differences
between models on the same images, come from a bootstrap over images (`bootstrap`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from emo_lightning.analysis import baselines, table5_rows
from emo_lightning.analysis.references import References
from emo_lightning.analysis.table5_rows import MODES, ROWS, Mode, Row
from emo_lightning.core import records as schema
from emo_lightning.core.records import EMOTIONS, Prediction, Record, SchemaError
from emo_lightning.metrics import accumulators as sums
from emo_lightning.metrics import bootstrap, clip, matching
from emo_lightning.metrics import boxes as box_scores
from emo_lightning.metrics import scores as metrics
from emo_lightning.metrics.accumulators import Batch, Sums
from emo_lightning.metrics.clip import ClipScorer, cosine01
from emo_lightning.metrics.scores import BoxScores, ClipScores, Coverage, EmotionScores, IntensityScores

__all__ = ["MODES", "ROWS", "Mode", "Row", "Table5", "compare", "definition_hash", "in_modes", "table5"]

Array = bootstrap.Array

DEFINED_BY = (baselines, bootstrap, box_scores, clip, matching, metrics, schema, sums, table5_rows)
"""The modules that decide a figure, beside this one."""


def definition_hash() -> str:
    """sha256 over the source of all modules that decide a figure: equal hashes, comparable figures."""
    digest = hashlib.sha256()
    for path in [*(str(module.__file__) for module in DEFINED_BY), __file__]:
        digest.update(Path(path).read_text(encoding="utf-8").encode())
    return digest.hexdigest()


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
        self.per_image = (Coverage(resamples), BoxScores(resamples), self.emotion, IntensityScores(resamples))
        self.clip = ClipScores(resamples)

    @property
    def metrics(self) -> tuple[Sums, ...]:
        """The torchmetrics, e.g. for `.to(device)` or `merge_state`."""
        return (*self.per_image, self.clip)

    def update(
        self,
        predictions: Sequence[Prediction | None],
        records: Sequence[Record],
        image_features: Tensor | None = None,
        draws: Array | None = None,
    ) -> None:
        """Add a batch.

        Args:
            predictions: one per record, None where there is no reply.
            records: the references.
            image_features: (len(records), dim), unit norm, from `ClipScorer.images`; None where there are no images.
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
        batch = Batch(predictions, records, draws)
        for metric in self.per_image:
            metric.update(batch)
        self._update_clip(batch, image_features)

    def _update_clip(self, batch: Batch, image_features: Tensor | None) -> None:
        if self.scorer is None:
            self.clip.update(batch)
            return
        texts = [p.description.strip() if p and p.description else "" for p in batch.predictions]
        truths = [r.description or "" for r in batch.records]
        # An empty text would have a similarity far above 0 as well: it must not earn that.
        by_text = np.array([0.0 if truth else np.nan for truth in truths])
        if both := [i for i, (text, truth) in enumerate(zip(texts, truths, strict=True)) if text and truth]:
            by_text[both] = self.scorer.text_text([texts[i] for i in both], [truths[i] for i in both])
        by_image = None if image_features is None else np.zeros(len(texts))
        said = [i for i, text in enumerate(texts) if text]
        if by_image is not None and image_features is not None and said:
            by_image[said] = cosine01(self.scorer.texts([texts[i] for i in said]), image_features[said])
        self.clip.update(batch, by_text, by_image)

    def compute(self) -> dict[str, Any]:
        """The column, JSON-ready.

        Returns:
            `paper` and `strict`: row -> x100 or None, in the order of `ROWS`; `intervals` (95 %, the same keys, `[low, high]` or
            None; absent without resamples) and `support` (images behind each row); `counts`; `by_emotion`: emotion of the
            reference -> `images`, `precision`, `recall`, `f1` and both modes; `confusion`: `rows`, `columns`, `counts`.
        """
        return self._computed()[0]

    def replicates(self) -> dict[Mode, dict[str, Array]]:
        """Each row's figure in each resample, `{mode: {row: (resamples,)}}`, NaN where nothing could be scored."""
        return self._computed()[1]

    def _computed(self) -> tuple[dict[str, Any], dict[Mode, dict[str, Array]]]:
        parts = [metric.compute() for metric in self.metrics]
        support = {row: n for part in parts for row, n in part["support"].items()}
        point, emotions, replicates = (
            {
                mode: {row.key: merged[row.key] for row in ROWS[mode]}
                for mode in MODES
                for merged in [_merged(parts, what, mode)]
            }
            for what in ("point", "emotions", "replicates")
        )
        column: dict[str, Any] = {m: {row: _number(value[0]) for row, value in point[m].items()} for m in MODES}
        column["counts"] = {key: value for part in parts for key, value in part["counts"].items()}
        column["support"] = {mode: {row: support[row] for row in point[mode]} for mode in MODES}
        if self.resamples:
            column["intervals"] = {
                mode: {row: bootstrap.interval(value, support[row]) for row, value in replicates[mode].items()}
                for mode in MODES
            }
        confusion = next(part for part, metric in zip(parts, self.metrics, strict=True) if metric is self.emotion)["cells"]
        confusion = confusion.reshape(len(EMOTIONS), -1)
        column["by_emotion"] = {
            str(emotion): {
                **_retrieval(confusion, i),
                **{mode: {row: _number(v[i]) for row, v in emotions[mode].items()} for mode in MODES},
            }
            for i, emotion in enumerate(EMOTIONS)
        }
        columns = [*map(str, EMOTIONS), UNREADABLE_TITLE]
        column["confusion"] = {"rows": [*map(str, EMOTIONS)], "columns": columns, "counts": confusion.tolist()}
        return column, replicates


UNREADABLE_TITLE = "no emotion"
"""Last column of the confusion matrix: missing replies, and those without one of the eight emotions."""


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
) -> dict[str, Any]:
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

    Returns:
        JSON-ready: `arms` and `baselines` (name -> column, see `Table5.compute`; a baseline has `answer` and `inapplicable` too),
        `omitted` (baseline -> why), `paired` (see `compare`), `bootstrap`, `split`, `references`, `definition`,
        `baseline_source`, `clip`, `clip_truncated`.

    Raises:
        SchemaError: `against` is no arm, or resamples are negative.
    """
    if against is not None and against not in arms:
        msg = f"against: {against!r} is no arm; allowed: {', '.join(arms)}"
        raise SchemaError(msg)
    if resamples < 0:
        msg = f"resamples: {resamples}; expected 0 or more"
        raise SchemaError(msg)
    floors, omitted = baselines.all_baselines(references.records, train.records if train else None, seed)
    columns = {name: Table5(scorer, resamples, seed) for name in (*arms, *floors)}
    size = batch_size or (32 if scorer is not None and references.has_images else 1024)
    for start in range(0, len(references), size):
        records = references.records[start : start + size]
        features = None
        if scorer is not None and references.has_images:
            features = scorer.images([references.image(start + i) for i in range(len(records))])
        draws = bootstrap.draws([r.id for r in records], resamples, seed)
        for name, predictions in arms.items():
            columns[name].update([predictions.get(r.id) for r in records], records, features, draws)
        for name, floor in floors.items():
            columns[name].update(floor.answers(records), records, features, draws)
    return {
        "arms": {name: columns[name].compute() for name in arms},
        "baselines": {name: _floor(columns[name].compute(), floor) for name, floor in floors.items()},
        "omitted": omitted,
        "paired": None if against is None else compare({name: columns[name] for name in arms}, against),
        "bootstrap": {"resamples": resamples, "seed": seed, "level": bootstrap.LEVEL, "unit": "image"} if resamples else None,
        "baseline_source": f"{len(train)} records of the training set" if train else "the references themselves",
        "split": references.splits,
        "references": len(references),
        "clip": scorer is not None,
        "clip_truncated": scorer.truncated if scorer else None,
        "definition": definition_hash(),
    }


def compare(columns: Mapping[str, Table5], against: str) -> dict[str, Any]:
    """Differences of every column to one of them, on the same images.

    Args:
        columns: by arm, with the same resamples, seed and references.
        against: the arm that is subtracted.

    Returns:
        `{"against": arm, "arms": {other: {mode: {row: bootstrap.difference(…) or None}}}}`; positive: the other scores higher.
    """
    base, base_replicates = columns[against]._computed()
    arms: dict[str, Any] = {}
    for name, column in columns.items():
        if name == against:
            continue
        own, replicates = column._computed()
        arms[name] = {
            mode: {
                row: None
                if own[mode][row] is None or base[mode][row] is None
                else bootstrap.difference(
                    own[mode][row],
                    base[mode][row],
                    (replicates[mode][row], base_replicates[mode][row]),
                    own["support"][mode][row],
                )
                for row in own[mode]
            }
            for mode in MODES
        }
    return {"against": against, "arms": arms}


def in_modes(result: Mapping[str, Any], modes: Sequence[Mode]) -> dict[str, Any]:
    """What `table5` returned with the figures of these modes alone."""

    def kept(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: kept(inner) for key, inner in value.items() if key not in MODES or key in modes}

    # An arm may be called like a mode: names of arms are not looked at.
    paired = result["paired"]
    return {
        **result,
        **{part: {name: kept(column) for name, column in result[part].items()} for part in ("arms", "baselines")},
        "paired": paired and {**paired, "arms": {name: kept(rows) for name, rows in paired["arms"].items()}},
    }


def _merged(parts: Sequence[dict[str, Any]], what: str, mode: Mode) -> dict[str, Array]:
    return {row: values for part in parts for row, values in part[what][mode].items()}


def _floor(column: dict[str, Any], floor: baselines.Baseline) -> dict[str, Any]:
    """A baseline's column: rows that it has no answer to are not computed, rather than 0."""
    for per_mode in (column[mode] for mode in MODES):
        per_mode.update({row: None for row in floor.inapplicable if row in per_mode})
    for per_mode in column.get("intervals", {}).values():
        per_mode.update({row: None for row in floor.inapplicable if row in per_mode})
    kept = {key: value for key, value in column.items() if key not in ("by_emotion", "confusion")}
    return {**kept, "answer": floor.describe(), "inapplicable": list(floor.inapplicable)}


def _retrieval(confusion: Array, emotion: int) -> dict[str, Any]:
    """Images of an emotion, and how well it is found, x100."""
    images, said, right = int(confusion[emotion].sum()), int(confusion[:, emotion].sum()), int(confusion[emotion, emotion])
    return {
        "images": images,
        "precision": 100 * right / said if said else None,
        "recall": 100 * right / images if images else None,
        "f1": 200 * right / (images + said) if images + said else None,
    }


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
