"""Calibration, temperature and distances against independent computation, and `emo calibrate` end to end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torchmetrics.functional.classification import multiclass_calibration_error

from emo_lightning.cli import main
from emo_lightning.core.records import EMOTIONS, NO_EMOTION, Prediction, read_jsonl, write_jsonl
from emo_lightning.data.features import FeatureCache
from emo_lightning.metrics.bootstrap import draws
from emo_lightning.metrics.calibration import (
    _replicates,
    at_temperature,
    calibration_scores,
    fit_temperature,
    reliability,
    with_intervals,
)
from emo_lightning.metrics.distributions import distribution_measures
from emo_lightning.report.page import read_page
from emo_lightning.tasks.probe import ProbeTask
from tests.made import make_prediction, make_record
from tests.tasks.test_des_probe import caches, data_of, trained, trainer_of  # noqa: F401 - fixtures


def drawn(images: int, sharpness: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, 8) that are right as often as they say, then made `sharpness` times as sure; and labels."""
    rng = np.random.default_rng(seed)
    honest = rng.dirichlet(np.full(8, 0.5), images)
    truth = np.array([rng.choice(8, p=row) for row in honest])
    return at_temperature(honest, 1 / sharpness), truth


def ece_by_hand(p: np.ndarray, y: np.ndarray, bins: int) -> float:
    total = 0.0
    for b in range(bins):
        rows = [i for i in range(len(y)) if b / bins < p[i].max() <= (b + 1) / bins]
        if rows:
            right = sum(int(p[i].argmax() == y[i]) for i in rows) / len(rows)
            sure = sum(float(p[i].max()) for i in rows) / len(rows)
            total += len(rows) / len(y) * abs(right - sure)
    return 100 * total


def test_figures_agree_with_scikit_learn_and_with_a_plain_loop() -> None:
    p, y = drawn(400, 1.7)
    found = calibration_scores(p, y, bins=10)
    right = p.argmax(1) == y
    assert found["ece"] == pytest.approx(ece_by_hand(p, y, 10), abs=1e-4)
    assert found["brier"] == pytest.approx(brier_score_loss(y, p, labels=list(range(8)), scale_by_half=False))
    assert found["nll"] == pytest.approx(log_loss(y, p, labels=list(range(8))), rel=1e-6)
    assert found["auroc"] == pytest.approx(100 * roc_auc_score(right, p.max(1)), abs=1e-3)
    assert found["accuracy"] == pytest.approx(100 * right.mean())
    bins = reliability(p, y, 10)
    gap = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / 400
    assert sum(b["count"] for b in bins) == 400
    assert gap == pytest.approx(found["ece"], abs=1e-4)


def test_confidences_on_the_edges_of_bins_fall_into_the_bin_below_everywhere() -> None:
    """As Guo et al. define it: ](m - 1) / M, m / M]. Models that count votes say 50 % exactly."""
    p = np.zeros((5, 8))
    p[:, 0] = [0.5, 0.5, 0.625, 0.625, 1.0]
    p[:, 1] = 1 - p[:, 0]
    y = np.array([0, 0, 1, 1, 0])
    # ]1/4, 1/2]: 100 % right at 50 %; ]1/2, 3/4]: none right at 62.5 %; ]3/4, 1]: right.
    expected = 100 * (2 * 0.5 + 2 * 0.625) / 5
    assert calibration_scores(p, y, 4)["ece"] == pytest.approx(expected) == pytest.approx(ece_by_hand(p, y, 4))
    assert _replicates(p, y, 4, np.ones((5, 1)))["ece"] == pytest.approx([expected])
    assert [(b["low"], b["count"]) for b in reliability(p, y, 4)] == [(25, 2), (50, 2), (75, 1)]


def test_ece_is_torchmetrics_own_where_no_confidence_lies_on_an_edge() -> None:
    p, y = drawn(500, 1.3, seed=4)
    theirs = multiclass_calibration_error(torch.from_numpy(p), torch.from_numpy(y), 8, n_bins=15, norm="l1").item()
    assert calibration_scores(p, y)["ece"] == pytest.approx(100 * theirs, abs=1e-4)


def test_resamples_of_equal_weight_are_the_figures_themselves() -> None:
    p, y = drawn(300, 2.0)
    p[5] = p[4]  # a tie of confidences
    whole = calibration_scores(p, y)
    for key, values in _replicates(p, y, 15, np.ones((300, 2))).items():
        assert values == pytest.approx([whole[key]] * 2, abs=1e-3), key
    # A weight is a number of copies.
    weights = draws([str(i) for i in range(300)], 3, seed=1)
    rows = np.repeat(np.arange(300), weights[:, 2].astype(int))
    copies = calibration_scores(p[rows], y[rows])
    for key, values in _replicates(p, y, 15, weights).items():
        assert values[2] == pytest.approx(copies[key], abs=1e-3), key


def test_temperature_undoes_what_made_the_model_too_sure() -> None:
    p, y = drawn(4000, 2.5)
    temperature = fit_temperature(p, y)
    assert temperature == pytest.approx(2.5, rel=0.07)
    cooled = at_temperature(p, temperature)
    assert (cooled.argmax(1) == p.argmax(1)).all()
    before, after = calibration_scores(p, y), calibration_scores(cooled, y)
    assert before["ece"] > 10 > 3 > after["ece"]  # type: ignore[operator]
    assert all(after["nll"] <= calibration_scores(at_temperature(p, t), y)["nll"] for t in (1.0, 2.0, 3.2))  # type: ignore[operator]
    assert calibration_scores(*drawn(4000))["ece"] < 3  # type: ignore[operator]


def test_an_interval_covers_and_one_image_has_none() -> None:
    p, y = drawn(500)
    found = with_intervals([str(i) for i in range(500)], p, y)
    for key in ("accuracy", "brier", "nll", "auroc"):
        low, value, high = (found[key][k] for k in ("low", "value", "high"))
        assert low < value < high  # type: ignore[operator]
    single = with_intervals(["a"], p[:1], y[:1])
    assert (single["accuracy"]["low"], single["auroc"]) == (None, {"value": None, "low": None, "high": None})


def test_no_temperature_from_one_class_or_nothing() -> None:
    p, _ = drawn(5)
    with pytest.raises(ValueError, match="all 5 validation images are of one emotion"):
        fit_temperature(p, np.zeros(5, dtype=int))
    with pytest.raises(ValueError, match="N > 0"):
        calibration_scores(p[:0], np.zeros(0, dtype=int))
    with pytest.raises(ValueError, match="finite"):
        calibration_scores(np.full((1, 8), np.nan), np.zeros(1, dtype=int))


def test_distances_agree_with_plain_loops() -> None:
    rng = np.random.default_rng(2)
    p, q = rng.dirichlet(np.full(8, 0.7), 20), rng.dirichlet(np.full(8, 0.7), 20)
    p[0], q[0] = np.eye(8)[3], np.eye(8)[3]  # zeros on both sides
    found = distribution_measures(q, p)
    for i in range(20):
        pairs = [(float(a), float(b)) for a, b in zip(p[i], q[i], strict=True)]
        expected = {
            "kl": sum(a * math.log(a / b) for a, b in pairs if a > 0),
            "chebyshev": max(abs(a - b) for a, b in pairs),
            "clark": math.sqrt(sum((a - b) ** 2 / (a + b) ** 2 for a, b in pairs if a + b > 0)),
            "canberra": sum(abs(a - b) / (a + b) for a, b in pairs if a + b > 0),
            "cosine": sum(a * b for a, b in pairs) / math.hypot(*p[i]) / math.hypot(*q[i]),
            "intersection": sum(min(a, b) for a, b in pairs),
            "js": sum(0.5 * x * math.log(2 * x / (a + b)) for a, b in pairs for x in (a, b) if x > 0),
        }
        for key, value in expected.items():
            assert found[key][i] == pytest.approx(value, abs=2e-4), key
    assert [found[k][0] for k in ("js", "clark", "cosine")] == pytest.approx([0, 0, 1])
    # What is impossible to the model but true costs much, and not infinitely much.
    assert 10 < distribution_measures(np.eye(8)[:1], np.eye(8)[1:2])["kl"][0] < 20


@pytest.mark.parametrize(
    ("predicted", "match"), [([[0.5] * 8], "predicted\\[0\\]"), ([[math.nan] * 8], "predicted\\[0\\]"), ([], "N > 0")]
)
def test_what_is_no_distribution_is_refused(predicted: list[Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        distribution_measures(np.array(predicted).reshape(-1, 8), np.eye(8)[: len(predicted)])


# The command


def scored(identity: str, row: np.ndarray) -> Prediction:
    return make_prediction(identity, emotion_scores={str(e): float(x) for e, x in zip(EMOTIONS, row, strict=True)})


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Predictions that are twice too sure, of 300 validation and 300 test images, with soft labels on the test images."""
    p, y = drawn(600, 2.0)
    records = []
    for i in range(600):
        fields: dict[str, Any] = {"emotion": EMOTIONS[y[i]], "split": "val" if i < 300 else "test"}
        if i >= 300:
            soft = 0.9 * np.eye(8)[y[i]] + 0.1 / 8
            fields["emotion_scores"] = {e: float(x) for e, x in zip(EMOTIONS, soft, strict=True)}
        records.append(make_record(f"r{i}", **fields))
    paths = {"predictions": tmp_path / "arm.jsonl", "val": tmp_path / "val.jsonl", "test": tmp_path / "test.jsonl"}
    write_jsonl(paths["predictions"], [scored(f"r{i}", p[i]) for i in range(600)])
    write_jsonl(paths["val"], records[:300])
    write_jsonl(paths["test"], records[300:])
    return paths


def test_the_command_writes_and_prints(files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["calibrate", str(files["predictions"]), str(files["test"]), "--fit", str(files["val"])]
    assert main([*words, "--out", str(tmp_path / "out"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out" / "calibration.json").read_text())
    body = result["arms"]["arm"]
    assert body["fit"]["temperature"] == pytest.approx(2.0, rel=0.15)
    test = body["sets"]["test"]
    assert test["scaled"]["ece"]["value"] < test["calibration"]["ece"]["value"]
    assert test["distribution"]["images"] == test["images"] == test["conformal"]["images"] == 300
    page = read_page(tmp_path / "out" / "page.json")
    assert page.tables[0].key == "calibration-ece"
    assert "<svg" in (tmp_path / "out" / "reliability.svg").read_text()
    assert main(words) == 0
    assert "Coverage by true emotion" in capsys.readouterr().out


def test_broken_and_missing_scores_are_counted(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = files["predictions"].read_text().splitlines()
    for i, scores in ((301, "{}"), (302, '{"awe": NaN}'), (303, '{"awe": 3.0}'), (304, "null")):
        value = json.loads(lines[i]) | {"emotion_scores": "@"}
        lines[i] = json.dumps(value).replace('"@"', scores)
    files["predictions"].write_text("\n".join(line for i, line in enumerate(lines) if i != 300))
    assert main(["calibrate", str(files["predictions"]), str(files["test"]), "--json"]) == 0
    body = json.loads(capsys.readouterr().out)["arms"]["arm"]
    assert body["sets"]["test"]["skipped"] == {"without a prediction": 1, "without usable emotion_scores": 4}
    assert (body["fit"], body["sets"]["test"]["conformal"], body["sets"]["test"]["images"]) == (None, None, 295)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no scores", "none of 300 references has both an emotion and predicted emotion_scores"),
        ("foreign", "unknown emotion 'joy'; allowed: amusement"),
        ("shared", "fit: the set '(fit)' shares 300 images with 'test': what is fitted on an image cannot be tested on it"),
        ("alpha", "--alpha 1: expected a finite number, more than 0, less than 1"),
        ("empty", "holds no prediction"),
        ("one class", "all 300 validation images are of one emotion"),
    ],
)
def test_bad_input_is_one_clear_line(
    change: str, message: str, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["calibrate", str(files["predictions"]), str(files["test"]), "--fit", str(files["val"])]
    match change:
        case "no scores":
            write_jsonl(files["predictions"], [make_prediction(f"r{i}") for i in range(600)])
        case "foreign":
            write_jsonl(files["predictions"], [make_prediction(f"r{i}", emotion_scores={"joy": 1.0}) for i in range(600)])
        case "shared":
            words[-1] = str(files["test"])
        case "alpha":
            words += ["--alpha", "1"]
        case "empty":
            files["predictions"].write_text("")
        case "one class":
            write_jsonl(files["val"], [make_record(f"r{i}", emotion="awe", split="val") for i in range(300)])
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_single_images_and_single_classes_have_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    p, _ = drawn(3)
    write_jsonl(tmp_path / "p.jsonl", [scored(f"r{i}", p[i]) for i in range(3)])
    write_jsonl(tmp_path / "one.jsonl", [make_record("r0", emotion="awe")])
    write_jsonl(tmp_path / "class.jsonl", [make_record(f"r{i}", emotion="awe") for i in range(3)])
    assert main(["calibrate", str(tmp_path / "p.jsonl"), str(tmp_path / "one.jsonl")]) == 0
    assert "one image, so there are no intervals" in capsys.readouterr().out
    assert main(["calibrate", str(tmp_path / "p.jsonl"), str(tmp_path / "class.jsonl")]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "all 3 images are of one emotion" in out
    assert "3 images are too few for the intervals of the bootstrap" in out


def test_a_probe_stage_leaves_what_is_needed(trained: Path, caches: dict[str, str], tmp_path: Path) -> None:  # noqa: F811
    """Its distributions, validation among them, agree with the accuracies that it reports."""
    task = ProbeTask(str(trained / "head"), learning_rates=[3e-2], weight_decays=[0.0])
    data, trainer = data_of(caches), trainer_of(tmp_path, 3)
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, verbose=False)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    said = list(read_jsonl(tmp_path / "predictions.jsonl", Prediction))
    assert {name: sum(p.split == name for p in said) for name in ("val", "test", "heldout")} == {
        "val": 45,
        "test": 45,
        "heldout": 20,
    }
    for name in ("val", "test", "heldout"):
        cache = FeatureCache(caches[name])
        found = {key: cache.labels(row).emotion for row, key in enumerate(cache.keys)}
        truth = {key: EMOTIONS[emotion] for key, emotion in found.items() if emotion != NO_EMOTION}
        own = [p for p in said if p.split == name and p.id in truth]
        for p in own:
            assert p.emotion_scores is not None
            assert p.confidence == max(p.emotion_scores.values()) == p.emotion_scores[str(p.emotion)]
            assert sum(p.emotion_scores.values()) == pytest.approx(1)
        right = sum(p.emotion == truth[p.id] for p in own) / len(own)
        assert 100 * right == pytest.approx(metrics[f"{name}/accuracy"], abs=1e-3)
