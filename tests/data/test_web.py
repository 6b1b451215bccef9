"""Data behind `http(s)://`, of which fsspec tells little: whether it is there, whether it is still the same, and what stands beside it."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import fsspec.config
import pytest
from aiohttp import ClientTimeout
from fsspec.implementations.http import HTTPFileSystem
from PIL import Image

from emo_lightning.core import remote, remote_clients
from emo_lightning.core.images import encoded
from emo_lightning.core.mirrors import read_folder
from emo_lightning.core.records import SCHEMA_VERSION
from emo_lightning.core.remote import ATTEMPTS, RemoteError, RemotePlace, RemoteStore
from emo_lightning.core.tar_labels import TarLabels
from emo_lightning.data.shard_list import list_shards, manifests_of
from emo_lightning.data.tar_content import data_hash
from emo_lightning.data.tar_index import TarIndex
from tests.storage_servers import Faulty, Web, served

BUSY = "503 Service Unavailable"


class Place(NamedTuple):
    """A server of files on loopback."""

    address: str
    web: Web
    faulty: Faulty


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    """One without files, of which nothing is kept yet; nobody waits between two questions."""
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.0)
    monkeypatch.setenv("EMO_CACHE", str(tmp_path / "cache"))
    web = Web()
    with served(answer=web) as (address, faulty):
        yield Place(address, web, faulty)


@pytest.mark.parametrize("status", [BUSY, "429 Too Many Requests", "500 Internal Server Error"])
@pytest.mark.parametrize("times", [1, ATTEMPTS - 1])
def test_a_place_that_is_busy_when_an_object_is_opened_is_asked_again(place: Place, status: str, times: int) -> None:
    """Once by HEAD and once by GET each time."""
    place.web.files["/a.bin"] = b"abc"
    place.faulty.next[:] = [status] * 2 * times
    store = RemoteStore(f"{place.address}/a.bin", cached=False)
    assert (store.size, store.read(0, 3)) == (3, b"abc")
    assert not place.faulty.next


def test_a_place_that_stays_busy_is_not_taken_for_one_without_the_object(place: Place) -> None:
    place.web.files["/a.bin"] = b"abc"
    place.faulty.next[:] = [BUSY] * 2 * ATTEMPTS
    with pytest.raises(RemoteError, match=rf"/a.bin: cannot be read: 503, .*\(asked {ATTEMPTS} times\)$") as refused:
        RemoteStore(f"{place.address}/a.bin")
    assert not refused.value.missing
    assert not place.faulty.next


def test_nobody_answers(place: Place) -> None:
    with served(answer=place.web) as (address, _):
        pass
    with pytest.raises(RemoteError, match=rf"/a.bin: cannot be read: Cannot connect .*\(asked {ATTEMPTS} times\)$") as refused:
        RemoteStore(f"{address}/a.bin")
    assert not refused.value.missing


@pytest.mark.parametrize(
    ("status", "said"), [("404 Not Found", "no such file"), ("410 Gone", "no such file"), ("403 Forbidden", "403, .*")]
)
def test_what_is_not_there_is_asked_for_once(place: Place, status: str, said: str) -> None:
    """Object stores say 403 of it, where nobody may list."""
    place.faulty.next[:] = [status] * 2 * ATTEMPTS
    with pytest.raises(RemoteError, match=rf"/a.bin: cannot be read: {said}$") as refused:
        RemoteStore(f"{place.address}/a.bin")
    assert refused.value.missing
    assert len(place.faulty.next) == 2 * ATTEMPTS - 2


def labelled(label: str) -> bytes:
    """A tar of others with one sample; another label of one character gives another one of the same length."""
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as tar:
        for name, data in (("a.jpg", encoded(Image.new("RGB", (40, 30)), "JPEG")), ("a.cls", label.encode())):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return held.getvalue()


LABELS = TarLabels("cls", {1: "amusement", 2: "fear"})


def test_a_tar_of_the_same_length_with_another_etag_is_another_one(place: Place) -> None:
    url = f"{place.address}/a.tar"
    seen = []
    for label in "1212":
        place.web.files["/a.tar"] = labelled(label)
        index = TarIndex.open(url, labels=LABELS)
        assert index.record(0).emotion == LABELS.map[int(label)]
        seen.append((data_hash(url), index.content, RemoteStore(url).version()))
    assert seen[:2] == seen[2:]
    for one, two in zip(*seen[:2], strict=True):
        assert one != two


def test_a_place_that_says_no_version_has_one(place: Place) -> None:
    url = f"{place.address}/a.tar"
    place.web.files["/a.tar"] = labelled("1")
    place.web.tagged = False
    assert RemoteStore(url).version() == RemoteStore(url).version()
    assert data_hash(url) == data_hash(url)


def test_what_changes_on_the_web_is_copied_anew(place: Place) -> None:
    """And what does not is copied once."""
    url = f"{place.address}/folder"
    for data in (b"one", b"two"):
        place.web.files.update({"/folder/a.bin": data, "/folder": b'<a href="a.bin">'})
        for copies in (1, 0):
            place.web.asked.clear()
            with read_folder(url, ["*.bin"]) as folder:
                assert (folder / "a.bin").read_bytes() == data
            assert place.web.asked.count("GET /folder/a.bin") == copies


def ours(world_tars: Path) -> tuple[bytes, bytes]:
    """A tar of ours, and its index."""
    name = "world-val-000000"
    return (world_tars / f"{name}.tar").read_bytes(), (world_tars / f"{name}.index.npz").read_bytes()


@pytest.mark.parametrize("query", ["", "?download=true", "?name=x/y.tar&signature=a/b#c"])
def test_the_index_and_the_manifest_beside_a_tar_are_asked_for_as_the_tar_is(
    place: Place, world_tars: Path, query: str
) -> None:
    tar, index = ours(world_tars)
    entry = {"file": "a.tar", "bytes": len(tar), "sha256": hashlib.sha256(tar).hexdigest()}
    manifest = {"schema_version": SCHEMA_VERSION, "shards": [entry]}
    place.web.files.update({"/d/a.tar": tar, "/d/a.index.npz": index, "/d/manifest.json": json.dumps(manifest).encode()})
    url, sent = f"{place.address}/d/a.tar{query}", query.partition("#")[0]
    opened = TarIndex.open(url)
    assert place.web.sent < len(tar)
    assert {asked.partition(" ")[2] for asked in place.web.asked} == {f"/d/a.tar{sent}", f"/d/a.index.npz{sent}"}
    assert opened.content == TarIndex.open(world_tars / "world-val-000000.tar").content
    TarIndex.open(url, verify=True)
    assert f"GET /d/manifest.json{sent}" in place.web.asked
    assert list(manifests_of(url)) == [(f"{place.address}/d/manifest.json{query}", manifest)]


@pytest.mark.parametrize("answer", ["404", "403", "page", "ours"])
def test_a_range_asks_once_for_a_manifest_which_need_not_be_there(place: Place, answer: str) -> None:
    """A place that serves tars alone says so in its own way: not there, not for you, or a page of it."""
    entry = {"file": "a-0.tar", "bytes": 7}
    if answer == "page":
        place.web.instead = b"<html>"
    elif answer == "403":
        place.faulty.refuses = lambda _method, path: path.endswith("manifest.json")
    elif answer == "ours":
        manifest = {"schema_version": SCHEMA_VERSION, "shards": [entry]}
        place.web.files["/d/manifest.json"] = json.dumps(manifest).encode()
    shards = list_shards(f"{place.address}/d/a-{{0..9}}.tar?signature=x")
    assert [shard.entry and shard.entry.bytes for shard in shards] == [7 if answer == "ours" else None, *[None] * 9]
    assert len(place.web.asked) == len(set(place.web.asked)) <= 2  # HEAD and GET
    assert all(line.endswith(" /d/manifest.json?signature=x") for line in place.web.asked)


def test_what_is_no_index_is_not_read_whole(place: Place, world_tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A place that answers every name: with the tar, or with a page."""
    monkeypatch.setenv("EMO_SHARD_CACHE", "off")
    tar, _ = ours(world_tars)
    place.web.files["/a.tar"] = tar
    for instead in (tar, b"<html>" + bytes(2 * len(tar))):
        place.web.instead = instead
        assert len(TarIndex.open(f"{place.address}/a.tar")) == 8
        place.web.sent = 0
        assert len(TarIndex.open(f"{place.address}/a.tar")) == 8, "by the index that was made here"
        assert place.web.sent < 10


def test_who_falls_silent_in_mid_body_is_asked_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_clients, "_WEB_SILENCE", 0.5)
    place.web.files["/a.bin"] = b"abcdef"
    store = RemoteStore(f"{place.address}/a.bin", cached=False)
    place.faulty.next[:] = ["silent"]
    assert store.read(0, 6) == b"abcdef"
    assert place.web.asked == ["HEAD /a.bin", "GET /a.bin", "GET /a.bin"]


def test_how_long_a_place_of_the_web_may_be_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """30 seconds, however long the whole takes, unless the user has said otherwise."""

    def timeout(url: str) -> ClientTimeout:
        opened = RemotePlace(url).ask(lambda files, _: files)
        assert isinstance(opened, HTTPFileSystem)
        found = opened.client_kwargs["timeout"]
        assert isinstance(found, ClientTimeout)
        return found

    for scheme in ("http", "https"):
        assert timeout(f"{scheme}://127.0.0.1/a.tar") == ClientTimeout(total=None, sock_connect=30, sock_read=30)
    mine = ClientTimeout(total=7)
    monkeypatch.setitem(fsspec.config.conf, "https", {"client_kwargs": {"timeout": mine}})
    assert timeout("https://127.0.0.1/a.tar") == mine
    monkeypatch.setitem(fsspec.config.conf, "https", {"client_kwargs": {"trust_env": True}})
    assert timeout("https://127.0.0.1/a.tar").sock_read == 30
