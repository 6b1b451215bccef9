"""Running a pass, and servers that misbehave, for the tests of paid calls."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TypedDict, Unpack

from data_prep.annotate.pipeline import PassReport, annotate
from data_prep.config import PrepConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.grounding import ground
from data_prep.store.store import Store
from tests.data_prep.conftest import item_of


class PassOptions(TypedDict, total=False):
    """Of `annotate`."""

    resend_unknown: bool
    limit_nano: int | None
    batch: bool
    cancel_batches: bool
    on_progress: Callable[[PassReport], None] | None


def import_toys(root: Path, toys: list) -> None:
    with Store(root, write=True) as store:
        store.import_items([item_of(record, data) for record, data in toys])


def run_pass(root: Path, config: PrepConfig, url: str, **options: Unpack[PassOptions]) -> PassReport:
    with Store(root, write=True) as store:
        report = asyncio.run(annotate(store, config.at(url, KEY_VARIABLE), **options))
        ground(store, config.grounding)
        return report


def calls(root: Path) -> list[tuple]:
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        return ledger.execute("SELECT state, status, cost_nano, error FROM calls ORDER BY id").fetchall()


class Handler(BaseHTTPRequestHandler):
    """Speaks HTTP/1.1 and logs nothing."""

    protocol_version = "HTTP/1.1"

    def json(self) -> dict:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as a pass opens: one that finds no place waits for 1, 3, 7 … 63 seconds."""

    request_queue_size = 1024


@contextmanager
def listening(handler: type[Handler]) -> Iterator[str]:
    """A server on loopback; yields the base URL of its API."""
    httpd = Server(("127.0.0.1", 0), handler)
    # Looked at often, as every test that serves waits for the end of a look.
    threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/v1"
    finally:
        httpd.shutdown()
        httpd.server_close()


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler, dict], None]) -> Iterator[tuple[str, list[dict]]]:
    seen: list[dict] = []

    class Answering(Handler):
        def do_POST(self) -> None:
            body = self.json()
            seen.append(body)
            answer(self, body)

    with listening(Answering) as url:
        yield url, seen


def send(handler: BaseHTTPRequestHandler, status: int, body: dict | bytes, **headers: str) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def completion(text: str) -> dict:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}


def good(body: dict) -> dict:
    full = {"emotion": "awe", "confidence": 0.9, "description": "d", "background": "b", "attribute": "a", "subject": "dog"}
    verdicts = {f"{f}_verdict": "valid" for f in ("description", "triplet", "emotion", "intensity")}
    steps = {"scene": "", "description_check": "", "triplet_check": "", "emotion_check": "", "instructions": ""}
    match body["response_format"]["json_schema"]["name"]:
        case "FullAnnotation":
            return completion(json.dumps({**full, "intensity": 5}))
        case "EmotionVote":
            return completion('{"emotion": "awe", "confidence": 0.9}')
        case "CriticReply":
            return completion(
                json.dumps({**steps, **verdicts, "emotion": "awe", "intensity_level": "medium", "overall": "valid"})
            )
    raise AssertionError(body)
