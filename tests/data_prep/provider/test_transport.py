"""What the transport says of a request that failed, how much of an answer is read, and that no key comes back."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import ssl
import subprocess
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from data_prep.provider.openai import OpenAIConnection, OpenAIProvider
from data_prep.provider.transport import HttpAnswer, HttpConnection, HttpStatusError, TransportError
from emo_lightning.core.web.bodies import BodyError, BodyLimit, BodyReader
from tests.data_prep.serving import Handler, listening, send

KEY = "sk-test-0123456789"
GOOD = json.dumps({"choices": [], "usage": {}}).encode()


def post(url: str, timeout: float = 20.0, most: int = 2**20) -> HttpAnswer:
    async def run() -> HttpAnswer:
        connection = OpenAIConnection(url, KEY, OpenAIProvider().headers(KEY), timeout, most)
        try:
            return await connection.post("/chat/completions", {"messages": ["x" * 1000]})
        finally:
            await connection.close()

    return asyncio.run(run())


class OtherHeader(OpenAIProvider):
    """OpenAI's API at a company that has the key elsewhere."""

    name = "other-header"

    def headers(self, api_key: str) -> dict[str, str]:
        return {"api-key": api_key}


def test_a_provider_with_another_header_sends_that_alone() -> None:
    seen: list[dict[str, str]] = []

    def write(handler: BaseHTTPRequestHandler) -> None:
        seen.append({name.lower(): value for name, value in handler.headers.items()})
        send(handler, 200, GOOD)

    async def run(url: str) -> HttpAnswer:
        connection = OtherHeader().connect(url, KEY, 20.0)
        try:
            return await connection.post("/chat/completions", {})
        finally:
            await connection.close()

    with answering(write) as (url, _):
        asyncio.run(run(url))
    assert [(headers.get("api-key"), headers.get("authorization")) for headers in seen] == [(KEY, None)]


@contextmanager
def answering(write: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[tuple[str, list[str]]]:
    """A server; yields its URL and the paths that were asked for."""
    seen: list[str] = []

    class Answering(Handler):
        def do_POST(self) -> None:  # noqa: N802 - as the base class has it
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.path)
            # A client that has seen enough hangs up.
            with suppress(OSError):
                write(self)

        def do_GET(self) -> None:  # noqa: N802 - as the base class has it
            seen.append(self.path)
            with suppress(OSError):
                write(self)

    with listening(Answering) as url:
        yield url, seen


def reply(status: int, body: bytes, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    return lambda handler: send(handler, status, body, **headers)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@pytest.mark.parametrize("value", ["org-1\r", "org-1\nX: y", "org-\udc80", "org\t1"])
def test_a_header_that_cannot_be_written_was_never_sent(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable from a file of another system: each question was booked as of unknown outcome, and held against the budget."""
    monkeypatch.setenv("OPENAI_ORG_ID", value)
    with answering(reply(200, GOOD)) as (url, seen), pytest.raises(TransportError, match="OpenAI-Organization") as found:
        post(url)
    assert (found.value.sent, found.value.hopeless, seen) == (False, True, [])
    assert value not in str(found.value)


@contextmanager
def proxy(answer: bytes) -> Iterator[str]:
    """Answers whatever it is asked with these bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        client.recv(65536)
                        client.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("url", "hopeless"),
    [
        ("127.0.0.1:9/v1", True),
        ("ftp://127.0.0.1/v1", True),
        ("http://", True),
        ("http://[::1/v1", True),
        ("http://127.0.0.1:99999999/v1", True),
        (f"http://{'a' * 70}.example/v1", True),
        ("http://127.0.0.1:PORT/v1", False),
        ("http://no-such-host.invalid/v1", False),
    ],
)
def test_what_could_not_be_connected_was_never_sent(url: str, hopeless: bool) -> None:
    with pytest.raises(TransportError) as found:
        post(url.replace("PORT", str(free_port())))
    assert (found.value.sent, found.value.hopeless) == (False, hopeless)


@pytest.mark.parametrize(
    ("answer", "hopeless"),
    [
        (None, False),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", False),
        (b"HTTP/1.1 407 No\r\n\r\n", True),
        (b"SSH-2.0-x\r\n", False),
    ],
)
def test_a_proxy_in_the_way_has_sent_nothing(answer: bytes | None, hopeless: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    with proxy(answer or b"") as url:
        monkeypatch.setenv("HTTPS_PROXY", url if answer else f"http://127.0.0.1:{free_port()}")
        with pytest.raises(TransportError) as found:
            post("https://api.example.invalid/v1")
    assert (found.value.sent, found.value.hopeless) == (False, hopeless)


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "c.pem", folder / "k.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    try:
        subprocess.run(
            [*command, "-subj", "/CN=x", "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True
        )
    except FileNotFoundError:
        pytest.skip("no openssl on this machine")
    return certificate, key


def test_a_certificate_that_is_not_trusted_ends_it_and_broken_tls_does_not(self_signed: tuple[Path, Path]) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*self_signed)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(TransportError, match="CERTIFICATE_VERIFY_FAILED") as found:
            post(f"https://127.0.0.1:{server.server_port}/v1")
    finally:
        server.shutdown()
        server.server_close()
    assert (found.value.sent, found.value.hopeless) == (False, True)
    with answering(reply(200, GOOD)) as (url, seen), pytest.raises(TransportError) as found:
        post(url.replace("http:", "https:"))
    assert (found.value.sent, found.value.hopeless, seen) == (False, False, [])


def test_what_was_lost_after_the_head_had_left_may_have_been_answered() -> None:
    with (
        answering(lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)) as (url, seen),
        pytest.raises(TransportError) as found,
    ):
        post(url)
    assert (found.value.sent, found.value.hopeless, len(seen)) == (True, False, 1)


def silent(handler: BaseHTTPRequestHandler) -> None:
    """It is accepted, and not answered in time."""
    threading.Event().wait(0.6)


def test_what_is_not_answered_in_time_may_have_been_answered() -> None:
    with (
        answering(silent) as (url, _),
        pytest.raises(TransportError, match="no whole") as found,
    ):
        post(url, timeout=0.2)
    assert found.value.sent


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * 2**16)


def dripping(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        handler.wfile.flush()
        threading.Event().wait(0.02)


def dripping_head(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(100):
        handler.wfile.write(b"X: y\r\n")
        handler.wfile.flush()
        threading.Event().wait(0.02)


def test_an_answer_without_an_end_is_given_up_and_may_have_been_paid() -> None:
    for write, why in (
        (endless, "larger than 1,048,576 bytes"),
        (dripping, "no whole answer within 0.3 s"),
        (dripping_head, "no whole answer"),
    ):
        with answering(write) as (url, _), pytest.raises(TransportError, match=why) as found:
            post(url, timeout=20 if write is endless else 0.3)
        assert found.value.sent


def broken_off(body: bytes, *, chunked: bool) -> Callable[[BaseHTTPRequestHandler], None]:
    """More is announced than comes."""

    def write(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header(*(("Transfer-Encoding", "chunked") if chunked else ("Content-Length", str(len(body) + 9))))
        handler.end_headers()
        handler.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n" if chunked else body)
        handler.close_connection = True

    return write


@pytest.mark.parametrize("chunked", [True, False])
def test_a_reply_that_is_all_there_is_received_though_more_was_announced(chunked: bool) -> None:
    stream = b'data: {"choices": []}\n\ndata: [DONE]\n\n'
    for body in (GOOD, stream):
        with answering(broken_off(body, chunked=chunked)) as (url, _):
            assert post(url).body == body
    for half in (GOOD[:-1], stream[:-10]):
        with answering(broken_off(half, chunked=chunked)) as (url, _), pytest.raises(TransportError) as found:
            post(url)
        assert found.value.sent


def test_a_name_of_a_coding_that_a_proxy_left_there_is_not_believed() -> None:
    with answering(reply(200, GOOD, Content_Encoding="gzip")) as (url, _):
        assert post(url).body == GOOD
    with answering(reply(200, b"x" * (2**20 + 1), Content_Encoding="gzip")) as (url, _), pytest.raises(TransportError):
        post(url)


def bomb(megabytes: int, bits: int) -> bytes:
    packed = zlib.compressobj(1, zlib.DEFLATED, bits)
    return b"".join(packed.compress(bytes(2**20)) for _ in range(megabytes)) + packed.flush()


@pytest.mark.parametrize(
    ("coding", "bits"), [("gzip", 31), ("deflate", 15), ("deflate", -15), ("br", 15), ("zstd", 15), ("x", 15)]
)
def test_a_small_answer_does_not_become_a_large_one(coding: str, bits: int) -> None:
    data = bomb(24, bits)
    with answering(reply(200, data, Content_Encoding=coding)) as (url, _), pytest.raises(TransportError) as found:
        post(url)
    assert found.value.sent, "it may have been paid"
    assert "cannot be read" in str(found.value)
    with answering(reply(500, data, Content_Encoding=coding)) as (url, _):
        answer = post(url)
    assert (answer.status, len(answer.body) < 200) == (500, True)


@pytest.mark.parametrize("step", [1, 7, 10**6])
def test_compressed_answers_are_read_as_they_were_written(step: int) -> None:
    said = json.dumps(list(range(2000))).encode()
    bare = zlib.compress(said)[2:-4]
    packed = {
        "gzip": gzip.compress(said[:500]) + gzip.compress(said[500:]),
        "X-GZip": gzip.compress(said),
        "deflate": zlib.compress(said),
        " Deflate ": bare,
        "gzip, deflate": zlib.compress(gzip.compress(said)),
        "identity": said,
    }
    for coding, data in packed.items():
        reader = BodyReader(coding, BodyLimit(10**6))
        for at in range(0, len(data), step):
            reader.feed(data[at : at + step])
        assert reader.body == said, coding
    for coding in ("gzip, gzip, gzip", "compress"):
        with pytest.raises(BodyError):
            BodyReader(coding, BodyLimit(10**6))


def test_what_is_expanded_is_counted_before_it_is_in_memory() -> None:
    data = gzip.compress(bomb(128, 31))
    tracemalloc.start()
    try:
        with pytest.raises(BodyError, match="expands to more"):
            BodyReader("gzip, gzip", BodyLimit(10**9)).feed(data)
        assert tracemalloc.get_traced_memory()[1] < 64 * 2**20
    finally:
        tracemalloc.stop()


def test_an_echoed_key_is_blotted_out_by_every_client(tmp_path: Path) -> None:
    said = json.dumps({"error": {"message": f"Incorrect API key provided: {KEY}", "code": "x"}}).encode()
    with answering(reply(401, said)) as (url, _):
        assert KEY.encode() not in post(url).body
        native = HttpConnection(url, {"x-key": KEY}, 20.0, secret=KEY)

        async def others() -> list[str]:
            found = [str((await native.post("/x", {})).body)]
            await native.close()
            connection = OpenAIProvider().connect(url, KEY, 20.0)
            api = OpenAIProvider().batches(connection)
            assert api is not None
            for call in (api.retrieve("b"), api.create("f", "t"), api.download("f", tmp_path / "f"), api.cancel("b")):
                with pytest.raises(HttpStatusError) as error:
                    await call
                found.append(str(error.value))
            await connection.close()
            return found

        found = asyncio.run(others())
    assert len(found) == 5
    assert all(KEY not in text and "[key]" in text for text in found)


def test_a_body_is_posted_to_one_address_alone() -> None:
    with answering(reply(200, GOOD)) as (elsewhere, seen):
        for status in (301, 302, 303, 307, 308):
            with answering(reply(status, b"", Location=elsewhere + "/files")) as (url, _):
                assert post(url).status == status

                async def create(url: str = url) -> None:
                    connection = OpenAIProvider().connect(url, KEY, 20.0)
                    api = OpenAIProvider().batches(connection)
                    assert api is not None
                    with pytest.raises(HttpStatusError, match=f"HTTP {status}"):  # noqa: B023 - run at once
                        await api.create("f", "t")
                    await connection.close()

                asyncio.run(create())
    assert seen == []


def test_the_client_of_batches_has_the_same_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def call(url: str, timeout: float, what: str) -> TransportError:
        async def run() -> TransportError:
            connection = OpenAIProvider().connect(url, KEY, timeout)
            api = OpenAIProvider().batches(connection)
            assert api is not None
            with pytest.raises(TransportError) as found:
                await (api.download("f", tmp_path / "f") if what == "results" else api.create("f", "t"))
            await connection.close()
            return found.value

        return asyncio.run(run())

    with answering(reply(200, bomb(100, 31), Content_Encoding="gzip")) as (url, _):
        assert call(url, 20.0, "results").hopeless
        assert call(url, 20.0, "create").sent
    for write in (dripping, dripping_head):
        with answering(write) as (url, _):
            assert call(url, 0.3, "create").sent
    assert not call(f"http://127.0.0.1:{free_port()}/v1", 20.0, "create").sent
    with proxy(b"HTTP/1.1 502 Bad Gateway\r\n\r\n") as away:
        monkeypatch.setenv("HTTPS_PROXY", away)
        assert not call("https://api.example.invalid/v1", 20.0, "create").sent
