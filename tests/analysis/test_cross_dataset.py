"""The table across data sets: label spaces, figures against plain counting, the command, and both experiments run for real."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from data_prep.demo.world import World
from data_prep.export import write_shards
from emo_lightning.analysis.cross_dataset import cross_dataset
from emo_lightning.analysis.label_spaces import SPACES
from emo_lightning.analysis.references import warn_of_other_images
from emo_lightning.analysis.scored import Scored, probabilities
from emo_lightning.cli import main
from emo_lightning.core.records import EMOTIONS, Emotion, Prediction, Record, SchemaError, read_jsonl, write_jsonl
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.experiment.files import ROOT
from emo_lightning.report.page import read_page
from emo_lightning.report.tables.cross_dataset import cross_page
from tests.analysis import published
from tests.made import as_json, make_prediction, make_record
from tests.worded import worded_qwen  # noqa: F401 - fixture


def scores(**given: float) -> dict[str, float]:
    return {str(e): given.get(str(e), 0.0) for e in EMOTIONS}


# Label spaces


def test_every_emotion_has_a_class_in_every_space() -> None:
    for space in SPACES.values():
        assert space.about
        if space.name == "intensity" or space.task:
            continue
        assert set(space.of_emotion) == set(EMOTIONS)
        # Words of suites that no answer of the eight is.
        without = {"unbiasedemo-6": {"love", "surprise"}, "eemo-7": {"neutral", "surprise"}}.get(space.name, set())
        assert set(space.of_emotion.values()) == set(space.classes) - without


def told(source: str, emotion: str | None = None, **labels: object) -> Record:
    """A record as `emo prep export --labels source` makes it."""
    return make_record("a", source=source, provenance={"source_labels": labels}, emotion=emotion)


def webemo(fine: str, broad: str) -> Record:
    asked = {"WebEmo-25": ["Rage", "cheerfulness", "Zest", "sadness"], "WebEmo-7": ["joy", "love", "anger", "Sadness"]}
    questions = [{"task": task, "candidates": words} for task, words in asked.items()]
    tasks = {"WebEmo-25": fine, "WebEmo-7": broad}
    emotion = broad if broad in ("anger", "sadness") else None
    return told("webemo", emotion, emotion_raw=fine, questions=questions, attributes={"tasks": tasks})


def spaces_of(record: Record) -> dict[str, str]:
    """Space -> class, of the spaces in which the record has one."""
    found = {name: space.among([record]).reference(record) for name, space in SPACES.items()}
    return {name: word for name, word in found.items() if word is not None}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (
            told("unbiasedemo", emotion_raw="joy"),
            {"ekman": "joy", "polarity": "positive", "unbiasedemo-6": "joy", "eemo-7": "joy"},
        ),
        (told("unbiasedemo", emotion_raw="love"), {"polarity": "positive", "unbiasedemo-6": "love"}),
        (told("unbiasedemo", emotion_raw="surprise"), {"unbiasedemo-6": "surprise", "eemo-7": "surprise"}),
        (told("eemo_bench", emotion_raw="neutral"), {"eemo-7": "neutral"}),
        (
            told("unbiasedemo", "fear", emotion_raw="fear"),
            {"eight": "fear", "ekman": "fear", "polarity": "negative", "unbiasedemo-6": "fear", "eemo-7": "fear"},
        ),
        (told("vecbench", valence_level="positive"), {"polarity": "positive"}),
        (told("emoart", emotion_raw="bored", valence_level="negative"), {"polarity": "negative"}),
        # What people in the picture express, and what people were asked about and denied, is not what they felt.
        (told("findingemo", emotion_raw="joy"), {}),
        (told("fi", emotion_raw="fear"), {}),
        (
            webemo("cheerfulness", "joy"),
            {
                "ekman": "joy",
                "polarity": "positive",
                "unbiasedemo-6": "joy",
                "eemo-7": "joy",
                "webemo-7": "joy",
                "webemo-25": "cheerfulness",
            },
        ),
        (
            webemo("rage", "anger"),
            {
                **{"eight": "anger", "ekman": "anger", "polarity": "negative", "unbiasedemo-6": "anger", "eemo-7": "anger"},
                **{"webemo-7": "anger", "webemo-25": "rage"},
            },
        ),
    ],
)
def test_images_of_suites_have_classes_by_their_own_words(record: Record, expected: dict[str, str]) -> None:
    assert spaces_of(record) == expected


def test_ratings_of_people_say_the_polarity_on_their_scale() -> None:
    def rated(mean: float, low: float, high: float, emotion: str | None = None) -> str | None:
        record = make_record("a", source="eemo_bench", emotion=emotion, valence={"mean": mean, "low": low, "high": high})
        return SPACES["polarity"].reference(record)

    assert [rated(8, 1, 9), rated(5, 1, 9), rated(2, 1, 9), rated(5, 0, 6)] == ["positive", None, "negative", "positive"]
    assert rated(8, 1, 9, emotion="fear") == "positive"


def test_webemo_is_answered_by_its_own_words_or_by_the_eight_in_its_tree() -> None:
    fine, broad = (SPACES[name].among([webemo("rage", "anger"), make_record("b")]) for name in ("webemo-25", "webemo-7"))
    assert (fine.classes, broad.classes) == (("cheerfulness", "rage", "sadness", "zest"), ("anger", "joy", "love", "sadness"))
    said = [make_prediction("a", emotion=word) for word in ("Zest", "excitement", "anger", "awe", "disgust", "x")]
    assert [fine.from_words(one) for one in said] == ["zest", "zest", "rage", None, None, None]
    assert [broad.from_words(one) for one in said] == [None, "joy", "anger", "joy", "anger", None]
    spread = np.array(list(scores(awe=0.4, excitement=0.3, anger=0.2, disgust=0.1).values()))
    assert (fine.from_scores(spread), broad.from_scores(spread)) == ("zest", "joy")


def test_a_suite_is_scored_in_its_own_words() -> None:
    records = [
        webemo(*words).model_copy(update={"id": f"w{n}"}) for n, words in enumerate([("rage", "anger"), ("zest", "joy")] * 6)
    ]
    tuned = {r.id: make_prediction(r.id, emotion="anger" if n % 2 == 0 else "joy") for n, r in enumerate(records)}
    base = {r.id: make_prediction(r.id, emotion="anger") for r in records}
    result = as_json(cross_dataset({"base": base, "tuned": tuned}, {"web": (records, "webemo-7")}, "base", "web"))
    assert result["sets"]["web"]["classes"] == {"anger": 6, "joy": 6, "love": 0, "sadness": 0}
    assert [result["arms"][arm]["web"]["accuracy"]["value"] for arm in ("base", "tuned")] == [50, 100]


def test_ekman_adds_the_four_joys_and_leaves_surprise_out() -> None:
    space = SPACES["ekman"]
    spread = scores(amusement=0.15, awe=0.15, contentment=0.1, excitement=0.1, fear=0.3, anger=0.2)
    assert space.from_scores(np.array(list(spread.values()))) == "joy"
    assert space.from_words(make_prediction("a", emotion=" Awe ")) == "joy"
    assert space.from_words(make_prediction("a", emotion="joyful")) is None

    def emotion6(word: str | None, emotion: str | None = None) -> Record:
        labels = {"emotion_scores_raw": {"joy": 0.5}} | ({} if word is None else {"emotion_raw": word})
        return make_record("a", source="emotion6", provenance={"source_labels": labels}, emotion=emotion)

    assert space.reference(emotion6("joy")) == "joy"
    assert space.reference(emotion6("fear", emotion="fear")) == "fear"
    assert space.reference(emotion6("surprise")) is None
    assert space.reference(emotion6(None)) is None
    assert space.reference(make_record("a", emotion="awe")) == "joy"


def test_polarity_and_intensity_of_the_sources() -> None:
    polarity, intensity = SPACES["polarity"], SPACES["intensity"]

    def valence(source: str, value: float) -> str | None:
        return polarity.reference(make_record("a", source=source, provenance={"source_labels": {"valence": value}}))

    assert [valence("findingemo", v) for v in (-1.0, 0.0, 2.0)] == ["negative", None, "positive"]
    assert [valence("emotion6", v) for v in (4.9, 5.0, 5.1)] == ["negative", None, "positive"]
    assert polarity.reference(make_record("a", emotion="awe")) == "positive"
    assert intensity.reference(make_record("a", intensity_level="high")) == "high"
    assert intensity.reference(make_record("a", intensity=4)) == "medium"
    assert [intensity.from_words(make_prediction("a", intensity=v)) for v in (2.0, 7.4, 11.0, None)] == [
        "low",
        "medium",
        None,
        None,
    ]


# The table


def world(images: int = 60) -> tuple[dict[str, dict[str, Prediction]], dict[str, tuple[list[Record], Any]]]:
    """A tuned arm that is right inside and says awe to everything outside; a base that is right for two in five everywhere."""
    rng = np.random.default_rng(0)
    sets: dict[str, tuple[list[Record], Any]] = {}
    base: dict[str, Prediction] = {}
    tuned: dict[str, Prediction] = {}
    for name in ("inside", "outside"):
        records = [make_record(f"{name}{i}", emotion=EMOTIONS[i % 8]) for i in range(images)]
        for i, record in enumerate(records):
            said = record.emotion if i % 5 < 2 else EMOTIONS[(i + 1) % 8]
            base[record.id] = make_prediction(record.id, emotion_scores=scores(**{str(said): 1.0}), emotion="?")
            said = record.emotion if name == "inside" else Emotion.AWE
            soft = {str(said): 0.7, "fear": 0.1, "anger": 0.2} if said not in ("fear", "anger") else {str(said): 1.0}
            tuned[record.id] = make_prediction(record.id, emotion_scores=scores(**soft), emotion=str(said))
        rng.shuffle(records)
        sets[name] = (records, "eight")
    return {"base": base, "tuned": tuned}, sets


def test_collapse_is_seen() -> None:
    predictions, sets = world()
    result = as_json(cross_dataset(predictions, sets, "base", "inside"))
    tuned, base = result["arms"]["tuned"], result["arms"]["base"]
    outside = 100 * sum(r.emotion is Emotion.AWE for r in sets["outside"][0]) / 60
    assert (tuned["inside"]["accuracy"]["value"], base["inside"]["accuracy"]["value"]) == (100, 40)
    assert tuned["outside"]["accuracy"]["value"] == pytest.approx(outside)
    gain = tuned["outside"]["gain"]
    assert gain["difference"] == pytest.approx(outside - 40) == pytest.approx(result["collapse"]["tuned"]["difference"])
    assert gain["interval"] == pytest.approx(result["collapse"]["tuned"]["interval"]), "of one set, the mean is the set's own"
    assert gain["interval"][0] < gain["difference"] < gain["interval"][1] < 0
    assert tuned["inside"]["gain"]["interval"][0] > 0
    assert (result["worst"], result["collapsed"]) == ({"tuned": "outside"}, [["tuned", "outside"]])
    assert (
        cross_page(result)
        .notes[0]
        .startswith(f"tuned has collapsed on outside: {outside:.1f} % where the untuned base has 40.0 %")
    )
    assert (base["inside"]["said"], base["inside"]["unreadable"]) == (0, 60), "words that are no emotion are counted"
    assert tuned["outside"]["predicted"]["awe"] == 60
    assert result["sets"]["outside"]["chance"] == pytest.approx(100 * 8 / 60)
    present = {str(r.emotion) for r in sets["outside"][0]}
    assert tuned["outside"]["macro_recall"] == pytest.approx(100 / len(present))


def test_a_gain_in_intensity_does_not_hide_a_collapse() -> None:
    predictions, sets = world()
    levels = [make_record(f"level{i}", intensity=9) for i in range(30)]
    for arm, said in (("base", 2.0), ("tuned", 9.0)):
        predictions[arm] |= {r.id: make_prediction(r.id, intensity=said) for r in levels}
    result = as_json(cross_dataset(predictions, {**sets, "levels": (levels, "intensity")}, "base", "inside"))
    assert result["arms"]["tuned"]["levels"]["gain"]["difference"] == 100
    alone = as_json(cross_dataset(predictions, sets, "base", "inside"))
    assert result["collapse"] == alone["collapse"]
    assert result["worst"] == {"tuned": "outside"}
    only = as_json(cross_dataset(predictions, {"inside": sets["inside"], "levels": (levels, "intensity")}, "base", "inside"))
    assert only["collapse"] == {"tuned": {"difference": 100, "interval": [100, 100]}}
    assert only["collapsed"] == []


def mcnemar(won: int, lost: int) -> float:
    """Two-sided and exact, by counting coins."""
    tail: float = sum(math.comb(won + lost, k) for k in range(min(won, lost) + 1)) / 2 ** (won + lost)
    return min(1.0, 2 * tail)


def test_intervals_and_p_agree_with_their_formulas() -> None:
    predictions, sets = world()
    result = as_json(cross_dataset(predictions, sets, "base", "inside"))
    for arm, name in (("base", "inside"), ("tuned", "inside"), ("tuned", "outside")):
        found = result["arms"][arm][name]["accuracy"]
        share, n, z = found["value"] / 100, 60, 1.959963984540054
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        assert [found["low"], found["high"]] == pytest.approx([100 * (middle - half), 100 * (middle + half)])
    assert result["arms"]["tuned"]["inside"]["accuracy"]["low"] < 95, "sixty right of sixty is no certainty"

    right = {
        arm: [
            max(said[r.id].emotion_scores or {}, key=(said[r.id].emotion_scores or {}).__getitem__) == r.emotion
            for r in sets["outside"][0]
        ]
        for arm, said in predictions.items()
    }
    pairs = list(zip(right["tuned"], right["base"], strict=True))
    won, lost = pairs.count((True, False)), pairs.count((False, True))
    assert result["arms"]["tuned"]["outside"]["gain"]["p"] == pytest.approx(mcnemar(won, lost))


def test_one_id_of_two_pictures_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """One prediction would answer for both; the same picture in two label spaces is meant so."""
    predictions, sets = world()
    (inside, _), (outside, _) = sets["inside"], sets["outside"]
    cross_dataset(predictions, {**sets, "again": (inside, "polarity")}, "base", "inside")
    other = [inside[0].model_copy(update={"sha256": "f" * 64}), *outside]
    with pytest.raises(SchemaError, match=f"the sets 'inside' and 'outside' have other pictures under the id '{inside[0].id}'"):
        cross_dataset(predictions, {**sets, "outside": (other, "eight")}, "base", "inside")
    warn_of_other_images({"a": make_prediction("a", sha256="e" * 64)}, [make_record("a")], "said.jsonl")
    assert (
        "said.jsonl: 1 of 1 predictions are of other image files than the references of the same id" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "said",
    [
        {"awe": math.nan, "fear": 1.0},
        {"awe": 1.5, "fear": -0.5},
        {"awe": math.inf},
        {"awe": math.inf, "fear": -math.inf},
        {"awe": 1e308, "fear": 1e308},
        {"awe": 0.4, "fear": 0.4},
        {"awe": 0.5, "Awe": 0.5},
        {},
    ],
)
def test_scores_that_are_no_distribution_are_counted_and_not_used(said: dict[str, float]) -> None:
    prediction = make_prediction("a", emotion_scores=said)
    assert probabilities(prediction) is None
    found = Scored.match({"a": prediction}, [make_record("a", emotion=Emotion.AWE)], "said.jsonl")
    assert (len(found), found.skipped) == (0, {"without usable emotion_scores": 1})


def test_three_images_are_no_collapse() -> None:
    predictions, sets = world()
    few = [make_record(f"few{i}", emotion="fear") for i in range(3)]
    for arm, said in (("base", "fear"), ("tuned", "awe")):
        predictions[arm] |= {r.id: make_prediction(r.id, emotion_scores=scores(**{said: 1.0})) for r in few}
    result = as_json(cross_dataset(predictions, {"inside": sets["inside"], "few": (few, "eight")}, "base", "inside"))
    gain = result["arms"]["tuned"]["few"]["gain"]
    assert (gain["interval"], gain["p"], result["collapsed"]) == ([-100, -100], pytest.approx(0.25), [])


def test_images_that_were_trained_on_are_left_out() -> None:
    predictions, sets = world()
    records = [r.model_copy(update={"sha256": f"{i + 1:064x}"}) for i, r in enumerate(sets["outside"][0])]
    both = {"inside": sets["inside"], "outside": (records, "eight")}
    trained = {r.sha256 for r in records[:20]}
    result = as_json(cross_dataset(predictions, both, "base", "inside", trained=trained))
    alone = as_json(cross_dataset(predictions, {**both, "outside": (records[20:], "eight")}, "base", "inside"))
    assert (result["sets"]["outside"]["images"], result["sets"]["outside"]["trained_on"]) == (40, 20)
    assert result["arms"] == alone["arms"]
    assert "outside: 20 images that were trained on are left out" in cross_page(result).notes
    with pytest.raises(SchemaError, match=r"none of 60 references that was not trained on \(60 were\) has a class"):
        cross_dataset(predictions, both, "base", "inside", trained={r.sha256 for r in records})


def test_arms_that_answer_alike_are_named() -> None:
    predictions, sets = world()
    predictions["twin"] = dict(reversed(predictions["tuned"].items()))
    assert as_json(cross_dataset(predictions, sets, "base", "inside"))["alike"] == [["tuned", "twin"]]
    notes = cross_page(as_json(cross_dataset(predictions, sets, "base", "inside"))).notes
    assert any(note.startswith("tuned, twin answered every image alike, to the last digit") for note in notes)
    first = sets["inside"][0][0].id
    predictions["twin"][first] = predictions["twin"][first].model_copy(update={"intensity": 3.0})
    assert as_json(cross_dataset(predictions, sets, "base", "inside"))["alike"] == []


def test_what_is_missing_counts_as_wrong_and_is_counted() -> None:
    predictions, sets = world()
    first, second = (record.id for record in sets["inside"][0][:2])
    del predictions["tuned"][first]
    predictions["tuned"][second] = make_prediction(second, emotion_scores={"awe": float("nan")})
    row = as_json(cross_dataset(predictions, sets, "base", "inside"))["arms"]["tuned"]["inside"]
    assert (row["missing"], row["unscored"], row["accuracy"]["value"]) == (1, 1, pytest.approx(100 * 58 / 60))
    words = {
        arm: {k: p.model_copy(update={"emotion_scores": None}) for k, p in said.items()} for arm, said in predictions.items()
    }
    row = as_json(cross_dataset(words, sets, "base", "inside"))["arms"]["tuned"]["inside"]
    assert (row["by"], row["missing"], row["unreadable"]) == ("words", 1, 1)
    notes = cross_page(as_json(cross_dataset(words, sets, "base", "inside"))).notes
    assert "base, inside: 60 of 60 answers name no class of the set and count as wrong" in notes


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    predictions, sets = world(24)
    words = ["cross-dataset", "--base", "base", "--in-domain", "inside"]
    for arm, said in predictions.items():
        write_jsonl(tmp_path / f"{arm}.jsonl", list(said.values()))
        words += ["--arm", f"{arm}={tmp_path / arm}.jsonl"]
    for name, (records, _) in sets.items():
        write_jsonl(tmp_path / f"{name}.refs.jsonl", records)
        words += ["--set", f"{name}{':polarity' if name == 'outside' else ''}={tmp_path / name}.refs.jsonl"]
    return words


def test_the_command(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--json", "--out", str(tmp_path / "out")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "out" / "cross_dataset.json").read_text())
    assert result["arms"]["tuned"]["outside"]["accuracy"]["value"] == 50, "awe is positive, as half of the images are"
    assert "positive" in result["sets"]["outside"]["map"]
    assert len(read_page(tmp_path / "out" / "page.json").tables) == 4
    assert main(command) == 0
    assert "collapse" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("base", "foo"), "base: 'foo' is unknown; allowed: base, tuned"),
        (("inside", "foo"), "in_domain: 'foo' is unknown; allowed: inside, outside"),
        (("--arm", "tuned"), "--arm tuned: expected NAME=FILE"),
        (("--set", "x:nine=y.jsonl"), "unknown label space 'nine'; allowed: eight, ekman, polarity, intensity"),
        (("--set", "inside=y.jsonl"), "--set inside: given twice"),
        (("empty", ""), "none of 24 references has a class in the label space 'intensity'"),
    ],
)
def test_bad_input_is_one_clear_line(
    change: tuple[str, str], message: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key, value = change
    if key.startswith("--"):
        command += [key, value]
    elif key == "empty":
        command += ["--set", f"other:intensity={tmp_path / 'inside.refs.jsonl'}"]
    else:
        command[command.index(key)] = value
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_one_image_has_no_interval(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_jsonl(tmp_path / "r.jsonl", [make_record("a", emotion="awe")])
    write_jsonl(tmp_path / "p.jsonl", [make_prediction("a", emotion="awe")])
    arms = [x for arm in "bt" for x in ("--arm", f"{arm}={tmp_path / 'p.jsonl'}")]
    words = ["cross-dataset", *arms, "--set", f"s={tmp_path / 'r.jsonl'}", "--base", "b", "--in-domain", "s"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["arms"]["t"]["s"]["gain"] == {"difference": 0.0, "interval": None, "p": None}
    assert result["collapse"] == {}
    assert main(words) == 0
    assert "one image, so there are no intervals" in capsys.readouterr().out


# The experiments, through the command line on a tiny model


SHORT = [
    "--trainer.max_steps",
    "1",
    "--trainer.limit_val_batches",
    "1",
    "--trainer.enable_progress_bar",
    "false",
    "--trainer.logger",
    "[{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: '${run.out}', name: logs}}]",
    "--model.max_new_tokens",
    "3",
]


def shortened(name: str, folder: Path, keep: tuple[str, ...]) -> Path:
    """A shipped experiment with some of its arms: the same stages, fewer of them."""
    tree = yaml.safe_load((ROOT / "experiments" / f"{name}.yaml").read_text())
    for stage in tree["stages"].values():
        if "foreach" in stage:
            stage["foreach"] = {"arm": [a for a in stage["foreach"]["arm"] if a in keep]}
        if isinstance(stage.get("predictions"), dict):
            stage["predictions"] = {k: v for k, v in stage["predictions"].items() if k in ("base", *keep)}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def published_tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with `tars/NAME/`: small trees of all five sets, imported and exported by the commands that the experiment names."""
    folder = tmp_path_factory.mktemp("published")
    trees = {
        "emoset": published.emoset(folder / "EmoSet-118K", {"train": 16, "val": 8, "test": 10}),
        "fi": published.fi(folder / "FI", 12),
        "emotion6": published.emotion6(folder / "Emotion6", 16),
        "artemis": published.artemis(folder / "ArtEmis", 40),
        "findingemo": published.findingemo(folder / "FindingEmo", 12),
    }
    store = str(folder / "store")
    for name, tree in trees.items():
        assert main(["prep", "import", name, str(tree), "--into", store]) == 0
        out = str(folder / "tars" / name)
        assert main(["prep", "export", store, out, "--name", name, "--labels", "source", "--sources", name]) == 0
    return folder / "tars"


@pytest.mark.slow
def test_cross_dataset_from_the_published_trees_to_the_page(
    published_tars: Path,
    worded_qwen: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`emo prep import`, `emo prep export`, `emo run`: every image of every set is where its source's own words put it."""
    monkeypatch.chdir(published_tars.parent)
    path = shortened("cross_dataset", tmp_path, ("hard", "soft", "distribution"))
    words = ["run", str(path), "--runs", str(tmp_path / "runs"), *SHORT, "--vars.backbone", str(worded_qwen)]
    words += [
        "--vars.precision",
        "32-true",
        "--vars.num_workers",
        "0",
        "--vars.devices",
        "1",
        "--data.max_tokens",
        "null",
        "--data.batch_size",
        "8",
    ]
    words += ["--vars.train", "tars/emoset/emoset-train-*.tar", "--vars.val", "tars/emoset/emoset-val-*.tar"]
    assert main(words) == 0
    run = tmp_path / "runs" / "cross-dataset"
    result = json.loads((run / "cross_dataset" / "cross_dataset.json").read_text())
    found = {name: (a["space"], a["images"], a["without_class"], a["trained_on"]) for name, a in result["sets"].items()}
    assert found == {
        "emoset": ("eight", 10, 0, 0),
        # People disagreed with one image: it has no label, and is not exported.
        "fi": ("eight", 11, 0, 0),
        # One image in eight is of surprise.
        "emotion6": ("ekman", 14, 2, 0),
        "artemis": ("eight", 3, 0, 0),
        "findingemo": ("intensity", 12, 0, 0),
    }
    records = {name: TarIndex.open(f"tars/{name}/*.tar") for name in result["sets"]}
    world = World(seed=0, style="dusk")
    joys = sum(s.truth.emotion in EMOTIONS[:4] for n, s in enumerate(world.samples("train", 16, 1000)) if n % 8 != 7)
    assert result["sets"]["emotion6"]["classes"]["joy"] == joys
    levels = [str(s.truth.intensity_level) for s in world.samples("train", 12, 3000)]
    assert result["sets"]["findingemo"]["classes"] == {level: levels.count(level) for level in ("low", "medium", "high")}
    assert all(index.record(0).source == name for name, index in records.items())

    # Every answer that is scored is one that the arm gave to that image.
    for arm in ("base", "hard", "soft", "distribution"):
        said = {p.id: p for p in read_jsonl(run / f"predict-{arm}" / "predictions.jsonl", Prediction)}
        index = records["fi"]
        right = 0
        for row in range(len(index)):
            record, given = index.record(row), said[index.record(row).id].emotion_scores or {}
            right += max(given, key=given.__getitem__) == record.emotion
        assert result["arms"][arm]["fi"]["accuracy"]["value"] == pytest.approx(100 * right / 11)

    # EmoSet names no distribution, so soft labels are hard ones: that is said, and never passed off as a remedy.
    assert ["hard", "soft"] in result["alike"]
    soft = json.loads((run / "sft-soft" / "training.json").read_text())
    assert (soft["steps"], soft["images"], soft["skipped"]) == (1, {"train": 16, "val": 8}, {"train": 0, "val": 0})
    assert soft["labels"]["train"] == {"emotion": 16, "emotion_scores": 0}
    assert "soft labels are hard ones" in soft["remarks"][0]
    assert json.loads((run / "sft-hard" / "training.json").read_text())["remarks"] == []
    text = (run / "report.html").read_text()
    for expected in (
        "Across data sets",
        "hard, soft answered every image alike",
        "emotion6, n=14",
        "images of surprise",
        " out of the domain</small>",
        "What was trained",
        "soft labels are hard ones",
        "FI asked people for one emotion alone",
    ):
        assert expected in text, expected
    calibration = json.loads((run / "calibration" / "calibration.json").read_text())
    assert calibration["arms"]["hard"]["fit"]["images"] == 8
    for name in ("emoset", "fi", "emotion6", "artemis", "findingemo"):
        manifest = published_tars / name / "manifest.json"
        assert hashlib.sha256(manifest.read_bytes()).hexdigest() in text, name


@pytest.mark.slow
def test_demo_cross_runs(worded_qwen: Path, world_tars: Path, tmp_path: Path) -> None:  # noqa: F811
    path = shortened("demo_cross", tmp_path, ("distribution", "replay"))
    held = World(seed=0).samples("heldout", 8)
    write_shards(((sample.truth, sample.image, sample.extension) for sample in held), tmp_path / "held", "world", 8)
    held_out = f"{tmp_path}/held/*.tar"
    words = ["run", str(path), "--runs", str(tmp_path / "runs"), *SHORT, "--vars.neutral", str(worded_qwen)]
    words += [
        "--vars.base_images",
        "16",
        "--vars.tars",
        str(world_tars),
        "--vars.restyled",
        "6",
        "--cross_dataset.sets.heldout.references",
        f"['{held_out}']",
    ]
    words += [
        "--vars.reference",
        str(world_tars),
        "--data.sets.heldout",
        f"['{held_out}']",
        "--calibration.sets.heldout",
        f"['{held_out}']",
    ]
    assert main(words) == 0
    run = tmp_path / "runs" / "demo-cross"
    result = json.loads((run / "cross_dataset" / "cross_dataset.json").read_text())
    assert {name: about["images"] for name, about in result["sets"].items()} == {"test": 8, "heldout": 8, "dusk": 6}
    assert (run / "calibration" / "page.json").exists()
