from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score

from emo_lightning.analysis.baselines import MEAN_BOX, MEDIAN_BOX, ConstantAnswer
from emo_lightning.analysis.references import References, load_predictions
from emo_lightning.analysis.table5 import Table5, in_modes, table5
from emo_lightning.analysis.table5_rows import SCORING_MODES, TABLE5_ROWS, definition
from emo_lightning.core.records import Prediction, Record, SchemaError, write_jsonl
from emo_lightning.metrics.clip import ClipScorer, cosine01
from emo_lightning.metrics.scores import quadratic_kappas
from tests.made import as_json, make_prediction, make_record

BOX = (0.0, 0.0, 10.0, 10.0)
HALF = (5.0, 0.0, 15.0, 10.0)  # IoU 1/3, dice 1/2 with BOX
FAR = (80.0, 30.0, 90.0, 40.0)


def column(predictions: list[Prediction | None], records: list[Record]) -> dict[str, Any]:
    table = Table5()
    table.update(predictions, records)
    return as_json(table.compute())


def test_boxes_by_hand() -> None:
    """Truth BOX and FAR; predicted HALF alone: paper looks at the pair it found, strict charges for the other."""
    got = column([make_prediction("a", [HALF])], [make_record("a", [BOX, FAR])])
    near = 1 - 5 / np.hypot(15, 10)
    assert got["paper"]["bbox_iou"] == pytest.approx(100 / 3)
    assert got["paper"]["f1"] == pytest.approx(50)
    assert got["paper"]["bbox_center_dist"] == pytest.approx(100 * near)
    assert got["strict"]["bbox_iou"] == pytest.approx(100 / 6)
    assert got["strict"]["bbox_center_dist"] == pytest.approx(50 * near)
    assert got["strict"]["f1"] == 0


def test_strict_f1_counts_boxes_over_all_images() -> None:
    records = [make_record("a", [BOX, FAR]), make_record("b", [BOX])]
    got = column([make_prediction("a", [BOX, HALF]), make_prediction("b", [BOX])], records)
    assert got["strict"]["f1"] == pytest.approx(100 * 2 * 2 / (3 + 3))


def test_none_matched_is_zero_and_unannotated_is_not_scored() -> None:
    records = [make_record("a", [BOX]), make_record("b", [BOX]), make_record("c")]
    got = column([make_prediction("a", [FAR]), make_prediction("b"), make_prediction("c", [BOX])], records)
    assert got["paper"]["bbox_iou"] == got["strict"]["bbox_iou"] == got["paper"]["f1"] == 0
    assert got["counts"]["references_without_box"] == 1


def test_nothing_annotated_gives_no_number() -> None:
    got = column([make_prediction("a")], [make_record("a")])
    assert all(value is None for mode in SCORING_MODES for value in got[mode].values())


def test_emotion_exact_folded_unparsable() -> None:
    records = [make_record(str(n), emotion="awe") for n in range(5)]
    said = [make_prediction(str(n), emotion=e) for n, e in enumerate(["awe", " Awe ", "joy", None])]
    got = column([*said, None], records)
    assert got["paper"]["emotion_acc"] == 20
    assert got["strict"]["emotion_acc"] == 40
    assert got["strict"]["parse_failure"] == 60
    assert got["counts"]["missing_predictions"] == 1


def test_intensity_by_hand() -> None:
    records = [make_record(str(n), intensity=i) for n, i in enumerate([2, 5, 8, 3])]
    said = [make_prediction("0", intensity=3), make_prediction("1", intensity=8), make_prediction("2"), None]
    got = column(said, records)
    assert got["paper"]["intensity_acc"] == pytest.approx(100 * (0.9 + 0.7) / 4)
    assert got["strict"]["intensity_acc"] == got["paper"]["intensity_acc"]
    assert got["strict"]["intensity_level_acc"] == 25
    assert got["counts"]["unparsable_intensities"] == 2
    # No answer stands at the far end of the scale: 8 -> 1, 3 -> 10.
    kappa = cohen_kappa_score([2, 5, 8, 3], [3, 8, 1, 10], weights="quadratic", labels=range(1, 11))
    assert got["strict"]["intensity_kappa"] == pytest.approx(100 * kappa)


@pytest.mark.parametrize("said", [float("nan"), float("inf"), -40.0, 900.0])
def test_intensity_off_the_scale_is_wrong(said: float) -> None:
    got = column([make_prediction("a", intensity=said)], [make_record("a", intensity=5)])
    assert got["paper"]["intensity_acc"] == got["strict"]["intensity_level_acc"] == 0
    assert got["counts"]["unparsable_intensities"] == 1


def test_level_alone_on_either_side() -> None:
    records = [make_record("a", intensity_level="low"), make_record("b", intensity=9)]
    got = column([make_prediction("a", intensity=2), make_prediction("b", intensity_level="High")], records)
    assert got["strict"]["intensity_level_acc"] == 100
    assert got["paper"]["intensity_acc"] == 0  # of "b" alone, which has no number


def test_kappa_agrees_with_sklearn() -> None:
    rng = np.random.default_rng(0)
    confusions, expected = np.zeros((20, 10, 10)), []
    for confusion in confusions:
        truth, said = rng.integers(0, 10, (2, 50))
        np.add.at(confusion, (truth, said), 1)
        expected.append(cohen_kappa_score(truth, said, weights="quadratic", labels=range(10)))
    assert quadratic_kappas(confusions) == pytest.approx(expected, abs=1e-12)
    assert np.isnan(quadratic_kappas(np.stack([np.zeros((3, 3)), np.diag([4.0, 0, 0])]))).all()


def test_paired_with_another_record() -> None:
    with pytest.raises(ValueError, match="'b' was paired with reference 'a'"):
        Table5().update([make_prediction("b")], [make_record("a")])


def test_constant_answer() -> None:
    records = [
        make_record("a", [(0, 0, 50, 25)], emotion="fear", intensity=2, description="x"),
        make_record("b", [(50, 25, 100, 50)], emotion="awe", intensity=5, description="y"),
        make_record("c", [(50, 25, 100, 50)], emotion="fear", intensity=9, description="y"),
    ]
    mean, median = ConstantAnswer(records, "mean"), ConstantAnswer(records, "median")
    said = mean(make_record("z", width=300, height=60))
    assert (said.emotion, said.intensity, said.description) == ("fear", 5, "y")
    assert said.objects[0].bbox == pytest.approx((100, 20, 250, 50))
    assert median(records[0]).objects[0].bbox == pytest.approx((50, 25, 100, 50))
    with pytest.raises(ValueError, match="'mode'; allowed"):
        ConstantAnswer(records, "mode")  # type: ignore[arg-type]


def test_breakdown_by_emotion_and_confusion() -> None:
    records = [make_record(str(n), emotion=e, intensity=i) for n, (e, i) in enumerate([("awe", 3), ("awe", 4), ("fear", 9)])]
    said = [make_prediction("0", emotion="AWE", intensity=3), make_prediction("1", emotion="fear", intensity=9), None]
    got = column(said, records)
    cells = {
        (t, c): n
        for t, row in zip(got["confusion"]["rows"], got["confusion"]["counts"], strict=True)
        for c, n in zip(got["confusion"]["columns"], row, strict=True)
        if n
    }
    assert cells == {("awe", "awe"): 1, ("awe", "fear"): 1, ("fear", "no emotion"): 1}
    awe, fear = got["by_emotion"]["awe"], got["by_emotion"]["fear"]
    assert (awe["images"], awe["precision"], awe["recall"]) == (2, 100, 50)
    assert awe["f1"] == pytest.approx(200 / 3)
    assert awe["strict"]["intensity_acc"] == pytest.approx(75)
    assert (fear["precision"], fear["recall"], fear["strict"]["parse_failure"]) == (0, 0, 100)
    assert got["by_emotion"]["anger"]["recall"] is None
    assert got["by_emotion"]["anger"]["strict"]["emotion_acc"] is None


def test_result_is_json_and_says_where_constants_come_from() -> None:
    references = References([make_record("a", [BOX], emotion="awe", intensity=3, description="a dog")])
    alone = table5({"base": {}}, references)
    assert json.loads(json.dumps(alone, allow_nan=False))["baselines"][MEAN_BOX]["paper"]["emotion_acc"] == 100
    assert alone["baseline_source"] == "the references themselves"
    assert alone["arms"]["base"]["strict"]["parse_failure"] == 100
    assert alone["arms"]["base"]["paper"]["clip_score"] is None
    assert list(alone["arms"]["base"]["strict"]) == [row.key for row in TABLE5_ROWS["strict"]]
    train = References([make_record("t", [FAR], emotion="fear")])
    trained = table5({}, references, train)
    assert trained["baseline_source"] == "1 records of the training set"
    assert trained["baselines"][MEDIAN_BOX]["paper"]["emotion_acc"] == 0
    assert alone["definition"] == definition()


def test_clip_rows_with_tars(clip_folder: Path, make_tar: Callable[[list[Record]], tuple[Path, list[Record]]]) -> None:
    tar, _ = make_tar([make_record(str(n), [BOX], description=d) for n, d in enumerate(["a red dog", "the storm", "a cat"])])
    references = References.load(tar)
    scorer = ClipScorer.load(str(clip_folder))
    said = {"0": make_prediction("0", description="a red dog"), "1": make_prediction("1", description="  ")}
    got = table5({"base": said}, references, scorer=scorer, batch_size=2)["arms"]["base"]
    # Equal text: 1; blank and missing replies: 0.
    assert got["paper"]["clip_score"] == pytest.approx(100 / 3, abs=1e-4)
    (alone,) = cosine01(scorer.images([references.image(0)]), scorer.texts(["a red dog"]))
    assert got["strict"]["clip_image_text"] == pytest.approx(100 * alone / 3, abs=1e-4)


def test_clip_equals_transformers(clip_folder: Path) -> None:
    from transformers import AutoTokenizer, CLIPModel

    texts = ["a red dog runs on the beach", "the storm"]
    model, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), AutoTokenizer.from_pretrained(clip_folder)
    with torch.no_grad():
        one = [model.get_text_features(**tokenizer(t, return_tensors="pt")).pooler_output[0] for t in texts]
    expected = (torch.nn.functional.cosine_similarity(one[0], one[1], dim=0) + 1) / 2
    scorer = ClipScorer.load(str(clip_folder))
    assert scorer.text_text([texts[0]], [texts[1]])[0] == pytest.approx(expected.item(), abs=1e-6)
    scorer.texts(["a " * 50, "a dog"])
    assert scorer.truncated == 1
    assert scorer.texts([]).shape == scorer.images([]).shape == (0, 8)


def test_a_model_that_is_not_clip(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="'bert'; expected 'clip'"):
        ClipScorer.load(str(tmp_path))


def test_of_a_file_with_several_splits_that_of_the_references_is_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a probe writes it: validation for calibration, and what is tested. An unknown image of a split that is scored is a mistake."""
    references = References([make_record("a"), make_record("b")])
    said = [make_prediction(name, split=split) for name, split in (("v", "val"), ("w", "val"), ("a", "test"))]
    write_jsonl(tmp_path / "probe.jsonl", said)
    assert load_predictions(tmp_path / "probe.jsonl", references).keys() == {"a"}
    assert "predictions of other splits than the references' are left out: 2 of 'val'" in capsys.readouterr().err
    write_jsonl(tmp_path / "wrong.jsonl", [*said, make_prediction("c", split="test")])
    with pytest.raises(SchemaError, match=r"1 of 2 prediction ids are not among the 2 references, e\.g\. 'c'"):
        load_predictions(tmp_path / "wrong.jsonl", references)
    write_jsonl(tmp_path / "none.jsonl", said[:2])
    with pytest.raises(SchemaError, match="2 of 2 prediction ids are not among"):
        load_predictions(tmp_path / "none.jsonl", references)


def test_wrong_files(tmp_path: Path) -> None:
    references = References([make_record("a")])
    write_jsonl(tmp_path / "unknown.jsonl", [make_prediction("a"), make_prediction("b")])
    with pytest.raises(SchemaError, match=r"1 of 2 prediction ids are not among the 1 references, e\.g\. 'b'"):
        load_predictions(tmp_path / "unknown.jsonl", references)
    write_jsonl(tmp_path / "twice.jsonl", [make_prediction("a"), make_prediction("a")])
    with pytest.raises(SchemaError, match=r"twice.jsonl: prediction id 'a' occurs twice"):
        load_predictions(tmp_path / "twice.jsonl", references)
    write_jsonl(tmp_path / "records.jsonl", [make_record("a"), make_record("a")])
    with pytest.raises(SchemaError, match="reference id 'a' occurs twice"):
        References.load(tmp_path / "records.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(SchemaError, match="no record"):
        References.load(tmp_path / "empty.jsonl")
    with pytest.raises(SchemaError, match="not none and not both"):
        References.load(["x.jsonl", "y.tar"])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        References.load("nowhere.jsonl")
    with pytest.raises(SchemaError, match="give the tars instead"):
        references.image(0)


def test_every_split_alone_is_scored_as_if_it_were_all() -> None:
    """With the same training records behind the baselines, and the same resamples."""
    rng = np.random.default_rng(0)
    emotions = ["awe", "fear", "anger"]
    records = [
        make_record(f"i{n:03}", [BOX], emotion=emotions[n % 3], intensity=5, split="heldout" if n % 3 == 1 else "test")
        for n in range(90)
    ]
    said = {
        r.id: make_prediction(r.id, [HALF], emotion=str(rng.choice(emotions)), intensity=int(rng.integers(1, 11)))
        for r in records
    }
    train = References([make_record(f"t{n}", [BOX], emotion=emotions[n % 2], intensity=n % 9 + 1) for n in range(30)])
    found = as_json(table5({"a": said, "b": {}}, References(records), train, resamples=50))
    assert found["split"] == "heldout, test"
    for split, one in found["by_split"].items():
        own = [record for record in records if record.split == split]
        alone = as_json(table5({"a": said, "b": {}}, References(own), train, resamples=50))
        assert one["references"] == len(own)
        assert "by_split" not in alone
        for side in ("arms", "baselines"):
            for name, column in one[side].items():
                assert column == {
                    key: alone[side][name][key] for key in ("paper", "strict", "counts", "support", "intervals")
                }, name
    strict = in_modes(table5({"a": said}, References(records), train, resamples=0), ["strict"])
    assert set(as_json(strict)["by_split"]["test"]["arms"]["a"]) == {"strict", "counts", "support"}
