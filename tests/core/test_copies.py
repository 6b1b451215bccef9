"""Copies of what lies behind URLs: one limit for all, what was used longest ago goes first, what a live process uses stays."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
import torch

from emo_lightning.core.block_cache import BlockCache, cache_from_environment
from emo_lightning.core.copies import COPIED_PARTS, Copy, named, size_of
from emo_lightning.core.errors import InputError
from emo_lightning.core.mirrors import local_folder, read_folder
from emo_lightning.data.vision_cache import VisionCache, VisionKey, VisionWriter
from tests.patience import PATIENCE

FORK = multiprocessing.get_context("fork")
ONE, TWO, THREE = (f"memory://copies/{name}" for name in ("one", "two", "three"))
PATTERNS = ["part-*"]
PLACE_BYTES = 4_000_000


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Three folders of 4 MB behind URLs, and a limit that holds two of them."""
    monkeypatch.setenv("EMO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("EMO_SHARD_CACHE", "")
    monkeypatch.setenv("EMO_SHARD_CACHE_GB", "0.0101")
    files = fsspec.filesystem("memory")
    for url in (ONE, TWO, THREE):
        for number in range(2):
            files.pipe_file(f"{url}/part-{number}", bytes([number]) * (PLACE_BYTES // 2))
    yield
    while User.all:
        User.all.pop().kill()
    files.rm("memory://copies", recursive=True)


def elsewhere(work: Callable[[], object]) -> None:
    """In a process that ends."""
    process = FORK.Process(target=work)
    process.start()
    process.join()
    assert process.exitcode == 0


class User:
    """A process that uses a copy until it is killed, or the test has ended."""

    all: ClassVar[list[User]] = []

    def __init__(self, work: Callable[[], object]) -> None:
        here, there = FORK.Pipe(duplex=False)
        self.process = FORK.Process(target=self._use, args=(work, there))
        self.process.start()
        self.all.append(self)
        assert here.poll(PATIENCE)
        here.recv()

    @staticmethod
    def _use(work: Callable[[], object], said: Connection) -> None:
        work()
        said.send("in use")
        signal.pause()

    def kill(self) -> None:
        """It can clean up nothing."""
        self.process.kill()
        self.process.join()


def mirror(url: str, seen: float | None = None) -> Path:
    """Of a URL, copied by a process that has ended; `seen`: when it was used last."""
    elsewhere(lambda: local_folder(url, PATTERNS))
    known = {folder for folder in (Path(os.environ["EMO_CACHE"]) / "mirrors").iterdir() if (folder / "part-0").exists()}
    (folder,) = (one for one in known if _name(one) == url)
    if seen is not None:
        os.utime(folder, (seen, seen))
    return folder


def _name(folder: Path) -> str:
    return named([Copy(0, 0, folder)]).partition(" (")[0]


def test_what_was_used_longest_ago_goes_first() -> None:
    one, two = mirror(ONE, 2000), mirror(TWO, 1000)
    three = mirror(THREE)
    assert (one.exists(), two.exists(), three.exists()) == (True, False, True)
    # Whoever uses one that is here has used it last.
    elsewhere(lambda: local_folder(ONE, PATTERNS))
    os.utime(three, (3000, 3000))
    mirror(TWO)
    assert (one.exists(), three.exists()) == (True, False)


def test_what_a_live_process_uses_stays() -> None:
    user = User(lambda: local_folder(ONE, PATTERNS))
    one = mirror(ONE, 1000)
    two = User(lambda: local_folder(TWO, PATTERNS))
    with pytest.raises(InputError, match=r"memory://copies/three: 4\.0 MB find no room within EMO_SHARD_CACHE_GB") as refused:
        local_folder(THREE, PATTERNS)
    assert f"in use: {ONE} (4.0 MB), {TWO} (4.0 MB); raise it" in str(refused.value)
    assert sorted(path.name for path in one.glob("part-*")) == ["part-0", "part-1"]
    user.kill()
    local_folder(THREE, PATTERNS)
    assert not one.exists()
    two.kill()


def test_one_that_is_only_looked_at_may_go() -> None:
    """As by whoever hashes the inputs of a stage."""
    with read_folder(ONE, PATTERNS) as one:
        assert (one / "part-0").stat().st_size == PLACE_BYTES // 2
    os.utime(one, (1000, 1000))
    elsewhere(lambda: local_folder(TWO, PATTERNS))
    local_folder(THREE, PATTERNS)
    assert not one.exists()


def test_no_file_is_replaced_under_who_reads_it() -> None:
    user = User(lambda: local_folder(ONE, PATTERNS))
    fsspec.filesystem("memory").pipe_file(f"{ONE}/part-1", b"another")
    with pytest.raises(
        InputError, match=rf"{ONE}: part-1 is another file than when .* was copied .* which another process uses"
    ):
        local_folder(ONE, PATTERNS)
    user.kill()
    assert (local_folder(ONE, PATTERNS) / "part-1").read_bytes() == b"another"


TAR = "0123456789abcdef" * 2
"""Name of a remote object in the cache of blocks."""


def test_blocks_and_folders_share_the_limit(capsys: pytest.CaptureFixture[str]) -> None:
    one = mirror(ONE, 1000)

    def opened() -> BlockCache:
        found = cache_from_environment()
        assert found is not None
        return found

    for number in range(4):
        cache = opened()
        # Where a cache is opened it has room for half of its limit.
        cache.write(TAR, number, bytes(1_000_000))
        os.utime(cache.folder / f"{TAR}/{number:08d}", (2000 + number, 2000 + number))
        assert one.exists() is (number < 2)
    mirror(ONE)
    mirror(TWO)
    # 8 MB of folders leave 2 MB for blocks.
    assert sorted(path.name for path in opened().folder.glob(f"{TAR}/*")) == ["00000002", "00000003"]
    users = [User(lambda: local_folder(ONE, PATTERNS)), User(lambda: local_folder(TWO, PATTERNS))]
    cache = opened()
    for number in (4, 5):
        cache.write(TAR, number, bytes(1_000_000))
    assert not cache.has(TAR, 4)
    said = capsys.readouterr().out
    assert (
        said.count("blocks of remote shards are not kept: EMO_SHARD_CACHE_GB (0.0101) is taken up by copies that are in use: ")
        == 1
    )
    assert f"{ONE} (4.0 MB)" in said
    for user in users:
        user.kill()


KEY = VisionKey("vision", {"weights": "w"})
FAR = "memory://copies/vision"


def vision(folder: Path, url: str | None = FAR) -> VisionCache:
    return VisionCache(folder, KEY, url, torch.zeros(1, 4))


@pytest.fixture
def computed(tmp_path: Path) -> int:
    """Bytes of a part; ten lie behind the URL, of an image each (`0` to `9`), and one of another image was computed here."""
    with VisionWriter(vision(tmp_path / "other machine"), part_bytes=1) as writer:
        for number in range(10):
            writer.append(f"{number}", torch.full((50_000, 4), float(number)))
    with VisionWriter(vision(tmp_path / "cache/vision", None), part_bytes=1) as writer:
        writer.append("own", torch.zeros(50_000, 4))
    return next((tmp_path / "other machine").glob("*/part-*")).stat().st_size


def test_copied_parts_of_a_vision_cache_go_and_computed_ones_never(tmp_path: Path, computed: int) -> None:
    place = tmp_path / "cache/vision"
    users = [User(lambda: vision(place).fetch(["1", "2", "3"])), User(lambda: local_folder(ONE, PATTERNS))]
    copies = place / KEY.name / COPIED_PARTS
    assert size_of(copies) == 3 * computed

    def found() -> None:
        """Also by a process that names no URL."""
        assert len(vision(place, None)) == 4

    elsewhere(found)
    os.utime(copies, (1000, 1000))
    with pytest.raises(InputError, match=rf"{TWO}: .* in use: {FAR}/{KEY.name} \(2\.4 MB\), {ONE} \(4\.0 MB\)"):
        local_folder(TWO, PATTERNS)
    for user in users:
        user.kill()
    os.utime(copies, (1000, 1000))
    elsewhere(lambda: local_folder(TWO, PATTERNS))
    assert not copies.exists()
    assert "own" in vision(place, None)
    assert computed == next((place / KEY.name).glob("part-*")).stat().st_size


def test_those_of_the_same_key_that_nobody_asks_for_give_way(
    tmp_path: Path, computed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMO_SHARD_CACHE_GB", f"{4.5 * computed / 1e9}")
    place = tmp_path / "cache/vision"
    elsewhere(lambda: vision(place).fetch(["0", "1", "2", "3"]))
    cache = vision(place)
    user = User(lambda: vision(place).fetch(["0"]))
    with pytest.raises(InputError, match="find no room"):
        cache.fetch(["0", "5", "6"])
    user.kill()
    cache.fetch(["0", "5", "6"])
    assert not cache.missing(["0", "5", "6", "own"])
    assert size_of(cache.copies) == 4 * computed
    assert torch.equal(cache.states("5"), torch.full((50_000, 4), 5.0))
    with pytest.raises(InputError, match=r"more than EMO_SHARD_CACHE_GB"):
        vision(place).fetch([f"{number}" for number in range(6)])
