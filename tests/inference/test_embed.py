"""Which shards are embedded already: those made of the same images and records, whatever their name."""

from __future__ import annotations

from pathlib import Path

import pytest

from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.embed import EmbedError, _is_finished
from tests.data.test_tar_index import many, write_tar


def test_a_shard_of_another_tar_is_refused(tmp_path: Path) -> None:
    index = TarIndex.open(write_tar(tmp_path / "a.tar", many(range(2))))
    (shard,) = index.shards
    assert not _is_finished(index, shard, tmp_path / "b.tar")
    write_tar(tmp_path / "b.tar", many(range(2), des=True))
    assert _is_finished(index, shard, tmp_path / "b.tar")
    for other in (range(1), range(1, 3)):
        write_tar(tmp_path / "b.tar", many(other, des=True))
        with pytest.raises(EmbedError, match=r"b\.tar was made from another tar than .*a\.tar, which has changed since"):
            _is_finished(index, shard, tmp_path / "b.tar")
