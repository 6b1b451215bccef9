"""An index finds what comparing all finds, walks paths, and refuses what is not its own."""

from __future__ import annotations

import builtins
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from emo_lightning.core.errors import InputError, MissingFileError, UserError
from emo_lightning.metrics.neighbours import exact_index, recall
from emo_lightning.search import Filters, Hit, SearchIndex, schema, tuning
from tests.search.planted import DIM, SCENES, WEIGHTS, planted, write


def test_it_finds_what_comparing_all_finds(index: SearchIndex) -> None:
    rows = planted(800)
    vectors = np.array([row.des for row in rows], np.float64)
    asked = np.random.default_rng(5).normal(size=(20, DIM))
    far, near = exact_index(vectors, 10, "cosine").kneighbors(asked)
    for question, distances, expected in zip(asked, far, near, strict=True):
        hits = index.search(question, 10)
        assert [hit.id for hit in hits] == [f"i{n}" for n in expected]
        np.testing.assert_allclose([hit.distance for hit in hits], distances, atol=1e-6)
        assert all(hit.cosine == pytest.approx(1 - hit.distance) for hit in hits)


def test_a_hit_says_what_its_record_says(index: SearchIndex) -> None:
    (hit,) = index.search(index.vector("i1"), 1)
    assert (hit.id, hit.emotion, hit.intensity, hit.has_thumbnail) == ("i1", "awe", 1.0, True)
    assert str(hit.triplet) == "o'reilly street - running - dog"
    assert {key: hit.record[key] for key in ("file", "member", "split", "intensity_level", "emotion_by")} == {
        "file": "made.tar",
        "member": "i1",
        "split": "train",
        "intensity_level": "low",
        "emotion_by": "record",
    }
    assert list(hit.record) == [*schema.FILTER_FIELDS, *schema.HIT_FIELDS]
    said = json.loads(json.dumps(hit.as_json(), allow_nan=False))
    assert (said["id"], said["cosine"], said["background"]) == ("i1", 1.0, SCENES[0])
    assert index.thumbnail("i1") == b"jpeg"
    assert index.thumbnail("i0") == b""
    assert not index.get("i0").has_thumbnail


def test_images_are_left_out_and_found_again(index: SearchIndex) -> None:
    first = index.search(index.vector("i1"), 3)
    assert [hit.id for hit in index.search(index.vector("i1"), 2, without=["i1"])] == [hit.id for hit in first[1:]]
    assert "i799" in index
    assert "i800" not in index
    assert len(index) == 800


def test_a_path_begins_and_ends_at_its_ends(index: SearchIndex) -> None:
    path = index.path("i0", "i7", steps=9)
    ids = [hit.id for hit in path]
    assert (ids[0], ids[-1]) == ("i0", "i7")
    assert len(set(ids)) == len(ids) == 9
    along = index.vector("i7") - index.vector("i0")
    position = [float(index.vector(name) @ along) for name in ids]
    assert min(np.diff(position)) > -0.1  # within an emotion neighbours lie anywhere
    assert [hit.emotion for hit in path[:2] + path[-2:]] == ["amusement", "amusement", "sadness", "sadness"]
    inside = index.path(index.vector("i0"), index.vector("i7"), 5, Filters(emotion="fear"))
    assert [hit.emotion for hit in inside] == ["fear"] * 5


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda i: i.search(np.ones(3)), r"a vector of shape \[3\]; .* holds embeddings of 32 numbers"),
        (lambda i: i.search(np.zeros(DIM)), "a vector of length 0.0; expected finite numbers"),
        (lambda i: i.search(np.full(DIM, np.nan)), "a vector of length nan"),
        (lambda i: i.search(np.ones(DIM), 0), "k=0; expected at least 1"),
        (lambda i: i.path("i0", "i1", 1), "steps=1; expected at least 2"),
        (lambda i: i.between(np.ones(DIM), -np.ones(DIM), 0.5), "a vector of length 0"),
        (lambda i: i.get("i79x"), "no image of the id 'i79x'; did you mean i79[?]$"),
        (lambda i: i.vector("I79"), "no image of the id 'I79'; did you mean i79"),
        (lambda i: i.thumbnail(""), "no image of the id ''$"),
        (
            lambda i: i.require("b" * 64, "models/b"),
            "holds embeddings of model-a .weights aaaaaaaaaaaa., and models/b has weights bbbbbbbbbbbb",
        ),
    ],
)
def test_what_is_refused(index: SearchIndex, ask: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(index)  # type: ignore[operator]


def test_another_models_vectors_are_refused(index_folder: Path, tmp_path: Path) -> None:
    assert SearchIndex.open(index_folder, WEIGHTS).identity.model == "model-a"
    with pytest.raises(InputError, match="ask with the model of the index"):
        SearchIndex.open(index_folder, "b" * 64)
    write(tmp_path, planted(8), weights=None)
    with pytest.raises(InputError, match="holds embeddings that named no model"):
        SearchIndex.open(tmp_path, WEIGHTS)


def test_what_is_no_index(index_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere: no index there; emo index build makes one"):
        SearchIndex.open(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    import lancedb
    import pyarrow as pa

    lancedb.connect(tmp_path / "other").create_table("images", pa.table({"id": ["a"]}))
    with pytest.raises(InputError, match="a LanceDB folder, but no index that emo index build has made"):
        SearchIndex.open(tmp_path / "other")
    shutil.copytree(index_folder, tmp_path / "damaged")
    for path in (tmp_path / "damaged" / "images.lance" / "_versions").iterdir():
        path.write_bytes(b"no manifest")
    with pytest.raises(InputError, match="damaged: the index cannot be read: "):
        SearchIndex.open(tmp_path / "damaged")


def test_a_later_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "INDEX_FORMAT", 2)
    write(tmp_path, planted(8))
    monkeypatch.undo()
    with pytest.raises(InputError, match="index of format 2; this version reads 1: build it again"):
        SearchIndex.open(tmp_path)


def test_without_lancedb_the_extra_is_named(index_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object) -> object:
        if name == "lancedb":
            raise ImportError(name)
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"needs the extra `index`: pip install 'emo-lightning\[index\]'"):
        SearchIndex.open(index_folder)


def test_the_approximate_index_finds_nearly_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast half of `benchmarks/index.py`: recall@10 at 4,000 vectors, of images and of points between them."""
    from benchmarks.index import K, Planted, by_numpy, questions, rows_of, stretches

    monkeypatch.setattr(tuning, "EXACT_UP_TO", 1000)
    made = Planted(128)
    (rows, vectors), *_ = stretches(made, 4000)
    writer = write(tmp_path, rows)
    assert writer.finish().recall is not None
    index = SearchIndex.open(tmp_path)
    assert index.info()["recall"] >= tuning.TARGET_RECALL  # type: ignore[operator]
    asked = questions(made, vectors, 40)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for kind, some in asked.items():
        true = np.array([by_numpy(units, one) for one in some])
        assert recall(np.array([rows_of(index, one) for one in some]), true) >= 0.95, kind
        exact = [{hit.id for hit in index.search(one, K, exact=True)} for one in some[:3]]
        assert exact == [{f"image-{n:06d}" for n in row} for row in true[:3]]
    narrow = index.search(asked["own"][0], K, Filters(emotion="awe", intensity=">=9", where=["background=scene 7"]))
    assert 0 < len(narrow) <= K
    assert isinstance(narrow[0], Hit)
