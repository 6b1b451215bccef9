"""Places behind URLs that fail as real ones do: a local S3 (moto), of whose requests some are dropped, cut short, or answered with 503."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

Answer = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class Faulty:
    """A WSGI application in front of another one, some of whose answers fail.

    Args:
        application: that answers.
        seed: of which ones fail.
    """

    def __init__(self, application: Answer, seed: int) -> None:
        self.application = application
        self.draw = random.Random(seed)
        self.share = 0.0
        """Of answers that fail: a third is dropped, a third cut, a third is a 503."""
        self.refuses: Callable[[str, str], bool] = lambda _method, _path: False
        """Whether a request is refused for good, by its method and path."""
        self.seen: Counter[str] = Counter()
        """Requests by method, and faults by kind."""
        self._lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        with self._lock:
            self.seen[method] += 1
            fault = self.draw.choice(["drop", "cut", "503"]) if self.draw.random() < self.share else ""
            self.seen[fault] += bool(fault)
        if self.refuses(method, environ["PATH_INFO"]):
            start("403 Forbidden", [("Content-Length", "0")])
            return [b""]
        if fault == "503" or (fault and method != "GET"):
            start("503 Service Unavailable", [("Content-Length", "0")])
            return [b""]
        if fault == "drop":
            environ["werkzeug.socket"].close()
            return [b""]
        body = b"".join(self.application(environ, start))
        return [body[: len(body) // 2]] if fault == "cut" else [body]


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


@contextmanager
def served(seed: int = 0) -> Iterator[tuple[str, Faulty]]:
    """An S3 without buckets on loopback: its address, and what fails of it."""
    application = Faulty(DomainDispatcherApplication(create_backend_app), seed)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}", application
    server.shutdown()
    thread.join()
