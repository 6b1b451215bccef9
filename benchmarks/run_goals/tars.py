"""Goal 6: a damaged tar is named, and never becomes another sample. Goal 8: opening many samples, and a place far into an epoch."""

from __future__ import annotations

import io
import random
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.run_goals.lines import Given, Line, Tested, tested
from emo_lightning.core.errors import UserError
from emo_lightning.core.images import encoded
from emo_lightning.core.shard_index import index_path
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.data.sampler import EpochBatches
from emo_lightning.data.tar_index import TarIndex
from tests.elastic import Slots
from tests.made import make_record, write_tar

GOAL = 0.5
"""Seconds to open 100,000 samples."""


def measure(given: Given) -> Iterator[Line | Tested]:
    """Damage of each kind, at random places."""
    folder = given.work / "damaged"
    folder.mkdir(parents=True, exist_ok=True)
    records = [make_record(f"img{n}", emotion="awe", intensity=3, description="a dog", background="beach") for n in range(3)]
    path, _ = write_tar(folder / "set-000000.tar", records)
    whole = path.read_bytes()
    content = everything(path)
    index = index_path(path)
    made = index.read_bytes()
    with tarfile.open(path) as tar:
        members = [(member.offset, member.offset_data, member.size, member.name) for member in tar]
    draw = random.Random(given.seed)

    def flips(count: int, ending: str) -> list[bytes]:
        found = []
        for _ in range(count):
            header, start, size, _ = draw.choice([one for one in members if one[3].endswith(ending) or ending == "header"])
            at = draw.randrange(header, header + 512) if ending == "header" else draw.randrange(start, start + size)
            found.append(whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :])
        return found

    json, images, headers, cuts = (given.count(n, n // 10) for n in (250, 250, 500, 1000))
    kinds = {
        "flipped bits of a JSON": flips(json, ".json"),
        "flipped bits of an image": flips(images, ".png"),
        "flipped bits of a header": flips(headers, "header"),
        "truncation": [whole[: draw.randrange(1, len(whole) - 1024)] for _ in range(cuts)],
    }
    for what, damages in kinds.items():
        missed = 0
        for number, one in enumerate(damages):
            path.write_bytes(one)
            # A record that became another one by damage before anybody opened its tar cannot be told from one that was written so.
            if number % 2 or what.endswith("JSON"):
                index.write_bytes(made)
            else:
                index.unlink(missing_ok=True)
            missed += not noticed(path, content)
        yield Line(
            f"damaged tars: {what}",
            f"{len(damages) - missed}/{len(damages)} named, or without effect",
            not missed,
            "tests/data/test_shard_indices.py, tests/data/test_tar_index.py",
        )
    path.write_bytes(whole)
    yield tested("an index beside a tar: made once, damaged, of another tar", "tests/data/test_shard_indices.py")


def everything(path: Path) -> list[tuple[str, str, bytes]]:
    """Ids, records and bytes of images."""
    index = TarIndex.open([str(path)])
    return [(index.key(row), index.record(row).to_json().decode(), index.image_bytes(row)[0]) for row in range(len(index))]


def noticed(path: Path, content: list[tuple[str, str, bytes]]) -> bool:
    """Whether reading a damaged tar names it, or gives what it gave."""
    try:
        return everything(path) == content
    except UserError as error:
        return path.name in str(error)


def opening(given: Given) -> Iterator[Line]:
    """Goal 8."""
    samples = given.count(100_000, 5_000)
    tars = write_many(given.work / "many", samples, 100 if not given.quick else 5)
    began = time.perf_counter()
    TarIndex.open(tars)
    first = time.perf_counter() - began
    seconds = [timed(partial(TarIndex.open, tars)) for _ in range(5)]
    own = min(own for own, _ in seconds)
    yield Line(
        f"opening {samples:,} samples with their indices",
        f"{own:.3f} s of one core, {min(clock for _, clock in seconds):.3f} s by the clock (the first time, which makes them, {first:.1f} s)",
        own <= GOAL,
        "tests/data/test_shard_indices.py::test_nothing_is_read_to_open_and_select",
    )
    start, late, size = (min(found) for found in zip(*(resumed(100_000, 10) for _ in range(5)), strict=True))
    yield Line(
        "resume at 90 % of 100,000 samples: the first batch against that of a start",
        f"{1e3 * late:.1f} ms against {1e3 * start:.1f} ms, {size} bytes of state",
        late < 2 * start + 0.01 and size < 500,
        "tests/data/test_loader.py::test_resume_with_workers_counts_batches_handed_out_not_fetched",
    )


def timed(work: partial[TarIndex]) -> tuple[float, float]:
    """Seconds of the processor, which others do not lengthen, and by the clock."""
    began, clock = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - began, time.perf_counter() - clock


def resumed(size: int, batch: int) -> tuple[float, float, int]:
    """Seconds to the first batch of a new epoch, and of one that is gone on with at 90 %; bytes of the state."""

    def first(loader: ResumableLoader[list[object]]) -> float:
        began = time.perf_counter()
        next(iter(loader))
        return time.perf_counter() - began

    def loader() -> ResumableLoader[list[object]]:
        return ResumableLoader(Slots(), EpochBatches(size, batch, seed=1), collate_fn=list)

    late = loader()
    state = {**late.state_dict(), "step": size // batch * 9 // 10}
    late.load_state_dict(state)
    return first(loader()), first(late), len(str(state))


def write_many(folder: Path, samples: int, tars: int) -> list[str]:
    """Tars of one small image under many names."""
    folder.mkdir(parents=True, exist_ok=True)
    image = encoded(Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)), "PNG")
    paths = []
    each = samples // tars
    for number in range(tars):
        paths.append(folder / f"many-{number:06}.tar")
        if paths[-1].exists():
            continue
        with tarfile.open(paths[-1], "w") as tar:
            for row in range(number * each, (number + 1) * each):
                record = make_record(f"{row:08}", width=8, height=8, emotion="awe", intensity=5, split="train")
                for ending, data in (("json", record.to_json()), ("png", image)):
                    info = tarfile.TarInfo(f"{record.id}.{ending}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return [str(path) for path in paths]
