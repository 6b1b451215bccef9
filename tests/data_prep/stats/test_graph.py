from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import networkx
import pyarrow
import pyarrow.parquet
import pytest

from data_prep.cli import main
from data_prep.export import write_shards
from data_prep.stats.graph import GRAPHML_FILE, Combination, GraphError, Node, TripletGraph, normalise
from emo_lightning.core.records import Emotion, Record
from tests.data_prep.conftest import truth


@pytest.fixture
def known() -> list[Record]:
    return [truth(seed)[0] for seed in range(60)]


def test_counts_are_those_of_the_records_in_any_order(known: list[Record]) -> None:
    graph = TripletGraph.from_records([*known, known[0].model_copy(update={"subject": None})])
    random.Random(1).shuffle(known)
    assert TripletGraph.from_records(known).combinations == graph.combinations
    assert graph.skipped == 1
    for kind in ("background", "attribute", "subject", "emotion"):
        assert graph.words(kind) == Counter(str(getattr(r, kind)) for r in known)
    edge = (Node("attribute", "smiling"), Node("emotion", "fear"))
    assert graph.edges[edge] == sum(r.attribute == "smiling" and r.emotion is Emotion.FEAR for r in known) > 0
    assert sum(n for (a, b), n in graph.edges.items() if (a.kind, b.kind) == ("background", "subject")) == len(known)


def test_spelling_does_not_make_nodes(known: list[Record]) -> None:
    assert normalise(" The  Old\tDog. ") == "old dog"
    assert normalise("a") == "a"
    assert normalise("Ａｎ apple\x00tree") == "apple tree"
    record = known[0].model_copy(update={"background": "A Beach", "attribute": "smiling", "subject": "dog"})
    graph = TripletGraph.from_records([record, record.model_copy(update={"id": "x", "background": "beach"})])
    assert list(graph.combinations.values()) == [(record.id, "x")]
    assert graph.has_triplet("the beach", "Smiling", "dog")
    assert not graph.has_triplet("beach", "dog", "smiling")


def test_both_formats_give_the_graph_back(tmp_path: Path, known: list[Record]) -> None:
    strange = known[0].model_copy(update={"id": "s", "subject": 'a <b> & "c" \x07 naïve 狗', "emotion": None})
    graph = TripletGraph.from_records([*known, strange])
    graph.write_parquet(tmp_path)
    assert TripletGraph.read_parquet(tmp_path) == graph
    assert pyarrow.parquet.read_table(tmp_path / "edges.parquet").num_rows == len(graph.edges)
    graph.write_graphml(tmp_path / GRAPHML_FILE)
    read = networkx.read_graphml(tmp_path / GRAPHML_FILE)
    assert {key: data["count"] for key, data in read.nodes(data=True)} == {node.id: n for node, n in graph.nodes.items()}
    assert {frozenset(e[:2]): e[2]["weight"] for e in read.edges(data=True)} == {
        frozenset((a.id, b.id)): n for (a, b), n in graph.edges.items()
    }
    assert read.nodes['subject:<b> & "c" naïve 狗']["label"] == '<b> & "c" naïve 狗'
    first = (tmp_path / GRAPHML_FILE).read_bytes()
    TripletGraph.from_records([strange, *reversed(known)]).write_graphml(tmp_path / GRAPHML_FILE)
    assert (tmp_path / GRAPHML_FILE).read_bytes() == first


def test_a_table_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="no such file"):
        TripletGraph.read_parquet(tmp_path)
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "triplets.parquet")
    with pytest.raises(
        GraphError, match=r"triplets\.parquet: column background, attribute, subject, emotion, ids is missing; found: a"
    ):
        TripletGraph.read_parquet(tmp_path)
    (tmp_path / "triplets.parquet").write_bytes(b"text")
    with pytest.raises(GraphError, match="not a parquet file"):
        TripletGraph.read_parquet(tmp_path)
    empty = TripletGraph.from_records([])
    empty.write_parquet(tmp_path)
    assert TripletGraph.read_parquet(tmp_path) == empty


def test_the_command_reads_tars(tmp_path: Path, toys: list, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards([(record, data, "png") for record, data in toys], tmp_path / "tars", "toy", 7)
    assert main(["graph", str(tmp_path / "tars"), "--out", str(tmp_path / "graph")]) == 0
    assert "3 × background, 3 × attribute, 3 × subject" in capsys.readouterr().out
    graph = TripletGraph.read_parquet(tmp_path / "graph")
    assert graph == TripletGraph.from_records([record for record, _ in toys])
    record = toys[0][0]
    assert record.id in graph.combinations[Combination(record.background, record.attribute, record.subject, record.emotion)]
    single = tmp_path / "tars/toy-val-000000.tar"
    assert main(["graph", str(single), "--out", str(tmp_path / "one")]) == 0
    assert main(["graph", str(tmp_path / "none"), "--out", str(tmp_path / "x")]) == 2
    assert "neither a store" in capsys.readouterr().err
