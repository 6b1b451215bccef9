"""Shards behind HTTP ranges give what local ones give, in forked workers as well."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from torch.utils.data import DataLoader

from emo_lightning.core.stores import RemoteStore, StoreError
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.sampler import EpochBatches


class Ranges(BaseHTTPRequestHandler):
    """Serves a folder's files: their size (HEAD), and ranges of them (GET); below `/whole/` it passes over the range."""

    def __init__(self, folder: Path, *args: object) -> None:
        self.folder = folder
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
            part = data[int(wanted[1]) : int(wanted[2]) + 1]
            self._answer(206, len(part))
            self.wfile.write(part)

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
    with pytest.raises(StoreError, match=rf"^{address}/no\.tar: cannot be read: no such file$"):
        RemoteStore(f"{address}/no.tar")
    store = RemoteStore(f"{address}/whole/world-val-000000.tar")
    with pytest.raises(StoreError, match=r"asked for bytes 512 to 1024, got \d+ bytes: the place does not answer ranges"):
        store.read(512, 512)
