"""Every row of Table 5 against its definition in words, written again in plain loops: no code of the package decides a figure here.

Boxes are matched by trying all matchings; kappa comes from the two marginal distributions; nothing is computed in batches.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest

from emo_lightning.analysis.table5 import Table5
from emo_lightning.analysis.table5_rows import SCORING_MODES, TABLE5_ROWS
from emo_lightning.core.records import EMOTIONS, Prediction, Record
from tests.made import make_prediction, make_record

NAMES = [e.value for e in EMOTIONS]
LEVEL = {n: "low" if n <= 3 else "medium" if n <= 7 else "high" for n in range(1, 11)}
ODD_EMOTIONS = ["Awe", " fear ", "SADNESS", "joy", "", "fear, awe", "contentment."]
ODD_BOXES = [(30.0, 10.0, 30.0, 20.0), (50.0, 40.0, 10.0, 5.0), (math.nan, 1.0, 2.0, 3.0), (0.0, 0.0, math.inf, 9.0)]
Pair = tuple[tuple[float, ...], tuple[float, ...]]
Score = Callable[[tuple[float, ...], tuple[float, ...]], float]
T = TypeVar("T")


def some_box(rng: np.random.Generator, near: tuple[float, ...] | None = None) -> tuple[float, float, float, float]:
    """Within 100 x 50; close to another one if given."""
    if near is not None:
        x1, y1, x2, y2 = (c + float(rng.normal(0, 3)) for c in near)
        if x1 + 1 < x2 and y1 + 1 < y2:
            return x1, y1, x2, y2
    x, y = float(rng.uniform(0, 60)), float(rng.uniform(0, 25))
    return x, y, x + float(rng.uniform(4, 40)), y + float(rng.uniform(4, 25))


def world(seed: int, images: int = 150) -> list[tuple[Record, Prediction | None]]:
    """Records with everything that may be missing missing somewhere, and answers with everything that may be odd."""
    rng = np.random.default_rng(seed)

    def perhaps(chance: float, value: T) -> T | None:
        return value if rng.random() < chance else None

    def said_box(truth: list[Any]) -> tuple[float, ...]:
        match int(rng.integers(6)):
            case 0:
                return ODD_BOXES[rng.integers(4)]
            case 1 | 2 | 3 if truth:
                return some_box(rng, truth[rng.integers(len(truth))])
            case _:
                return some_box(rng)

    pairs: list[tuple[Record, Prediction | None]] = []
    for n in range(images):
        truth = [some_box(rng) for _ in range(rng.integers(0, 4))]
        emotion, intensity = perhaps(0.9, str(rng.choice(NAMES))), perhaps(0.8, int(rng.integers(1, 11)))
        level = LEVEL[intensity] if intensity else str(rng.choice(["low", "medium", "high"]))
        record = make_record(f"i{n}", truth, emotion=emotion, intensity=intensity, intensity_level=perhaps(0.5, level))
        number = rng.choice([float(rng.integers(1, 11)), rng.uniform(0, 11), -3.0, 40.0, math.nan, math.inf])
        prediction = make_prediction(
            record.id,
            [said_box(truth) for _ in range(rng.integers(0, 4))],  # type: ignore[misc]
            emotion=perhaps(0.5, emotion) or perhaps(0.9, str(rng.choice([*NAMES, *ODD_EMOTIONS]))),
            intensity=perhaps(0.8, float(number)),
            intensity_level=perhaps(0.4, str(rng.choice(["low", "Medium", " HIGH ", "strong"]))),
        )
        pairs.append((record, perhaps(0.93, prediction)))
    return with_triplets(pairs, seed)


PARTS = ("background", "attribute", "subject")
NAMED = ["dog", "The Dog", " dog", "dogs", "red  house", "red house", "storm", "quiet storm", None, " "]


def with_triplets(pairs: list[tuple[Record, Prediction | None]], seed: int) -> list[tuple[Record, Prediction | None]]:
    """The same with names of all kinds, from numbers of their own."""
    rng = np.random.default_rng(1000 + seed)

    def named() -> dict[str, Any]:
        return {part: NAMED[rng.integers(len(NAMED))] for part in PARTS}

    found = []
    for record, prediction in pairs:
        true, said = named(), named()
        said = {part: true[part] if rng.random() < 0.4 else said[part] for part in PARTS}
        found.append((record.model_copy(update=true), prediction and prediction.model_copy(update=said)))
    return found


def good(box: tuple[float, ...]) -> bool:
    return all(math.isfinite(c) for c in box) and box[0] < box[2] and box[1] < box[3]


def size(box: tuple[float, ...]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def iou(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return overlap(a, b) / (size(a) + size(b) - overlap(a, b)) if good(a) and good(b) else 0.0


def area_f1(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    both = overlap(a, b)
    precision, recall = both / size(a), both / size(b)
    return 2 * precision * recall / (precision + recall)


def closeness_of_centres(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    if not (good(a) and good(b)):
        return 0.0
    apart = math.dist(((a[0] + a[2]) / 2, (a[1] + a[3]) / 2), ((b[0] + b[2]) / 2, (b[1] + b[3]) / 2))
    around = math.dist((min(a[0], b[0]), min(a[1], b[1])), (max(a[2], b[2]), max(a[3], b[3])))
    return 1 - apart / around


def best_first(said: list[Any], truth: list[Any], score: Score) -> list[Pair]:
    """Greedy: take the best pair, remove both, go on while the best is above 0."""
    said, truth, pairs = list(said), list(truth), []
    while said and truth:
        a, b = max(itertools.product(said, truth), key=lambda pair: score(*pair))
        if score(a, b) <= 0:
            break
        pairs.append((a, b))
        said.remove(a)
        truth.remove(b)
    return pairs


def best_of_all(said: list[Any], truth: list[Any], score: Score) -> list[Pair]:
    """The matching with the largest sum, by trying every one."""
    few, many = sorted((said, truth), key=len)
    tried = (list(zip(few, chosen, strict=True)) for chosen in itertools.permutations(many, len(few)))
    return max(tried, key=lambda pairs: sum(score(*pair) for pair in pairs))


def mean(values: list[float]) -> float | None:
    return 100 * math.fsum(values) / len(values) if values else None


def of_boxes(pairs: list[tuple[Record, Prediction | None]]) -> dict[str, dict[str, float | None]]:
    rows: dict[str, list[float]] = {name: [] for name in ("iou", "centre", "f1", "iou_all", "centre_all")}
    hits = counted = 0
    for record, prediction in pairs:
        truth, said = [o.bbox for o in record.objects], [o.bbox for o in prediction.objects] if prediction else []
        if not truth:
            continue
        by_iou, by_centre = best_first(said, truth, iou), best_first(said, truth, closeness_of_centres)
        rows["iou"].append(math.fsum(iou(*p) for p in by_iou) / max(len(by_iou), 1))
        rows["centre"].append(math.fsum(closeness_of_centres(*p) for p in by_centre) / max(len(by_centre), 1))
        rows["f1"].append(math.fsum(area_f1(*p) for p in by_iou) / max(len(by_iou), 1))
        slots, matched = max(len(said), len(truth)), best_of_all(said, truth, iou)
        rows["iou_all"].append(math.fsum(iou(*p) for p in matched) / slots)
        rows["centre_all"].append(
            math.fsum(closeness_of_centres(*p) for p in best_of_all(said, truth, closeness_of_centres)) / slots
        )
        hits, counted = hits + sum(iou(*p) >= 0.5 for p in matched), counted + len(said) + len(truth)
    return {
        "paper": {"bbox_iou": mean(rows["iou"]), "bbox_center_dist": mean(rows["centre"]), "f1": mean(rows["f1"])},
        "strict": {"bbox_iou": mean(rows["iou_all"]), "bbox_center_dist": mean(rows["centre_all"]), "f1": 200 * hits / counted},
    }


def of_emotions(pairs: list[tuple[Record, Prediction | None]]) -> dict[str, dict[str, float | None]]:
    known = [(r.emotion.value, p.emotion if p else None) for r, p in pairs if r.emotion]
    plain = [(true, (said or "").strip().lower()) for true, said in known]
    return {
        "paper": {"emotion_acc": mean([float(true == said) for true, said in known])},
        "strict": {
            "emotion_acc": mean([float(true == said) for true, said in plain]),
            "parse_failure": mean([float(said not in NAMES) for _, said in plain]),
        },
    }


def of_intensity(pairs: list[tuple[Record, Prediction | None]]) -> dict[str, dict[str, float | None]]:
    close, right, rated = [], [], []
    for record, prediction in pairs:
        said = prediction.intensity if prediction else None
        said = said if said is not None and math.isfinite(said) else None
        whole = math.floor(said + 0.5) if said is not None else None
        in_words = ((prediction.intensity_level if prediction else None) or "").strip().lower()
        word = in_words if whole is None else LEVEL.get(whole, "off the scale")
        true_level = record.intensity_level or (LEVEL[record.intensity] if record.intensity else None)
        if true_level:
            right.append(float(word == true_level))
        if record.intensity:
            close.append(0.0 if said is None else max(0.0, 1 - abs(said - record.intensity) / 10))
            far_end = 1 if record.intensity - 1 > 10 - record.intensity else 10
            rated.append((record.intensity, whole if whole in LEVEL else far_end))
    true, found = np.array(rated).T
    observed = np.mean((true - found) ** 2.0)
    by_chance = np.mean([(a - b) ** 2.0 for a in true for b in found])
    both = {"intensity_acc": mean(close)}
    return {
        "paper": both,
        "strict": {**both, "intensity_level_acc": mean(right), "intensity_kappa": 100 * (1 - observed / by_chance)},
    }


def of_triplets(pairs: list[tuple[Record, Prediction | None]]) -> dict[str, dict[str, float | None]]:
    def name(item: Record | Prediction | None, part: str) -> str:
        return re.sub(r"\s+", " ", getattr(item, part, None) or "").strip().lower()

    def alike(a: str, b: str) -> bool:
        words = [[word for word in text.split() if word != "the"] for text in (a, b)]
        alike = [[difflib.SequenceMatcher(None, x, y).ratio() >= 0.8 for y in words[1]] for x in words[0]]
        # At most two words a side: the best of all ways to pair them.
        few, many = sorted((range(len(words[0])), range(len(words[1]))), key=len)
        straight = len(words[0]) <= len(words[1])
        pairings = [list(zip(few, chosen, strict=True)) for chosen in itertools.permutations(many, len(few))]
        common = max(sum(alike[i][j] if straight else alike[j][i] for i, j in pairing) for pairing in pairings)
        return bool(a) and 2 * common / len(words[0] + words[1]) >= 0.75

    rows: dict[str, list[float]] = {}
    for record, prediction in pairs:
        both = {part: (name(prediction, part), name(record, part)) for part in PARTS}
        for part, (said, true) in both.items():
            if true:
                rows.setdefault(part, []).append(float(said == true))
                rows.setdefault(f"{part}_similar", []).append(float(alike(said, true)))
        if all(true for _, true in both.values()):
            rows.setdefault("triplet", []).append(float(all(said == true for said, true in both.values())))
            rows.setdefault("triplet_similar", []).append(float(all(alike(said, true) for said, true in both.values())))
    return {"paper": {}, "strict": {row: mean(values) for row, values in rows.items()}}


def by_definition(pairs: list[tuple[Record, Prediction | None]]) -> dict[str, dict[str, float | None]]:
    parts = [of_boxes(pairs), of_triplets(pairs), of_emotions(pairs), of_intensity(pairs)]
    return {mode: {row: value for part in parts for row, value in part[mode].items()} for mode in SCORING_MODES}


@pytest.mark.parametrize("seed", range(4))
def test_every_row_is_what_its_definition_says(seed: int) -> None:
    pairs = world(seed)
    table = Table5(resamples=0)
    for start in range(0, len(pairs), 37):
        part = pairs[start : start + 37]
        table.update([p for _, p in part], [r for r, _ in part])
    got, expected = table.compute(), by_definition(pairs)
    for mode in SCORING_MODES:
        rows = {row.key for row in TABLE5_ROWS[mode]} - {"clip_score", "clip_triplet", "clip_image_text"}
        assert rows == set(expected[mode]), "a row without a definition here"
        for row in rows:
            value = expected[mode][row]
            assert value is not None
            assert 0 < abs(value) < 100, "a figure at its end could hide a mistake"
            assert got[mode][row] == pytest.approx(value, abs=1e-9), (mode, row)
    assert got["counts"]["missing_predictions"] == sum(p is None for _, p in pairs)
    assert got["counts"]["degenerate_boxes"] == sum(not good(o.bbox) for r, p in pairs if p and r.objects for o in p.objects)


def test_breakdown_and_confusion_are_what_their_definitions_say() -> None:
    pairs = world(9, 300)
    table = Table5(resamples=0)
    table.update([p for _, p in pairs], [r for r, _ in pairs])
    got = table.compute()
    counts = np.zeros((8, 9), dtype=int)
    for record, prediction in pairs:
        if record.emotion:
            said = ((prediction.emotion if prediction else None) or "").strip().lower()
            counts[NAMES.index(record.emotion.value), NAMES.index(said) if said in NAMES else 8] += 1
    assert got["confusion"]["counts"] == counts.tolist()
    for n, name in enumerate(NAMES):
        own = [pair for pair in pairs if pair[0].emotion and pair[0].emotion.value == name]
        column, expected = got["by_emotion"][name], by_definition(own)
        assert column["images"] == len(own) == counts[n].sum()
        assert column["precision"] == pytest.approx(100 * counts[n, n] / counts[:, n].sum())
        assert column["recall"] == pytest.approx(100 * counts[n, n] / counts[n].sum())
        for mode in SCORING_MODES:
            for row, value in expected[mode].items():
                assert column[mode][row] == pytest.approx(value, abs=1e-9), (name, mode, row)
