"""Shards behind HTTP ranges: a store of two members is all that a remote place needs, in forked workers as well."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from torch.utils.data import DataLoader

from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.sampler import EpochBatches
from emo_lightning.data.stores import register_store


class HTTPStore:
    """One object behind a server that answers ranges; each read is a request of its own, so processes share nothing."""

    def __init__(self, url: str) -> None:
        self.url = url
        with urlopen(Request(url, method="HEAD"), timeout=10) as reply:
            self.size = int(reply.headers["Content-Length"])

    def read(self, offset: int, length: int) -> bytes:
        """See `ByteStore.read`."""
        last = min(offset + length, self.size) - 1
        if last < offset:
            return b""
        with urlopen(Request(self.url, headers={"Range": f"bytes={offset}-{last}"}), timeout=10) as reply:
            return reply.read()


class Ranges(BaseHTTPRequestHandler):
    """Serves a folder's files whole (HEAD) and by range (GET)."""

    def __init__(self, folder: Path, *args: Any) -> None:
        self.folder = folder
        super().__init__(*args)

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str((self.folder / self.path[1:]).stat().st_size))
        self.end_headers()

    def do_GET(self) -> None:
        first, last = map(int, re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"]).groups())  # type: ignore[union-attr]
        data = (self.folder / self.path[1:]).read_bytes()[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def address(world_tars: Path) -> Iterator[str]:
    """Where the session's tars are served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, world_tars))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()


@pytest.mark.parametrize("workers", [0, 2])
def test_remote_shards_give_what_local_ones_give(address: str, workers: int, world_tars: Path) -> None:
    register_store("http", HTTPStore)
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
