"""Batch mode against a simulated Batch API with a bill of its own."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

from data_prep.cli import main
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE, Simulated, simulated_annotators
from data_prep.provider.base import BatchLine
from data_prep.provider.batch.caller import BatchCaller
from data_prep.provider.batch.records import open_batches
from data_prep.provider.batch.service import BatchService
from data_prep.provider.failures import CallError, StopSignal
from data_prep.provider.openai import OpenAIProvider
from data_prep.provider.openai_batches import capped_lines, read_batch_results
from data_prep.provider.prices import Price
from data_prep.settings import ConfigError
from data_prep.store.store import Store
from tests.data_prep.serving import import_toys, run_pass


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")


def records(root: Path) -> dict[str, str]:
    with Store(root, write=False) as store:
        return {item.id: outcome.record for item, outcome in store.ledger.outcomes()}


def bill_of(server: Simulated) -> tuple[int, int]:
    rows = server.bill().values()
    return sum(r["nano_dollars"] for r in rows), sum(r["repeated"] for r in rows)


def faulty(config: dict) -> None:
    config["simulation"]["batches"] = {"seconds": 0.05, "line_error": 0.1, "expire": 0.5}
    config["batches"] = {"poll_seconds": 0.05, "settle_seconds": 0.1, "max_requests": 9}
    for model in config["simulation"]["models"].values():
        model["invalid_json"] = 0.1


def test_batches_give_the_same_records_for_half_the_money(
    tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    """With failing lines, expired batches and replies off the schema on the way."""
    path = write_config(faulty)
    config = DemoConfig.load(path)
    paid = {}
    for mode in (False, True):
        root = tmp_path / str(mode)
        import_toys(root, toys)
        with simulated_annotators([r for r, _ in toys], path) as server:
            report = run_pass(root, config, server.base_url, batch=mode)
            total, repeated = bill_of(server)
            again = run_pass(root, config, server.base_url)
            assert bill_of(server) == (total, repeated), "the same cache serves the other mode"
        assert again.tally.requests == 0
        assert repeated == 0
        with Store(root, write=False) as store:
            assert store.ledger.total_cost() == total == report.tally.cost_nano
            assert store.ledger.open_calls() == {}
            states = {state: n for _, state, n, *_ in store.ledger.call_totals()}
        paid[mode] = total
    assert records(tmp_path / "True") == records(tmp_path / "False")
    assert paid[True] * 2 == paid[False]
    assert states["rejected"] > 0, "this test wants failed lines"
    assert states["unsent"] > 0, "this test wants expired batches"
    assert not list((tmp_path / "True/batches").iterdir())


def test_a_batch_whose_creation_is_unknown_is_found_again(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after the provider took the batch and before it is written down; another dies before."""
    path = write_config(lambda c: c.update(batches={"poll_seconds": 0.05, "settle_seconds": 0.2}))
    config = DemoConfig.load(path)
    import_toys(tmp_path / "s", toys[:4])

    class Killed(BaseException):
        pass

    async def dies(*_: object) -> None:
        raise Killed

    with simulated_annotators([r for r, _ in toys], path) as server:
        for moment in ("data_prep.provider.batch.records.mark_created", "data_prep.provider.batch.records.mark_creating"):
            with monkeypatch.context() as patch:
                patch.setattr(moment, dies)
                with pytest.raises(Killed):
                    run_pass(tmp_path / "s", config, server.base_url, batch=True)
            with Store(tmp_path / "s", write=True) as store:
                assert open_batches(store.ledger)
                # Meanwhile the clock of this machine was found to be days ahead, and was set; and somebody else made a batch.
                store.ledger.write_now(("UPDATE batches SET started = started + 300000", ()))
            with openai.OpenAI(base_url=server.base_url, api_key="x") as somebody:
                line = b'{"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {}}'
                file = somebody.files.create(file=("theirs.jsonl", line), purpose="batch")
                somebody.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        report = run_pass(tmp_path / "s", config, server.base_url, batch=True)
        total, repeated = bill_of(server)
    assert report.outcomes.total() == 4
    assert repeated == 0
    with Store(tmp_path / "s", write=False) as store:
        assert store.ledger.total_cost() == total
        ends = [error for (error,) in store.ledger.read("SELECT error FROM batches")]
    assert "the run ended before it was sent" in ends


def test_without_batch_open_batches_are_collected_and_nothing_is_asked_twice(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(config: dict) -> None:
        config["simulation"]["batches"] = {"seconds": 0.5}

    path = write_config(slow)
    config = DemoConfig.load(path)
    import_toys(tmp_path / "s", toys[:4])

    async def interrupted(self: BatchCaller) -> None:
        self.stop.request()

    with simulated_annotators([r for r, _ in toys], path) as server:
        with monkeypatch.context() as patch:
            patch.setattr(BatchCaller, "collect", interrupted)
            report = run_pass(tmp_path / "s", config, server.base_url, batch=True)
        assert report.stopped
        assert report.open_batches > 0
        report = run_pass(tmp_path / "s", config, server.base_url)
        total, repeated = bill_of(server)
    assert report.outcomes.total() == 4
    assert repeated == 0
    with Store(tmp_path / "s", write=False) as store:
        assert store.ledger.total_cost() == total


def test_cancelled_batches_keep_what_they_answered(
    tmp_path: Path,
    toys: list,
    write_config: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = write_config(lambda c: c["simulation"].update(batches={"seconds": 60}))
    config = DemoConfig.load(path)
    import_toys(tmp_path / "s", toys[:4])

    async def interrupted(self: BatchCaller) -> None:
        self.stop.request()

    with simulated_annotators([r for r, _ in toys], path) as server:
        with monkeypatch.context() as patch:
            patch.setattr(BatchCaller, "collect", interrupted)
            run_pass(tmp_path / "s", config, server.base_url, batch=True)
        arguments = [str(tmp_path / "s"), "--config", str(path), "--base-url", server.base_url]
        assert main(["annotate", *arguments, "--cancel-batches", "--yes"]) == 0, "a script may always say yes"
        total, _ = bill_of(server)
    with Store(tmp_path / "s", write=False) as store:
        assert not open_batches(store.ledger)
        assert store.ledger.total_cost() == total
        states = {(name, state): n for name, state, n, *_ in store.ledger.call_totals()}
    assert states["gpt", "reply"] == states["gpt", "unsent"] == 2
    assert "cost of this run" in capsys.readouterr().out


def test_batch_mode_needs_endpoints_and_prices(tmp_path: Path, toys: list, write_config: Callable[..., Path]) -> None:
    import_toys(tmp_path / "s", toys[:1])

    def none(config: dict) -> None:
        for endpoint in [*config["annotators"], config["critic"]]:
            endpoint["batch"] = False

    with pytest.raises(ConfigError, match="batch: true"):
        run_pass(tmp_path / "s", DemoConfig.load(write_config(none)), "http://127.0.0.1:9/v1", batch=True)
    changed = DemoConfig.load(write_config(lambda c: c["annotators"][2].update(batch=True)))
    with pytest.raises(ConfigError, match="no batch price for sim-emovit"):
        run_pass(tmp_path / "s", changed, "http://127.0.0.1:9/v1", batch=True)


def test_a_batch_is_not_forgotten_when_the_address_changes(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import_toys(tmp_path / "s", toys[:1])
    with Store(tmp_path / "s", write=True) as store:
        store.ledger.write_now(
            (
                "INSERT INTO batches (token, endpoint, base_url, model, state, requests, remote_id, started) "
                "VALUES ('t', 'gpt', 'http://elsewhere/v1', 'sim-gpt', 'created', 3, 'b', 0)",
                (),
            )
        )
    with pytest.raises(ConfigError, match="open at http://elsewhere/v1"):
        run_pass(tmp_path / "s", DemoConfig.load(write_config()), "http://127.0.0.1:9/v1")
    with sqlite3.connect(tmp_path / "s" / "ledger.sqlite") as ledger:
        assert ledger.execute("SELECT count(*) FROM calls").fetchone() == (0,)


def test_a_batch_that_the_provider_declines_ends_the_pass(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config()
    import_toys(tmp_path / "s", toys[:1])

    async def no_file(self: object, path: Path) -> str:
        return "file-nowhere"

    monkeypatch.setattr("data_prep.provider.batch.service.BatchService.upload", no_file)
    with simulated_annotators([r for r, _ in toys], path) as server, pytest.raises(CallError, match="no file file-nowhere"):
        run_pass(tmp_path / "s", DemoConfig.load(path), server.base_url, batch=True)
    with Store(tmp_path / "s", write=False) as store:
        assert not open_batches(store.ledger)
        assert store.ledger.open_calls() == {}


def test_a_garbled_line_of_a_result_file_hides_no_other() -> None:
    whole = b'{"custom_id": "a", "response": {"status_code": 200, "body": {"usage": {"prompt_tokens": 10, "completion_tokens": 2}}}}'
    garbled = [whole[:40], b"[1]", b'{"response": null}', b'{"custom_id": "b", "response": {"status_code": "no"}}']

    def results(path: Path) -> Iterator[BatchLine | None]:
        return read_batch_results(capped_lines(io.BytesIO(b"\n".join([garbled[0], whole, *garbled[1:], b""]))))

    api = SimpleNamespace(results=results)
    service = BatchService(api, OpenAIProvider(), "http://x", StopSignal(), 1.0)
    found = list(service.results(Path("file"), Price(input=3, cached_input=1, output=5)))
    assert [r and (r.key, r.state, r.cost_nano) for r in found] == [None, ("a", "reply", 40), None, None, None]


def test_a_creation_that_fails_is_neither_forgotten_nor_made_twice(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Busy (429), failed (503), and failed though the batch was made: the pass goes on by itself, to its end."""

    def failing(config: dict) -> None:
        config["simulation"]["batches"] = {"seconds": 0.05, "create_error": 0.6}
        config["batches"] = {"poll_seconds": 0.05, "settle_seconds": 0.1, "max_requests": 4}

    path = write_config(failing)
    import_toys(tmp_path / "s", toys[:8])
    monkeypatch.setattr("data_prep.provider.batch.service._PAUSE", 0.05)
    with simulated_annotators([r for r, _ in toys], path) as server:
        arguments = [str(tmp_path / "s"), "--config", str(path), "--base-url", server.base_url, "--batch"]
        assert main(["annotate", *arguments]) == 0
        total, repeated = bill_of(server)
    with Store(tmp_path / "s", write=False) as store:
        assert store.ledger.outcome_counts()["pending"] == 0
        assert store.ledger.total_cost() == total
        ends = [error for (error,) in store.ledger.read("SELECT error FROM batches")]
    assert repeated == 0
    assert "the provider knows no such batch" in ends, "this test wants a creation that failed"
    assert "completed" in ends


def test_a_provider_that_makes_no_batch_for_long_ends_the_pass(
    tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    def never(config: dict) -> None:
        config["simulation"]["batches"] = {"create_error": 1.0}
        config["batches"] = {"poll_seconds": 0.05, "settle_seconds": 0.0}
        for endpoint in [*config["annotators"], config["critic"]]:
            endpoint["max_outage"] = 0.0

    path = write_config(never)
    import_toys(tmp_path / "s", toys[:2])
    with (
        simulated_annotators([r for r, _ in toys], path) as server,
        pytest.raises(CallError, match=r"has made no batch for|the Batch API has not answered for"),
    ):
        run_pass(tmp_path / "s", DemoConfig.load(path), server.base_url, batch=True)
