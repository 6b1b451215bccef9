"""The review page over HTTP: this machine alone, a secret in the address, nothing from or for another origin (`core.web.local_pages`)."""

from __future__ import annotations

import json
import re
import secrets
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

from data_prep.review.decisions import ReviewError
from data_prep.review.messages import RouteHandler
from emo_lightning.core.errors import UserError
from emo_lightning.core.foreign import decode_json, object_of
from emo_lightning.core.records import SchemaError
from emo_lightning.core.terminal import say
from emo_lightning.core.web.local_pages import (
    PAGE_MEDIA_TYPES,
    RejectedError,
    check_from_here,
    closed_headers,
    is_secret,
    page_files,
)

if TYPE_CHECKING:
    import socket

REVIEW_PAGE_FOLDER = Path(__file__).with_name("page")
MAX_BODY_BYTES = 4 * 2**20
"""Bytes of a request; a mended set of boxes with masks is far below."""

_IMAGES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


class Session(Protocol):
    """What the server serves."""

    routes: dict[str, RouteHandler]
    """Answers of `POST api/NAME`: JSON object in, JSON object out."""

    def image(self, key: str) -> tuple[bytes, str]:
        """Bytes and extension of `GET image/KEY`."""
        ...


class PageServer(ThreadingHTTPServer):
    """Serves one session on 127.0.0.1.

    Args:
        session: what to serve.
        port: 0 takes a free one.

    Raises:
        ReviewError: the port is taken or not allowed.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, session: Session, port: int = 0) -> None:
        self.session = session
        self.token = secrets.token_urlsafe(24)
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            msg = f"--port {port}: {error}; 0 takes a free one"
            raise ReviewError(msg) from None
        self.host = f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        """What one opens; whoever knows it can review."""
        return f"http://{self.host}/{self.token}/"

    def handle_error(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:  # noqa: ARG002 - the library's signature
        """A browser that closes a connection early is no error of ours; anything else keeps its traceback."""
        if not isinstance(sys.exception(), ConnectionError):
            say(f"{client_address}\n{traceback.format_exc()}", file=sys.stderr)


@contextmanager
def serving(session: Session, port: int = 0) -> Iterator[PageServer]:
    """A running server in a thread; closed afterwards."""
    server = PageServer(session, port)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    # A client that says nothing does not hold a thread for ever.
    timeout = 60

    def version_string(self) -> str:
        return "emo-prep-review"

    def log_message(self, *_: object) -> None:
        # Request lines hold the secret.
        return

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, serve: Callable[[str], tuple[str, bytes]]) -> None:
        try:
            kind, body = serve(self._path())
        except RejectedError as error:
            # The rest of a refused request is not read, so the connection cannot go on.
            self.close_connection = True
            self._send(error.status, "application/json", _json({"error": str(error)}))
            return
        except (UserError, SchemaError) as error:
            self._send(HTTPStatus.BAD_REQUEST, "application/json", _json({"error": str(error)}))
            return
        except Exception as error:
            # A bug of ours: the page says so, the terminal gets the traceback.
            text = f"{type(error).__name__}: nothing was saved; the terminal has the details"
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, "application/json", _json({"error": text}))
            raise
        self._send(HTTPStatus.OK, kind, body)

    def _path(self) -> str:
        """The path below the secret, after everything that tells our page from others."""
        host = self.server.host
        hosts = self.headers.get_all("Host", [])
        check_from_here(
            hosts, self.headers.get("Origin"), self.headers.get("Sec-Fetch-Site"), lambda given: given == host, host
        )
        token, _, path = urlsplit(self.path).path.removeprefix("/").partition("/")
        if not is_secret(token, self.server.token):
            raise RejectedError(HTTPStatus.NOT_FOUND, "open the address that `emo prep review` printed")
        return unquote(path)

    def _get(self, path: str) -> tuple[str, bytes]:
        if path.startswith("image/"):
            data, extension = self.server.session.image(path.removeprefix("image/"))
            return _IMAGES[extension], data
        file = page_files(REVIEW_PAGE_FOLDER).get(path or "index.html")
        if file is None:
            raise RejectedError(HTTPStatus.NOT_FOUND, f"{path}: no such file")
        return f"{PAGE_MEDIA_TYPES[file.suffix]}; charset=utf-8", file.read_bytes()

    def _post(self, path: str) -> tuple[str, bytes]:
        route = self.server.session.routes.get(path.removeprefix("api/"))
        if not path.startswith("api/") or route is None:
            raise RejectedError(HTTPStatus.NOT_FOUND, f"{path}: nothing to ask there")
        # Forms of other pages cannot send this type without asking first.
        if self.headers.get_content_type() != "application/json":
            raise RejectedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length) or int(length) > MAX_BODY_BYTES:
            raise RejectedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Content-Length {length!r}; at most {MAX_BODY_BYTES}")
        what = "the request"
        body = decode_json(self.rfile.read(int(length)), what, ReviewError, max_bytes=MAX_BODY_BYTES)
        request = object_of(body, what, ReviewError)
        return "application/json", _json(route(request))

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in closed_headers().items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
