"""Published suites as sources: one image with all that is asked of it, labels by name, what cannot be used with its place."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from data_prep.sources.base import SourceError
from data_prep.sources.labels import source_record
from data_prep.store.rows import Item
from data_prep.store.store import Store
from emo_lightning.analysis.label_spaces import SPACES
from emo_lightning.cli import main
from emo_lightning.core.records import Rating, Record
from emo_lightning.data.tar_index import TarIndex
from tests.core.suites.trees import assessed, mvei, pair_row, vecbench_line
from tests.data_prep.sources.trees import read, said, write


def _records(name: str, root: Path, tmp_path: Path) -> dict[str, Record]:
    """As an export by the labels of the source has them."""
    from data_prep.sources import open_source

    with Store(tmp_path / "store", write=True) as store:
        store.import_items(open_source(name).read(root))
        items: list[Item] = list(store.ledger.items())
    return {item.origin or "": record for item in items if (record := source_record(item)) is not None}


def test_statements_are_carried(tmp_path: Path) -> None:
    rows = {
        "1": mvei(),
        "2": mvei(verdict="incorrect", kind="emotion interpretation"),
        "3": mvei(image="../benchmarks/gone.jpg"),
    }
    items, refused, _ = read("mvei", write(tmp_path, {"MVEI/Std-MVEI.json": {**rows, "4": {}}, "MVEI/images/a.jpg": 1}))
    (item,) = items.values()
    assert (list(items), item.split) == (["MVEI/images/a.jpg"], "test")
    assert [(q["id"], q["task"], q["truth"]) for q in _questions(item.labels)] == [
        ("1", "scene context", "correct"),
        ("2", "emotion interpretation", "incorrect"),
    ]
    assert said(refused, tmp_path) == [
        "MVEI/Std-MVEI.json[3]: no such file: '../benchmarks/gone.jpg', whole or from any of its folders on, "
        "in the folder or in images/ or benchmarks/",
        "MVEI/Std-MVEI.json[4]: no key 'image_path'; found: no keys",
    ]


def _questions(labels: dict[str, object]) -> list[dict[str, Any]]:
    found = labels["questions"]
    assert isinstance(found, list)
    return found


LINES = [
    vecbench_line("FI/a.jpg", "FI-8", ["sadness", "awe"], "awe"),
    vecbench_line("FI/a.jpg", "FI-2", ["positive", "negative"], "positive"),
    vecbench_line("Artphoto/b.jpg", "Artphoto-8", ["sad", "awe"], "sad"),
    vecbench_line("WebEmo/c.jpg", "WebEmo-25", ["cheerfulness", "rage"], "rage"),
    vecbench_line("WebEmo/c.jpg", "WebEmo-7", ["joy", "anger"], "anger"),
    vecbench_line("UnbiasedEmo/d.jpg", "UnbaisedEmo-6", ["love", "joy"], "love"),
    vecbench_line("Abstract/e.jpg", "Abstract-8", ["awe", "fear"], "joy"),
]
PICTURES = {
    f"images/{name}.jpg": seed for seed, name in enumerate(("FI/a", "Artphoto/b", "WebEmo/c", "UnbiasedEmo/d", "Abstract/e"), 1)
}


def test_tasks_of_one_image_are_one_record_and_labels_go_by_name(tmp_path: Path) -> None:
    items, refused, _ = read("vecbench", write(tmp_path, {"test_8k.jsonl": "".join(LINES), **PICTURES}))
    seen = {
        key.removeprefix("images/"): tuple(item.labels.get(name) for name in ("emotion", "emotion_raw", "valence_level"))
        for key, item in items.items()
    }
    assert seen == {
        "FI/a.jpg": ("awe", "awe", "positive"),
        "Artphoto/b.jpg": ("sadness", "sad", None),
        "WebEmo/c.jpg": ("anger", "rage", None),
        "UnbiasedEmo/d.jpg": (None, "love", None),
    }
    assert said(refused, tmp_path) == ["test_8k.jsonl:7: ground_truth 'joy' is none of the candidates awe, fear"]


def test_a_polarity_in_other_words_stays_a_word_of_its_task(tmp_path: Path) -> None:
    lines = [vecbench_line("WebEmo/c.jpg", "WebEmo-2", ["Pleasant", "Unpleasant"], "Unpleasant"), LINES[4]]
    items, refused, _ = read("vecbench", write(tmp_path, {"test_8k.jsonl": "".join(lines), **PICTURES}))
    (item,) = items.values()
    assert refused == []
    assert (item.labels.get("emotion"), item.labels.get("valence_level")) == ("anger", None)
    assert item.labels["attributes"] == {"tasks": {"WebEmo-7": "anger", "WebEmo-2": "unpleasant"}}


@pytest.mark.parametrize(
    ("name", "key"),
    [("webemo", "WebEmo/c"), ("unbiasedemo", "UnbiasedEmo/d"), ("artphoto", "Artphoto/b"), ("abstract", "Abstract/e")],
)
def test_sets_out_of_vecbench(name: str, key: str, tmp_path: Path) -> None:
    lines = "".join([*LINES[:-1], vecbench_line("Abstract/e.jpg", "Abstract-8", ["awe", "fear"], "fear")])
    items, refused, _ = read(name, write(tmp_path, {"input_data/test_8k.jsonl": lines, **PICTURES}))
    assert (list(items), refused) == ([f"images/{key}.jpg"], [])


def test_own_layouts_of_unbiasedemo_and_artphoto(tmp_path: Path) -> None:
    write(tmp_path / "u", {"joy/dog/1.jpg": 1, "fear/dog/2.jpg": 2, "hope/dog/3.jpg": 3})
    items, refused, _ = read("unbiasedemo", tmp_path / "u")
    assert {key: (item.labels["emotion_raw"], item.labels.get("emotion")) for key, item in items.items()} == {
        "joy/dog/1.jpg": ("joy", None),
        "fear/dog/2.jpg": ("fear", "fear"),
    }
    assert said(refused, tmp_path / "u") == ["hope: unknown emotion 'hope'; allowed: anger, fear, joy, love, sadness, surprise"]
    write(tmp_path / "p", {"testImages_artphoto/sad_0001.jpg": 1, "testImages_artphoto/glad_0001.jpg": 2})
    items, refused, _ = read("artphoto", tmp_path / "p")
    assert [item.labels.get("emotion") for item in items.values()] == ["sadness"]
    assert len(refused) == 1
    rows = [{"id": 0, "emotion": "sad", "image_path": "sad_1.jpg"}, {"id": 1, "emotion": "awe", "image_path": "fear_1.jpg"}]
    write(tmp_path / "t", {"test_Artphoto.json": rows, "images/sad_1.jpg": 1, "images/fear_1.jpg": 2})
    items, refused, _ = read("artphoto", tmp_path / "t")
    assert (list(items), said(refused, tmp_path / "t")) == (
        ["images/sad_1.jpg"],
        ["test_Artphoto.json[1]:1: contradiction: fear_1.jpg is said to be of awe"],
    )


def test_ratings_reach_the_record(tmp_path: Path) -> None:
    truth = [
        assessed("1.jpg", emotion_list=[["sadness", 40], ["joy", 3]]),
        assessed("2.jpg", emotion_list=[["joy", 3], ["fear", 3]]),
    ]
    root = write(
        tmp_path / "eemo",
        {
            "Ebench_1_data(jac_en_check).json": truth,
            "EEmo-Bench(pair).json": [{**pair_row(0), "image1_url": "1.jpg", "image2_url": "2.jpg"}],
            "images/1.jpg": 1,
            "images/2.jpg": 2,
        },
    )
    records = _records("eemo_bench", root, tmp_path)
    one, two = records["images/1.jpg"], records["images/2.jpg"]
    assert (one.emotion, two.emotion, one.split) == ("sadness", None, "test")
    assert one.valence == Rating(mean=6.0, std=0.8165, low=1, high=9)
    assert one.affect() == [0.25, -0.1875, 0.375]
    labels: Any = one.provenance["source_labels"]
    assert [question["task"] for question in labels["questions"]] == ["Yes-or-No", "What/How", "Open_ended", "What/How"]
    assert labels["questions"][-1]["images"] == ["1.jpg", "2.jpg"]
    assert Record.from_json(one.to_json(), "again") == one


def test_what_a_suite_says_or_asks_leaves_the_store(tmp_path: Path) -> None:
    """Statements without a label, emotions without an equal among the eight, and a polarity alone: none is left out of an export."""
    lines = [vecbench_line("FI/a.jpg", "FI-2", ["positive", "negative"], "positive"), LINES[5]]
    trees: dict[str, dict[str, object]] = {
        "mvei": {"Std-MVEI.json": {"1": mvei()}, "MVEI/images/a.jpg": 1},
        "unbiasedemo": {"joy/dog/1.jpg": 2, "love/dog/2.jpg": 3, "surprise/dog/3.jpg": 4},
        "vecbench": {"test_8k.jsonl": "".join(lines), "images/FI/a.jpg": 5, "images/UnbiasedEmo/d.jpg": 6},
    }
    for name, tree in trees.items():
        root = write(tmp_path / name, tree)
        assert main(["prep", "import", name, str(root), "--into", str(tmp_path / "store")]) == 0
    out = tmp_path / "tars"
    assert main(["prep", "export", str(tmp_path / "store"), str(out), "--name", "suites", "--labels", "source"]) == 0
    index = TarIndex.open([str(out)])
    records = [index.record(row) for row in range(len(index))]
    felt = {name: Counter(space.among(records).reference(record) for record in records) for name, space in SPACES.items()}
    assert felt["unbiasedemo-6"] == {None: 2, "joy": 1, "love": 2, "surprise": 1}
    assert felt["polarity"] == {None: 2, "positive": 4}
    (statement,) = (record for record in records if record.source == "mvei")
    said: Any = statement.provenance["source_labels"]
    assert [question["truth"] for question in said["questions"]] == ["correct"]


def test_scales_of_sources_that_had_ratings_before(tmp_path: Path) -> None:
    head = "[image_filename]\t[valence]\t[arousal]\t" + "\t".join(
        f"[prob. {word}]" for word in ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
    )
    root = write(
        tmp_path / "e6", {"ground_truth.txt": f"{head}\njoy/1.jpg\t7\t3\t0\t0\t0\t1\t0\t0\t0\n", "images/joy/1.jpg": 1}
    )
    (record,) = _records("emotion6", root, tmp_path).values()
    assert (record.valence, record.affect()) == (Rating(mean=7, low=1, high=9), [0.5, -0.5, None])


def test_votes_of_each_person_and_sums(tmp_path: Path) -> None:
    lines = "art_style,painting,emotion,utterance\nA,p,awe,x\nA,p,something else,y\nA,p,awe,z\n"
    root = write(tmp_path / "art", {"artemis_dataset_release_v0.csv": lines, "wikiart/A/p.jpg": 1})
    (record,) = _records("artemis", root, tmp_path).values()
    assert record.votes is not None
    assert record.votes.choices == [["awe"], ["something else"], ["awe"]]
    assert (record.votes.counts, record.votes.raters) == ({"awe": 2, "something else": 1}, 3)


VOTES = {"amusement": 3, "awe": 9, "contentment": 0, "excitement": 0, "anger": 0, "disgust": 0, "fear": 4, "sadness": 0}


@pytest.mark.parametrize("name", ["votes.json", "votes.jsonl", "votes.csv"])
def test_votes_of_a_layout_that_was_not_seen(name: str, tmp_path: Path) -> None:
    rows = [
        {"file": "a.jpg", "votes": VOTES},
        {"file": "b.jpg", "labels": ["awe"]},
        {"file": "c.jpg", "votes": VOTES | {"awe": 2.5}},
    ]
    flat = [
        "file," + ",".join(VOTES),
        "a.jpg," + ",".join(map(str, VOTES.values())),
        "b.jpg" + ",0" * 8,
        "c.jpg,1.5" + ",0" * 7,
    ]
    content = {
        "votes.json": rows,
        "votes.jsonl": "\n".join(map(json.dumps, rows)),
        "votes.csv": "\n".join(flat),
    }[name]
    items, refused, _ = read("multiemo", write(tmp_path, {name: content, "images/a.jpg": 1}))
    (item,) = items.values()
    scores: Any = item.labels["emotion_scores"]
    assert (item.labels["emotion"], scores["awe"], item.labels["chosen"]) == ("awe", 0.5625, VOTES)
    assert len(refused) == 2
    if not name.endswith("csv"):
        assert "no votes for each of amusement, awe" in said(refused, tmp_path)[0]
        assert said(refused, tmp_path)[0].endswith("found the keys file, labels")


def test_a_folder_with_several_files_of_votes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"looked for one file; found a\.json, b\.csv"):
        read("multiemo", write(tmp_path, {"a.json": [], "b.csv": ""}))


def test_ratings_go_through_tars_and_stand_in_their_index_and_card(tmp_path: Path) -> None:
    from data_prep.export.store import export_store
    from data_prep.sources import open_source

    root = write(tmp_path / "eemo", {"Ebench_1_data(jac_en_check).json": [assessed()], "images/1.jpg": 1})
    with Store(tmp_path / "store", write=True) as store:
        store.import_items(open_source("eemo_bench").read(root))
        manifest = export_store(store, tmp_path / "tars", "eemo", labels="source")
    assert manifest["contents"].get("people") == {"arousal": 1, "dominance": 1, "valence": 1}
    assert "| dominance | 1 |" in (tmp_path / "tars" / "README.md").read_text()
    index = TarIndex.open([str(tmp_path / "tars")])
    assert {name: bool(index.has(name)[0]) for name in ("valence", "votes")} == {"valence": True, "votes": False}
    assert index.record(0).affect() == [0.25, -0.1875, 0.375]
