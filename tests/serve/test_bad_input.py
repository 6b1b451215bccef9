"""What no server should be brought down by: each is answered by 4xx in OpenAI's shape, and nothing is kept of it."""

from __future__ import annotations

import base64
import io
import json
import logging
import socket
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from PIL import Image

from emo_lightning.inference.model import EmotionModel
from emo_lightning.serve.settings import MEBIBYTE, Limits
from tests.fuzz.bombs import _png
from tests.patience import PATIENCE, wait_until
from tests.serve.conftest import TOKEN, Running, serving

JSON = {"Content-Type": "application/json"}
PNG = {"Content-Type": "image/png"}


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png(size: tuple[int, int] = (60, 60)) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(out, "PNG")
    return out.getvalue()


GOOD = coded(png())
BODIES: dict[str, tuple[str, dict[str, str], Callable[[], bytes], int, str | None]] = {
    "text as image": ("/v1/explain", PNG, lambda: b"I am no picture", 400, "invalid_image"),
    "empty image": ("/v1/explain", PNG, lambda: b"", 400, "invalid_image"),
    "cut off": ("/v1/explain", PNG, lambda: png()[:3000], 400, "invalid_image"),
    "flipped": ("/v1/explain", PNG, lambda: png()[:300] + b"\xff" + png()[301:], 400, "invalid_image"),
    "bomb by its header": ("/v1/explain", PNG, lambda: _png(50_000, 50_000, 2, 8, real=False), 400, "invalid_image"),
    "bomb of 81 megapixels": ("/v1/explain", PNG, lambda: _png(9_000, 9_000, 0, 8, real=False), 400, "invalid_image"),
    "gif": ("/v1/explain", {"Content-Type": "image/gif"}, lambda: b"GIF89a" + bytes(40), 400, "invalid_image"),
    "too long": ("/v1/explain", PNG, lambda: png((900, 2)), 400, "invalid_image"),
    "html": ("/v1/explain", {"Content-Type": "text/html"}, lambda: b"<p>", 415, "unsupported_media_type"),
    "no form": ("/v1/explain", {"Content-Type": "multipart/form-data; boundary=x"}, lambda: b"--y", 400, None),
    "no boundary": ("/v1/explain", {"Content-Type": "multipart/form-data"}, lambda: b"--y", 400, None),
    "not JSON": ("/v1/explain", JSON, lambda: b"{", 400, "invalid_json"),
    "nothing": ("/v1/explain", JSON, lambda: b"", 400, "invalid_json"),
    "a list": ("/v1/explain", JSON, lambda: b"[]", 400, "invalid_json"),
    "not UTF-8": ("/v1/explain", JSON, lambda: b'{"image": "\xff"}', 400, "invalid_json"),
    "half a character": ("/v1/explain", JSON, lambda: b'{"image": "\\ud800"}', 400, "invalid_json"),
    "deep": ("/v1/explain", JSON, lambda: b"[" * 100_000, 400, "invalid_json"),
    "said twice": ("/v1/explain", JSON, lambda: b'{"image": "a", "image": "b"}', 400, "invalid_json"),
    "unknown key": ("/v1/explain", JSON, lambda: b'{"image": "a", "imgae": "b"}', 400, "unknown_parameter"),
    "unknown option": ("/v1/explain?embeddings=0", PNG, png, 400, "unknown_parameter"),
    "wrong option": ("/v1/explain?embedding=perhaps", PNG, png, 400, "invalid_value"),
    "number as image": ("/v1/explain", JSON, lambda: b'{"image": 5}', 400, "invalid_value"),
    "text as number": ("/v1/explain", JSON, lambda: b'{"image": "a", "max_new_tokens": "5"}', 400, "invalid_value"),
    "no tokens": ("/v1/explain", JSON, lambda: b'{"image": "a", "max_new_tokens": 0}', 400, "invalid_value"),
    "neither": ("/v1/explain", JSON, lambda: b"{}", 400, "missing_required_parameter"),
    "none of them": ("/v1/explain", JSON, lambda: b'{"images": []}', 400, "invalid_value"),
    "too many": ("/v1/explain", JSON, lambda: json.dumps({"images": ["AAAA"] * 33}).encode(), 400, "too_many_images"),
    "no base64": ("/v1/explain", JSON, lambda: b'{"image": "!!!"}', 400, "invalid_image"),
    "plain data": ("/v1/explain", JSON, lambda: b'{"image": "data:text/plain,hello"}', 400, "invalid_image"),
    "file address": ("/v1/explain", JSON, lambda: b'{"image": "file:///etc/passwd"}', 400, "invalid_image"),
    "path": ("/v1/explain", JSON, lambda: b'{"image": "/etc/passwd"}', 400, "invalid_image"),
    "metadata of a cloud": ("/v1/explain", JSON, lambda: b'{"image": "http://169.254.169.254/x"}', 400, "invalid_image"),
    "ids": ("/v1/explain", JSON, lambda: json.dumps({"image": GOOD, "ids": ["a", "b"]}).encode(), 400, "invalid_value"),
    "no model": ("/v1/embeddings", JSON, lambda: b'{"input": "AAAA"}', 400, "missing_required_parameter"),
    "tokens": ("/v1/embeddings", JSON, lambda: b'{"model": "emotion-model", "input": [1, 2]}', 400, "invalid_value"),
    "no input": ("/v1/embeddings", JSON, lambda: b'{"model": "emotion-model", "input": []}', 400, "invalid_value"),
    "NaN": ("/v1/faithfulness", JSON, lambda: b'{"image": "AAAA", "box": [NaN, 0, 1, 1]}', 400, "invalid_json"),
    "infinite": ("/v1/faithfulness", JSON, lambda: b'{"image": "AAAA", "box": [1e999, 0, 1, 1]}', 400, "invalid_json"),
    "huge": (
        "/v1/faithfulness",
        JSON,
        lambda: json.dumps({"image": GOOD, "box": [-1e308, -1e308, -1, 1]}).encode(),
        400,
        "invalid_value",
    ),
    "three corners": ("/v1/faithfulness", JSON, lambda: b'{"image": "AAAA", "box": [0, 0, 1]}', 400, "invalid_value"),
    "no messages": ("/v1/chat/completions", JSON, lambda: b'{"model": "emotion-model", "messages": []}', 400, "invalid_value"),
    "no index": ("/v1/search", JSON, lambda: b'{"image": "AAAA"}', 404, "no_index"),
    "no place": ("/v2/explain", JSON, lambda: b"{}", 404, None),
    "climbing": ("/page/..%2fapp.py", JSON, lambda: b"{}", 404, None),
    "compressed": ("/v1/explain", {**JSON, "Content-Encoding": "gzip"}, lambda: b"\x1f\x8b\x08", 400, "invalid_json"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_request_is_the_clients(running: Running, name: str, caplog: pytest.LogCaptureFixture) -> None:
    path, headers, body, status, code = BODIES[name]
    with caplog.at_level(logging.ERROR):
        answer = running.http.post(path, content=body(), headers=headers)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["code"]) == ("invalid_request_error", code), error
    assert error["message"]
    assert "Traceback" not in error["message"]
    assert caplog.records == []
    held = running.service.places
    # The answer is there a moment before the server has done with it.
    wait_until(lambda: (held.taken, held.decoded, running.door.held) == (0, 0, 0))


def request(host: str, head: str) -> socket.socket:
    """A connection that has sent the head of a request."""
    name, _, port = host.partition(":")
    sent = socket.create_connection((name, int(port)), PATIENCE)
    sent.sendall(f"POST /v1/explain HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\n{head}\r\n\r\n".encode())
    return sent


def read_all(connection: socket.socket) -> bytes:
    found = b""
    while part := connection.recv(65536):
        found += part
    return found


def test_a_body_that_says_it_is_too_large_is_refused_before_it_comes(running: Running) -> None:
    """100 MB; the client has sent none of them."""
    with request(running.host, "Content-Type: image/png\r\nContent-Length: 100000000") as connection:
        found = b""
        while b"at most 33,554,432 are read" not in found:
            found += connection.recv(65536)
        assert found.startswith(b"HTTP/1.1 413 ")


def test_a_body_that_grows_too_large_is_refused_while_it_comes(model: EmotionModel) -> None:
    with serving(model, Limits(body=MEBIBYTE, silence=PATIENCE)) as server:
        with request(server.host, "Content-Type: image/png\r\nTransfer-Encoding: chunked") as connection:
            piece = b"10000\r\n" + bytes(65536) + b"\r\n"
            # Four times the limit are read and thrown away, so that the client finds its answer.
            for _ in range(70):
                connection.sendall(piece)
            connection.sendall(b"0\r\n\r\n")
            answer = read_all(connection)
        assert answer.startswith(b"HTTP/1.1 413 ")
        assert b"request_too_large" in answer
        wait_until(lambda: server.door.held == 0)
        # Until it was refused, no more than the limit and a piece were kept.
        with_file = server.http.post("/v1/explain", files=[("image", ("a.png", bytes(2 * MEBIBYTE)))])
        assert (with_file.status_code, with_file.json()["error"]["code"]) == (413, "request_too_large")
        assert server.http.get("/v1/models").status_code == 200


def test_all_bodies_together_have_a_limit(model: EmotionModel) -> None:
    with serving(model, Limits(body=2 * MEBIBYTE, bodies=2 * MEBIBYTE, silence=PATIENCE)) as server:
        with request(server.host, "Content-Type: image/png\r\nContent-Length: 1500000") as slow:
            slow.sendall(bytes(1_400_000))
            wait_until(lambda: server.door.held == 1_400_000)
            busy = server.http.post("/v1/explain", content=bytes(1_000_000), headers=PNG)
            assert (busy.status_code, busy.headers["Retry-After"]) == (503, "2")
        wait_until(lambda: server.door.held == 0)


def test_a_client_that_says_nothing_more_is_not_waited_for(model: EmotionModel) -> None:
    with (
        serving(model, Limits(silence=0.05)) as server,
        request(server.host, "Content-Type: image/png\r\nContent-Length: 1000") as slow,
    ):
        answer = read_all(slow)
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_client_that_goes_away_takes_its_work_with_it(model: EmotionModel) -> None:
    data = png()
    with serving(model, Limits(batch_size=2, wait=3600)) as server:
        gone = request(server.host, f"Content-Type: image/png\r\nContent-Length: {len(data)}")
        gone.sendall(data)
        wait_until(lambda: server.service.batcher.waiting == 1)
        gone.close()
        wait_until(lambda: server.service.batcher.waiting == 0)
        assert server.service.batcher.dropped == 1
        wait_until(lambda: server.service.places.taken == server.door.held == 0)
        in_the_middle = request(server.host, f"Content-Type: image/png\r\nContent-Length: {len(data)}")
        in_the_middle.sendall(data[:100])
        wait_until(lambda: server.door.held == 100)
        in_the_middle.close()
        wait_until(lambda: server.door.held == 0)
        assert server.figures['emo_requests_total{route="/v1/explain",status="499"}'] == 2
        assert server.figures["emo_batch_pictures_count"] == 0, "the model was not asked"


def test_what_fails_in_the_model_is_a_bug_of_ours_and_said_so(
    model: EmotionModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> object:
        msg = "secret details"
        raise ArithmeticError(msg)

    with serving(model) as server:
        monkeypatch.setattr(model, "seen_at_once", broken)
        answer = server.http.post("/v1/embeddings", json={"model": "emotion-model", "input": GOOD})
        monkeypatch.undo()
        after = httpx.get(f"{server.url}/health")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "server_error")
    assert "secret details" not in answer.text
    assert any("secret details" in str(record.exc_info) for record in caplog.records), "the terminal has the traceback"
    assert after.json() == {"status": "ok"}
