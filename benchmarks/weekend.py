"""A pass that nobody watches: thousands of images, an endpoint with every fault that one can have, kill -9 again and again.

The endpoint runs in a process of its own that is never killed, and keeps a book of every reply that it billed, whether it came through or
not. At the end both books are compared: every billed reply is in the ledger, or is one of those that the ledger names as of unknown outcome;
none was bought twice, except where that was asked for (`--resend-unknown`).

.venv/bin/python benchmarks/weekend.py [--images 2000] [--kills N] [--seed N] [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import yaml
from PIL import Image

from benchmarks.command import command_line, write_json
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.replies import Simulation
from data_prep.demo.simulation.server import read_request
from data_prep.provider.budget import NANO_PER_DOLLAR
from data_prep.provider.prices import load_prices
from data_prep.settings import CONFIGS
from data_prep.store.items import SourceItem
from data_prep.store.store import Store
from emo_lightning.core.records import EMOTIONS, Record, intensity_level, read_jsonl, write_jsonl

PROGRAM = "import sys; from data_prep.cli import main; sys.exit(main(sys.argv[1:]))"
FREE = {
    "429": 0.01,
    "429 at once": 0.01,
    "500": 0.01,
    "503": 0.01,
    "error in a 200": 0.01,
    "page of a proxy": 0.005,
    "closed unread": 0.003,
}
"""Chance of each fault that costs nothing; but of the last one nobody can know that."""
PAID = {
    "504": 0.002,
    "too late": 0.002,
    "half a body": 0.003,
    "closed": 0.002,
    "stream": 0.02,
    "cut JSON": 0.005,
    "no usage": 0.01,
}
"""Chance of each fault of a reply that was billed."""
OUTAGE = (0.35, 15.0)
"""After this share of the replies, so many seconds of 503."""
TIMEOUT = 3.0


class Endpoint:
    """Answers, fails, and writes down what it billed.

    Args:
        config: simulation and prices.
        truth: what the models know.
        questions: about how many will be asked.
        seed: of the faults.
    """

    def __init__(self, config: DemoConfig, truth: list[Record], questions: int, seed: int) -> None:
        assert config.simulation is not None
        self._simulation, self._prices = Simulation(truth, config.simulation), load_prices(config.prices)
        self._rng, self._questions = random.Random(seed), questions
        self._down_until: float | None = None
        self.billed: list[tuple[str, str, int, bool]] = []
        """Of each billed reply: its id, the question, nano-dollars, whether its usage was named."""
        self.faults: Counter[str] = Counter()

    async def connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
                length = next((int(line[15:]) for line in head.split("\r\n") if line.startswith("content-length:")), 0)
                if head.startswith("get"):
                    self._send(writer, "200 OK", json.dumps({"billed": self.billed, "faults": self.faults}).encode())
                    continue
                fault = self._fault()
                if fault == "closed unread":
                    break
                body = await reader.readexactly(length)
                if not await self._answer(writer, body, fault):
                    break
                await writer.drain()
        writer.close()

    def _fault(self) -> str:
        now = time.monotonic()
        if self._down_until is None and len(self.billed) > OUTAGE[0] * self._questions:
            self._down_until = now + OUTAGE[1]
        if self._down_until is not None and now < self._down_until:
            return "503"
        chance = self._rng.random()
        for name, share in (FREE | PAID).items():
            chance -= share
            if chance < 0:
                self.faults[name] += 1
                return name
        return ""

    @staticmethod
    def _send(writer: asyncio.StreamWriter, status: str, body: bytes, extra: str = "", *, length: int | None = None) -> None:
        writer.write(
            f"HTTP/1.1 {status}\r\n{extra}Content-Length: {len(body) if length is None else length}\r\n\r\n".encode() + body
        )

    async def _answer(self, writer: asyncio.StreamWriter, body: bytes, fault: str) -> bool:
        """Whether the connection goes on."""
        match fault:
            case "429" | "429 at once" | "500" | "503":
                wait = {"429": "Retry-After: 1\r\n", "500": ""}.get(fault, "Retry-After: 0\r\n")
                self._send(writer, f"{fault[:3]} No", b'{"error": {"message": "busy"}}', wait)
                return True
            case "error in a 200":
                self._send(writer, "200 OK", b'{"error": {"message": "overloaded", "code": 529}}')
                return True
            case "page of a proxy":
                self._send(writer, "200 OK", b"<html>sign in</html>", "Content-Type: text/html\r\n")
                return True
        reply = self._reply(body, usage=fault != "no usage")
        raw = json.dumps(reply).encode()
        await asyncio.sleep(self._rng.uniform(0.01, 0.1))
        match fault:
            case "504":
                self._send(writer, "504 Gateway Timeout", b"")
            case "too late":
                await asyncio.sleep(TIMEOUT + 2)
                return False
            case "half a body":
                self._send(writer, "200 OK", raw[: len(raw) // 2], length=len(raw))
                return False
            case "closed":
                return False
            case "stream":
                self._send(writer, "200 OK", _stream(reply), "Content-Type: text/event-stream\r\n")
            case "cut JSON":
                self._send(writer, "200 OK", raw[: len(raw) // 2])
            case _:
                self._send(writer, "200 OK", raw)
        return True

    def _reply(self, body: bytes, *, usage: bool) -> dict[str, Any]:
        model, sha256, prompt = read_request(body)
        said = self._simulation.answer(model, sha256, prompt)
        question = hashlib.sha256("\0".join([model, sha256, prompt]).encode()).hexdigest()[:24]
        name = f"chatcmpl-{question}-{len(self.billed)}"
        cost = self._prices[model].cost(said.prompt_tokens, 0, said.output_tokens)
        self.billed.append((name, question, cost, usage))
        reply: dict[str, Any] = {"id": name, "object": "chat.completion", "model": model}
        reply["choices"] = [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said.text}}]
        if usage:
            reply["usage"] = {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.output_tokens}
        return reply


def _stream(reply: dict[str, Any]) -> bytes:
    text = reply["choices"][0]["message"]["content"]
    pieces = [text[at : at + 40] for at in range(0, len(text), 40)]
    events = [{"id": reply["id"], "choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    end = {"id": reply["id"], "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": reply.get("usage")}
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n" for event in [*events, end]]
    return "".join([*lines, "data: [DONE]\n\n"]).encode()


async def serve(folder: Path, questions: int, seed: int) -> None:
    """The endpoint's process: prints its address."""
    endpoint = Endpoint(
        DemoConfig.load(folder / "pass.yaml"), list(read_jsonl(folder / "truth.jsonl", Record)), questions, seed
    )
    server = await asyncio.start_server(endpoint.connection, "127.0.0.1", 0, limit=2**26, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def prepare(folder: Path, images: int, seed: int) -> None:
    """A store of small pictures, what the models know of them, and the configuration."""
    rng, records = random.Random(seed), []
    with Store(folder / "store", write=True) as store:

        def items() -> Iterator[SourceItem]:
            for number in range(images):
                picture = Image.new("RGB", (16, 16), (number % 256, number // 256, rng.randrange(256)))
                out = io.BytesIO()
                picture.save(out, "PNG")
                intensity = rng.randint(1, 10)
                records.append(
                    Record(
                        id=f"w-{number:05d}",
                        source="w",
                        width=16,
                        height=16,
                        sha256=hashlib.sha256(out.getvalue()).hexdigest(),
                        split="train",
                        description=f"scene {number}: a smiling dog at the beach",
                        background="beach",
                        attribute="smiling",
                        subject="dog",
                        emotion=rng.choice(EMOTIONS),
                        intensity=intensity,
                        intensity_level=intensity_level(intensity),
                    )
                )
                yield SourceItem(f"w-{number:05d}", out.getvalue(), "png", 16, 16, "w")

        store.import_items(items())
    write_jsonl(folder / "truth.jsonl", records)
    config = yaml.safe_load((CONFIGS / "world.yaml").read_text())
    config["prices"] = str(CONFIGS / "prices.yaml")
    roles = {m: v["role"] for m, v in config["simulation"]["models"].items() if "role" in v}
    chosen = [next(a for a in config["annotators"] if roles[a["model"]] == role) for role in ("full", "emotion")]
    config["annotators"] = [{**annotator, "weight": 1.0} for annotator in chosen]
    for endpoint in [*config["annotators"], config["critic"]]:
        endpoint |= {"concurrency": 12, "timeout": TIMEOUT, "batch": False}
    for model in config["simulation"]["models"].values():
        if "role" in model:
            model |= {"invalid_json": 0.03, "latency": 0.0}
    (folder / "pass.yaml").write_text(yaml.safe_dump(config))


def ledger(store: Path, query: str) -> list[tuple[Any, ...]]:
    """Rows of the ledger, as another process sees them."""
    with contextlib.closing(sqlite3.connect(store / "ledger.sqlite")) as db:
        return db.execute(query).fetchall()


def books(store: Path, url: str) -> tuple[list[Any], Counter[str], dict[str, int], list[str]]:
    """The endpoint's bill and faults; of the ledger, replies (nano-dollars by id) and what the unknown calls say."""
    with urllib.request.urlopen(url) as answer:
        said = json.load(answer)
    replies: dict[str, int] = {}
    for raw, cost in ledger(store, "SELECT raw, cost_nano FROM calls WHERE state = 'reply'"):
        name = raw.partition(b'"id": "')[2].partition(b'"')[0].decode()
        assert name not in replies, f"{name} stands twice in the ledger"
        replies[name] = cost
    unknown = [error for (error,) in ledger(store, "SELECT error FROM calls WHERE state IN ('unknown', 'intent')")]
    return said["billed"], Counter(said["faults"]), replies, unknown


def compare(store: Path, url: str, resent: int) -> str:
    """Check one book by the other.

    Args:
        store: with the ledger.
        url: of the endpoint.
        resent: calls of unknown outcome that were sent again on demand.
    """
    billed, faults, replies, unknown = books(store, url)
    names = {name for name, *_ in billed}
    assert set(replies) <= names, "the ledger has a reply that was never given"
    lost = len(names - set(replies))
    assert lost <= len(unknown), f"{lost} billed replies are not in the ledger, which names {len(unknown)} as unknown"
    twice = sum(n - 1 for n in Counter(question for _, question, *_ in billed).values())
    assert twice <= resent, f"{twice} questions were bought again, {resent} on demand"
    wrong = [name for name, _, cost, usage in billed if usage and name in replies and replies[name] != cost]
    cut = faults["cut JSON"]
    assert len(wrong) <= cut, f"{len(wrong)} replies have another cost in the ledger than on the bill"
    bill, paid = sum(cost for *_, cost, _ in billed), sum(replies.values())
    held = ledger(store, "SELECT coalesce(sum(upper_nano), 0) FROM calls WHERE state IN ('unknown', 'intent')")[0][0]
    assert bill <= paid + held, (
        f"billed ${bill / NANO_PER_DOLLAR}, and the ledger knows of at most ${(paid + held) / NANO_PER_DOLLAR}"
    )
    why = Counter((error or "process ended").split(":")[0][:40] for error in unknown)
    return (
        f"billed {len(billed)}, in the ledger {len(replies)}, billed and not received {lost} of {len(unknown)} named as unknown "
        f"({', '.join(f'{n} {w}' for w, n in why.most_common())}), bought again {twice} (on demand {resent}); bill ${bill / NANO_PER_DOLLAR:.4f}, "
        f"ledger ${paid / NANO_PER_DOLLAR:.4f} and at most ${held / NANO_PER_DOLLAR:.4f} of unknown calls"
    )


def main() -> None:
    """Kills at random instants, then to the end, then what is unknown once more on demand."""
    parser = command_line(__doc__)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.quick:
        args.images, args.kills = 30, 1
    if args.serve:
        asyncio.run(serve(args.serve, 3 * args.images, args.seed))
        return
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = folder / "store"
        prepare(folder, args.images, args.seed)
        me = [sys.executable, __file__, "--images", str(args.images), "--seed", str(args.seed), "--serve", name]
        with subprocess.Popen(me, stdout=subprocess.PIPE, encoding="utf-8") as server:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{server.stdout.readline().strip()}/v1"
            try:
                weekend(store, folder / "pass.yaml", url, args, rng)
            finally:
                server.kill()


def weekend(store: Path, config: Path, url: str, args: argparse.Namespace, rng: random.Random) -> None:
    """See `main`."""
    os.environ.setdefault("EMO_SIMULATED_KEY", "simulated")
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "annotate",
        str(store),
        "--config",
        str(config),
        "--base-url",
        url,
        "--yes",
        "--no-ground",
    ]

    def count(state: str) -> int:
        return int(ledger(store, f"SELECT count(*) FROM calls WHERE state = '{state}'")[0][0])

    began, most = time.monotonic(), 0
    for kill in range(1, args.kills + 1):
        wanted = count("reply") + rng.randrange(10, max(11, 3 * args.images // (args.kills + 1)))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while count("reply") < wanted and process.poll() is None:
            time.sleep(0.02)
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        ended = process.wait()
        open_calls = count("intent")
        most = max(most, open_calls)
        time.sleep(0.3)
        print(f"kill {kill:2}: exit {ended}, in flight {open_calls:2}; {compare(store, url, 0)}", flush=True)
    runs = 0
    while (code := subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)) == 4 and runs < 5:
        runs += 1
    print(f"exit {code} after {runs + 1} runs to the end; most in flight at a kill {most} of 45; {compare(store, url, 0)}")
    pending = ledger(store, "SELECT count(*) FROM items")[0][0] - ledger(store, "SELECT count(*) FROM outcomes")[0][0]
    unknown, resent = count("unknown"), 0
    print(f"without an outcome {pending} images, unknown calls {unknown}")
    assert pending <= unknown, "an image is left that no unknown call explains"
    while pending and resent < 20 * unknown:
        before = ledger(store, "SELECT max(id) FROM calls")[0][0]
        subprocess.call([*command, "--resend-unknown"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        resent += ledger(store, f"SELECT count(DISTINCT cache_key) FROM calls WHERE id > {before}")[0][0]
        pending = ledger(store, "SELECT count(*) FROM items")[0][0] - ledger(store, "SELECT count(*) FROM outcomes")[0][0]
    print(f"with --resend-unknown: {compare(store, url, resent)}; without an outcome {pending}")
    billed, faults, replies, unknown = books(store, url)
    print(f"faults: {dict(faults)}; {time.monotonic() - began:.0f} s")
    found = {"billed": len(billed), "in_the_ledger": len(replies), "named_as_unknown": len(unknown), "faults": dict(faults)}
    write_json(args.json, "the endpoint's own bill", len(replies) / len(billed), found)


if __name__ == "__main__":
    main()
