"""The same files on S3: built, searched, gone on with, and refused where nothing is."""

from __future__ import annotations

from collections.abc import Iterator

import fsspec
import pytest

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.search import Filters, SearchIndex
from emo_lightning.search.like import like, start_of
from emo_lightning.search.writer import IndexWriter
from tests.search.planted import WEIGHTS, planted, write
from tests.storage_servers import served


@pytest.fixture
def bucket() -> Iterator[str]:
    with served() as (address, _), pytest.MonkeyPatch.context() as patch:
        settings = {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        for name, value in settings.items():
            patch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("s3://bucket")
        yield "s3://bucket"
        fsspec.filesystem("s3").clear_instance_cache()


def test_an_index_on_s3_answers_as_one_on_disk(bucket: str, index: SearchIndex) -> None:
    rows = planted(800)
    place = f"{bucket}/mine/index"
    with pytest.raises(MissingFileError, match=rf"{place}: no index there"):
        SearchIndex.open(place)
    writer = IndexWriter(place, WEIGHTS, "m")
    writer.add(rows[:500])
    writer.flush()
    writer = IndexWriter(place, WEIGHTS, "m")
    assert len(writer) == 500
    with writer.alone():
        writer.add(rows[500:])
        assert writer.finish().images == 800
    far = SearchIndex.open(place, WEIGHTS)
    assert len(far) == 800
    where = Filters(intensity="high")
    for ask in (rows[3].des, rows[77].des):
        assert [hit.id for hit in far.search(ask, 10, where)] == [hit.id for hit in index.search(ask, 10, where)]
    assert [h.id for h in like(far, start_of(far, "i6"), ["calmer"]).hits] == [
        h.id for h in like(index, start_of(index, "i6"), ["calmer"]).hits
    ]
    assert far.thumbnail("i1") == b"jpeg"
    assert far.info()["left_out"] == []


def test_a_place_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with served() as (address, faulty):
        faulty.refuses = lambda _method, _path: True
        for name, value in {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(InputError, match="s3://bucket/index: the index cannot be"):
            write("s3://bucket/index", planted(4))
