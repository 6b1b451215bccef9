"""Attempts over real HTTP: who shares a rate, when a refused request is sent again, what is a question of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from data_prep.annotate.replies import CriticReply, FullAnnotation
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.provider.caller import Caller
from data_prep.provider.failures import StopSignal
from data_prep.provider.prices import load_prices
from data_prep.provider.request import Picture, Request
from data_prep.provider.workers import ask_all
from data_prep.store.store import Store
from tests.data_prep.serving import calls, good, import_toys, run_pass, send, server


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")


def test_annotator_and_critic_of_one_model_share_its_rate(tmp_path: Path, write_config: Callable[..., Path]) -> None:
    config = DemoConfig.load(write_config(lambda c: c["critic"].update(model="sim-gpt")))
    with Store(tmp_path / "s", write=True) as store:
        caller = Caller(store.ledger, load_prices(config.prices), config.endpoints)
        limits = caller.attempts.limits
        moved = config.critic.model_copy(update={"base_url": "http://127.0.0.1:1/v1"})
        apart = Caller(store.ledger, load_prices(config.prices), [*config.annotators, moved]).attempts.limits
    assert len(limits) == 3, "gpt and critic are one"
    assert len(apart) == 4, "another address is another account"


def test_a_retry_after_date_is_obeyed_by_every_caller_of_the_model(
    tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    def one_at_a_time(config: dict) -> None:
        # Else others may be on their way when the first is refused, and arrive late on a busy machine.
        for annotator in config["annotators"]:
            annotator["concurrency"] = 1

    config = DemoConfig.load(write_config(one_at_a_time))
    import_toys(tmp_path / "s", toys[:6])
    arrived: list[float] = []
    told: list[float] = []

    def busy(handler: BaseHTTPRequestHandler, body: dict) -> None:
        if body["model"] == "sim-emovit":
            arrived.append(time.time())
            if not told:
                told.append(int(time.time()) + 2)
                send(handler, 429, {"error": "busy"}, Retry_After=formatdate(told[0], usegmt=True))
                return
        send(handler, 200, good(body))

    with server(busy) as (url, _):
        report = run_pass(tmp_path / "s", config, url)
    assert report.outcomes["valid"] == 6
    assert len(arrived) == 7, "the refused request is sent again"
    assert min(arrived[1:]) >= told[0]


def test_an_intent_that_was_not_sent_is_said_to_be_unsent_when_a_pause_comes(
    tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    def one_at_a_time(config: dict) -> None:
        config["annotators"] = [{**config["annotators"][0], "role": "full", "weight": 1.0, "concurrency": 1}]
        config["preferred"] = config["annotators"][0]["name"]

    config = DemoConfig.load(write_config(one_at_a_time))
    import_toys(tmp_path / "s", toys[:4])
    arrived: list[float] = []

    def slow_to_refuse(handler: BaseHTTPRequestHandler, body: dict) -> None:
        if body["model"] == config.annotators[0].model:
            arrived.append(time.monotonic())
            if len(arrived) == 1:
                # Meanwhile the intent of the next request is written down.
                time.sleep(0.5)
                send(handler, 429, {"error": "busy"}, Retry_After="1")
                return
        send(handler, 200, good(body))

    with server(slow_to_refuse) as (url, _):
        report = run_pass(tmp_path / "s", config, url)
    assert report.outcomes["valid"] == 4
    assert arrived[1] - arrived[0] >= 1.4, "nothing is sent before the pause is over"
    states = [(state, cost) for state, _, cost, _ in calls(tmp_path / "s")]
    assert ("unsent", 0) in states
    assert {state for state, _ in states} == {"reply", "rejected", "unsent"}


def test_many_are_asked_at_once_and_an_error_lets_what_is_in_flight_end() -> None:
    stop, ended, most, running = StopSignal(), [], 0, 0

    async def ask(question: int) -> None:
        nonlocal most, running
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        if question == 4:
            raise ValueError("four")
        ended.append(question)

    with pytest.raises(ValueError, match="four"):
        asyncio.run(ask_all(stop, range(100), ask, 3))
    assert most == 3
    assert stop.is_requested()
    assert {0, 1, 2, 3} <= set(ended)
    assert len(ended) <= 6


def test_what_makes_a_question_of_its_own() -> None:
    from data_prep.provider.config import EndpointConfig

    def picture(data: str) -> Picture:
        return Picture(data, "png", bytes, 10, 10)

    endpoint = EndpointConfig(name="a", model="m", base_url="http://x/v1", api_key_env="K", parameters={"temperature": 0})
    base = Request(endpoint, picture("1"), "prompt", (), FullAnnotation)
    same = [
        Request(
            endpoint.model_copy(update={"name": "b", "base_url": "http://X:80/v1/", "batch": True}),
            picture("1"),
            "prompt",
            (),
            FullAnnotation,
        ),
        Request(endpoint, Picture("1", "png", bytes, 99, 99), "prompt", (), FullAnnotation),
        Request(endpoint.moved("http://y/v1"), picture("1"), "prompt", (), FullAnnotation),
    ]
    other = [
        Request(endpoint, picture("2"), "prompt", (), FullAnnotation),
        Request(endpoint, picture("1"), "prompt.", (), FullAnnotation),
        Request(endpoint, picture("1"), "prompt", ({"role": "user", "content": "again"},), FullAnnotation),
        Request(endpoint, picture("1"), "prompt", (), CriticReply),
        Request(endpoint.model_copy(update={"model": "n"}), picture("1"), "prompt", (), FullAnnotation),
        Request(endpoint.model_copy(update={"base_url": "http://x:81/v1"}), picture("1"), "prompt", (), FullAnnotation),
        Request(endpoint.model_copy(update={"base_url": "http://x/v2"}), picture("1"), "prompt", (), FullAnnotation),
        Request(endpoint.model_copy(update={"party": "mine"}), picture("1"), "prompt", (), FullAnnotation),
        Request(endpoint.model_copy(update={"parameters": {"temperature": 1}}), picture("1"), "prompt", (), FullAnnotation),
    ]
    assert {r.key for r in same} == {base.key}
    assert len({r.key for r in [base, *other]}) == 1 + len(other)
