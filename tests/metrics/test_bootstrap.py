from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from emo_lightning.analysis.references import References
from emo_lightning.analysis.table5 import Table5, in_modes, table5
from emo_lightning.analysis.table5_rows import SCORING_MODES
from emo_lightning.core.records import EMOTIONS, Prediction, Record, SchemaError
from emo_lightning.metrics import bootstrap
from tests.made import as_json, make_prediction, make_record

BOX = (10.0, 10.0, 60.0, 40.0)


def sample(n: int, right: float, seed: int = 0) -> tuple[list[Record], dict[str, Prediction]]:
    """Records, and predictions whose emotion is right with a given probability."""
    rng = np.random.default_rng(seed)
    records = [
        make_record(f"img{i}", [BOX], emotion=EMOTIONS[i % 8], intensity=i % 10 + 1, description=f"word{i % 8} seen")
        for i in range(n)
    ]
    said = {}
    for i, record in enumerate(records):
        emotion = record.emotion if rng.random() < right else EMOTIONS[(i + 1) % 8]
        shift = float(rng.uniform(0, 20))
        box = (BOX[0] + shift, *BOX[1:])
        said[record.id] = make_prediction(record.id, [box], emotion=emotion, intensity=float(rng.integers(1, 11)))
    return records, said


def test_draws_are_poisson_and_belong_to_the_image() -> None:
    ids = [f"img{i}" for i in range(400)]
    draws = bootstrap.draws(ids, 1000, 7)
    assert draws.mean() == pytest.approx(1, abs=0.01)
    assert draws.var() == pytest.approx(1, abs=0.02)
    assert np.abs(np.corrcoef(draws[:40]) - np.eye(40)).max() < 0.2
    assert (bootstrap.draws(ids[::-1], 1000, 7)[::-1] == draws).all()
    assert (bootstrap.draws(ids[5:6], 1000, 7)[0] == draws[5]).all()
    assert (bootstrap.draws(ids, 1000, 8) != draws).any()
    # Frozen: a figure that was published must come out again.
    assert bootstrap.draws(["a"], 8, 0)[0].tolist() == [0, 2, 0, 0, 1, 0, 2, 1]
    assert bootstrap.draws([], 8, 0).shape == (0, 8)


def test_interval_agrees_with_scipy() -> None:
    records, said = sample(300, 0.6)
    got = as_json(table5({"a": said}, References(records)))["arms"]["a"]
    right = np.array([100.0 * (said[r.id].emotion == r.emotion) for r in records])
    expected = stats.bootstrap((right,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert got["intervals"]["paper"]["emotion_acc"] == pytest.approx(list(expected), abs=1.0)
    low, high = got["intervals"]["strict"]["bbox_iou"]
    assert low < got["strict"]["bbox_iou"] < high


def test_order_and_batches_do_not_matter() -> None:
    records, said = sample(90, 0.5)
    one = as_json(table5({"a": said}, References(records), batch_size=90))
    other = as_json(table5({"a": said}, References(records[::-1]), batch_size=7))
    for key in ("paper", "strict"):
        assert other["arms"]["a"][key] == pytest.approx(one["arms"]["a"][key], nan_ok=True)
        for row, bounds in one["arms"]["a"]["intervals"][key].items():
            assert other["arms"]["a"]["intervals"][key][row] == (bounds and pytest.approx(bounds, rel=1e-12))
    assert as_json(table5({"a": said}, References(records), seed=1))["arms"]["a"]["intervals"] != one["arms"]["a"]["intervals"]


def test_paired_difference() -> None:
    records, good = sample(200, 0.7)
    _, bad = sample(200, 0.5, seed=1)
    result = as_json(table5({"good": good, "bad": bad, "same": dict(good)}, References(records), against="good"))
    row = result["paired"]["arms"]["bad"]["paper"]["emotion_acc"]
    arms = result["arms"]
    assert row["difference"] == pytest.approx(arms["bad"]["paper"]["emotion_acc"] - arms["good"]["paper"]["emotion_acc"])
    assert row["interval"][0] < row["difference"] < row["interval"][1] < 0
    assert row["p"] < 0.01
    gaps = np.array([100.0 * ((bad[r.id].emotion == r.emotion) - float(good[r.id].emotion == r.emotion)) for r in records])
    expected = stats.bootstrap((gaps,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    assert row["interval"] == pytest.approx(list(expected), abs=1.5)
    same = result["paired"]["arms"]["same"]["strict"]["intensity_kappa"]
    assert same == {"difference": 0, "interval": [0, 0], "p": 1}
    assert result["paired"]["arms"]["same"]["paper"]["clip_score"] is None
    with pytest.raises(SchemaError, match="'worse' is no arm; allowed: good, bad"):
        table5({"good": good, "bad": bad}, References(records), against="worse")


def test_p_is_uniform_where_nothing_differs() -> None:
    """Two coins of equal bias: about 5 % of the p values are below 0.05."""
    rng = np.random.default_rng(0)
    below = 0
    for trial in range(200):
        draws = bootstrap.draws([f"{trial}-{i}" for i in range(100)], 400, 0)
        a, b = rng.integers(0, 2, (2, 100)).astype(float)
        total = draws.sum(axis=0)
        found = bootstrap.difference(a.mean(), b.mean(), (a @ draws / total, b @ draws / total), 100)
        below += found["p"] is not None and found["p"] < 0.05
    assert 2 <= below <= 22


def test_too_little_for_an_interval() -> None:
    one = Table5()
    one.update([make_prediction("a", emotion="awe")], [make_record("a", emotion="awe")])
    got = one.compute()
    assert got["paper"]["emotion_acc"] == 100
    assert got["intervals"]["paper"]["emotion_acc"] is None
    assert got["support"]["paper"] == {
        "bbox_iou": 0,
        "bbox_center_dist": 0,
        "f1": 0,
        "clip_score": 0,
        "clip_triplet": 0,
        "emotion_acc": 1,
        "intensity_acc": 0,
    }
    without = as_json(table5({"a": {}}, References([make_record("a", emotion="awe"), make_record("b")]), resamples=0))
    assert without["bootstrap"] is None
    assert "intervals" not in without["arms"]["a"]
    with pytest.raises(SchemaError, match="resamples: -1"):
        table5({}, References([make_record("a")]), resamples=-1)


def test_one_mode_alone() -> None:
    records, said = sample(10, 0.5)
    # An arm that is called like a mode keeps its place.
    result = as_json(in_modes(table5({"paper": said, "b": said}, References(records), against="b"), ["strict"]))
    assert set(result["arms"]) == {"paper", "b"}
    assert "paper" not in result["arms"]["b"]
    assert "paper" not in result["arms"]["b"]["intervals"]
    assert set(result["paired"]["arms"]["paper"]) == {"strict"}
    assert SCORING_MODES == ("paper", "strict")
