"""Shards behind HTTP ranges give what local ones give, in forked workers as well."""

from __future__ import annotations

import os
import random
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from torch.utils.data import DataLoader

from emo_lightning.core import remote
from emo_lightning.core.block_cache import BLOCK_BYTES, BlockCache, cache_from_environment
from emo_lightning.core.errors import InputError
from emo_lightning.core.remote import ATTEMPTS, RemoteError, RemoteStore
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.sampler import EpochBatches
from emo_lightning.data.tar_index import TarIndex
from tests.patience import wait_until


class Ranges(BaseHTTPRequestHandler):
    """Serves a folder's files: their size (HEAD), and ranges of them (GET); below `/whole/` it passes over the range.

    Args:
        folder: whose files.
        faults: how each of the next answers fails, taken from the front: `503`, `cut` (half of the body) or `drop` (the connection).
        asked: every range that was asked for is added.
        *args: of the base class.
    """

    def __init__(self, folder: Path, faults: list[str], asked: list[str], *args: object) -> None:
        self.folder, self.faults, self.asked = folder, faults, asked
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        if (data := self._file()) is not None:
            self._answer(200, len(data))

    def do_GET(self) -> None:
        if (data := self._file()) is None:
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if wanted is None or self.path.startswith("/whole/"):
            self._answer(200, len(data))
            self.wfile.write(data)
        else:
            self.asked.append(self.headers["Range"])
            fault = self.faults.pop(0) if self.faults else ""
            if fault == "503":
                self.send_error(503)
                return
            if fault == "drop":
                self.close_connection = True
                return
            part = data[int(wanted[1]) : int(wanted[2]) + 1]
            self._answer(206, len(part))
            self.wfile.write(part[: len(part) // 2] if fault == "cut" else part)

    def _file(self) -> bytes | None:
        path = self.folder / self.path.removeprefix("/whole").lstrip("/")
        if path.exists():
            return path.read_bytes()
        self.send_error(404)
        return None

    def _answer(self, status: int, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class Place(NamedTuple):
    """A server of the session's tars."""

    address: str
    faults: list[str]
    asked: list[str]


@pytest.fixture
def place(world_tars: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Where the session's tars are served; nobody waits between two questions."""
    monkeypatch.setattr(remote, "_FIRST_WAIT", 0.0)
    faults: list[str] = []
    asked: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, world_tars, faults, asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield Place(f"http://127.0.0.1:{server.server_port}", faults, asked)
    server.shutdown()
    thread.join()


@pytest.fixture
def address(place: Place) -> str:
    """Of the server."""
    return place.address


@pytest.mark.parametrize("workers", [0, 2])
def test_remote_shards_give_what_local_ones_give(address: str, workers: int, world_tars: Path) -> None:
    samples = {}
    for place in (str(world_tars), address):
        source = ConversationDataModule(
            [f"{place}/world-train-{{000000..000001}}.tar"],
            [f"{place}/world-val-000000.tar"],
            {"attributes": 1.0, "emotion": 1.0},
        )
        dataset = source.dataset("train")
        batches = EpochBatches(len(dataset), 5, seed=1)
        context = {"multiprocessing_context": "fork"} if workers else {}
        loader: Any = DataLoader(dataset, batch_sampler=batches, num_workers=workers, collate_fn=list, **context)  # type: ignore[arg-type]
        samples[place] = [question for batch in loader for question in batch]
    local, remote = samples.values()
    assert len(local) == len({question.key for question in local}) == 24
    for a, b in zip(local, remote, strict=True):
        assert (a.key, a.keys, a.record) == (b.key, b.keys, b.record)
        assert a.image.tobytes() == b.image.tobytes()


def test_a_server_that_cannot_serve_shards_is_named(address: str) -> None:
    with pytest.raises(RemoteError, match=rf"^{address}/no\.tar: cannot be read: no such file$"):
        RemoteStore(f"{address}/no.tar")
    store = RemoteStore(f"{address}/whole/world-val-000000.tar")
    with pytest.raises(
        RemoteError, match=r"asked for bytes 512 to 1024, was to get \d+ bytes: the place does not answer ranges$"
    ):
        store.read(512, 512)
    # A part that is all of it is what such a place can give.
    assert len(store.read(0, store.size)) == store.size


@pytest.mark.parametrize("told", [True, False])
def test_what_is_sent_whole_is_not_read(told: bool) -> None:
    """A tar of a terabyte, of which a place without ranges sends all there is, with or without its length."""
    sent = 0

    class Endless(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(1 << 40))
            self.end_headers()

        def do_GET(self) -> None:
            nonlocal sent
            self.send_response(200)
            if told:
                self.send_header("Content-Length", str(1 << 40))
            self.end_headers()
            with suppress(OSError):
                while sent < 1 << 30:
                    sent += self.wfile.write(bytes(1 << 16))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Endless)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        store = RemoteStore(f"http://127.0.0.1:{server.server_port}/a.tar", cached=False)
        length = "1099511627776 bytes" if told else "an answer of untold length"
        with pytest.raises(
            RemoteError, match=f"/a.tar: cannot be read: asked for bytes 0 to 512, was to get {length}: .* ranges$"
        ):
            store.read(0, 512)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert sent < 1 << 30


FAULTS = ["503", "cut", "drop"]


def test_nothing_is_lost_doubled_or_altered_where_a_place_fails(place: Place, world_tars: Path) -> None:
    """Every second answer fails, in one way or another."""
    data = (world_tars / "world-train-000000.tar").read_bytes()
    store = RemoteStore(f"{place.address}/world-train-000000.tar")
    draw = random.Random(0)
    for n in range(60):
        place.faults[:] = [draw.choice(FAULTS) for _ in range(n % 4)]
        start = draw.randrange(len(data))
        length = draw.randrange(1, 100_000)
        assert store.read(start, length) == data[start : start + length]


def test_a_place_that_never_answers_is_named_with_how_often_it_was_asked(place: Place) -> None:
    store = RemoteStore(f"{place.address}/world-train-000000.tar")
    place.faults[:] = ["503"] * 50
    with pytest.raises(RemoteError, match=rf"world-train-000000.tar: cannot be read: 503, .* \(asked {ATTEMPTS} times\)"):
        store.read(0, 512)
    assert len(place.asked) == ATTEMPTS
    place.faults[:] = ["cut"] * 50
    with pytest.raises(RemoteError, match=rf"\(asked {ATTEMPTS} times\)"):
        store.read(0, 512)


def test_what_cannot_change_is_asked_for_once(place: Place) -> None:
    with pytest.raises(RemoteError, match=r"no such file$"):
        RemoteStore(f"{place.address}/no.tar")
    with pytest.raises(RemoteError, match="Protocol not known: nowhere"):
        RemoteStore("nowhere://a.tar")


def test_each_block_is_asked_for_once(place: Place, world_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By all processes and starts together; in order, several at once."""
    monkeypatch.setattr(remote, "BLOCK_BYTES", 8192)
    data = (world_tars / "world-train-000000.tar").read_bytes()
    draw = random.Random(1)
    for _ in range(2):
        store = RemoteStore(f"{place.address}/world-train-000000.tar", BlockCache(tmp_path / "blocks", 10**9))
        for _ in range(200):
            start, length = draw.randrange(len(data)), draw.randrange(1, 20_000)
            assert store.read(start, length) == data[start : start + length]
    blocks = -(-len(data) // 8192)
    assert len(list(tmp_path.glob("blocks/*/*"))) == blocks
    assert len(place.asked) <= blocks
    place.asked.clear()
    whole = RemoteStore(f"{place.address}/world-train-000000.tar", BlockCache(tmp_path / "other", 10**9))
    assert b"".join(whole.read(at, 1000) for at in range(0, len(data), 1000)) == data
    assert len(place.asked) <= blocks / 3 + 2


def test_a_changed_block_is_asked_for_again(place: Place, world_tars: Path, tmp_path: Path) -> None:
    data = (world_tars / "world-train-000000.tar").read_bytes()
    cache = BlockCache(tmp_path, 10**9)
    store = RemoteStore(f"{place.address}/world-train-000000.tar", cache)
    assert store.read(0, 100) == data[:100]
    (block,) = tmp_path.glob("*/*")
    for damaged in (bytes([block.read_bytes()[0] ^ 1]) + block.read_bytes()[1:], block.read_bytes()[:-1], b""):
        block.write_bytes(damaged)
        assert store.read(0, 100) == data[:100]
        assert len(block.read_bytes()) == min(len(data), BLOCK_BYTES) + 4


def test_the_blocks_read_longest_ago_go_first(tmp_path: Path) -> None:
    cache, name = BlockCache(tmp_path, 10_000), "a" * 32
    for number in range(8):
        cache.write(name, number, bytes(996))
        os.utime(tmp_path / name / f"{number:08d}", (1000 + number, 1000 + number))
    assert cache.read(name, 0) is not None
    BlockCache(tmp_path, 10_000).write(name, 8, bytes(996))
    kept = sorted(int(path.name) for path in tmp_path.glob(f"{name}/*"))
    assert 0 in kept
    assert 8 in kept
    assert 1 not in kept
    assert sum(path.stat().st_size for path in tmp_path.glob(f"{name}/*")) <= 10_000


def test_what_is_no_block_stays(tmp_path: Path) -> None:
    """The folder may be one of the user's (`EMO_SHARD_CACHE`); only what was kept there is counted, and removed."""
    name = "a" * 32
    others = (
        "photos/trip/1.png",
        "photos/00000001",
        f"{name}/notes.txt",
        f"{name}/00000001 (copy)",
        f"{name}/00000001.jpg",
        "9",
    )
    foreign = [tmp_path / one for one in others]
    for path in foreign:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(50_000))
        os.utime(path, (1, 1))
    (tmp_path / name / "00000009").symlink_to(foreign[0])
    cache = BlockCache(tmp_path, 10_000)
    for number in range(5):
        cache.write(name, number, bytes(4_000))
        cache = BlockCache(tmp_path, 10_000)
    assert all(path.stat().st_size == 50_000 for path in [*foreign, tmp_path / name / "00000009"])
    assert sum(cache.has(name, number) for number in range(5)) in (1, 2)


def test_a_folder_that_cannot_be_written_to_stops_nobody(
    place: Place, world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    store = RemoteStore(f"{place.address}/world-train-000000.tar", BlockCache(tmp_path / "file", 10**9))
    data = (world_tars / "world-train-000000.tar").read_bytes()
    assert [store.read(at, 10) for at in (0, 1000)] == [data[:10], data[1000:1010]]
    assert capsys.readouterr().out.count("blocks of remote shards are not kept: Not a directory") == 1


@pytest.mark.parametrize("given", ["-1", "0", "nan", "inf", "many"])
def test_the_limit_is_a_number_of_gigabytes(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv("EMO_SHARD_CACHE", "")
    monkeypatch.setenv("EMO_SHARD_CACHE_GB", given)
    with pytest.raises(
        InputError, match=f"EMO_SHARD_CACHE_GB: found '{given}'; expected gigabytes above 0, or EMO_SHARD_CACHE=off"
    ):
        cache_from_environment()


def test_where_blocks_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMO_SHARD_CACHE", "off")
    assert cache_from_environment() is None
    monkeypatch.setenv("EMO_SHARD_CACHE", "")
    monkeypatch.delenv("EMO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_from_environment() == BlockCache(tmp_path / "emo-lightning/shards", 20 * 10**9)
    monkeypatch.setenv("EMO_SHARD_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("EMO_SHARD_CACHE_GB", "0.5")
    assert cache_from_environment() == BlockCache(tmp_path / "here", 5 * 10**8)


def whole(address: str) -> list[tuple[bytes, bytes]]:
    index = TarIndex.open(f"{address}/world-train-{{000000..000001}}.tar")
    return [
        (index.record_bytes(row), index.image_bytes(row)[0]) for row in random.Random(2).sample(range(len(index)), len(index))
    ]


def test_blocks_are_fetched_ahead_and_each_is_asked_for_once(
    place: Place, world_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "BLOCK_BYTES", 8192)
    local = whole(str(world_tars))
    kept = BlockCache(tmp_path / "blocks", 10**9)
    monkeypatch.setattr(remote, "cache_from_environment", lambda: kept)
    for fault in ("", "503", "cut", "drop"):
        place.faults[:] = [fault] * 5
        assert whole(place.address) == local
    tars = [(world_tars / f"world-train-{number:06d}.tar").stat().st_size for number in range(2)]
    blocks = sum(-(-size // 8192) for size in tars)
    # What was not asked for by anybody comes by itself.
    wait_until(lambda: len(list(tmp_path.glob("blocks/*/*"))) >= blocks)
    # Five of them failed, three times.
    assert len(place.asked) <= blocks + 15


def test_what_does_not_fit_in_the_cache_is_read_as_it_is_asked_for(
    place: Place, world_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample in one range, and no byte twice: blocks would be thrown away half used."""
    local = whole(str(world_tars))
    whole(place.address)  # the indices
    place.asked.clear()
    monkeypatch.setattr(remote, "cache_from_environment", lambda: BlockCache(tmp_path / "blocks", 100_000))
    assert whole(place.address) == local
    assert len(place.asked) == len(local) == 24
    assert not (tmp_path / "blocks").exists()


@pytest.mark.parametrize("ahead", [False, True])
def test_wrong_bytes_that_were_kept_are_asked_for_again(
    place: Place, world_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, ahead: bool
) -> None:
    """As blocks, or as samples; they are kept right from then on."""
    url, shards = f"{place.address}/world-val-000000.tar", world_tars / "world-val-000000.tar"
    kept = BlockCache(tmp_path / "blocks", 10**9)
    monkeypatch.setattr(remote, "cache_from_environment", lambda: kept)

    def read(url: str) -> list[tuple[bytes, bytes]]:
        index = TarIndex.open(url)
        if ahead:
            index.expect(range(len(index)))
        return [(index.record_bytes(row), index.image_bytes(row)[0]) for row in range(len(index))]

    right = read(str(shards))
    assert read(url) == right
    name = RemoteStore(url).name
    parts = list((tmp_path / "blocks" / name).iterdir())
    assert parts
    for path in parts:
        part = int(path.name) if path.name.isdigit() else path.name
        kept.write(name, part, bytes(len(path.read_bytes()) - 4))
    assert read(url) == right
    place.asked.clear()
    assert read(url) == right
    assert not place.asked
