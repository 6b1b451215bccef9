"""Valence, arousal and dominance against people's ratings: values, intervals, what has no answer, anchors by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional import concordance_corrcoef, pearson_corrcoef, spearman_corrcoef

from emo_lightning.analysis.affect import affect_scores
from emo_lightning.commands.eval import main
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, Prediction, Reference
from emo_lightning.metrics.correlation import concordance
from emo_lightning.metrics.emotion_space import read_anchors


def _references(valence: list[float]) -> list[Reference]:
    return [
        Reference.model_validate({"id": f"i{n}", "valence": {"mean": value, "std": 1, "low": 1, "high": 9}})
        for n, value in enumerate(valence)
    ]


def test_three_correlations_are_those_of_the_library_on_minus_one_to_one() -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(1, 9, 40)
    said = (truth - 5) / 4 * 0.3 + random.normal(0, 0.1, 40)
    predictions = {f"i{n}": Prediction(id=f"i{n}", valence=float(value)) for n, value in enumerate(said)}
    scores = affect_scores({"m": predictions}, _references(truth.tolist()))["arms"]["m"]
    assert scores.keys() == {"valence"}
    x, y = torch.tensor((truth - 5) / 4), torch.tensor(said)
    for name, function in (("srcc", spearman_corrcoef), ("plcc", pearson_corrcoef), ("ccc", concordance_corrcoef)):
        found = scores["valence"][name]  # type: ignore[literal-required]
        # The library takes variances over n - 1, Lin over n.
        assert found["value"] == pytest.approx(float(function(y, x)), abs=5e-3 if name == "ccc" else 1e-6)
        assert found["low"] < found["value"] < found["high"]
    assert scores["valence"]["ccc"]["value"] is not None
    assert scores["valence"]["plcc"]["value"] is not None
    # A third of the scale: the values rise and fall with people's, and are not theirs.
    assert scores["valence"]["ccc"]["value"] < scores["valence"]["plcc"]["value"] - 0.1


def test_concordance_over_resamples_is_that_of_the_repeated_pairs() -> None:
    x, y = np.array([0.0, 1.0, 3.0]), np.array([0.5, 1.0, 2.0])
    weights = np.array([[1.0, 2.0, 3.0], [1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    found = concordance(x, y, weights)
    # 2 cov / (var x + var y + (mean x - mean y)^2) by hand, with the counts of each column.
    assert found[0] == pytest.approx(2 * (7 / 9) / (14 / 9 + 7 / 18 + (4 / 3 - 7 / 6) ** 2))
    assert found[1] == pytest.approx(2 * 1.0 / (2.0 + 0.5 + 0.0))
    assert found[2] == 0
    assert np.isnan(concordance(np.ones(2), np.ones(2), np.ones((2, 1))))[0]


def test_what_has_no_answer_is_counted_and_in_no_correlation() -> None:
    predictions = {
        "i0": Prediction(id="i0", valence=0.1),
        "i1": Prediction(id="i1", valence=float("nan")),
        "i3": Prediction(id="i3"),
    }
    scores = affect_scores({"m": predictions}, _references([2, 3, 4, 5]), resamples=10)["arms"]["m"]["valence"]
    assert (scores["images"], scores["missing"], scores["plcc"]["value"]) == (1, 3, None)


def test_anchors_disagree_on_awe_and_say_their_source() -> None:
    ddes, norms = read_anchors("ddes"), read_anchors("eemo_logic")
    assert (ddes.points["awe"], norms.points["awe"]) == ([-0.062, 0.480], [0.4625, -0.2925])
    assert "2605.26262" in ddes.source
    with pytest.raises(InputError, match="expected a YAML file with source and points, or one of ours: ddes, eemo_logic"):
        read_anchors("warriner")
    predictions = {f"i{n}": Prediction(id=f"i{n}", emotion_scores={str(e): 1.0}) for n, e in enumerate(EMOTIONS)}
    references = _references([7.0, 5.0, 7.0, 7.0, 2.0, 2.0, 2.0, 2.0])
    found = affect_scores({"m": predictions}, references, ddes)
    assert (found["anchors"], found["arms"]["m"]["valence"]["from_anchors"]) == (ddes.source, 8)
    plcc = found["arms"]["m"]["valence"]["plcc"]["value"]
    assert plcc == pytest.approx(np.corrcoef([7, 5, 7, 7, 2, 2, 2, 2], [ddes.points[str(e)][0] for e in EMOTIONS])[0, 1])
    assert affect_scores({"m": predictions}, references, norms)["arms"]["m"]["valence"]["plcc"]["value"] != plcc
    assert affect_scores({"m": predictions}, references)["arms"]["m"]["valence"]["images"] == 0


def test_eval_prints_them_where_references_have_ratings_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    references, predictions = tmp_path / "references.jsonl", tmp_path / "predictions.jsonl"
    references.write_text("".join(one.to_json().decode() + "\n" for one in _references([2, 3, 5, 8])))
    predictions.write_text(
        "".join(json.dumps({"id": f"i{n}", "emotion_scores": {"awe": n / 4, "fear": 1 - n / 4}}) + "\n" for n in range(4))
    )
    command = [str(predictions), str(references), "--resamples", "20", "--anchors", "ddes"]
    assert main([*command, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["affect"]["arms"]["predictions"]["valence"]["srcc"]["value"] == pytest.approx(1)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "Valence SRCC" in said
    assert "norms disagree" in " ".join(said.split())
