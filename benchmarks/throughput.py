"""Replies per second through the ledger, against the bare `openai` client with the same bodies at the same concurrency.

Peers: `AsyncOpenAI(max_retries=0).chat.completions.create`, which keeps nothing, with its default transport and with aiohttp's, which
is the one that we use. All ask the same simulated server, a process of its
own; rounds in turn, the ratio of the medians. Each of ours is written to disk before it is sent and after it is received.

.venv/bin/python benchmarks/throughput.py [--requests 300] [--concurrency 16] [--latency SECONDS] [--quick] [--json FILE]
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import openai
import yaml

from benchmarks.command import command_line, write_json
from data_prep.annotate.replies import FullAnnotation
from data_prep.config import PrepConfig
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE, simulated_annotators
from data_prep.demo.world import World
from data_prep.provider.caller import Caller
from data_prep.provider.config import EndpointConfig
from data_prep.provider.openai import OpenAIProvider
from data_prep.provider.prices import load_prices
from data_prep.provider.request import Picture, Request
from data_prep.provider.workers import ask_all
from data_prep.settings import CONFIGS
from data_prep.store.store import Store

ROUNDS = 5


def configuration(folder: Path, concurrency: int, latency: float) -> Path:
    """One annotator that makes no mistakes."""
    config = yaml.safe_load((CONFIGS / "world.yaml").read_text())
    config["prices"] = str(CONFIGS / "prices.yaml")
    config["annotators"][0]["concurrency"] = concurrency
    config["simulation"]["models"]["sim-gpt"] |= {"latency": latency, "invalid_json": 0.0, "too_many_requests": 0.0}
    path = folder / "pass.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


async def ours(store: Store, config: PrepConfig, requests: list[Request]) -> float:
    """Requests per second through the ledger."""
    caller = Caller(store.ledger, load_prices(config.prices), config.endpoints)

    async def ask(request: Request) -> None:
        await caller.ask(request.endpoint, request.picture, request.prompt, FullAnnotation, max_invalid=0)

    began = time.perf_counter()
    await ask_all(caller.stop, requests, ask, caller.attempts.at_once(config.annotators[0]))
    elapsed = time.perf_counter() - began
    await caller.close()
    return len(requests) / elapsed


async def bare(endpoint: EndpointConfig, requests: list[Request], *, aiohttp: bool) -> float:
    """Requests per second of the client alone, by its default transport or by the one that we give it."""
    transport = openai.DefaultAioHttpClient() if aiohttp else None
    client = openai.AsyncOpenAI(api_key="x", base_url=endpoint.base_url, max_retries=0, http_client=transport)
    queue = iter(requests)

    async def worker() -> None:
        for request in queue:
            await client.chat.completions.create(**OpenAIProvider().body(request.question()))  # type: ignore[call-overload]  # JSON as it is sent

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(endpoint.concurrency)))
    elapsed = time.perf_counter() - began
    await client.close()
    return len(requests) / elapsed


def main() -> None:
    """Rounds in turn."""
    parser = command_line(__doc__)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds")
    given = parser.parse_args()
    count, rounds_of_each = (8, 1) if given.quick else (given.requests, ROUNDS)
    concurrency, latency = given.concurrency, given.latency
    sample = next(iter(World(seed=0).samples("train", 1)))
    picture = Picture(sample.truth.sha256, sample.extension, lambda: sample.image)
    with tempfile.TemporaryDirectory() as name:
        path = configuration(Path(name), concurrency, latency)
        with simulated_annotators([sample], path) as server, Store(Path(name) / "store", write=True) as store:
            config = DemoConfig.load(path).at(server.base_url, KEY_VARIABLE)
            endpoint = config.annotators[0]
            rounds = []
            for number in range(rounds_of_each):
                asked = [
                    [Request(endpoint, picture, f"{who} {number} {i}", (), FullAnnotation) for i in range(count)]
                    for who in ("ours", "bare", "aiohttp")
                ]
                mine = asyncio.run(ours(store, config, asked[0]))
                peers = [asyncio.run(bare(endpoint, rows, aiohttp=bool(i))) for i, rows in enumerate(asked[1:])]
                rounds.append((mine, *peers))
    mine, peer, quick = (statistics.median(r[i] for r in rounds) for i in range(3))
    print(
        f"{count} requests, {concurrency} at a time, {latency:g} s latency: ours {mine:.0f}/s, bare client {peer:.0f}/s, ratio "
        f"{mine / peer:.2f} (rounds {', '.join(f'{a / b:.2f}' for a, b, _ in rounds)}); with aiohttp's transport the bare client "
        f"{quick:.0f}/s, ratio {mine / quick:.2f} (rounds {', '.join(f'{a / c:.2f}' for a, _, c in rounds)})"
    )
    rates = {"ours": mine, "bare": peer, "bare_with_aiohttp": quick, "aiohttp_ratio": mine / quick}
    write_json(given.json, "the bare openai client", mine / peer, {"requests": count, "per_second": rates})


if __name__ == "__main__":
    main()
