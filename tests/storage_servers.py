"""Places behind URLs that fail as real ones do: a local S3 (moto), of whose requests some are dropped, cut short, or answered with 503.

And a Google Cloud Storage: enough of its JSON API for gcsfs to list, read, write and remove.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qs

from moto.moto_api._internal.models import moto_api_backend
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
        self.next: list[str] = []
        """Statuses of the next answers, as `503 Service Unavailable`, taken from the front; `silent`: half of one, and nothing more."""
        self.ended = threading.Event()
        """Whether who is silent may go."""
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
            status = self.next.pop(0) if self.next else ""
        if status == "silent":
            return self._half(environ, start)
        if status:
            start(status, [("Content-Length", "0")])
            return [b""]
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

    def _half(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterator[bytes]:
        body = b"".join(self.application(environ, start))
        yield body[: len(body) // 2]
        self.ended.wait()


class _Quiet(WSGIRequestHandler):
    def log(self, *_: object) -> None:
        pass


class Web:
    """A WSGI application with files, whose size is told and whose ranges are answered; what an address asks for behind `?` is passed over.

    Each has an ETag of its own bytes, unless `tagged` is false.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        """Path, as `/a.tar` -> bytes."""
        self.instead: bytes | None = None
        """What is answered to a path that is not there, in place of 404."""
        self.tagged = True
        self.asked: list[str] = []
        """Method, path and query of each request."""
        self.sent = 0
        """Bytes of bodies."""

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path, query = environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"]
        self.asked.append(f"{method} {path}{query and '?'}{query}")
        data = self.files.get(path, self.instead)
        if data is None:
            start("404 Not Found", [("Content-Length", "0")])
            return [b""]
        headers = [("ETag", f'"{hashlib.sha256(data).hexdigest()}"')] if self.tagged else []
        status = "200 OK"
        if method == "GET" and (wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", environ.get("HTTP_RANGE", ""))):
            status, data = "206 Partial Content", data[int(wanted[1]) : int(wanted[2]) + 1]
        start(status, [*headers, ("Content-Length", str(len(data)))])
        if method == "HEAD":
            return [b""]
        self.sent += len(data)
        return [data]


class CloudStorage:
    """A WSGI application with buckets of objects, made where they are first written to."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, bytes]] = {}
        """Bucket -> name -> bytes."""
        self.ranges = 0
        """Requests for a part of an object."""
        self._begun: dict[str, tuple[str, str]] = {}
        """Number of an upload in parts -> bucket and name."""

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        asked = {key: values[0] for key, values in parse_qs(environ["QUERY_STRING"]).items()}
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        kind, _, rest = path.partition("storage/v1/b/")
        bucket, _, name = rest.partition("/o")
        name = name.removeprefix("/")
        there = self.objects.get(bucket, {})
        headers: list[tuple[str, str]] = []
        status, answer = "200 OK", b"{}"
        if kind == "/upload/" and asked["uploadType"] == "multipart":
            # Both parts as they were sent: a parser of messages would take the bytes for lines of a text.
            _, said, data = body.split(b"--==0==", 2)
            data = data.partition(b"\n\n")[2].removesuffix(b"\n--==0==--")
            answer = self._put(bucket, json.loads(said.partition(b"\n\n")[2])["name"], data)
        elif kind == "/upload/" and asked["uploadType"] == "resumable":
            self._begun[str(len(self._begun))] = bucket, asked["name"]
            headers = [("Location", f"http://{environ['HTTP_HOST']}/upload/part/{len(self._begun) - 1}")]
        elif path.startswith("/upload/part/"):
            answer = self._put(*self._begun[path.rpartition("/")[2]], body)
        elif not name and bucket in self.objects:
            answer = json.dumps(self._listed(bucket, asked)).encode()
        elif name not in there:
            status = "404 Not Found"
        elif method == "DELETE":
            del there[name]
        elif kind == "/download/":
            answer = there[name]
            if wanted := re.fullmatch(r"bytes=(\d+)-(\d+)", environ.get("HTTP_RANGE", "")):
                self.ranges += 1
                status, answer = "206 Partial Content", answer[int(wanted[1]) : int(wanted[2]) + 1]
        else:
            answer = json.dumps(_told(name, there[name])).encode()
        start(status, [*headers, ("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
        return [answer]

    def _put(self, bucket: str, name: str, data: bytes) -> bytes:
        self.objects.setdefault(bucket, {})[name] = data
        return json.dumps(_told(name, data)).encode()

    def _listed(self, bucket: str, asked: dict[str, str]) -> dict[str, object]:
        prefix, found = asked.get("prefix", ""), self.objects[bucket]
        names = [name for name in sorted(found) if name.startswith(prefix)]
        flat = [name for name in names if "/" not in name.removeprefix(prefix)]
        deeper = {prefix + name.removeprefix(prefix).partition("/")[0] + "/" for name in set(names).difference(flat)}
        return {"items": [_told(name, found[name]) for name in flat], "prefixes": sorted(deeper)}


def _told(name: str, data: bytes) -> dict[str, str]:
    digest = hashlib.sha256(data).hexdigest()
    return {"name": name, "size": str(len(data)), "etag": digest, "generation": str(int(digest[:8], 16))}


@contextmanager
def served(seed: int = 0, answer: Answer | None = None) -> Iterator[tuple[str, Faulty]]:
    """A place on loopback: its address, and what fails of it.

    Args:
        seed: of what fails.
        answer: the place; None is an S3 without buckets.
    """
    # The buckets of moto are of the process, not of the server.
    moto_api_backend.reset()
    application = Faulty(answer or DomainDispatcherApplication(create_backend_app), seed)
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=_Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.port}", application
    application.ended.set()
    server.shutdown()
    thread.join()
