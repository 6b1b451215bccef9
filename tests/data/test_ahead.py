"""Samples behind URLs are fetched ahead of who reads them: each once, in few requests, within bounds of memory, whoever fails."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from emo_lightning.core import remote
from emo_lightning.core.block_cache import BlockCache
from emo_lightning.core.ranges_ahead import Range, RangesAhead, together
from emo_lightning.core.remote import StoreError
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.loader import ResumableLoader, with_lookahead
from emo_lightning.data.sampler import EpochBatches
from tests.data.test_remote_shards import Place, place  # noqa: F401 (a fixture)
from tests.patience import wait_until


class Object:
    """Bytes that are given when they may be.

    Args:
        size: of them.
    """

    def __init__(self, size: int) -> None:
        self.data = bytes(n % 251 for n in range(size))
        self.open = threading.Event()
        self.open.set()
        self.asked: list[tuple[int, int]] = []
        self.fails: Callable[[], bool] = lambda: False

    def has(self, _start: int, _end: int) -> bool:
        return False

    def fetch(self, start: int, end: int, parts: Sequence[tuple[int, int]]) -> list[bytes]:
        self.asked.append((start, end))
        self.open.wait()
        if self.fails():
            raise StoreError("gone")
        return [self.data[first:last] for first, last in parts]


def ranges(*starts: int, length: int = 100) -> list[Range]:
    return [Range(0, start, start + length) for start in starts]


def test_neighbours_are_one_request_in_the_order_of_need() -> None:
    wanted = [Range(0, 500_000, 560_000), Range(1, 0, 10), Range(0, 10, 20), Range(0, 560_512, 600_000), Range(0, 25, 40)]
    assert together(wanted) == [[wanted[0], wanted[3]], [wanted[1]], [wanted[2], wanted[4]]]
    long = [Range(0, n << 19, (n + 1) << 19) for n in range(5)]
    assert [len(group) for group in together(long)] == [2, 2, 1]


def test_each_is_asked_for_once_and_forgotten() -> None:
    source = Object(100_000)
    ahead = RangesAhead(lambda _: source)
    wanted = ranges(50_000, 0, 30_000)
    ahead.want(wanted)
    wait_until(lambda: len(ahead._found) == 3)
    for one in wanted:
        assert ahead.take(one) == source.data[one.start : one.end]
    assert sorted(source.asked) == sorted(one[1:] for one in wanted)
    assert ahead.take(wanted[0]) is None, "whoever wants it again says so, or reads it"
    ahead.want(ranges(70_000))
    wait_until(lambda: len(ahead._found) == 1)
    ahead.want(ranges(90_000))
    assert ahead.take(ranges(70_000)[0]) is None
    assert ahead.take(ranges(90_000)[0]) == source.data[90_000:90_100]
    assert (ahead._bytes, ahead._found) == (0, {})


def test_no_more_than_so_many_bytes_are_held() -> None:
    source = Object(1_000_000)
    ahead = RangesAhead(lambda _: source, at_once=4, most=250)
    wanted = ranges(*range(0, 1_000_000, 50_000))
    ahead.want(wanted)
    wait_until(lambda: ahead._threads == 0)
    assert len(source.asked) == 3, "the third one goes beyond it"
    for one in wanted:
        assert ahead.take(one) == source.data[one.start : one.end]
        assert ahead._bytes <= 350
    assert len(source.asked) == len(wanted)


def test_who_needs_it_waits_for_it_or_asks_by_himself() -> None:
    source = Object(1000)
    source.open.clear()
    ahead = RangesAhead(lambda _: source, at_once=1, most=1)
    first, second = [Range(0, 0, 100)], [Range(1, 0, 100)]
    ahead.want([*first, *second])
    wait_until(lambda: len(source.asked) == 1)
    found: list[bytes | None] = []
    waits = threading.Thread(target=lambda: found.append(ahead.take(first[0])))
    waits.start()
    source.open.set()
    waits.join()
    assert found == [source.data[:100]]
    assert ahead.take(second[0]) == source.data[:100]
    assert len(source.asked) == 2


def test_a_failure_is_told_to_whoever_needs_it() -> None:
    source = Object(1000)
    source.fails = lambda: True
    ahead = RangesAhead(lambda _: source)
    (one,) = ranges(0)
    ahead.want([one])
    wait_until(lambda: ahead._threads == 0)
    with pytest.raises(StoreError, match="gone"):
        ahead.take(one)
    source.fails = lambda: False
    ahead.want([one])
    assert ahead.take(one) == source.data[:100]


@pytest.mark.parametrize("processes", [1, 3])
def test_each_process_hears_of_its_own_batches(processes: int) -> None:
    batches = list(EpochBatches(1000, 7, seed=1).from_step(0))
    told = list(with_lookahead(iter(batches), processes))
    assert told == [list(batch) for batch in batches]
    assert list(with_lookahead([], processes)) == []
    for number, batch in enumerate(told):
        own = [slot.index for later in batches[number::processes] for slot in later]
        assert batch.numbers == own[: len(batch.numbers)]
        assert len(batch.numbers) >= min(256, len(own))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("workers", [0, 2])
def test_an_epoch_asks_for_each_sample_once(
    place: Place,  # noqa: F811
    world_tars: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
    kept: bool,
) -> None:
    """Every fifth answer fails."""
    cache = BlockCache(tmp_path / "blocks", 10**9) if kept else None
    monkeypatch.setattr(remote, "cache_from_environment", lambda: cache)

    def loader(where: str, *, shuffle: bool) -> ResumableLoader[Any]:
        source = ConversationDataModule(
            [f"{where}/world-train-{{000000..000001}}.tar"], [f"{where}/world-val-000000.tar"], {"attributes": 1.0}
        )
        dataset = source.dataset("train")
        batches = EpochBatches(len(dataset), 5, seed=1, shuffle=shuffle)
        return ResumableLoader(dataset, batches, collate_fn=list, num_workers=workers)

    def seen(one: ResumableLoader[Any]) -> list[tuple[str, bytes]]:
        return [(question.key, question.image.tobytes()) for batch in one for question in batch]

    local = seen(loader(str(world_tars), shuffle=True))
    far = loader(place.address, shuffle=True)
    indices = set(tmp_path.glob("blocks/*/0*"))
    place.asked.clear()
    place.faults[:] = ["503", "", "", "", "", "cut", "", "", "", "", "drop"]
    assert seen(far) == local
    assert len(place.asked) <= 24 + 3, "what fails is asked for again"
    assert set(tmp_path.glob("blocks/*/0*")) == indices, "no block: each range for itself"
    place.asked.clear()
    assert seen(far) == local
    assert bool(place.asked) != kept
    if not kept and workers == 0:
        in_order = loader(place.address, shuffle=False)
        place.asked.clear()
        assert sorted(seen(in_order)) == sorted(local)
        assert len(place.asked) <= 12, "neighbours together"
