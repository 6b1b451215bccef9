"""Embeddings that are there already go into an index as they are, with what is known of their images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import BackboneError, made_of
from emo_lightning.core.parquet import MODEL_KEY
from emo_lightning.core.records import SchemaError, write_jsonl
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.data.features import FeatureWriter
from emo_lightning.data.supervision import Supervision
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.bundle import read_bundle
from emo_lightning.models import DESHead
from emo_lightning.search import SearchIndex
from emo_lightning.search.vectors import (
    Records,
    add_vectors,
    check_weights,
    feature_stretches,
    holds_vectors,
    is_feature_cache,
    parquet_stretches,
    parquet_weights,
)
from emo_lightning.search.writer import IndexWriter
from tests.made import make_record
from tests.search.planted import WEIGHTS


def drawn(count: int, dim: int = 8) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, dim)).astype(np.float32)


def build(place: Path, path: Path, records: Records | None = None) -> tuple[int, SearchIndex]:
    writer = IndexWriter(place, WEIGHTS, "m", rows=16)
    recorded = add_vectors(writer, parquet_stretches(str(path)), records)
    writer.finish()
    return recorded, SearchIndex.open(place)


def test_a_stages_table_with_records_of_tars(world_tars: Path, tmp_path: Path) -> None:
    truth = TarIndex.open(world_tars / "world-test-000000.tar")
    ids = [truth.id(row) for row in range(len(truth))]
    table = EmbeddingTable([*ids, "unknown"], ["awe"] * 8 + [None], ["test"] * 8 + [""], drawn(9))
    table.write(tmp_path / "des.parquet")
    assert holds_vectors(str(tmp_path / "des.parquet"))
    assert parquet_weights(str(tmp_path / "des.parquet")) is None
    recorded, index = build(tmp_path / "index", tmp_path / "des.parquet", Records([str(world_tars)]))
    assert (recorded, len(index)) == (8, 9)
    for row, name in enumerate(ids):
        record, hit = truth.record(row), index.get(name)
        assert (hit.emotion, hit.triplet, hit.has_thumbnail, hit.record["member"]) == (
            record.emotion,
            record.triplet,
            True,
            truth.key(row),
        )
        np.testing.assert_allclose(index.vector(name), table.des[row] / np.linalg.norm(table.des[row]), atol=1e-6)
    unknown = index.get("unknown")
    assert (unknown.emotion, unknown.has_thumbnail, unknown.record["file"]) == (None, False, None)


def test_a_stages_table_alone_and_with_lines(tmp_path: Path) -> None:
    EmbeddingTable(["a", "b"], ["fear", None], ["test", ""], drawn(2)).write(tmp_path / "des.parquet")
    _, index = build(tmp_path / "alone", tmp_path / "des.parquet")
    assert [(index.get(n).emotion, index.get(n).record["split"]) for n in "ab"] == [("fear", "test"), (None, None)]
    write_jsonl(tmp_path / "r.jsonl", [make_record("b", emotion="awe", intensity=9, background="beach")])
    recorded, index = build(tmp_path / "lines", tmp_path / "des.parquet", Records([str(tmp_path / "r.jsonl")]))
    assert recorded == 1
    hit = index.get("b")
    assert (hit.emotion, hit.intensity, hit.record["background"], hit.record["file"]) == (
        "awe",
        9,
        "beach",
        str(tmp_path / "r.jsonl"),
    )


def test_words_of_a_model_come_with_its_embeddings(tmp_path: Path) -> None:
    """The table of `emo explain`: its emotion counts where it is one of the eight."""
    columns = {
        "id": ["a.jpg", "b.jpg"],
        "said_emotion": ["awe", "joy"],
        "background": ["street", None],
        "intensity": [8.0, 99.0],
        "objects": pa.array([[{"phrase": "dog", "bbox": [1.0, 2.0, 3.0, 4.0]}], None]),
        "des": pa.FixedSizeListArray.from_arrays(pa.array(drawn(2).reshape(-1)), 8),
    }
    pq.write_table(pa.table(columns).replace_schema_metadata({MODEL_KEY: WEIGHTS.encode()}), tmp_path / "e.parquet")
    check_weights(str(tmp_path / "e.parquet"), WEIGHTS, "m")
    with pytest.raises(
        InputError,
        match=r"e.parquet: holds embeddings of another model .weights aaaaaaaaaaaa. than n .bbbbbbbbbbbb.; embed .*emo embed IMAGES --model n ",
    ):
        check_weights(str(tmp_path / "e.parquet"), "b" * 64, "n")
    _, index = build(tmp_path / "index", tmp_path / "e.parquet")
    one, other = index.get("a.jpg"), index.get("b.jpg")
    assert (one.emotion, one.record["emotion_by"], one.intensity, one.record["phrases"]) == ("awe", "said", 8.0, "dog")
    assert (other.emotion, other.record["emotion_by"], other.intensity) == (None, None, None)


def test_more_rows_are_added_and_known_ones_left(tmp_path: Path) -> None:
    for count in (20, 50):
        EmbeddingTable([f"i{n}" for n in range(count)], [None] * count, [""] * count, drawn(50)[:count]).write(
            tmp_path / "d.parquet"
        )
        writer = IndexWriter(tmp_path / "index", WEIGHTS, "m", rows=16)
        add_vectors(writer, parquet_stretches(str(tmp_path / "d.parquet")), None)
        assert writer.finish().new == (20 if count == 20 else 30)
    assert len(SearchIndex.open(tmp_path / "index")) == 50


def test_features_go_through_the_models_head(bundle: Path, tmp_path: Path) -> None:
    given = read_bundle(bundle)
    head = DESHead.from_pretrained(given.head)
    mine = {"prompt": given.features, **made_of(given.head)}
    rng = torch.Generator().manual_seed(0)
    hidden = [torch.randn(head.num_layers, 3 + n, 64, generator=rng) for n in range(5)]
    labels = Supervision(emotion=6, intensity=9.0)
    with FeatureWriter(tmp_path / "f", head.num_layers, 64, torch.float32, "f", made_of=mine, part_bytes=1) as writer:
        for n, one in enumerate(hidden):
            writer.append(f"k{n}", one, labels)
    assert is_feature_cache(str(tmp_path / "f"))
    (stretch,) = feature_stretches(str(tmp_path / "f"), given, "cpu")
    with torch.no_grad():
        expected = torch.cat([head(one[:, None], torch.ones(1, one.shape[1])) for one in hidden]).numpy()
    np.testing.assert_allclose(stretch.vectors, expected, atol=1e-5)
    index_writer = IndexWriter(tmp_path / "index", WEIGHTS, "m")
    add_vectors(index_writer, iter([stretch]), None)
    index_writer.finish()
    hit = SearchIndex.open(tmp_path / "index").get("k3")
    assert (hit.emotion, hit.intensity, hit.record["intensity_level"]) == ("fear", 9.0, "high")
    with FeatureWriter(tmp_path / "g", 4, 64, torch.float32, "g", made_of={"backbone": "x", "prompt": "y"}) as writer:
        writer.append("k", hidden[0][:1].repeat(4, 1, 1), labels)
    with pytest.raises(BackboneError, match=r"feature cache .* was made with another backbone"):
        next(feature_stretches(str(tmp_path / "g"), given, "cpu"))


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        ({"id": ["a"]}, InputError, "column des is missing"),
        ({"id": [1], "des": [[1.0]]}, InputError, "column 'id' holds 1; expected texts"),
        ({"id": [None], "des": [[1.0]]}, InputError, "column 'id' holds None; expected texts"),
        (
            {"id": ["a", "b"], "des": [[1.0], [1.0, 2.0]]},
            InputError,
            r"column 'des' has rows of \['1', '2'\] values; expected one length",
        ),
        ({"id": ["a", "b"], "des": [[1.0], None]}, InputError, "expected one length, and no nulls"),
        ({"id": ["a"], "des": [[None, 1.0]]}, InputError, "expected one length, and no nulls"),
        ({"id": ["a"], "des": [[None]]}, InputError, "expected lists of floats"),
        ({"id": ["a"], "des": ["x"]}, InputError, "column 'des' is of type string; expected lists of floats"),
        ({"id": ["a"], "des": [[1.0]], "emotion": ["joy"]}, SchemaError, "unknown emotion 'joy'"),
    ],
)
def test_what_is_refused(columns: dict, error: type[Exception], message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "bad.parquet")
    with pytest.raises(error, match=rf"bad\.parquet: .*{message}"):
        list(parquet_stretches(str(tmp_path / "bad.parquet")))
