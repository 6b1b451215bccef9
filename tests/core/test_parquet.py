"""A Parquet file costs what its own size explains, whichever of our readers has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.stats.graph import TripletGraph
from emo_lightning.analysis.mds_arms import map_arms
from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.parquet import parquet_rows, parquet_table
from emo_lightning.data.embeddings import EmbeddingTable

MIB = 2**20


def one_text_a_thousand_times(path: Path) -> None:
    """A megabyte in a dictionary, and indices to it."""
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 4096, pa.int32()), pa.array(["a" * MIB]))
    names = ("id", "emotion", "split", "background", "attribute", "subject")
    columns = {"des": [[1.0]] * 4096, "ids": [["a"]] * 4096, **dict.fromkeys(names, texts)}
    pq.write_table(pa.table(columns).cast(_plain(columns)), path, compression="zstd")


def _plain(columns: dict[str, object]) -> pa.Schema:
    kinds = {"des": pa.list_(pa.float64()), "ids": pa.list_(pa.string())}
    return pa.schema([(name, kinds.get(name, pa.dictionary(pa.int32(), pa.string()))) for name in columns])


def read_graph(path: Path) -> object:
    return TripletGraph.read_parquet(path.parent)


def read_maps(path: Path) -> object:
    return map_arms({"a": path})


@pytest.mark.parametrize("read", [read_graph, read_maps, EmbeddingTable.read])
def test_every_reader_refuses_what_its_size_does_not_explain(read: Callable[[Path], object], tmp_path: Path) -> None:
    path = tmp_path / "triplets.parquet"
    one_text_a_thousand_times(path)
    assert path.stat().st_size < MIB
    with pytest.raises(InputError, match=r"triplets\.parquet: .*(its own size does not explain|more memory than its size)"):
        read(path)


def test_what_it_holds_comes_as_plain_values_in_batches_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [
        {"n": n, "text": f"ü{n}", "list": [n / 2, None], "when": pa.scalar(n, pa.timestamp("s")).as_py()} for n in range(20)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    expected = [{**row, "when": str(row["when"])} for row in rows]
    assert list(parquet_rows(path, rows=3)) == expected
    assert list(parquet_rows(path, columns=["n"])) == [{"n": n} for n in range(20)]
    assert parquet_table(path).to_pylist() == rows
    # A reader that has seen enough leaves no child behind.
    assert next(parquet_rows(path, rows=1))["n"] == 0


def test_no_file_no_column_no_parquet(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"a\.parquet: no such file"):
        parquet_table(tmp_path / "a.parquet")
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: column b is missing; found: a"):
        parquet_table(tmp_path / "a.parquet", required=["b"])
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-9] + b"\xff" * 5 + b"PAR1")
    with pytest.raises(InputError, match=r"a\.parquet: not a parquet file"):
        parquet_table(tmp_path / "a.parquet")
