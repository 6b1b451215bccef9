"""Tars, manifests and indices that claim what they do not hold are refused by name, before they cost anything."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.core.shard_manifests import read_manifest
from emo_lightning.core.stores import LocalStore
from emo_lightning.core.tar_scan import ShardError, scan_tar
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.data.feature_parts import FeatureError, read_part_index
from emo_lightning.data.shard_list import list_shards
from emo_lightning.data.tar_index import TarIndex
from tests.core.test_images import png_that_claims


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE, size: int | None = None) -> bytes:
    """A header and its data in whole blocks; `size` is what the header claims."""
    info = tarfile.TarInfo(name)
    info.size, info.type = len(data) if size is None else size, kind
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512)


def scan(path: Path, *parts: bytes) -> None:
    """Scan a tar of these parts."""
    path.write_bytes(b"".join(parts) + bytes(1024))
    list(scan_tar(LocalStore(str(path)), "a.tar"))


@pytest.mark.parametrize(
    "records",
    [
        b"9 path=a\n no blank",
        b"13 path=a=b=c\nabc=d\n",
        b"0 path=a\n",
        b"1 path=a\n",
        b"00 path=a\n",
        b"-9 path=a\n",
        b" path=a\n",
        b"9" * 5000 + b" path=a\n",
        b"9 path=a\n0 =\n",
    ],
)
def test_pax_records_whose_length_is_none_end_the_scan(tmp_path: Path, records: bytes) -> None:
    with pytest.raises(ShardError, match=r"^a\.tar: byte \d+: corrupted PAX header"):
        scan(tmp_path / "a.tar", member("x", records, tarfile.XHDTYPE), member("a.json", b""))


def test_headers_that_claim_too_much_are_refused(tmp_path: Path) -> None:
    long = b"9" * 30
    record = b"%d size=%s\n" % (len(long) + 9, long)
    with pytest.raises(ShardError, match="is not a number of fewer than 20 digits"):
        scan(tmp_path / "a.tar", member("x", record, tarfile.XHDTYPE), member("a.json", b""))
    with pytest.raises(ShardError, match="an extended header of 2097152 bytes"):
        scan(tmp_path / "a.tar", member("x", bytes(2 << 20), tarfile.XHDTYPE), member("a.json", b""))
    with pytest.raises(ShardError, match="a name of 5000 characters"):
        scan(tmp_path / "a.tar", member("x", b"n" * 5000, tarfile.GNUTYPE_LONGNAME), member("a.json", b""))
    with pytest.raises(ShardError, match="truncated"):
        scan(tmp_path / "a.tar", member("a.json", b"", size=4 << 30))


@pytest.mark.parametrize("name", ["../a.json", "/etc/a.json", "a/../../b.json", "a\x1b[2J.json", "a\u202e.json", "a\n.json"])
def test_names_of_members_lead_nowhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(ShardError, match=r"^a\.tar: byte 0: member '.*' (leads out of|holds a control)"):
        scan(tmp_path / "a.tar", member(name, b"{}"))


def test_a_picture_and_its_record_are_compared_before_anything_is_decoded(tmp_path: Path) -> None:
    image = png_that_claims(9000, 9000)
    record = {"id": "a", "source": "s", "width": 1, "height": 1, "split": "train", "sha256": hashlib.sha256(image).hexdigest()}
    path = tmp_path / "a.tar"
    path.write_bytes(member("a.png", image) + member("a.json", json.dumps(record).encode()) + bytes(1024))
    with pytest.raises(ShardError, match=r"a\.png: decompression bomb: 9000x9000"):
        TarIndex.open(path).image(0)


def test_members_are_not_read_beyond_what_they_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_lightning.data.tar_index.MAX_LINE_BYTES", 100)
    path = tmp_path / "a.tar"
    path.write_bytes(member("a.png", b"") + member("a.json", bytes(101)) + bytes(1024))
    with pytest.raises(ShardError, match=r"a\.json: 101 bytes; at most 100"):
        TarIndex.open(path).record(0)


@pytest.mark.parametrize(
    "shards",
    [
        "x",
        {"0": 1},
        [1],
        [{"file": 3}],
        [{"file": "../a.tar"}],
        [{"file": "/etc/passwd"}],
        [{"file": "a.tar", "count": True}],
        [{"file": "a.tar", "count": "4"}],
        [{"file": "a.tar", "bytes": -1}],
        [{"file": "a.tar", "sha256": 7}],
        [{"file": "a.tar"}, {"file": "a.tar"}],
    ],
    ids=str,
)
def test_a_manifest_is_checked_value_by_value(tmp_path: Path, shards: object) -> None:
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({"schema_version": 1, "shards": shards}))
    with pytest.raises(ShardError, match=r"manifest\.json: key 'shards"):
        read_manifest(path)


def test_a_range_of_shards_has_an_end() -> None:
    with pytest.raises(ShardError, match="more than 1,000,000 shards"):
        list_shards("a-{0..99999999999}.tar")


@pytest.mark.parametrize(
    "change",
    [
        {"world_size": True},
        {"rank": 5},
        {"rank": "0"},
        {"parts": "abc"},
        {"parts": ["../x"]},
        {"parts": [1]},
    ],
    ids=str,
)
def test_an_index_of_a_cache_is_checked_value_by_value(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "index-00000.json"
    path.write_text(json.dumps({"version": 1, "rank": 0, "world_size": 2, "parts": ["part-00000-00000.safetensors"]}))
    read_part_index(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(FeatureError, match=r"index-00000\.json: "):
        read_part_index(path)


def test_a_parquet_file_of_a_few_bytes_holds_no_billion_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_lightning.data.embeddings._MOST_VALUES", 100_000)
    rows = pa.ListArray.from_arrays(pa.array([0, 200_001], pa.int32()), pa.array([0] * 200_001, pa.int8()))
    table = pa.table({"id": ["a"], "emotion": ["awe"], "split": ["x"], "des": rows})
    out = io.BytesIO()
    pq.write_table(table, out, compression="zstd")
    assert len(out.getvalue()) < 100_000
    (tmp_path / "des.parquet").write_bytes(out.getvalue())
    with pytest.raises(InputError, match=r"des\.parquet: holds 200,001 values; at most 100,000"):
        EmbeddingTable.read(tmp_path / "des.parquet")


@pytest.mark.parametrize("url", ["pipe:touch planted", "pipe:touch planted; cat a.tar", "|touch planted"])
def test_an_address_is_no_command(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ShardError, match=r"(?i)no such file|there is"):
        TarIndex.open(url)
    assert list(tmp_path.iterdir()) == []
