"""A provider with an API of its own: a class and a line in the registry, and a real pass asks it and books what it costs."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.provider.base import Provider, Question
from data_prep.provider.received import BodyOutcome, NotFromApi, Usage, paid
from data_prep.provider.registry import PROVIDERS
from data_prep.provider.request import Request
from data_prep.settings import ConfigError
from data_prep.store.store import Store
from emo_lightning.core.records import Record
from tests.data_prep.serving import Handler, good, import_toys, listening, run_pass, send


class Native(Provider):
    """Blocks instead of messages, a system prompt for the schema, tokens under other names; the key in a header of its own."""

    name = "native"

    def path(self, model: str) -> str:
        return f"/models/{model}:generate"

    def headers(self, api_key: str) -> Mapping[str, str]:
        return {"x-api-key": api_key, "api-version": "2026-01-01"}

    def body(self, question: Question) -> dict[str, object]:
        blocks = [
            {"text": part}
            if isinstance(part, str)
            else {"picture": base64.b64encode(part.data).decode(), "as": part.media_type}
            for turn in question.turns
            for part in turn.parts
        ]
        assert question.schema is not None
        return {"blocks": blocks, "system": {question.schema.name: question.schema.schema}, "settings": question.parameters}

    def read(self, raw: bytes) -> BodyOutcome:
        try:
            found = json.loads(raw)
            usage = Usage(found["billed"]["in"], 0, found["billed"]["out"])
            return paid("".join(found["output"]), usage, refusal=found.get("declined"), cut=found["ended"] == "max_tokens")
        except (ValueError, KeyError, TypeError):
            return NotFromApi("no reply of ours")

    def max_output_tokens(self, parameters: Mapping[str, object]) -> int | None:
        limit = parameters.get("longest")
        return limit if isinstance(limit, int) else None


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROVIDERS, "native", Native())
    monkeypatch.setenv(KEY_VARIABLE, "a-key-of-twelve")


def ask_natively(config: dict[str, Any]) -> None:
    config["annotators"] = [a for a in config["annotators"] if a["name"] != "gemini"]
    for endpoint in [config["annotators"][0], config["critic"]]:
        endpoint.update(provider="native", parameters={"longest": 600}, batch=False)


def answer_natively(handler: Handler, seen: list[tuple[str, dict[str, str], dict[str, Any]]]) -> None:
    body = handler.json()
    if handler.path == "/v1/chat/completions":
        send(handler, 200, good(body))
        return
    seen.append((handler.path, {k.lower(): v for k, v in handler.headers.items()}, body))
    if len(seen) == 1:
        send(handler, 429, {"wait": "a little"}, Retry_After="0.1")
        return
    if len(seen) == 2:
        send(handler, 200, b"<html>a proxy</html>")
        return
    schema = next(iter(body["system"]))
    text = good({"response_format": {"json_schema": {"name": schema}}})["choices"][0]["message"]["content"]
    send(handler, 200, {"output": [text[:5], text[5:]], "ended": "end_turn", "billed": {"in": 300, "out": 20}})


@pytest.mark.usefixtures("native")
def test_a_pass_over_a_native_provider_books_its_cost(
    tmp_path: Path, toys: list[tuple[Record, bytes]], write_config: Callable[..., Path]
) -> None:
    seen: list[tuple[str, dict[str, str], dict[str, Any]]] = []

    class Server(Handler):
        def do_POST(self) -> None:  # noqa: N802 - a name of http.server
            answer_natively(self, seen)

    config = DemoConfig.load(write_config(ask_natively))
    import_toys(tmp_path / "s", toys[:2])
    with listening(Server) as url:
        report = run_pass(tmp_path / "s", config, url, limit_nano=10**9)
        again = run_pass(tmp_path / "s", config, url)
    assert report.outcomes == {"valid": 2}
    assert again.tally.requests == 0, "every reply is read back from the ledger"
    # 300 tokens at 2.5 $/M and 20 at 10 $/M, four times (two images, annotator and critic); EmoViT answers as before, at no price.
    native_cost = 4 * (300 * 2500 + 20 * 10_000)
    with Store(tmp_path / "s", write=False) as store:
        costs = {name: cost for name, state, _, cost, _ in store.ledger.call_totals() if state == "reply"}
        tokens = store.ledger.read(
            "SELECT DISTINCT prompt_tokens, output_tokens FROM calls WHERE annotator = 'gpt' AND raw IS NOT NULL "
            "AND state = 'reply'"
        )
        assert store.ledger.total_cost() == sum(costs.values()) == report.tally.cost_nano
    assert costs["gpt"] + costs["critic"] == native_cost
    assert tokens == [(300, 20)]
    assert report.tally.statuses == {429: 1}
    path, headers, body = seen[0]
    assert path in ("/v1/models/sim-gpt:generate", "/v1/models/sim-critic:generate")
    assert headers["x-api-key"] == "a-key-of-twelve"
    assert headers["api-version"] == "2026-01-01"
    assert "authorization" not in headers
    picture = next(block for block in body["blocks"] if "picture" in block)
    assert hashlib.sha256(base64.b64decode(picture["picture"])).hexdigest() in {record.sha256 for record, _ in toys[:2]}
    assert body["settings"] == {"longest": 600}


@pytest.mark.usefixtures("native")
def test_the_same_model_by_another_api_is_another_question(write_config: Callable[..., Path]) -> None:
    endpoint = DemoConfig.load(write_config(ask_natively)).critic
    from data_prep.annotate.replies import CriticReply
    from data_prep.provider.request import Picture

    picture = Picture("1", "png", bytes)
    keys = {
        Request(e, picture, "p", (), CriticReply).key for e in (endpoint, endpoint.model_copy(update={"provider": "openai"}))
    }
    assert len(keys) == 2


@pytest.mark.usefixtures("native")
def test_a_provider_without_batches_is_told_so(
    tmp_path: Path, toys: list[tuple[Record, bytes]], write_config: Callable[..., Path]
) -> None:
    def batched(config: dict[str, Any]) -> None:
        ask_natively(config)
        config["critic"]["batch"] = True

    import_toys(tmp_path / "s", toys[:1])
    with pytest.raises(ConfigError, match=r"critic \(native\) has no Batch API"):
        run_pass(tmp_path / "s", DemoConfig.load(write_config(batched)), "http://127.0.0.1:9/v1", batch=True)


def test_an_unknown_provider_is_named_with_those_that_are_known(write_config: Callable[..., Path]) -> None:
    path = write_config(lambda config: config["critic"].update(provider="nativ"))
    with pytest.raises(ConfigError, match=r"key 'critic\.provider': unknown provider 'nativ'; allowed: openai"):
        DemoConfig.load(path)
