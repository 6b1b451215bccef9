"""What is asked after a reply that cannot be used: acceptable to every provider, says what was wrong, and is never bought twice."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from data_prep.annotate import prompts
from data_prep.annotate.estimate import estimate
from data_prep.annotate.replies import FullAnnotation
from data_prep.config import PrepConfig
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.provider.base import BatchLine
from data_prep.provider.batch.service import BatchService
from data_prep.provider.failures import StopSignal
from data_prep.provider.openai import OpenAIProvider
from data_prep.provider.openai_batches import read_batch_results
from data_prep.provider.openai_parameters import rejected_parameter
from data_prep.provider.prices import Price
from data_prep.provider.reply_schema import INVALID_REPLY
from data_prep.provider.request import LaterTurn, Picture, Request
from data_prep.store.store import Store
from emo_lightning.core.records import Record, describe
from tests.data_prep.serving import calls, completion, good, import_toys, run_pass, send, server

Toys = list[tuple[Record, bytes]]
Body = dict[str, Any]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a-key-of-twelve")


@pytest.fixture
def config(write_config: Callable[..., Path]) -> PrepConfig:
    """One annotator and a critic."""

    def change(config: Body) -> None:
        config["annotators"] = [{**config["annotators"][0], "weight": 1.0, "concurrency": 2, "batch": False}]

    return DemoConfig.load(write_config(change))


def full(body: Body) -> bool:
    return body["response_format"]["json_schema"]["name"] == "FullAnnotation"


def ended(text: str | None, reason: str) -> Body:
    reply = completion("")
    reply["choices"][0] = {"message": {"content": text}, "finish_reason": reason}
    return reply


def said(body: Body) -> list[tuple[str, list[str]]]:
    """(role, texts) of every message."""
    return [
        (
            m["role"],
            [m["content"]] if isinstance(m["content"], str) else [p["text"] for p in m["content"] if p["type"] == "text"],
        )
        for m in body["messages"]
    ]


def first_then_good(first: Body) -> tuple[Callable[[BaseHTTPRequestHandler, Body], None], list[Body]]:
    asked: list[Body] = []

    def answer(handler: BaseHTTPRequestHandler, body: Body) -> None:
        if full(body):
            asked.append(body)
        send(handler, 200, first if full(body) and len(asked) == 1 else good(body))

    return answer, asked


@pytest.mark.parametrize(
    ("first", "roles", "wrong"),
    [
        (completion(""), ["user"], "the reply is empty"),
        (completion("  \n"), ["user"], "the reply is empty"),
        (completion("a dog"), ["user", "assistant", "user"], "Invalid JSON"),
        (completion('{"emotion": "joy"}'), ["user", "assistant", "user"], "joy"),
        (ended(None, "stop"), ["user"], "the reply is empty"),
        (ended("", "length"), ["user"], "cut off at 600 tokens"),
        (ended('{"emotion": "aw', "length"), ["user"], "cut off at 600 tokens"),
    ],
)
def test_roles_alternate_no_turn_is_empty_and_what_was_wrong_is_said(
    tmp_path: Path, toys: Toys, config: PrepConfig, first: Body, roles: list[str], wrong: str
) -> None:
    answer, asked = first_then_good(first)
    import_toys(tmp_path / "s", toys[:1])
    with server(answer) as (url, _):
        report = run_pass(tmp_path / "s", config, url)
    assert report.outcomes == {"valid": 1}
    _, again = asked
    assert [role for role, _ in said(again)] == roles
    assert all(text.strip() for _, texts in said(again) for text in texts)
    assert wrong in said(again)[-1][1][-1]
    cut = first["choices"][0]["finish_reason"] == "length"
    assert again["max_completion_tokens"] == (1200 if cut else 600)


def test_a_reply_that_is_cut_again_is_not_asked_a_third_time(tmp_path: Path, toys: Toys, config: PrepConfig) -> None:
    limits = Counter[int]()

    def answer(handler: BaseHTTPRequestHandler, body: Body) -> None:
        if full(body):
            limits[body["max_completion_tokens"]] += 1
        send(handler, 200, ended("", "length") if full(body) else good(body))

    import_toys(tmp_path / "s", toys[:2])
    with Store(tmp_path / "s", write=False) as store:
        line = estimate(store, config).lines[0]
    with server(answer) as (url, _):
        report = run_pass(tmp_path / "s", config, url)
    assert report.outcomes == {"human": 2}
    assert limits == {600: 2, 1200: 2}
    assert "cut 2" in report.health.lines()[0]
    assert "cut off at the limit of tokens" in report.health.lines()[0]
    assert line.most_nano is not None
    price = 10_000
    assert line.most_nano > 2 * 4 * (600 + 2 * 1200) * price, "the estimate counts the raised limit, in every round"


def test_a_whole_reply_that_is_said_to_be_cut_is_taken(tmp_path: Path, toys: Toys, config: PrepConfig) -> None:
    def answer(handler: BaseHTTPRequestHandler, body: Body) -> None:
        send(handler, 200, ended(good(body)["choices"][0]["message"]["content"], "length"))

    import_toys(tmp_path / "s", toys[:1])
    with server(answer) as (url, seen):
        assert run_pass(tmp_path / "s", config, url).outcomes == {"valid": 1}
    assert len(seen) == 2


# -- what the version before had paid for ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [completion(""), completion(" \n"), ended('{"emotion": "aw', "length"), ended("", "length")])
def test_what_an_older_ledger_has_is_found_and_not_bought_again(
    tmp_path: Path, toys: Toys, config: PrepConfig, first: Body
) -> None:
    """0.2.0 asked again with an empty turn, or at the same limit: its second reply is used, though the question reads otherwise now."""
    import_toys(tmp_path / "s", toys[:1])
    with server(lambda handler, body: send(handler, 200, first if full(body) else good(body))) as (url, _):
        assert run_pass(tmp_path / "s", config.model_copy(update={"max_invalid": 0}), url).outcomes == {"human": 1}
    text = first["choices"][0]["message"]["content"]
    error = "the reply is empty"
    if text:
        with pytest.raises(ValidationError) as problem:
            FullAnnotation.model_validate_json(text.strip())
        error = describe(problem.value)
    turns: tuple[LaterTurn, ...] = (
        {"role": "assistant", "content": text},
        {"role": "user", "content": INVALID_REPLY.format(attempt=1, error=error)},
    )
    picture = Picture(toys[0][0].sha256, "png", bytes)
    asked = [
        Request(config.annotators[0], picture, prompts.ANNOTATION_PROMPT, later, FullAnnotation).key_of(None)
        for later in ((), turns)
    ]
    reply = json.dumps(good({"response_format": {"json_schema": {"name": "FullAnnotation"}}})).encode()
    with sqlite3.connect(tmp_path / "s/ledger.sqlite") as ledger:
        columns = [row[1] for row in ledger.execute("PRAGMA table_info(calls)") if row[1] != "id"]
        ledger.execute("UPDATE calls SET cache_key = ?, party = NULL WHERE annotator = 'gpt'", asked[:1])
        new = {"cache_key": "?", "raw": "?"}
        values = ", ".join(new.get(name, name) for name in columns)
        ledger.execute(
            f"INSERT INTO calls ({', '.join(columns)}) SELECT {values} FROM calls WHERE annotator = 'gpt'", (asked[1], reply)
        )
    with server(lambda handler, body: send(handler, 200, good(body))) as (url, seen):
        assert run_pass(tmp_path / "s", config, url).outcomes == {"valid": 1}
    assert [full(body) for body in seen] == [False], "only the critic is asked"


def test_what_was_booked_wrongly_is_put_right(tmp_path: Path, toys: Toys, config: PrepConfig) -> None:
    """A stream was thrown away as free, and an error under a 200 kept as a reply at the most that it can cost."""
    import_toys(tmp_path / "s", toys[:1])
    with server(lambda handler, body: send(handler, 200, good(body))) as (url, _):
        run_pass(tmp_path / "s", config, url)
    cost = 100 * 2500 + 10 * 10_000
    with sqlite3.connect(tmp_path / "s/ledger.sqlite") as ledger:
        raw = ledger.execute("SELECT raw FROM calls WHERE annotator = 'gpt'").fetchone()[0]
        free = "UPDATE calls SET state = 'rejected', raw = ?, prompt_tokens = NULL, output_tokens = NULL, cost_nano = 0 WHERE annotator = 'gpt'"
        ledger.execute(free, (b"data: " + raw + b"\n\ndata: [DONE]\n\n",))
        paid = "UPDATE calls SET raw = ?, cost_nano = 12345678, prompt_tokens = NULL WHERE annotator = 'critic'"
        ledger.execute(paid, (b'{"choices": [], "error": {"code": 503}}',))
        ledger.execute("DELETE FROM outcomes")
    with server(lambda handler, body: send(handler, 200, good(body))) as (url, seen):
        assert run_pass(tmp_path / "s", config, url).outcomes == {"valid": 1}
    assert [full(body) for body in seen] == [False], "the error is asked for again, the stream is not"
    with Store(tmp_path / "s", write=False) as store:
        totals = {(name, state): (n, nano) for name, state, n, nano, _ in store.ledger.call_totals()}
    assert totals[("gpt", "reply")] == (1, cost)
    assert totals[("critic", "rejected")] == (1, 0)
    assert totals[("critic", "reply")][0] == 1


def test_an_error_inside_a_200_is_free_and_tried_again(tmp_path: Path, toys: Toys, config: PrepConfig) -> None:
    failed: list[Body] = []

    def answer(handler: BaseHTTPRequestHandler, body: Body) -> None:
        if full(body) and not failed:
            failed.append(body)
            send(handler, 200, {"error": {"message": "overloaded", "code": 503}})
        else:
            send(handler, 200, good(body))

    import_toys(tmp_path / "s", toys[:1])
    with server(answer) as (url, seen):
        assert run_pass(tmp_path / "s", config, url).outcomes == {"valid": 1}
    assert len(seen) == 3
    assert ("rejected", 200, 0, None) in calls(tmp_path / "s")


# -- parameters by model ----------------------------------------------------------------------------------------------------------------


def picky(declined: dict[str, str]) -> Callable[[BaseHTTPRequestHandler, Body], None]:
    """A model that takes no such parameters."""

    def answer(handler: BaseHTTPRequestHandler, body: Body) -> None:
        wrong = next((name for name in declined if name in body), None)
        if wrong and body["model"] == "sim-gpt":
            error = {
                "message": declined[wrong],
                "type": "invalid_request_error",
                "param": wrong,
                "code": "unsupported_parameter",
            }
            send(handler, 400, {"error": error})
        else:
            send(handler, 200, good(body))

    return answer


def test_parameters_are_learnt_once_and_not_for_each_image(tmp_path: Path, toys: Toys, config: PrepConfig) -> None:
    parameters = {"temperature": 0, "max_tokens": 600}
    config = config.model_copy(update={"annotators": [config.annotators[0].model_copy(update={"parameters": parameters})]})
    messages = {
        "max_tokens": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
        "temperature": "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is supported.",
    }
    import_toys(tmp_path / "s", toys[:12])
    with server(picky(messages)) as (url, seen):
        report = run_pass(tmp_path / "s", config, url)
        assert report.outcomes == {"valid": 12}
        # At most those that were on their way at the same time, for each of the two parameters.
        assert 2 <= report.tally.statuses[400] <= 2 * 3
        assert set(report.tally.adapted) == {
            "sim-gpt declines max_tokens, which is sent as max_completion_tokens",
            "sim-gpt declines temperature, which is left out",
        }
        last = [body for body in seen if full(body)][-1]
        assert "temperature" not in last
        assert (last["max_completion_tokens"], "max_tokens" in last) == (600, False)
        assert run_pass(tmp_path / "s", config, url).tally.requests == 0, "kept under the parameters that were configured"


def test_a_limit_that_goes_by_no_name_declines_the_question(tmp_path: Path, toys: Toys, config: PrepConfig) -> None:
    unknown = {
        "max_completion_tokens": "Unknown parameter: max_completion_tokens",
        "max_tokens": "Unknown parameter: max_tokens",
    }
    import_toys(tmp_path / "s", toys[:2])
    with server(picky(unknown)) as (url, seen):
        assert run_pass(tmp_path / "s", config, url).outcomes == {"human": 2}
    assert len(seen) <= 4, "never asked without a limit: it bounds the cost"


SENT = {"temperature": 0, "max_completion_tokens": 9, "seed": 1}


@pytest.mark.parametrize(
    ("status", "said", "expected"),
    [
        (400, "`temperature` is deprecated for this model.", ("temperature", None)),
        (
            422,
            '{"detail": [{"type": "extra_forbidden", "loc": ["body", "max_completion_tokens"]}]}',
            ("max_completion_tokens", "max_tokens"),
        ),
        (400, 'Unknown name "max_completion_tokens": Cannot find field.', ("max_completion_tokens", "max_tokens")),
        (
            400,
            "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead.",
            ("max_completion_tokens", "max_tokens"),
        ),
        (400, "max_completion_tokens is too large: 9. This model supports at most 4.", None),
        (400, "Unsupported parameter: 'seed'", None),
        (400, "image is not supported", None),
        (401, "temperature is not supported", None),
        (400, "", None),
    ],
)
def test_what_an_answer_says_of_parameters(status: int, said: str, expected: tuple[str, str | None] | None) -> None:
    assert rejected_parameter(status, said.encode(), SENT) == expected


# -- batches ----------------------------------------------------------------------------------------------------------------------------


def test_lines_of_a_batch_are_read_as_single_replies_are() -> None:
    def line(key: str, body: object, status: int = 200) -> bytes:
        return json.dumps({"custom_id": key, "response": {"status_code": status, "body": body}}).encode()

    half = line("half", completion("CUT")).replace(b"CUT", rb"a \ud83d b")
    lines = list(
        read_batch_results(
            [
                line("good", completion("{}")),
                half,
                line("error", {"error": "busy"}),
                line("text", json.dumps(completion("{}"))),
                b"[" * 9999,
            ]
        )
    )
    assert [one and one.key for one in lines] == ["good", "half", "error", "text", None]

    class NoApi:
        def results(self, path: Path) -> Iterator[BatchLine | None]:
            return iter(lines[:4])

    service = BatchService(NoApi(), OpenAIProvider(), "http://x", StopSignal(), 1.0)  # type: ignore[arg-type]  # nothing else is asked of it
    results = list(service.results(Path("f"), Price(input=1, cached_input=1, output=1)))
    assert [one and (one.state, one.cost_nano) for one in results] == [
        ("reply", 110),
        ("reply", 110),
        ("rejected", 0),
        ("reply", 110),
    ]
