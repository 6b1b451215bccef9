"""Rows are written once, whatever kills the writer, and what cannot be taken in is counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.search import SearchIndex
from emo_lightning.search.schema import CENTROIDS_TABLE, TUNING_TABLE
from emo_lightning.search.table import Tables
from emo_lightning.search.writer import IndexWriter
from tests.search.planted import DIM, WEIGHTS, planted


def ids(place: Path) -> list[str]:
    return sorted(name for names, _ in SearchIndex.open(place).vectors() for name in names)


def test_a_kill_loses_a_batch_and_doubles_nothing(tmp_path: Path) -> None:
    """A writer that is gone at any batch: another one goes on from the last that was written."""
    rows = planted(100)
    expected = sorted(row.id for row in rows)
    asked: Counter[str] = Counter()
    for killed_after in (35, 60, 60, 100):
        writer = IndexWriter(tmp_path, WEIGHTS, "m", rows=10)
        left = [row for row in rows if not writer.has(row.id, row.stamp)][:killed_after]
        for row in left:
            asked[row.id] += 1
            writer.add([row])
    assert writer.finish().images == 100
    assert ids(tmp_path) == expected
    assert max(asked.values()) == 2
    assert sum(asked.values()) - 100 < 10
    again = IndexWriter(tmp_path, WEIGHTS, "m")
    assert all(again.has(row.id, row.stamp) for row in rows)
    assert (again.finish().new, len(again)) == (0, 100)


def test_finishing_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """All rows are there, and nothing beside them: searches are right, and the next build makes the rest."""
    writer = IndexWriter(tmp_path, WEIGHTS, "m")
    writer.add(planted(40))
    writer.flush()
    index = SearchIndex.open(tmp_path)
    assert index.search(planted(40)[3].des, 1)[0].id == "i3"
    assert index.centroids.emotions == []
    assert not {CENTROIDS_TABLE, TUNING_TABLE} & Tables(tmp_path).names()
    assert IndexWriter(tmp_path, WEIGHTS, "m").finish().new == 0
    assert len(SearchIndex.open(tmp_path).centroids.emotions) == 8


def test_a_url_of_this_machine_is_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    writer = IndexWriter(f"file://{tmp_path}/index", WEIGHTS, "m")
    with writer.alone():
        writer.add(planted(40))
        writer.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["index"]
    assert len(SearchIndex.open(f"file://{tmp_path}/index").centroids.emotions) == 8
    with pytest.raises(InputError, match="found an empty path"):
        Tables("")


def test_a_changed_image_takes_the_place_of_its_row(tmp_path: Path) -> None:
    rows = planted(30)
    writer = IndexWriter(tmp_path, WEIGHTS, "m")
    writer.add(rows)
    writer.finish()
    changed = [replace(row, stamp="new", des=-row.des) for row in rows[:5]]
    writer = IndexWriter(tmp_path, WEIGHTS, "m")
    assert [writer.has(row.id, row.stamp) for row in (changed[0], rows[6])] == [False, True]
    writer.add([*changed, replace(rows[0], id="another")])
    written = writer.finish()
    assert (written.images, written.new, written.changed) == (31, 6, 5)
    index = SearchIndex.open(tmp_path)
    np.testing.assert_allclose(index.vector("i2"), -rows[2].des / np.linalg.norm(rows[2].des), atol=1e-6)
    assert ids(tmp_path) == sorted([*(row.id for row in rows), "another"])


def test_what_cannot_be_searched_for_is_left_out_and_counted(tmp_path: Path) -> None:
    rows = planted(6)
    bad = {
        "zero": np.zeros(DIM, np.float32),
        "nan": np.full(DIM, np.nan, np.float32),
        "short": np.ones(DIM - 1, np.float32),
        "none": np.ones((0,), np.float32),
    }
    writer = IndexWriter(tmp_path, WEIGHTS, "m")
    writer.add([replace(rows[0], id="empty", des=np.ones(0, np.float32)), rows[1]])
    writer.add([replace(rows[0], id=name, des=des) for name, des in bad.items()])
    written = writer.finish()
    assert written.images == 1
    assert written.left_out == {
        "empty": "empty: its embedding has shape [0]",
        "zero": "zero: its embedding is all zeros, which has no cosine",
        "nan": "nan: its embedding holds a value that is not finite",
        "short": "short: its embedding has shape [31]; expected 32 numbers",
        "none": "none: its embedding has shape [0]; expected 32 numbers",
    }
    listed = SearchIndex.open(tmp_path).info()["left_out"]
    assert listed == [{"id": name, "reason": why} for name, why in written.left_out.items()]


def test_an_index_is_of_one_model(tmp_path: Path) -> None:
    writer = IndexWriter(tmp_path, WEIGHTS, "m")
    writer.add(planted(3))
    writer.finish()
    for weights, here in (("b" * 64, "bbbbbbbbbbbb"), (None, "not named")):
        with pytest.raises(
            InputError, match=rf"holds embeddings of m .weights aaaaaaaaaaaa., not of other .{here}.; choose another --out"
        ):
            IndexWriter(tmp_path, weights, "other")


def test_nothing_to_write_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="no image could be taken in, so there is no index"):
        IndexWriter(tmp_path / "x", WEIGHTS, "m").finish()
    assert not (tmp_path / "x").exists()


def test_one_command_builds_at_a_time(tmp_path: Path) -> None:
    one, other = IndexWriter(tmp_path, WEIGHTS, "m"), IndexWriter(tmp_path, WEIGHTS, "m")
    with one.alone(), pytest.raises(InputError, match="another command is building this index; wait for it"), other.alone():
        pass
    with other.alone():
        pass
