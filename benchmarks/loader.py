"""Images of tars in a shuffled order: our loader against two threads that only read and decode by Pillow, and against webdataset's WebLoader.

All three do the same with each of the same samples (JPEGs of 640 x 480 with their records): read it out of its tar, decode it to RGB,
parse its JSON, resize it to 224 x 224 (bicubic, antialiased), and stack batches of 32 as uint8. Ours checks each member's CRC-32 and each
record against the schema beside that, and hands out every sample once an epoch in an order that is a function of the seed. Ours decodes
by simplejpeg and resizes by torch with the channels side by side, as it does for a model; webdataset's gives pictures of Pillow's, and
resizes them by Pillow. The two threads read the tars from front to back in one process, decode by Pillow, resize as ours does, and hand
nothing on; a second pair of them decodes as ours does too, which is all that two cores can give. Ours and webdataset's have two workers.

`ratio` is ours over the threads'; `threads_decoding_as_ours` over the second pair's; `webdataset` ours over WebLoader's;
`webdataset_resizing_as_ours` the same with our way to resize in webdataset's pipeline. Rounds alternate; samples per second by the clock,
medians, the start of the workers left out.

With `--wait` the same pictures are trained on instead: LoRA on the demo's tiny model, pictures of at most 224 x 224, rows of 1,024 tokens, workers
as the machine gives them. `ratio` is then `perf/data_wait`, the share of the time in which the training waited for batches.

    python benchmarks/loader.py [--quick] [--wait] [--rounds 5] [--samples 2000] [--steps 100] [--json FILE]
"""

from __future__ import annotations

import hashlib
import io
import json
import statistics
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypedDict

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
import webdataset
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from numpy.typing import NDArray
from PIL import Image

from benchmarks.command import command_line, write_json
from data_prep.export import write_shards
from emo_lightning.core.emotions import EMOTIONS
from emo_lightning.core.images import encoded, rgb_image
from emo_lightning.core.records import Record
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.loader import ResumableLoader, SlotDataset
from emo_lightning.data.sampler import EpochBatches, Slot
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.families.patches import resized_pixels
from emo_lightning.models.tiny import TinyQwen, build_qwen, words_of
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sft import SFTTask

SIDE = 224
BATCH = 32
WORKERS = 2
WARM = 4
"""Steps in which workers and much else is started."""


def write(folder: Path, samples: int) -> list[str]:
    """Tars of pictures that compress as photographs do (some 60 kB), and their paths."""
    draw = np.random.default_rng(0)

    def made() -> Iterator[tuple[Record, bytes, str]]:
        for number in range(samples):
            coarse = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
                (640, 480), Image.Resampling.BICUBIC
            )
            noisy = np.asarray(coarse, dtype=np.int16) + draw.integers(-8, 9, (480, 640, 3))
            image = encoded(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), "JPEG", quality=90)
            record = Record(
                id=f"{number:06}",
                source="benchmark",
                width=640,
                height=480,
                sha256=hashlib.sha256(image).hexdigest(),
                split="train",
                emotion=EMOTIONS[number % len(EMOTIONS)],
                description="a made picture",
            )
            yield record, image, "jpg"

    write_shards(made(), folder, "made", max(1, samples // 4))
    return sorted(map(str, folder.glob("*.tar")))


def by_torch(image: Image.Image) -> torch.Tensor:
    """(3, 224, 224), as a model gets it here."""
    return resized_pixels(image, (SIDE, SIDE))


def by_pillow(image: Image.Image) -> NDArray[np.uint8]:
    """(3, 224, 224), at most one step of 255 from `by_torch`."""
    return np.array(image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)).transpose(2, 0, 1)


class Pictures(SlotDataset[torch.Tensor]):
    """Of an index."""

    def __init__(self, index: TarIndex) -> None:
        self.index = index

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, slot: Slot) -> torch.Tensor:
        _, image = self.index.sample(slot.index)
        return by_torch(image)


class Ours:
    """The product's loader."""

    def __init__(self, tars: list[str]) -> None:
        pictures = Pictures(TarIndex.open(tars))
        batches = EpochBatches(len(pictures), BATCH, seed=0)
        self.loader: ResumableLoader[torch.Tensor] = ResumableLoader(
            pictures, batches, collate_fn=torch.stack, num_workers=WORKERS, persistent_workers=True, prefetch_factor=2
        )
        self.number = 0

    def epoch(self) -> int:
        """Samples seen."""
        self.loader.set_epoch(self.number)
        self.number += 1
        return sum(len(batch) for batch in self.loader)


class WebDataset:
    """webdataset's own pipeline."""

    def __init__(self, tars: list[str], resized: Callable[[Image.Image], NDArray[np.uint8]]) -> None:
        data = (
            webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0, empty_check=False)
            .shuffle(256)
            .decode("pilrgb")
            .to_tuple("jpg", "json")
            .map(lambda sample: resized(sample[0]))
            .batched(BATCH, collation_fn=lambda found: torch.from_numpy(np.stack(found)), partial=True)
        )
        # As WebLoader's documentation has it: batches are made in the workers.
        self.loader = webdataset.WebLoader(
            data, batch_size=None, num_workers=WORKERS, persistent_workers=True, prefetch_factor=2
        )

    def epoch(self) -> int:
        """Samples seen."""
        return sum(len(batch) for batch in self.loader)


def decoded_by_pillow(data: bytes) -> Image.Image:
    """As most programs do."""
    return Image.open(io.BytesIO(data)).convert("RGB")


class Threads:
    """Two threads, each with every other tar."""

    def __init__(self, tars: list[str], decoded: Callable[[bytes], Image.Image]) -> None:
        self.tars, self.decoded = tars, decoded

    def epoch(self) -> int:
        """Samples seen."""
        counts = [0] * WORKERS

        def work(number: int) -> None:
            for path in self.tars[number::WORKERS]:
                batch: list[torch.Tensor] = []
                with tarfile.open(path) as tar:
                    for member in tar:
                        file = tar.extractfile(member)
                        assert file is not None
                        data = file.read()
                        if member.name.endswith(".json"):
                            json.loads(data)
                            continue
                        batch.append(by_torch(self.decoded(data)))
                        counts[number] += 1
                        if len(batch) == BATCH:
                            torch.stack(batch)
                            batch = []

        threads = [threading.Thread(target=work, args=(number,)) for number in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts)


class Found(TypedDict):
    """Of all rounds."""

    ratio: float
    """Ours over the two threads'."""
    threads_decoding_as_ours: float
    """Ours over those of two threads with our way to decode."""
    webdataset: float
    """Ours over WebLoader's."""
    webdataset_resizing_as_ours: float
    """Ours over WebLoader's with our way to resize."""
    samples_per_s: dict[str, float]
    """Of each side."""


def measure(samples: int, rounds: int) -> Found:
    """Rounds in turn; ratios of the medians."""
    # More of them wait for each other on a busy machine, in processor time.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        tars = write(Path(name), samples)
        sides = {
            "ours": Ours(tars),
            "threads": Threads(tars, decoded_by_pillow),
            "threads_decoding_as_ours": Threads(tars, rgb_image),
            "webdataset": WebDataset(tars, by_pillow),
            "webdataset_resizing_as_ours": WebDataset(tars, lambda image: by_torch(image).numpy()),
        }
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        # The first epoch starts the workers, and brings the tars into memory.
        for number in range(rounds + 1):
            for side, loader in sides.items():
                began = time.perf_counter()
                seen = loader.epoch()
                if number:
                    seconds[side].append(time.perf_counter() - began)
                assert seen == samples, f"{side}: {seen} of {samples} samples"
    rates = {side: samples / statistics.median(times) for side, times in seconds.items()}
    return {
        "ratio": rates["ours"] / rates["threads"],
        "threads_decoding_as_ours": rates["ours"] / rates["threads_decoding_as_ours"],
        "webdataset": rates["ours"] / rates["webdataset"],
        "webdataset_resizing_as_ours": rates["ours"] / rates["webdataset_resizing_as_ours"],
        "samples_per_s": rates,
    }


def training_wait(samples: int, steps: int) -> dict[str, float]:
    """`perf/…` of a training of so many steps, the first few of which count nowhere."""
    with tempfile.TemporaryDirectory() as name:
        tars = write(Path(name), samples)
        model = build_qwen(Path(name) / "tiny", words_of(tars), TinyQwen(), max_pixels=SIDE * SIDE)
        task = SFTTask(BackboneConfig(str(model), tuning="lora"), OptimConfig(lr=1e-4))
        data = ConversationDataModule(tars, tars[:1], {"caption": 1.0}, max_tokens=1024, allow_leaks=True)

        def restart(trainer: Trainer, *rest: object) -> None:
            if rest[-1] == WARM:
                task.throughput.restart(trainer)

        trainer = Trainer(
            default_root_dir=name,
            accelerator="cpu",
            devices=1,
            max_steps=WARM + 1 + steps,
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            callbacks=[LambdaCallback(on_train_batch_end=restart)],
        )
        trainer.fit(task, datamodule=data)
    perf = task.throughput.summary()["perf"]
    assert isinstance(perf, dict)
    return perf


def main() -> None:
    """Measure, and print."""
    parser = command_line(__doc__, "few samples, one round: that it runs, not how fast")
    parser.add_argument("--wait", action="store_true", help="how long a training of the tiny model waits for these pictures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=100, help="of the training of --wait")
    given = parser.parse_args()
    if given.wait:
        perf = training_wait(*((48, 2) if given.quick else (given.samples, given.steps)))
        print(f"waiting for data {perf['data_wait']:.2%} of the time, {perf['images_per_s']:.0f} images/s")
        write_json(given.json, "the time that the training takes", perf["data_wait"], perf)
        return
    found = measure(*((48, 1) if given.quick else (given.samples, given.rounds)))
    rates = found["samples_per_s"]
    print(
        f"ours {rates['ours']:.0f} samples/s, two threads {rates['threads']:.0f} (ratio {found['ratio']:.2f}), decoding as ours "
        f"{rates['threads_decoding_as_ours']:.0f} (ratio {found['threads_decoding_as_ours']:.2f}), "
        f"webdataset {rates['webdataset']:.0f} (ratio {found['webdataset']:.2f}), webdataset that resizes as ours does "
        f"{rates['webdataset_resizing_as_ours']:.0f} (ratio {found['webdataset_resizing_as_ours']:.2f})"
    )
    write_json(given.json, "two threads that only read and decode by Pillow", found["ratio"], found)


if __name__ == "__main__":
    main()
