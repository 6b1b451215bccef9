"""Requests a second of `emo serve`: batches against one picture at a time, on the same server code, model, pictures and clients.

Both servers run in this process, one after the other in rounds that alternate. The peer has `--batch-size 1`: every request is a call of the
model by itself. `ratio` is the median of ours over the peer's. All clients are threads of this process with one connection each, so their
own work is in both.

Then the load: `--clients` (64) ask for `--seconds` (60) without a pause, embeddings and explanations in turn, each picture another one. Every
request is answered by 200, or by 503 with Retry-After, after which it is asked again; anything else is lost. Every embedding is compared with
that of the model alone. Memory is that of the process, after a tenth of the time and at the end.

Without --model: a tiny random Qwen2.5-VL and images of the drawn world.

    python benchmarks/serve.py [--quick] [--model FOLDER] [--device cpu] [--clients 64] [--seconds 60] [--json FILE]
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.command import command_line, write_json
from benchmarks.explain import drawn, made
from emo_lightning.inference.model import EmotionModel
from emo_lightning.serve.app import make_app
from emo_lightning.serve.door import Gate
from emo_lightning.serve.server import Server, address_of, listen
from emo_lightning.serve.service import Service
from emo_lightning.serve.settings import Limits

TOKEN = "of-this-benchmark"
PATIENCE = 600.0


@contextmanager
def serving(model: EmotionModel, limits: Limits) -> Iterator[str]:
    """Address of a server that runs until the block ends."""
    bound = listen("127.0.0.1", 0)
    service = Service(model, limits)
    server = Server(make_app(service, Gate(TOKEN)), PATIENCE, service.batcher.hurry)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://{address_of(bound)}"
    finally:
        server.should_exit = True
        thread.join()


def client(url: str) -> httpx.Client:
    return httpx.Client(
        base_url=url, headers={"Authorization": f"Bearer {TOKEN}", "Content-Type": "image/png"}, timeout=PATIENCE
    )


def burst(model: EmotionModel, limits: Limits, pictures: Sequence[bytes], clients: int) -> float:
    """Requests a second, all pictures once."""
    with serving(model, limits) as url, ThreadPoolExecutor(clients) as pool:
        local = threading.local()

        def ask(picture: bytes) -> int:
            if not hasattr(local, "http"):
                local.http = client(url)
            return local.http.post("/v1/explain?embedding=false", content=picture).status_code

        # Connections are made, and every thread is there.
        list(pool.map(ask, pictures[:clients]))
        start = time.perf_counter()
        codes = list(pool.map(ask, pictures))
        took = time.perf_counter() - start
    assert set(codes) == {200}, codes
    return len(pictures) / took


@dataclass
class Load:
    """What clients have seen."""

    seconds: list[float] = field(default_factory=list)
    """Of each answered request, from its first asking."""
    busy: int = 0
    """Answers 503."""
    lost: list[str] = field(default_factory=list)
    wrong: int = 0
    """Embeddings that are not the picture's."""


def resident() -> float:
    """Megabytes of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def load(url: str, pictures: Sequence[bytes], own: np.ndarray, clients: int, seconds: float) -> tuple[Load, list[float]]:
    """Clients that ask without a pause, and the memory meanwhile, ten times a second."""
    found, turns, lock = Load(), itertools.count(), threading.Lock()
    with client(url) as http:
        name = http.get("/v1/models").json()["data"][0]["id"]
    coded = [json.dumps({"model": name, "input": base64.b64encode(data).decode()}).encode() for data in pictures]
    until = time.perf_counter() + seconds

    def work() -> None:
        with client(url) as http:
            while time.perf_counter() < until:
                turn = next(turns)
                which = turn % len(pictures)
                start = time.perf_counter()
                explains = turn % 2 == 1
                path, body, kind = (
                    ("/v1/explain", pictures[which], "image/png")
                    if explains
                    else ("/v1/embeddings", coded[which], "application/json")
                )
                try:
                    while (answer := http.post(path, content=body, headers={"Content-Type": kind})).status_code == 503:
                        with lock:
                            found.busy += 1
                        time.sleep(float(answer.headers["Retry-After"]))
                except httpx.HTTPError as error:
                    with lock:
                        found.lost.append(repr(error))
                    continue
                with lock:
                    if answer.status_code != 200:
                        found.lost.append(answer.text)
                        continue
                    found.seconds.append(time.perf_counter() - start)
                    des = answer.json()["data"][0]["des" if explains else "embedding"]
                    found.wrong += not np.allclose(des, own[which], atol=1e-3, rtol=1e-3)

    memory: list[float] = []
    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append(resident())
        time.sleep(0.1)
    return found, memory


def main() -> None:
    parser = command_line(__doc__, "few requests, two seconds of load: does it run?")
    parser.add_argument("--model", type=Path, help="folder of a model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=256, help="of a round of the comparison")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=24)
    parser.add_argument("--hidden", type=int, default=128, help="width of the random model")
    args = parser.parse_args()
    if args.quick:
        args.clients, args.seconds, args.requests, args.rounds, args.max_new_tokens, args.hidden = 8, 1, 8, 1, 2, 64
    torch.set_num_threads(1)
    batched = Limits(batch_size=args.batch_size, max_new_tokens=args.max_new_tokens)
    alone = Limits(batch_size=1, wait=0, max_new_tokens=args.max_new_tokens)
    with tempfile.TemporaryDirectory() as temporary:
        model = EmotionModel(args.model or made(Path(temporary), args.hidden), args.device)
        images = drawn(min(args.requests, 64))
        files = []
        for image in images:
            out = io.BytesIO()
            image.save(out, "PNG")
            files.append(out.getvalue())
        pictures = [files[n % len(files)] for n in range(args.requests)]
        rates: dict[str, list[float]] = {"ours": [], "peer": []}
        for _ in range(args.rounds):
            for name, limits in (("ours", batched), ("peer", alone)):
                rates[name].append(burst(model, limits, pictures, args.clients))
        own = model.embed(images).numpy()
        with serving(model, batched) as url:
            found, memory = load(url, files, own, args.clients, args.seconds)
    ours, peer = (statistics.median(rates[name]) for name in ("ours", "peer"))
    ordered = sorted(found.seconds)
    early = statistics.median(memory[len(memory) // 10 : len(memory) // 5 + 1])
    late = statistics.median(memory[-max(1, len(memory) // 10) :])
    result = {
        "ours": ours,
        "peer": peer,
        "clients": args.clients,
        "seconds": args.seconds,
        "answered": len(ordered),
        "lost": len(found.lost),
        "wrong": found.wrong,
        "busy": found.busy,
        "p50_s": ordered[len(ordered) // 2],
        "p99_s": ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))],
        "memory_early_mb": early,
        "memory_late_mb": late,
    }
    for name, value in {"ratio": ours / peer, **result}.items():
        print(f"{name:<16} {value:10.2f}")
    for text in found.lost[:3]:
        print(f"lost: {text}")
    write_json(args.json, "a request alone in the model", ours / peer, result)
    assert not found.lost
    assert not found.wrong


if __name__ == "__main__":
    main()
