"""Workers: how many by themselves, the same batches as without, and none that outlives its parent."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from emo_lightning.core import cores
from emo_lightning.data import workers
from emo_lightning.data.collate import Collator
from emo_lightning.data.conversation_dataset import ConversationDataset
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.data.sampler import EpochBatches
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.loading import load_backbone
from tests.data.test_loader import Rows
from tests.patience import PATIENCE, gone, wait_until


@pytest.mark.parametrize(
    ("samples", "given", "expected"),
    [
        (511, {"cores": 64, "ranks": 1}, 0),
        (512, {"cores": 1, "ranks": 1}, 1),
        (512, {"cores": 2, "ranks": 1}, 2),
        (10**6, {"cores": 2, "ranks": 4}, 0),
        (10**6, {"cores": 26, "ranks": 8}, 3),
        (10**6, {"cores": 192, "ranks": 8}, 8),
        (10**6, {"cores": 192, "ranks": 8, "shared": 64 << 20}, 0),
        (10**6, {"cores": 192, "ranks": 8, "shared": 8 << 30}, 4),
    ],
)
def test_how_many(samples: int, given: dict[str, int], expected: int) -> None:
    assert workers.worker_count(samples, **given) == expected


def test_a_number_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert workers.workers(3, 10, 1) == 3
    monkeypatch.setattr(workers, "usable_cores", lambda: 16)
    monkeypatch.setattr("emo_lightning.data.workers.shutil.disk_usage", lambda _: SimpleNamespace(free=600 << 20))
    assert workers.workers("auto", 10_000, 2) == 1
    assert "600 MiB left: 1 processes read images ahead, there could be 8" in capsys.readouterr().err


def test_cores_are_those_of_the_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    for text, expected in (
        ("max 100000\n", 8),
        ("250000 100000\n", 2),
        ("50000 100000\n", 1),
        ("9900000 100000\n", 8),
        ("?", 8),
    ):
        (tmp_path / "cpu.max").write_text(text, encoding="utf-8")
        assert cores.usable_cores() == expected


@pytest.mark.parametrize("said", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_threads_wait_briefly_unless_the_environment_says_how(said: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in cores.BRIEF_WAIT:
        monkeypatch.setenv(name, said.get(name, ""))
        if name not in said:
            monkeypatch.delenv(name)
    cores.wait_briefly()
    assert {name: os.environ[name] for name in cores.BRIEF_WAIT if name in os.environ} == (said or cores.BRIEF_WAIT)


def test_batches_are_the_same_to_the_bit_whatever_their_number(tiny_qwen: Path, world_tars: Path) -> None:
    """Two epochs by workers that stay, begun in the middle of the first."""
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen"))
    index = TarIndex.open(str(world_tars / "*-train-*.tar"))
    dataset = ConversationDataset(index, {"attributes": 0.5, "emotion": 0.5}, seed=3)
    found = []
    for number in (0, 2):
        loader: ResumableLoader[Any] = ResumableLoader(
            dataset,
            EpochBatches(len(dataset), 5, seed=3),
            collate_fn=Collator(backbone.processor, backbone.model_type, answers=True, packed=True),
            num_workers=number,
            persistent_workers=number > 0,
            prefetch_factor=workers.PREFETCH_FACTOR if number else None,
        )
        loader.load_state_dict({**loader.state_dict(), "step": 2})
        batches = list(loader)
        loader.set_epoch(1)
        found.append(batches + list(loader))
    assert len(found[0]) == 2 * len(EpochBatches(len(dataset), 5, seed=3)) - 2
    for one, other in zip(*found, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert _same(value, other[name]), name


def _same(one: object, other: object) -> bool:
    """To the bit, also inside of lists and of classes that hold tensors."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return one.dtype == other.dtype and one.equal(other)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if hasattr(one, "__dict__"):
        return type(one) is type(other) and _same(list(vars(one).items()), list(vars(other).items()))
    return one == other


def _train_for_ever(pids: Connection) -> None:
    """A parent with two workers in the middle of an epoch, and batches that fill the pipe."""
    loader: ResumableLoader[Any] = ResumableLoader(
        Rows(), EpochBatches(10_000, 2, seed=0), collate_fn=_much, num_workers=2, persistent_workers=True
    )
    batches = iter(loader)
    next(batches)
    assert loader._iterator is not None
    pids.send([worker.pid for worker in loader._iterator._workers])  # type: ignore[attr-defined]
    for _ in itertools.count():
        time.sleep(1)


def _much(samples: list[torch.Tensor]) -> list[list[float]]:
    return [sample.tolist() * 50_000 for sample in samples]


@pytest.fixture
def parent() -> Iterator[tuple[multiprocessing.Process, list[int]]]:
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_train_for_ever, args=(theirs,))
    process.start()
    yield process, mine.recv()  # type: ignore[misc]
    process.kill()
    process.join()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent(end: signal.Signals, parent: tuple[multiprocessing.Process, list[int]]) -> None:
    process, pids = parent
    assert process.pid is not None
    assert not any(map(gone, pids))
    os.kill(process.pid, end)
    process.join(PATIENCE)
    wait_until(lambda: all(map(gone, pids)))


def test_a_tokenizer_that_has_used_its_threads_is_forked_in_silence(tiny_qwen: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """It would warn, and work with threads that are not there."""
    tokenizer = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen")).processor.tokenizer
    tokenizer(["a dog", "a cat"] * 50)
    before = dict(os.environ)
    loader = ResumableLoader(
        Rows(), EpochBatches(4, 2, seed=0), collate_fn=lambda _: tokenizer(["a dog"] * 50)["input_ids"], num_workers=1
    )
    assert [len(ids) for ids in loader] == [50, 50]
    assert dict(os.environ) == before
    assert "fork" not in capfd.readouterr().err
