"""A cold epoch of tars behind a slow link: our loader against readers that take the same bytes from front to back.

A server on loopback, in a process of its own, serves tars by ranges, as an object store does: all connections together get `--rate` MB/s,
one of them alone half of it, and each answer waits for `--latency` seconds first. With `--faults` so many of the answers are 503, or cut,
and our loader has to ask again. The peer reads all tars at once, decodes nothing, and is what the link gives.

Ours opens the tars (the index of each lies beside it there), and reads one shuffled epoch with two workers, from an empty cache:
every image is checked, decoded and resized to 224 x 224. Counted from before the first byte to after the last batch. `ratio` is the peer's
time over ours. Both wait for the link most of the time, which nothing else uses: a busy machine changes the ratio little as long as the
processors could take several times as much. `lost` counts samples that were not seen exactly once with the right pixels, `twice` bytes
that were sent beyond those of the tars and their indices, as a share of them.

    python benchmarks/remote.py [--quick] [--rounds 1] [--samples 800] [--rate 2] [--latency 0.02] [--faults 0] [--json FILE]
"""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
import zlib
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TypedDict

import fsspec
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.command import command_line, write_json
from benchmarks.loader import BATCH, WORKERS, by_torch, write
from emo_lightning.core import remote
from emo_lightning.core.at_once import each_at_once
from emo_lightning.core.lifetimes import die_with_parent
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.data.pictures import PictureDataset
from emo_lightning.data.sampler import EpochBatches, Slot
from emo_lightning.data.tar_index import TarIndex

PIECE = 16 << 10


class Link:
    """Bytes that may be sent.

    Args:
        rate: bytes a second.
    """

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.sent = 0
        self._free = 0.0
        self._lock = threading.Lock()

    def wait(self, size: int) -> None:
        """Until so many bytes have passed."""
        with self._lock:
            self.sent += size
            # What a sleep took too long is made up for, up to a fifth of a second.
            self._free = max(self._free, time.monotonic() - 0.2) + size / self.rate
            until = self._free
        time.sleep(max(0.0, until - time.monotonic()))


class Ranges(BaseHTTPRequestHandler):
    """Files of a folder, whole or by ranges, over a link."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, link: Link, latency: float, faults: float, draw: random.Random, *args: object) -> None:
        self.folder, self.link, self.latency, self.faults, self.draw = folder, link, latency, faults, draw
        super().__init__(*args)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def _serve(self, *, body: bool) -> None:
        time.sleep(self.latency)
        path = self.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        fault = self.draw.choice(("503", "cut")) if wanted and self.draw.random() < self.faults else ""
        if fault == "503":
            self.send_error(503)
            return
        data = path.read_bytes()
        part = data[int(wanted[1]) : int(wanted[2]) + 1] if wanted else data
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if not body:
            return
        own = Link(self.link.rate / 2)
        for start in range(0, len(part) // (2 if fault else 1), PIECE):
            piece = part[start : start + PIECE]
            own.wait(len(piece))
            self.link.wait(len(piece))
            self.wfile.write(piece)
        self.close_connection = bool(fault)

    def log_message(self, *_: object) -> None:
        pass


def serve(folder: Path, rate: float, latency: float, faults: float, parent_end: Connection, parent: int) -> None:
    """Until this process is ended; says its port, and, whenever it is asked, how many bytes it has sent."""
    die_with_parent(parent=parent)
    link, draw = Link(rate * 1e6), random.Random(0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, folder, link, latency, faults, draw))
    parent_end.send(server.server_port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while True:
        parent_end.recv()
        parent_end.send(link.sent)


class Pictures(PictureDataset[tuple[str, int, torch.Tensor]]):
    """Of an index: key, CRC-32 of the pixels, and the picture as a training takes it."""

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, slot: Slot) -> tuple[str, int, torch.Tensor]:
        record, image = self.index.sample(slot.index)
        pixels = by_torch(image).numpy()
        return record.id, zlib.crc32(pixels.tobytes()), torch.from_numpy(pixels)


def epoch(tars: list[str], workers: int) -> tuple[float, list[tuple[str, int]]]:
    """(seconds, what was seen)."""
    began = time.perf_counter()
    pictures = Pictures(TarIndex.open(tars))
    loader: ResumableLoader[list[tuple[str, int, torch.Tensor]]] = ResumableLoader(
        pictures, EpochBatches(len(pictures), BATCH, seed=0), collate_fn=list, num_workers=workers
    )
    loader.set_epoch(0)
    seen = [(key, crc) for batch in loader for key, crc, _ in batch]
    return time.perf_counter() - began, seen


def straight(urls: list[str]) -> float:
    """Seconds that the bytes alone take."""

    def read(url: str) -> None:
        with urllib.request.urlopen(url) as answer:  # nosec: our own server on loopback
            while answer.read(1 << 20):
                pass

    began = time.perf_counter()
    for _ in each_at_once(read, urls):
        pass
    return time.perf_counter() - began


class Found(TypedDict):
    """Of all rounds."""

    ratio: float
    """The peer's seconds over ours."""
    lost: int
    """Samples that were not seen exactly once with the right pixels."""
    twice: float
    """Share of the bytes that were sent once more than needed."""
    link_mb_per_s: float
    """What the peer got."""
    ours_mb_per_s: float
    """What a cold epoch got."""
    attempts: int
    """Of one range, at most."""


def measure(samples: int, rounds: int, rate: float, latency: float, faults: float) -> Found:
    """Rounds in turn; ratio of the medians. See the options of the command."""
    # More of them wait for each other on a busy machine, in processor time.
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tars"
        tars = write(folder, samples)
        server_end, parent_end = multiprocessing.Pipe()
        server = multiprocessing.get_context("fork").Process(
            target=serve, args=(folder, rate, latency, faults, parent_end, os.getpid()), daemon=True
        )
        server.start()

        def sent() -> int:
            server_end.send(None)
            return int(server_end.recv())

        # What speaks HTTP is imported before anything is measured.
        fsspec.filesystem("http")
        urls = [f"http://127.0.0.1:{port}/{Path(tar).name}" for port in [server_end.recv()] for tar in tars]
        size = sum(path.stat().st_size for path in folder.glob("*.tar"))
        needed = size + sum(path.stat().st_size for path in folder.glob("*.npz"))
        wanted = sorted(epoch(tars, 0)[1])
        peer, ours, lost, more = [], [], 0, 0
        before = {name: os.environ.get(name) for name in ("EMO_SHARD_CACHE", "EMO_CACHE")}
        for number in range(rounds):
            peer.append(straight(urls))
            os.environ |= {"EMO_SHARD_CACHE": f"{name}/blocks-{number}", "EMO_CACHE": f"{name}/cache-{number}"}
            more -= sent()
            seconds, seen = epoch(urls, WORKERS)
            more += sent() - needed
            ours.append(seconds)
            lost += len(wanted) - len(set(wanted) & set(seen)) + len(seen) - len(set(seen))
        for key, value in before.items():
            os.environ.pop(key, None)
            os.environ |= {} if value is None else {key: value}
        server.kill()
        server.join()
    return {
        "ratio": statistics.median(peer) / statistics.median(ours),
        "lost": lost,
        "twice": more / rounds / needed,
        "link_mb_per_s": size / statistics.median(peer) / 1e6,
        "ours_mb_per_s": size / statistics.median(ours) / 1e6,
        "attempts": remote.ATTEMPTS,
    }


def main() -> None:
    """Rounds in turn; ratio of the medians."""
    parser = command_line(__doc__, "few samples, one round: that it runs, not how fast")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--samples", type=int, default=800)
    parser.add_argument("--rate", type=float, default=2.0, help="MB a second (default: 2)")
    parser.add_argument("--latency", type=float, default=0.02, help="seconds before each answer (default: 0.02)")
    parser.add_argument("--faults", type=float, default=0.0, help="share of the answers to ranges that fail (default: 0)")
    given = parser.parse_args()
    if given.quick:
        given.samples, given.rounds, given.rate, given.latency = 32, 1, 50.0, 0.0
    found = measure(given.samples, given.rounds, given.rate, given.latency, given.faults)
    print(
        f"the link {found['link_mb_per_s']:.2f} MB/s, a cold epoch {found['ours_mb_per_s']:.2f} (ratio {found['ratio']:.2f}), "
        f"{found['lost']} of {given.rounds * given.samples} samples lost, doubled or altered, {found['twice']:.1%} of the bytes sent twice"
    )
    write_json(given.json, "readers that take the bytes from front to back", found["ratio"], found)


if __name__ == "__main__":
    main()
