"""The review page over HTTP: this machine alone, a secret in the address, nothing from or for another origin.

Another site that is open in the same browser can send requests to 127.0.0.1, by that name or by one of its own that it points here
(DNS rebinding). So every request must name our own host and port, carry the secret, and come from our own page.
"""

from __future__ import annotations

import hmac
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
from data_prep.review.messages import Route
from emo_lightning.core.errors import UserError
from emo_lightning.core.foreign import decode_json, object_of
from emo_lightning.core.records import SchemaError
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    import socket

PAGE = Path(__file__).with_name("page")
MAX_BODY = 4 * 2**20
"""Bytes of a request; a mended set of boxes with masks is far below."""

_TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_IMAGES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Session(Protocol):
    """What the server serves."""

    routes: dict[str, Route]
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


class _RejectedError(Exception):
    """A signal to `_Handler._answer`: the request is not from our page, or asks for nothing that is here."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


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
        except _RejectedError as error:
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
        if self.headers.get_all("Host") != [self.server.host]:
            raise _RejectedError(HTTPStatus.MISDIRECTED_REQUEST, f"this is {self.server.host} alone")
        if self.headers.get("Origin") not in (None, f"http://{self.server.host}"):
            raise _RejectedError(HTTPStatus.FORBIDDEN, "no other origin")
        # `none`: typed or opened from outside of any page; without the header: not a browser of today.
        if self.headers.get("Sec-Fetch-Site") not in (None, "none", "same-origin"):
            raise _RejectedError(HTTPStatus.FORBIDDEN, "no other site")
        token, _, path = urlsplit(self.path).path.removeprefix("/").partition("/")
        if not hmac.compare_digest(token.encode(), self.server.token.encode()):
            raise _RejectedError(HTTPStatus.NOT_FOUND, "open the address that `emo prep review` printed")
        return unquote(path)

    def _get(self, path: str) -> tuple[str, bytes]:
        if path.startswith("image/"):
            data, extension = self.server.session.image(path.removeprefix("image/"))
            return _IMAGES[extension], data
        # By name from the folder, never by joining paths.
        files = {file.name: file for file in PAGE.iterdir() if file.suffix in _TYPES}
        file = files.get(path or "index.html")
        if file is None:
            raise _RejectedError(HTTPStatus.NOT_FOUND, f"{path}: no such file")
        return f"{_TYPES[file.suffix]}; charset=utf-8", file.read_bytes()

    def _post(self, path: str) -> tuple[str, bytes]:
        route = self.server.session.routes.get(path.removeprefix("api/"))
        if not path.startswith("api/") or route is None:
            raise _RejectedError(HTTPStatus.NOT_FOUND, f"{path}: nothing to ask there")
        # Forms of other pages cannot send this type without asking first.
        if self.headers.get_content_type() != "application/json":
            raise _RejectedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        length = self.headers.get("Content-Length", "")
        if not re.fullmatch(r"[0-9]{1,9}", length) or int(length) > MAX_BODY:
            raise _RejectedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"Content-Length {length!r}; at most {MAX_BODY}")
        what = "the request"
        body = decode_json(self.rfile.read(int(length)), what, ReviewError, max_bytes=MAX_BODY)
        request = object_of(body, what, ReviewError)
        return "application/json", _json(route(request))

    def _send(self, status: HTTPStatus, kind: str, body: bytes) -> None:
        self.send_response(status)
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()
