"""An endpoint that answers nobody for a while ends no pass, and costs no image; one that is not there at all does end it."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from data_prep.config import PrepConfig
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.demo.simulation.traffic import Clock
from data_prep.provider import outage
from data_prep.provider.failures import CallError
from data_prep.provider.outage import Outage
from tests.data_prep.conftest import truth
from tests.data_prep.serving import calls, good, import_toys, run_pass, send, server
from tests.patience import PATIENCE


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage is one as soon as three requests have failed, however little time that took."""
    monkeypatch.setattr(outage, "_SILENT", 0.0)
    monkeypatch.setattr(outage, "_GAPS", (0.02, 0.05))


@pytest.fixture
def config(write_config: Callable[..., Path]) -> PrepConfig:
    def change(config: dict) -> None:
        for endpoint in [*config["annotators"], config["critic"]]:
            endpoint.update(max_attempts=2, concurrency=2, timeout=PATIENCE)

    return DemoConfig.load(write_config(change))


def drop(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()
    handler.close_connection = True


FAULTS: dict[str, Callable[[BaseHTTPRequestHandler], None]] = {
    "503": lambda handler: send(handler, 503, {"error": "overloaded"}),
    "429": lambda handler: send(handler, 429, {"error": "slow down"}),
    "page": lambda handler: send(handler, 200, b"<html>log in to the network</html>"),
    "drop": drop,
    "504": lambda handler: send(handler, 504, {"error": "gateway"}),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_outage_is_waited_for(
    tmp_path: Path, config: PrepConfig, quick: None, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Many more failures than there are attempts for an image; each image is decided, or of unknown outcome."""
    import_toys(tmp_path, [truth(seed) for seed in range(16)])
    asked: Counter[str] = Counter()
    lock = threading.Lock()
    many = 24 if fault in ("503", "page") else 10

    def answer(handler: BaseHTTPRequestHandler, body: dict) -> None:
        with lock:
            asked[body["model"]] += 1
            fails = 2 < asked[body["model"]] <= 2 + many
        if fails and body["model"] == "sim-gemini":
            FAULTS[fault](handler)
        else:
            send(handler, 200, good(body))

    with server(answer) as (url, _), caplog.at_level(logging.WARNING):
        report = run_pass(tmp_path, config, url)
    unknown = sum(state == "unknown" for state, *_ in calls(tmp_path))
    assert report.outcomes["valid"] == 16 - unknown
    assert report.pending == ({"unknown": unknown} if unknown else {})
    assert unknown == (10 if fault in ("drop", "504") else 0), "what may have been answered and billed is not sent again"
    failed = report.health.failed.get("gemini", Counter())
    assert failed["gave_up"] <= 2, "before three were seen to fail; after that no attempt counts"
    said = [record.getMessage() for record in caplog.records if record.name == outage.__name__]
    assert "has answered nothing" in said[0]
    assert "answers again" in said[-1]
    assert len(said) == 2, "one line when it begins, one when it ends"


def test_an_outage_that_does_not_end_ends_the_pass(tmp_path: Path, config: PrepConfig, quick: None) -> None:
    patient = config.model_copy(
        update={"annotators": [a.model_copy(update={"max_outage": 0.3}) for a in config.annotators]},
    )
    import_toys(tmp_path, [truth(seed) for seed in range(8)])

    def answer(handler: BaseHTTPRequestHandler, body: dict) -> None:
        send(handler, 503, {"error": "overloaded"}) if body["model"] == "sim-gpt" else send(handler, 200, good(body))

    with (
        server(answer) as (url, _),
        pytest.raises(CallError, match=r"gpt: http.* has answered nothing for .*, last: HTTP 503: .*overloaded.*max_outage"),
    ):
        run_pass(tmp_path, patient, url)
    assert {state for state, *_ in calls(tmp_path)} <= {"reply", "rejected", "unsent"}


def test_one_image_that_nobody_can_answer_is_given_up_and_tried_once_more_at_the_end(
    tmp_path: Path, config: PrepConfig
) -> None:
    toys = [truth(seed) for seed in range(8)]
    import_toys(tmp_path, toys)
    asked: list[int] = []

    def answer(times: int) -> Callable[[BaseHTTPRequestHandler, dict], None]:
        first: list[str] = []

        def handle(handler: BaseHTTPRequestHandler, body: dict) -> None:
            image = body["messages"][0]["content"][1]["image_url"]["url"]
            if body["model"] == "sim-gpt":
                first.append(image)
                if image == first[0] and first.count(image) <= times:
                    asked.append(1)
                    send(handler, 500, {"error": "poison"})
                    return
            send(handler, 200, good(body))

        return handle

    with server(answer(100)) as (url, _):
        report = run_pass(tmp_path, config, url)
    assert (report.outcomes["valid"], report.pending) == (7, {"gave_up": 1})
    assert len(asked) == 2 * 2, "two attempts in the sweep over all, and two in the last one"
    with server(answer(3)) as (url, _):
        report = run_pass(tmp_path, config, url)
    assert report.pending == {"gave_up": 1}, "alone it is given up: nobody else says whether the endpoint is to blame"


def test_what_was_given_up_before_an_outage_was_seen_is_asked_again(tmp_path: Path, config: PrepConfig) -> None:
    """The first images meet the failure alone; when others are answered later, they get their turn."""
    import_toys(tmp_path, [truth(seed) for seed in range(8)])
    failed: Counter[str] = Counter()
    lock = threading.Lock()

    def answer(handler: BaseHTTPRequestHandler, body: dict) -> None:
        image = body["messages"][0]["content"][1]["image_url"]["url"]
        with lock:
            fails = body["model"] == "sim-gpt" and (image in failed or len(failed) < 2) and failed.get(image, 0) < 2
            if fails:
                failed[image] += 1
        if fails:
            send(handler, 500, {"error": "for a moment"})
        else:
            send(handler, 200, good(body))

    with server(answer) as (url, _):
        report = run_pass(tmp_path, config, url)
    assert report.health.failed["gpt"]["gave_up"] == 2
    assert (report.outcomes["valid"], report.pending) == (8, {})


def test_when_it_is_an_outage_and_how_often_is_asked() -> None:
    clock = Clock()
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        clock.now += seconds

    it = Outage("gpt", clock, sleep)
    for key in "aab":
        it.failed(key, "no", 7.0, connected=True)
    clock.now = 60.0
    assert not it.lasting, "two questions may be at fault themselves"
    it.failed("c", "HTTP 503:\n busy", 7.0, connected=False)
    assert it.lasting
    assert it.why() == "gpt has answered nothing for 60 s, last: HTTP 503: busy"

    async def ask(times: int) -> list[float]:
        sent = []
        for _ in range(times):
            await it.turn(lambda: False)
            sent.append(clock.now - 60)
        return sent

    assert asyncio.run(ask(8)) == pytest.approx([0, 1, 3, 7, 15, 31, 63, 123])
    assert max(waited) <= 0.5, "Ctrl-C is heard"
    assert it.answered(began=-1.0) is None, "it left before anything had failed"
    assert it.lasting
    assert it.answered(clock.now) == 7.0, "429s of an outage do not slow down what comes after it"
    assert it.seconds == 0
    assert it.answered(clock.now) is None
    asyncio.run(it.turn(lambda: False))
    for key in "abcd":
        it.failed(key, "refused", 7.0, connected=False)
    assert not it.lasting, "ten seconds have not passed"
    it.failed("d", "lost", 7.0, connected=True, costly=True)
    assert it.lasting, "what may have been billed is braked at once"

    wrong = Outage("typo", clock, sleep)
    for key in "abcd":
        wrong.failed(key, "no such host", 7.0, connected=False)
    clock.now += 100
    assert not wrong.lasting, "an address at which nothing was ever reached"
