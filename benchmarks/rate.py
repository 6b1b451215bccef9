"""The adaptive rate against a simulated model with a real token bucket: share of what the bucket permits, and share of 429s.

The peer is the bucket itself: what it permits is its burst and its rate times the time. Both figures are taken after the warm-up.

.venv/bin/python benchmarks/rate.py [--seconds 60] [--rate REQUESTS_PER_SECOND] [--quick] [--json FILE]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import yaml

from benchmarks.command import command_line, write_json
from data_prep.annotate.replies import FullAnnotation
from data_prep.config import PrepConfig
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE, Simulated, simulated_annotators
from data_prep.demo.world import World
from data_prep.provider.caller import Caller
from data_prep.provider.prices import load_prices
from data_prep.provider.request import Picture
from data_prep.settings import CONFIGS
from data_prep.store.store import Store

WARM_UP = 15.0
"""Seconds."""


def configuration(folder: Path, rate: float, retry_after: str) -> Path:
    """One annotator behind a token bucket of one second's burst, and nothing else that goes wrong."""
    config = yaml.safe_load((CONFIGS / "world.yaml").read_text())
    config["prices"] = str(CONFIGS / "prices.yaml")
    config["annotators"][0]["concurrency"] = 64
    model = config["simulation"]["models"]["sim-gpt"]
    model |= {"requests_per_second": rate, "burst": rate, "retry_after": retry_after, "latency": 0.2}
    model |= {"invalid_json": 0.0, "too_many_requests": 0.0}
    path = folder / f"{retry_after}.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


async def ask(
    store: Store, config: PrepConfig, picture: Picture, seconds: float, warm_up: float, server: Simulated
) -> tuple[int, int, float]:
    """Ask as fast as the rate allows; replies, refusals and seconds after the warm-up."""
    endpoint = config.annotators[0]
    caller = Caller(store.ledger, load_prices(config.prices), config.endpoints)
    end = time.monotonic() + warm_up + seconds
    number = 0

    async def worker() -> None:
        nonlocal number
        while time.monotonic() < end:
            number += 1
            await caller.ask(endpoint, picture, f"{number} {'describe the image ' * 20}", FullAnnotation, max_invalid=0)

    async def count() -> tuple[int, int]:
        row = (await asyncio.to_thread(server.bill)).get("sim-gpt", {})
        return row.get("replies", 0), row.get("refused", 0)

    workers = [asyncio.create_task(worker()) for _ in range(endpoint.concurrency)]
    await asyncio.sleep(warm_up)
    began, before = time.monotonic(), await count()
    await asyncio.sleep(seconds)
    now, elapsed = await count(), time.monotonic() - began
    await asyncio.gather(*workers)
    await caller.close()
    return now[0] - before[0], now[1] - before[1], elapsed


def main() -> None:
    """Each way in which a provider says when to come again."""
    parser = command_line(__doc__, "a few seconds of one of them: that it runs, not how well")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rate", type=float, default=25.0, help="requests a second that the bucket permits")
    asked = parser.parse_args()
    rate, ways = asked.rate, ("milliseconds", "seconds", "date", "none")
    seconds, warm_up = asked.seconds, WARM_UP
    if asked.quick:
        ways, seconds, warm_up = ways[:1], 2.0, 1.0
    found: dict[str, dict[str, float]] = {}
    sample = next(iter(World(seed=0).samples("train", 1)))
    for retry_after in ways:
        with tempfile.TemporaryDirectory() as name:
            path = configuration(Path(name), rate, retry_after)
            with simulated_annotators([sample], path) as server, Store(Path(name) / "store", write=True) as store:
                config = DemoConfig.load(path).at(server.base_url, KEY_VARIABLE)
                picture = Picture(sample.truth.sha256, sample.extension, lambda: sample.image)
                replies, refused, elapsed = asyncio.run(ask(store, config, picture, seconds, warm_up, server))
                early = server.bill()["sim-gpt"]["early"]
        print(
            f"Retry-After in {retry_after}: {replies / (rate * elapsed):.1%} of {rate:g}/s over {elapsed:.0f} s, "
            f"{refused / (replies + refused):.2%} refused, {early} requests before a Retry-After was over",
            flush=True,
        )
        found[retry_after] = {"share": replies / (rate * elapsed), "refused": refused / (replies + refused), "early": early}
    write_json(asked.json, "what the bucket permits", min(one["share"] for one in found.values()), found)


if __name__ == "__main__":
    main()
