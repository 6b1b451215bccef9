"""Where several do something at once, or something fails half-way: no reply is bought twice, none is lost, no money is forgotten."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Coroutine
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from data_prep.annotate.pipeline import annotate
from data_prep.annotate.replies import EmotionVote
from data_prep.config import AnnotatorConfig, PrepConfig
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.provider import attempts as attempts_module
from data_prep.provider.budget import Budget
from data_prep.provider.caller import Caller
from data_prep.provider.failures import Failure
from data_prep.provider.openai import OpenAIProvider
from data_prep.provider.prices import load_prices
from data_prep.provider.request import Picture, Request
from data_prep.store.group_commit import LedgerError
from data_prep.store.store import Store
from emo_lightning.core.records import Record
from tests.data_prep.serving import completion, good, import_toys, run_pass, send, server

Toys = list[tuple[Record, bytes]]
Body = dict[str, Any]
Answer = Callable[[BaseHTTPRequestHandler, Body], None]
VOTE = '{"emotion": "awe", "confidence": 0.9}'


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a-key-of-twelve")
    monkeypatch.setattr(attempts_module, "_BACK_OFF", 0.0)


@pytest.fixture
def config(write_config: Callable[..., Path]) -> PrepConfig:
    """One annotator and a critic."""

    def change(config: Body) -> None:
        config["annotators"] = [{**config["annotators"][0], "weight": 1.0, "concurrency": 4, "batch": False}]

    return DemoConfig.load(write_config(change))


def with_caller(
    root: Path,
    config: PrepConfig,
    url: str,
    use: Callable[[Caller, Picture], Coroutine[Any, Any, None]],
    toys: Toys,
    *,
    resend: bool = False,
) -> None:
    """Run something with a caller of a store."""

    async def go() -> None:
        with Store(root, write=True) as store:
            here = config.at(url, KEY_VARIABLE)
            caller = Caller(store.ledger, load_prices(config.prices), here.endpoints, resend_unknown=resend)
            record, data = toys[0]
            try:
                await use(caller, Picture(record.sha256, "png", lambda: data, 40, 32))
            finally:
                await caller.close()

    asyncio.run(go())


def states(root: Path) -> Counter[str]:
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        return Counter(state for (state,) in ledger.execute("SELECT state FROM calls"))


# -- at once ----------------------------------------------------------------------------------------------------------------------------


def test_who_asks_while_a_row_is_put_right_waits_for_it(tmp_path: Path, toys: Toys, config: PrepConfig) -> None:
    """0.2.0 booked a stream as free; of two that ask the same at once, neither buys it again."""
    root = tmp_path / "s"
    import_toys(root, toys[:1])
    body = b"data: " + json.dumps(completion(VOTE)).encode() + b"\n\ndata: [DONE]\n\n"

    async def ask(caller: Caller, picture: Picture) -> None:
        endpoint = config.at(url, KEY_VARIABLE).annotators[0]
        request = Request(endpoint, picture, "which emotion?", (), EmotionVote)
        call = await caller.ledger.begin_call(**request.intent(request.key, 100))
        await caller.ledger.end_call(call, "rejected", ended=0.0, status=200, raw=body, cost_nano=0)
        answers = await asyncio.gather(*(caller.ask_request(request, EmotionVote, max_invalid=0) for _ in range(5)))
        assert [type(answer) for answer, _ in answers] == [EmotionVote] * 5

    with server(lambda handler, body: send(handler, 200, good(body))) as (url, seen):
        with_caller(root, config, url, ask, toys)
    assert seen == []


def test_many_replies_above_their_bounds_raise_the_bounds_by_as_much_as_one() -> None:
    """Eight in flight of twice their bound are twice their bound, and not 2⁸ times: the budget would count as spent."""
    budget = Budget(10**9)
    for _ in range(8):
        budget.hold(100)
    assert all(budget.settle("m", 100, 200, bound=100) for _ in range(8))
    assert budget.scaled("m", 100) == 200
    budget.hold(200)
    assert budget.settle("m", 200, 300, bound=100)
    assert budget.scaled("m", 100) == 300
    assert (budget.paid, budget.held, budget.in_flight) == (1900, 0, 0)


def test_what_is_unknown_since_a_moment_is_not_sent_again_by_the_same_run(
    tmp_path: Path, toys: Toys, config: PrepConfig
) -> None:
    """`--resend-unknown` is for what an earlier run has sent: an image that always times out is not bought with every sweep."""
    root = tmp_path / "s"
    import_toys(root, toys[:1])

    async def ask(caller: Caller, picture: Picture) -> None:
        endpoint = config.at(url, KEY_VARIABLE).annotators[0]
        for _ in range(3):
            answer, _ = await caller.ask(endpoint, picture, "which emotion?", EmotionVote, max_invalid=0)
            assert isinstance(answer, Failure)
            assert answer.kind == "unknown"

    with server(lambda handler, body: send(handler, 504, b"")) as (url, seen):
        with_caller(root, config, url, ask, toys)
        assert len(seen) == 1
        with_caller(root, config, url, ask, toys, resend=True)
        assert len(seen) == 2
    assert states(root) == {"unknown": 2}


# -- half-way ---------------------------------------------------------------------------------------------------------------------------


def test_what_may_have_been_sent_stays_held_whatever_ends_it(
    tmp_path: Path, toys: Toys, config: PrepConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger cannot be written after a reply was received: its money is not given back."""
    root = tmp_path / "s"
    import_toys(root, toys[:1])

    async def ask(caller: Caller, picture: Picture) -> None:
        async def fail(*_: object, **__: object) -> None:
            msg = "no room"
            raise LedgerError(msg)

        monkeypatch.setattr(caller.ledger, "end_call", fail)
        with pytest.raises(LedgerError):
            await caller.ask(config.at(url, KEY_VARIABLE).annotators[0], picture, "which?", EmotionVote, max_invalid=0)
        assert (caller.budget.held > 0, caller.budget.paid, caller.budget.in_flight) == (True, 0, 0)

    with server(lambda handler, body: send(handler, 200, good(body))) as (url, _):
        with_caller(root, config, url, ask, toys)


def test_a_reply_whose_task_was_cancelled_is_written_when_the_ledger_closes(tmp_path: Path) -> None:
    """A second Ctrl-C between the arrival of a reply and the next flush of the ledger."""

    async def go() -> None:
        with Store(tmp_path, write=True) as store:
            call = await store.ledger.begin_call(
                cache_key="k", image_sha256="i", prompt_sha256="p", prompt="?", annotator="a", model="m", started=0.0
            )
            ending = asyncio.ensure_future(
                store.ledger.end_call(call, "reply", ended=1.0, status=200, raw=b"paid", cost_nano=7)
            )
            await asyncio.sleep(0)
            ending.cancel()

    asyncio.run(go())
    with Store(tmp_path, write=False) as store:
        assert store.ledger.cached_reply("k") == b"paid"
        assert store.ledger.total_cost() == 7


def test_a_statement_that_fails_takes_nobody_elses_reply_with_it(tmp_path: Path) -> None:
    """Callers of one moment share a transaction: a key that is taken, or a value that no column holds, fails alone."""

    async def go() -> None:
        with Store(tmp_path, write=True) as store:
            insert = "INSERT INTO prompts VALUES (?, ?)"
            results = await asyncio.gather(
                store.ledger.write((insert, ("one", "x"))),
                store.ledger.write((insert, ("one", "again"))),
                store.ledger.write((insert, ("two", "x"))),
                store.ledger.write((insert, ("three", 1 << 70))),
                store.ledger.write((insert, ("four", "x"))),
                return_exceptions=True,
            )
            assert [isinstance(result, LedgerError) for result in results] == [False, True, False, True, False]
            kept = store.ledger.read("SELECT sha256 FROM prompts ORDER BY sha256")
            assert kept == [("four",), ("one",), ("two",)]

    asyncio.run(go())


def test_a_store_that_could_not_be_opened_is_not_locked(tmp_path: Path) -> None:
    with Store(tmp_path, write=True):
        pass
    with sqlite3.connect(tmp_path / "ledger.sqlite") as ledger:
        ledger.execute("PRAGMA user_version = 99")
    with pytest.raises(LedgerError, match="version 99") as found:
        Store(tmp_path, write=True)
    with sqlite3.connect(tmp_path / "ledger.sqlite") as ledger:
        ledger.execute("PRAGMA user_version = 1")
    with Store(tmp_path, write=True):
        assert found.value, "its traceback is still there, and holds no lock"


# -- answers of any status --------------------------------------------------------------------------------------------------------------


def _hostile(rng: random.Random) -> bytes:
    deep = rng.choice([b"[", b'{"error":', b'{"error":{"code":'])
    return rng.choice(
        [
            deep * rng.randrange(1000, 60_000),
            b'{"error": {"code": ' + b"9" * 5000 + b"}}",
            b'{"error": {"code": "\\ud83d"}}',
            b"\xff\xfe\x00",
            b"",
            b'{"error": {"code": ["insufficient_quota"]}}',
            b'[{"error": {"code": 429}}]',
            b'{"error": "insufficient_quota"}',
        ]
    )


def test_no_body_of_any_status_raises() -> None:
    """What an answer of another status says is read before it is written down: what raised here left a call without an end."""
    provider, rng = OpenAIProvider(), random.Random(4)
    for _ in range(300):
        body, status = _hostile(rng), rng.choice([200, 400, 403, 422, 429, 500])
        assert provider.is_fatal(status, body) is False, (status, body[:40])
        assert provider.without(status, body, {"temperature": 0, "max_tokens": 5}) is None
        assert provider.answered_model(body) is None
    assert provider.is_fatal(429, b'\xef\xbb\xbf{"error": {"code": "insufficient_quota"}}')


def test_a_hostile_body_of_one_image_ends_that_image(tmp_path: Path, toys: Toys, config: PrepConfig) -> None:
    import_toys(tmp_path / "s", toys[:2])
    seen_full: list[Body] = []

    def answer(handler: BaseHTTPRequestHandler, body: Body) -> None:
        seen_full.append(body)
        send(handler, 403, b'{"error":' * 40_000) if len(seen_full) == 1 else send(handler, 200, good(body))

    with server(answer) as (url, _):
        assert run_pass(tmp_path / "s", config, url).outcomes == {"human": 1, "valid": 1}


def test_a_server_that_says_at_once_again_and_again_does_not_use_up_all_attempts_at_once(
    tmp_path: Path, toys: Toys, config: PrepConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    import_toys(tmp_path / "s", toys[:1])
    waits: list[int] = []

    async def note(self: object, attempt: int) -> None:
        waits.append(attempt)

    monkeypatch.setattr(attempts_module.Attempts, "_back_off", note)
    with server(lambda handler, body: send(handler, 503, b"", Retry_After="0")) as (url, seen):
        report = run_pass(tmp_path / "s", config, url)
    assert (dict(report.pending), len(seen)) == ({"gave_up": 1}, 6)
    assert waits == [1, 2, 3, 4], "the first time, the server is believed"


def test_a_raised_limit_that_the_model_does_not_take_leaves_the_reply_cut(
    tmp_path: Path, toys: Toys, config: PrepConfig
) -> None:
    """The image was not declined: with `declined: left_out` it would have been thrown away."""
    config = config.model_copy(update={"declined": "left_out"})
    import_toys(tmp_path / "s", toys[:1])

    def answer(handler: BaseHTTPRequestHandler, body: Body) -> None:
        if body["response_format"]["json_schema"]["name"] != "FullAnnotation":
            send(handler, 200, good(body))
        elif body["max_completion_tokens"] > 600:
            send(
                handler, 400, {"error": {"message": "max_completion_tokens is too large: at most 600", "code": "invalid_value"}}
            )
        else:
            cut = completion('{"emotion": "aw')
            cut["choices"][0]["finish_reason"] = "length"
            send(handler, 200, cut)

    with server(answer) as (url, seen):
        report = run_pass(tmp_path / "s", config, url)
    assert report.outcomes == {"human": 1}
    assert len(seen) == 2
    assert "cut 1" in report.health.lines()[0]


# -- who answered -----------------------------------------------------------------------------------------------------------------------


def test_the_model_that_a_reply_names_is_read_in_whatever_it_came() -> None:
    reply = {**completion(VOTE), "model": "m-7b"}
    plain = json.dumps(reply).encode()
    forms = {
        "plain": plain,
        "with a byte order mark": b"\xef\xbb\xbf" + plain,
        "a stream": b"data: " + plain + b"\n\ndata: [DONE]\n\n",
        "a list": b"[" + plain + b"]",
        "wrapped": b'{"result": ' + plain + b"}",
        "JSON of JSON": json.dumps(plain.decode()).encode(),
        "UTF-16": plain.decode().encode("utf-16"),
    }
    for form, body in forms.items():
        assert OpenAIProvider().answered_model(body) == "m-7b", form


def test_of_two_parties_behind_one_address_each_has_what_it_was_asked(tmp_path: Path, toys: Toys, config: PrepConfig) -> None:
    """One endpoint had no name; then it and another one at the same gateway were given names: one vote does not become two."""
    root = tmp_path / "s"
    import_toys(root, toys[:1])

    def go(*annotators: AnnotatorConfig) -> None:
        with Store(root, write=True) as store:
            asyncio.run(annotate(store, config.model_copy(update={"annotators": list(annotators), "critic": critic})))

    with server(lambda handler, body: send(handler, 200, good(body))) as (url, seen):
        first = config.annotators[0].model_copy(update={"base_url": url})
        critic = config.critic.model_copy(update={"base_url": url})
        go(first)
        assert len(seen) == 2
        other = first.model_copy(update={"name": "other", "party": "lab-b"})
        go(first.model_copy(update={"party": "lab-a"}), other)
    again = [body for body in seen[2:] if body["response_format"]["json_schema"]["name"] == "FullAnnotation"]
    assert len(again) == 1, "the reply of the first was found under its name, the second is asked"
