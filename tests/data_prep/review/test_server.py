"""The review page's server: nothing for other origins, names or secrets."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_prep.review.log import ReviewLog
from data_prep.review.server import MAX_BODY_BYTES, REVIEW_PAGE_FOLDER, PageServer, serving
from data_prep.review.session import ReviewSession
from data_prep.store.store import Store
from emo_lightning.core.web.local_pages import page_files
from tests.data_prep.review.conftest import make_store
from tests.patience import PATIENCE


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    root = make_store(tmp_path_factory.mktemp("served") / "s")
    with (
        Store(root, write=False) as store,
        ReviewLog(store.ledger.path, write=True) as log,
        serving(ReviewSession(store, log, "ada")) as running,
    ):
        yield running


def send(
    server: PageServer, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
) -> tuple[int, dict[str, str], bytes]:
    """One raw request; `path` below the secret unless it begins with a slash."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=PATIENCE)
    try:
        connection.putrequest(method, path if path.startswith("/") else f"/{server.token}/{path}", skip_host=True)
        sent = {"Host": server.host, **({"Content-Length": str(len(body))} if body is not None else {}), **(headers or {})}
        for name, value in sent.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        response = connection.getresponse()
        return response.status, dict(response.getheaders()), response.read()
    finally:
        connection.close()


JSON = {"Content-Type": "application/json"}


def test_the_page_and_everything_it_loads_come_from_here(server: PageServer) -> None:
    status, headers, _page = send(server, "GET", "")
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    for file in page_files(REVIEW_PAGE_FOLDER).values():
        status, headers, body = send(server, "GET", file.name)
        assert status == 200
        assert body == file.read_bytes()
        assert not re.search(rb"(?:src|href|from|url)\s*[=(]?\s*[\"'(](?:https?:)?//", body), (
            f"{file.name} loads from elsewhere"
        )
    status, headers, image = send(server, "GET", "image/toy-0001")
    assert status == 200
    assert headers["Content-Type"] == "image/png"
    assert image.startswith(b"\x89PNG")
    status, _, body = send(server, "POST", "api/session", JSON, b"{}")
    assert status == 200
    assert json.loads(body)["reviewer"] == "ada"


def test_every_answer_is_closed_to_other_origins(server: PageServer) -> None:
    for method, path, body in (
        ("GET", "", None),
        ("GET", "image/toy-0001", None),
        ("POST", "api/session", b"{}"),
        ("GET", "/", None),
    ):
        _, headers, _ = send(server, method, path, JSON, body)
        assert not [name for name in headers if name.lower().startswith("access-control")]
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:PORT"}, 421),
        ({"Host": "localhost:PORT"}, 421),
        ({"Host": "127.0.0.1"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_names_and_origins_are_refused(server: PageServer, method: str, headers: dict[str, str], status: int) -> None:
    headers = {name: value.replace("PORT", str(server.server_address[1])) for name, value in headers.items()}
    path = "api/session" if method == "POST" else ""
    found, _, body = send(server, method, path, {**JSON, **headers}, b"{}" if method == "POST" else None)
    assert found == status
    assert b"ada" not in body


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/index.html",
        "/api/session",
        "/x/api/session",
        "/{token}x/",
        "/{token}/../ledger.sqlite",
        "/{token}/..%2f..%2fledger.py",
        "/{token}/server.py",
        "/{token}/%2e%2e/server.py",
    ],
)
def test_without_the_secret_or_outside_the_page_there_is_nothing(server: PageServer, path: str) -> None:
    status, _, body = send(server, "GET", path.format(token=server.token))
    assert status == 404
    assert len(body) < 300


def test_requests_are_checked(server: PageServer) -> None:
    assert send(server, "POST", "api/session", {"Content-Type": "text/plain"}, b"{}")[0] == 415
    assert send(server, "POST", "api/nothing", JSON, b"{}")[0] == 404
    assert send(server, "POST", "api/session", JSON, b"[")[0] == 400
    assert send(server, "POST", "api/session", JSON, b"[]")[0] == 400
    assert send(server, "POST", "api/session", {**JSON, "Content-Length": str(MAX_BODY_BYTES + 1)})[0] == 413
    status, _, body = send(server, "POST", "api/item", JSON, b'{"id": {"a": 1}}')
    assert status == 400
    assert "not in this sample" in json.loads(body)["error"]
    assert send(server, "GET", "image/../lock")[0] == 400


def test_the_command_prints_an_address_that_works_and_shows_nothing_of_the_environment(tmp_path: Path) -> None:
    root = make_store(tmp_path / "s")
    secret = "sk-" + "very-secret" * 3
    environment = {**os.environ, "OPENAI_API_KEY": secret, "GEMINI_API_KEY": secret}
    command = [
        sys.executable,
        "-c",
        "import sys; from data_prep.cli import main; sys.exit(main(sys.argv[1:]))",
        "review",
        str(root),
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    try:
        assert process.stdout is not None
        said = [process.stdout.readline(), process.stdout.readline()]
        url = said[1].removeprefix("open ").strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{30,}/", url)
        seen = urllib.request.urlopen(url).read()
        for name, body in (("session", {}), ("item", {"id": "toy-0001"})):
            request = urllib.request.Request(
                f"{url}api/{name}", json.dumps(body).encode(), {"Content-Type": "application/json"}
            )
            seen += urllib.request.urlopen(request).read()
        assert secret.encode() not in seen
        assert str(tmp_path).encode() not in seen
    finally:
        process.send_signal(signal.SIGINT)
        _out, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert error == ""
