"""Who answered is part of the question; replies of before that was so are found, and never taken for another party's."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from data_prep.annotate.estimate import estimate
from data_prep.annotate.pipeline import PassReport, annotate
from data_prep.annotate.replies import EmotionVote
from data_prep.config import PrepConfig
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.provider import party
from data_prep.provider.config import EndpointConfig, address_name
from data_prep.provider.request import Picture, Request
from data_prep.store.ledger import Ledger
from data_prep.store.provenance import annotator_replies, pool_summary
from data_prep.store.store import Store
from emo_lightning.core.records import Record
from tests.data_prep.serving import good, import_toys, send, server

N = 3


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a-key")


@contextmanager
def servers(count: int) -> Iterator[tuple[list[str], list[list[dict]]]]:
    """Servers of one model name; the first says awe, the second fear."""
    with ExitStack() as stack:
        found = []
        for emotion in ("awe", "fear")[:count]:

            def answer(handler: BaseHTTPRequestHandler, body: dict, emotion: str = emotion) -> None:
                said = json.loads(json.dumps(good(body)).replace('\\"awe\\"', f'\\"{emotion}\\"'))
                send(handler, 200, {**said, "model": f"m-{emotion}"})

            found.append(stack.enter_context(server(answer)))
        yield [url for url, _ in found], [seen for _, seen in found]


@pytest.fixture
def config_of(write_config: Callable[..., Path]) -> Callable[..., PrepConfig]:
    """A pass with these full annotators (name, address, further keys), all of one model; the critic is at the first address."""

    def make(*annotators: tuple[str, str] | tuple[str, str, dict], critic: str | None = None) -> PrepConfig:
        def change(config: dict) -> None:
            row = {**config["annotators"][0], "weight": 0.5, "model": "sim-gpt"}
            config["annotators"] = [{**row, "name": a[0], "base_url": a[1], **(a[2] if len(a) > 2 else {})} for a in annotators]
            config["preferred"] = annotators[0][0]
            config["critic"]["base_url"] = critic or annotators[0][1]

        return DemoConfig.load(write_config(change))

    return make


def run(root: Path, config: PrepConfig) -> PassReport:
    with Store(root, write=True) as store:
        return asyncio.run(annotate(store, config))


def records(root: Path) -> list[Record]:
    with Store(root, write=False) as store:
        return [Record.from_json(outcome.record, "ledger") for _, outcome in store.ledger.outcomes()]


@contextmanager
def version_0_2_0(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is done meanwhile is done as version 0.2.0 did it, and leaves a ledger of that version."""
    with monkeypatch.context() as patch:
        patch.setattr(Request, "key", property(lambda self: self.key_of(None)))
        patch.setattr(party, "kept", lambda *_: None)
        yield
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        # A counter's trigger reads every column by name; it is made again when the ledger is opened.
        for column in ("party", "answered_model"):
            ledger.execute(f"ALTER TABLE calls DROP COLUMN {column}")
        ledger.execute("DELETE FROM outcomes")


def test_two_servers_with_one_model_name_are_both_asked(
    tmp_path: Path, toys: list, config_of: Callable[..., PrepConfig]
) -> None:
    import_toys(tmp_path / "s", toys[:N])
    with servers(2) as ((first, second), seen):
        config = config_of(("qwen", first), ("llava", second))
        run(tmp_path / "s", config)
        assert [len(bodies) for bodies in seen] == [2 * N, N]
        for record in records(tmp_path / "s"):
            said = {row["annotator"]: row for row in annotator_replies(record)}
            assert {name: said[name]["reply"]["emotion"] for name in ("qwen", "llava")} == {"qwen": "awe", "llava": "fear"}
            assert {name: said[name]["answered_model"] for name in ("qwen", "llava")} == {"qwen": "m-awe", "llava": "m-fear"}
            assert said["qwen"]["party"] == address_name(first) != said["llava"]["party"]
            pool = pool_summary(record)
            assert pool is not None
            assert pool["agreement"] < 1
        with sqlite3.connect(tmp_path / "s/ledger.sqlite") as ledger:
            rows = set(ledger.execute("SELECT annotator, party, answered_model FROM calls WHERE annotator != 'critic'"))
        assert rows == {("qwen", address_name(first), "m-awe"), ("llava", address_name(second), "m-fear")}
        with sqlite3.connect(tmp_path / "s/ledger.sqlite") as ledger:
            ledger.execute("DELETE FROM outcomes")
        run(tmp_path / "s", config)
        assert [len(bodies) for bodies in seen] == [2 * N, N], "each is bought once"


@pytest.mark.parametrize("name", ["qwen", "renamed"])
def test_a_reply_of_an_old_ledger_is_not_bought_again(
    name: str, tmp_path: Path, toys: list, config_of: Callable[..., PrepConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    import_toys(tmp_path / "s", toys[:N])
    with servers(1) as ((url,), (seen,)):
        with version_0_2_0(tmp_path / "s", monkeypatch):
            run(tmp_path / "s", config_of(("qwen", url)))
        assert len(seen) == 2 * N
        config = config_of((name, url))
        with Store(tmp_path / "s", write=False) as store:
            assert sum(line.cached for line in estimate(store, config).lines) == N
        report = run(tmp_path / "s", config)
        assert (report.outcomes["valid"], report.tally.cached, len(seen)) == (N, 2 * N, 2 * N)
        assert {row["party"] for r in records(tmp_path / "s") for row in annotator_replies(r)} == {address_name(url)}


def test_what_one_party_said_in_an_old_ledger_is_no_vote_of_another(
    tmp_path: Path, toys: list, config_of: Callable[..., PrepConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    import_toys(tmp_path / "s", toys[:N])
    with servers(2) as ((first, second), seen):
        config = config_of(("qwen", first), ("llava", second))
        with version_0_2_0(tmp_path / "s", monkeypatch):
            run(tmp_path / "s", config)
        asked = [len(bodies) for bodies in seen]
        assert sum(asked) == 2 * N, "the fault: one of both is asked"
        run(tmp_path / "s", config)
        assert [len(bodies) for bodies in seen] >= [N, N]
        for record in records(tmp_path / "s"):
            said = {row["annotator"]: row["reply"]["emotion"] for row in annotator_replies(record) if "reply" in row}
            assert said == {"qwen": "awe", "llava": "fear"}
        with sqlite3.connect(tmp_path / "s/ledger.sqlite") as ledger:
            bought = dict(ledger.execute("SELECT annotator, count(*) FROM calls WHERE state = 'reply' GROUP BY annotator"))
        assert (bought["qwen"], bought["llava"]) == (N, N), "neither is asked twice"


def test_what_was_sent_to_one_party_stays_unknown_though_another_has_answered(
    tmp_path: Path, toys: list, config_of: Callable[..., PrepConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.2.0 had one key for both: what was sent to the second, and may be paid, is sent again with `--resend-unknown` alone."""
    import_toys(tmp_path / "s", toys[:N])
    with servers(2) as ((first, second), seen):
        config = config_of(("qwen", first), ("llava", second))
        with version_0_2_0(tmp_path / "s", monkeypatch):
            run(tmp_path / "s", config_of(("qwen", first)))
        with sqlite3.connect(tmp_path / "s/ledger.sqlite") as ledger:
            kept = "id, cache_key, image_sha256, prompt_sha256, annotator, model, state, started"
            ledger.execute(
                f"INSERT INTO calls ({kept}) SELECT id + 100, cache_key, image_sha256, prompt_sha256, 'llava', model, 'unknown', 0 "
                "FROM calls WHERE annotator = 'qwen'"
            )
        report = run(tmp_path / "s", config)
        assert (report.pending["unknown"], len(seen[1])) == (N, 0)
        with Store(tmp_path / "s", write=True) as store:
            report = asyncio.run(annotate(store, config, resend_unknown=True))
        assert (report.pending.total(), len(seen[1])) == (0, N)
        with sqlite3.connect(tmp_path / "s/ledger.sqlite") as ledger:
            ledger.execute("DELETE FROM outcomes")
        asked = [len(bodies) for bodies in seen]
        assert run(tmp_path / "s", config).pending.total() == 0
        assert [len(bodies) for bodies in seen] == asked, "its own reply is found, though the old call stays unknown"


def endpoint(name: str, url: str, **more: object) -> EndpointConfig:
    return EndpointConfig.model_validate({"name": name, "model": "m", "base_url": url, "api_key_env": "K", **more})


A, B = endpoint("a", "http://127.0.0.1:1/v1"), endpoint("b", "http://127.0.0.1:2/v1")


@pytest.mark.parametrize(
    ("asked", "called", "batch_at", "endpoints", "found"),
    [
        (A, "a", None, [A, B], True),
        (B, "a", None, [A, B], False),
        (A, "old", None, [A], True),
        (A, "old", None, [A, B], False),
        (A, "old", None, [A, endpoint("critic", "http://127.0.0.1:1/v1/")], True),
        (A, "critic", None, [A, endpoint("critic", "http://127.0.0.1:1/v1/")], True),
        (A, "old", None, [A, endpoint("other", B.base_url, model="n")], True),
        (A, "old", A.base_url, [A, B], True),
        (A, "a", B.base_url, [A, B], False),
        (A, "a", "http://moved/v1", [A, B], True),
        (endpoint("a", A.base_url, party="mine"), "a", None, [endpoint("a", A.base_url, party="mine"), B], True),
    ],
)
def test_whose_reply_of_before_it_is(
    asked: EndpointConfig, called: str, batch_at: str | None, endpoints: list[EndpointConfig], found: bool, tmp_path: Path
) -> None:
    request = Request(asked, Picture("1", "png", bytes), "p", (), EmotionVote)
    Store(tmp_path, write=True).close()
    with sqlite3.connect(tmp_path / "ledger.sqlite") as db:
        if batch_at:
            db.execute(
                "INSERT INTO batches (id, token, endpoint, base_url, model, state, requests, started) VALUES "
                "(1, 't', ?, ?, 'm', 'ended', 1, 0)",
                (called, batch_at),
            )
        db.execute(
            "INSERT INTO calls (cache_key, image_sha256, prompt_sha256, annotator, model, state, raw, started, batch) VALUES "
            "(?, '1', 'x', ?, 'm', 'reply', 'said', 0, ?)",
            (request.key_of(None), called, 1 if batch_at else None),
        )
    ledger = Ledger(tmp_path / "ledger.sqlite", write=False)
    assert party.is_answered(ledger, request, endpoints) == found
    ledger.close()


def test_addresses_as_names() -> None:
    same = ("https://API.Example.com/v1", "https://api.example.com:443/v1/", "https://api.example.com./v1")
    assert {address_name(url) for url in same} == {"api.example.com/v1"}
    assert address_name("http://[::1]:8000/v1") == "[::1]:8000/v1"
