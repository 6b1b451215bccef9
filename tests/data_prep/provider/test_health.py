"""An endpoint that is of no use ends a pass, and no image is decided without its word."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from data_prep.annotate.pipeline import PassReport
from data_prep.cli import main
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.provider.failures import CallError, Failure
from data_prep.provider.health import MAX_USELESS_IN_A_ROW, Health
from data_prep.store.store import Store
from tests.data_prep.conftest import truth
from tests.data_prep.serving import calls, completion, good, import_toys, run_pass, send, server

SECRET = "sk-planted-4711"
REFUSED = {"error": {"message": "this seed is not supported", "code": "unsupported_value"}}


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, SECRET)


@pytest.fixture
def config(write_config: Callable[..., Path]) -> Path:
    def change(config: dict) -> None:
        for endpoint in [*config["annotators"], config["critic"]]:
            endpoint["max_attempts"] = 2

    return write_config(change)


def by_model(bad: str, answer: Callable[[BaseHTTPRequestHandler], None]) -> Callable[[BaseHTTPRequestHandler, dict], None]:
    """One model misbehaves, the others are good."""
    return lambda handler, body: answer(handler) if body["model"] == bad else send(handler, 200, good(body))


def outcomes(root: Path) -> int:
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        return ledger.execute("SELECT count(*) FROM outcomes").fetchone()[0]


def annotate(root: Path, config: Path, count: int, answer: Callable[[BaseHTTPRequestHandler, dict], None]) -> PassReport:
    import_toys(root, [truth(seed) for seed in range(count)])
    with server(answer) as (url, _):
        return run_pass(root, DemoConfig.load(config), url)


@pytest.mark.parametrize(("bad", "count"), [("sim-gemini", MAX_USELESS_IN_A_ROW + 10), ("sim-critic", 5)])
def test_an_endpoint_that_declines_everything_ends_the_pass(tmp_path: Path, config: Path, bad: str, count: int) -> None:
    with pytest.raises(CallError, match=r"\d+ questions in a row without a valid answer, last: HTTP 400.*this seed"):
        annotate(tmp_path, config, count, by_model(bad, lambda handler: send(handler, 400, REFUSED)))
    assert outcomes(tmp_path) == 0, "not one image was decided without its word"
    with server(lambda handler, body: send(handler, 200, good(body))) as (url, seen):
        report = run_pass(tmp_path, DemoConfig.load(config), url)
    assert report.outcomes == {"valid": count}
    assert any(body["model"] == bad for body in seen)


def test_single_refusals_decide_as_ever_and_are_reported(tmp_path: Path, config: Path) -> None:
    declined = iter([True, False, True, *[False] * 50])
    report = annotate(
        tmp_path,
        config,
        12,
        lambda handler, body: (
            send(handler, 400, REFUSED) if body["model"] == "sim-gemini" and next(declined) else send(handler, 200, good(body))
        ),
    )
    assert report.outcomes == {"valid": 12}
    assert report.health.lines() == [
        f"gemini: no valid answer to 2 questions (refused 2), last: HTTP 400: {json.dumps(REFUSED)}"
    ]


def test_a_doubt_ends_with_the_next_answer_and_a_repeated_failure_counts_once() -> None:
    health = Health()
    for _ in range(3):
        assert health.see("a", "same", Failure("invalid", "x")) is None
    assert health.doubtful("a")
    assert health.verdict() is None
    for number in range(MAX_USELESS_IN_A_ROW - 2):
        assert health.see("a", f"{number}", Failure("refused", "y\n z")) is None
    assert "25 questions in a row" in str(health.see("a", "last", Failure("refused", "y\n z")))
    assert "last: y z" in str(health.verdict())
    health.see("a", "good", object())
    assert not health.doubtful("a")
    assert health.verdict() is None


PAGE = b"<html>log in to the network</html>"


@pytest.mark.parametrize("body", [PAGE, b'{"error": {"message": "overloaded"}}'])
def test_a_200_that_is_no_completion_costs_nothing_and_is_never_taken_for_the_reply(
    tmp_path: Path, config: Path, body: bytes
) -> None:
    report = annotate(tmp_path, config, 2, by_model("sim-gemini", lambda handler: send(handler, 200, body)))
    assert report.pending == {"gave_up": 2}
    assert {cost for state, _, cost, _ in calls(tmp_path) if state == "rejected"} == {0}
    with server(lambda handler, body: send(handler, 200, good(body))) as (url, _):
        assert run_pass(tmp_path, DemoConfig.load(config), url).outcomes == {"valid": 2}


def test_a_key_that_a_server_echoes_is_blotted_out(tmp_path: Path, config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import_toys(tmp_path, [truth(0)])

    def echo(handler: BaseHTTPRequestHandler, body: dict) -> None:
        send(handler, 401, {"error": {"message": f"bad key {handler.headers['Authorization'].split()[1]}"}})

    with server(echo) as (url, _):
        assert main(["annotate", str(tmp_path), "--config", str(config), "--base-url", url, "--yes"]) == 2
    said = capsys.readouterr()
    assert "bad key [key]" in said.err
    assert SECRET not in said.out + said.err
    assert not any(SECRET.encode() in file.read_bytes() for file in tmp_path.glob("ledger*"))


def test_usage_that_cannot_be_true_is_counted_at_the_bound(tmp_path: Path, config: Path) -> None:
    claims = iter([{"prompt_tokens": 10**25, "completion_tokens": 1}, {"prompt_tokens": -5, "completion_tokens": -7}])

    def answer(handler: BaseHTTPRequestHandler, body: dict) -> None:
        reply: dict[str, Any] = good(body)
        if body["model"] == "sim-gemini":
            reply["usage"] = next(claims)
        send(handler, 200, reply)

    report = annotate(tmp_path, config, 2, answer)
    assert (report.outcomes, report.tally.estimated) == ({"valid": 2}, 2)
    assert all(cost >= 0 for _, _, cost, _ in calls(tmp_path))


def test_a_reply_that_never_ends_is_given_up_in_time(tmp_path: Path, write_config: Callable[..., Path]) -> None:
    hung_up = threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        # Far longer than any machine is late.
        for _ in range(10_000):
            try:
                handler.wfile.write(b" ")
            except OSError:
                hung_up.set()
                return
            time.sleep(0.1)

    config = write_config(lambda c: [e.update(timeout=0.5) for e in [*c["annotators"], c["critic"]]])
    report = annotate(tmp_path, config, 1, by_model("sim-gemini", slow))
    assert report.pending == {"unknown": 1}
    # The server notices at its next byte.
    assert hung_up.wait(MAX_USELESS_IN_A_ROW), "the reply was given up, not waited for"


@pytest.mark.parametrize("text", ["x" * 5000, "a\u0000b", "escape \u001b[31m"])
def test_endless_and_unprintable_texts_are_asked_again(tmp_path: Path, config: Path, text: str) -> None:
    asked: list[dict] = []

    def answer(handler: BaseHTTPRequestHandler, body: dict) -> None:
        reply = good(body)
        if body["model"] == "sim-gpt":
            asked.append(body)
            if len(asked) == 1:
                row = json.loads(reply["choices"][0]["message"]["content"])
                reply = completion(json.dumps({**row, "description": text}))
        send(handler, 200, reply)

    assert annotate(tmp_path, config, 1, answer).outcomes == {"valid": 1}
    assert len(asked) == 2


def test_a_value_that_sqlite_cannot_hold_fails_alone(tmp_path: Path) -> None:
    import asyncio

    from data_prep.store.group_commit import LedgerError

    async def write(store: Store) -> list[Any]:
        query = "INSERT INTO prompts VALUES (?, ?)"
        return await asyncio.gather(
            *(store.ledger.write((query, (str(i), 2**70 if i == 3 else "x"))) for i in range(6)), return_exceptions=True
        )

    with Store(tmp_path, write=True) as store:
        results = asyncio.run(write(store))
        assert [isinstance(r, LedgerError) for r in results] == [i == 3 for i in range(6)]
        assert store.ledger.read("SELECT count(*) FROM prompts") == [(5,)]
