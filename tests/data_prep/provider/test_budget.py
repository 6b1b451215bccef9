"""Money: bounds, a budget that cannot be passed, the estimate before the first call, and counters that keep up."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from data_prep.annotate.estimate import estimate
from data_prep.cli import main
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE, simulated_annotators
from data_prep.provider.budget import NANO_PER_DOLLAR, Budget, budget_nano
from data_prep.provider.image_tokens import ImageTokens
from data_prep.provider.prices import load_prices
from data_prep.settings import ConfigError
from data_prep.store.ledger import Ledger
from data_prep.store.store import Store
from tests.data_prep.serving import calls, good, import_toys, run_pass, send, server


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")


def test_tokens_of_an_image_are_never_counted_too_low() -> None:
    gpt = ImageTokens(kind="tiles", base=85, tile=170)
    assert gpt.count(512, 512) >= 85 + 170
    assert gpt.count(1024, 1024) >= 85 + 4 * 170
    assert gpt.count(2048, 4096) >= 85 + 6 * 170
    assert gpt.count(None, None) >= gpt.count(20_000, 300)
    assert ImageTokens(kind="gemini").count(960, 540) >= 6 * 258
    assert ImageTokens(kind="patches").count(28 * 10, 28 * 20) >= 200
    assert ImageTokens(kind="patches").count(20_000, 20_000) == 16_386
    assert ImageTokens(kind="fixed", tokens=255).count(9, 9) == 255


def test_a_budget_waits_for_what_is_in_flight_and_never_passes() -> None:
    async def go() -> list[bool]:
        budget = Budget(100, paid=20, held=10)
        results: list[bool] = []
        seen: list[int] = []

        async def request(cost: int | None) -> None:
            results.append(await budget.reserve(30, lambda: False))
            if results[-1]:
                await asyncio.sleep(0.001)
                budget.settle("m", 30, cost)
            seen.append(budget.committed)

        await asyncio.gather(*(request(c) for c in (10, 10, None, 10, 10)))
        assert max(seen) <= 100
        assert budget.paid == 20 + 10 * (results.count(True) - 1)
        return results

    assert asyncio.run(go()).count(False) == 2, "10 held before, 30 of an unknown outcome, 40 paid: 30 more do not fit"


def test_a_reply_above_its_bound_raises_the_bounds_after_it() -> None:
    budget = Budget(1000)
    budget.hold(100)
    assert budget.settle("m", 100, 150)
    assert budget.scaled("m", 100) == 150
    assert budget.scaled("other", 100) == 100


@pytest.mark.parametrize("share", [0.02, 0.4])
def test_a_pass_stops_before_its_budget_and_goes_on_with_a_larger_one(
    share: float, tmp_path: Path, toys: list, write_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config()
    whole, root, toys = tmp_path / "whole", tmp_path / "s", toys[:8]
    for store in (whole, root):
        import_toys(store, toys)
    with simulated_annotators([r for r, _ in toys], path) as sim:
        run_pass(whole, DemoConfig.load(path), sim.base_url)
        with Store(whole, write=False) as opened:
            all_of_it = opened.ledger.total_cost()
    with simulated_annotators([r for r, _ in toys], path) as sim:
        limit = f"{share * all_of_it / NANO_PER_DOLLAR:.9f}"
        arguments = ["annotate", str(root), "--config", str(path), "--base-url", sim.base_url]
        assert main([*arguments, "--budget", limit]) == 3
        out = capsys.readouterr().out
        assert "will stop the pass before its end" in out
        assert "stopped: the next request might pass the budget" in out
        billed = sum(row["nano_dollars"] for row in sim.bill().values())
        assert billed <= share * all_of_it
        with Store(root, write=False) as opened:
            assert opened.ledger.total_cost() == billed
            assert opened.ledger.open_calls() == {}
        assert main([*arguments, "--budget", "1"]) == 0
        assert sum(row["nano_dollars"] for row in sim.bill().values()) == all_of_it


def test_the_budget_of_a_store_counts_earlier_runs_and_unknown_outcomes(
    tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    config = DemoConfig.load(write_config())
    import_toys(tmp_path / "s", toys[:6])

    def drop_critic(handler: BaseHTTPRequestHandler, body: dict) -> None:
        if body["model"] == "sim-critic":
            handler.connection.close()
            handler.close_connection = True
            return
        send(handler, 200, good(body))

    with server(drop_critic) as (url, _):
        run_pass(tmp_path / "s", config, url)
    with Store(tmp_path / "s", write=False) as store:
        paid, (count, bound, unbounded) = store.ledger.total_cost(), store.ledger.open_calls()["unknown"]
    assert (count, unbounded) == (6, 0)
    with server(lambda handler, body: send(handler, 200, good(body))) as (url, seen):
        report = run_pass(tmp_path / "s", config, url, resend_unknown=True, limit_nano=paid + bound)
        assert report.stopped_by_budget
        assert seen == []
        report = run_pass(tmp_path / "s", config, url, resend_unknown=True, limit_nano=paid + 2 * bound)
        assert report.outcomes["valid"] == 6


def test_a_budget_needs_a_limit_on_every_reply(tmp_path: Path, toys: list, write_config: Callable[..., Path]) -> None:
    config = DemoConfig.load(write_config(lambda c: c["critic"].update(parameters={"temperature": 0})))
    import_toys(tmp_path / "s", toys[:1])
    with pytest.raises(ConfigError, match="critic: a budget needs a limit"):
        run_pass(tmp_path / "s", config, "http://127.0.0.1:9/v1", limit_nano=NANO_PER_DOLLAR)
    for wrong in ("-1", "0", "fifty", "nan"):
        with pytest.raises(ConfigError, match="--budget"):
            budget_nano(wrong)
    assert budget_nano("50") == 50 * NANO_PER_DOLLAR


def test_a_reply_without_usage_is_counted_at_its_bound(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config = DemoConfig.load(write_config())
    import_toys(tmp_path / "s", toys[:1])

    def silent(handler: BaseHTTPRequestHandler, body: dict) -> None:
        answer = good(body)
        if body["model"] == "sim-gpt":
            del answer["usage"]
        send(handler, 200, answer)

    with server(silent) as (url, _):
        report = run_pass(tmp_path / "s", config, url)
    assert report.tally.estimated == 1
    price = load_prices(config.prices)["sim-gpt"]
    with Store(tmp_path / "s", write=False) as store:
        [(cost, tokens, upper)] = store.ledger.read(
            "SELECT cost_nano, prompt_tokens, upper_nano FROM calls WHERE model = 'sim-gpt'"
        )
    assert cost == upper >= price.cost(255, 0, 600)
    assert tokens is None
    assert main(["status", str(tmp_path / "s")]) == 0
    assert "1 replies named no usage" in capsys.readouterr().out


def test_the_estimate_asks_nobody_and_counts_what_the_ledger_has(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config()
    config = DemoConfig.load(path)
    root = tmp_path / "s"
    import_toys(root, toys[:8])
    assert main(["annotate", str(root), "--config", str(path), "--base-url", "http://127.0.0.1:9/v1", "--estimate"]) == 0
    out = capsys.readouterr().out
    assert "estimate for 8 images" in out
    assert calls(root) == []
    with Store(root, write=False) as store:
        before, half = estimate(store, config), estimate(store, config, batch=True)
    assert half.cost_nano * 2 == pytest.approx(before.cost_nano, rel=1e-6)
    with simulated_annotators([r for r, _ in toys], path) as sim:
        run_pass(root, config, sim.base_url)
        with Store(root, write=False) as store:
            paid = store.ledger.total_cost()
            assert estimate(store, config).images == 0
        import_toys(root, toys)
    assert paid / 2 < before.cost_nano < 2 * paid, "typical figures, not this world's"
    assert before.most_nano is not None
    assert before.most_nano > 2 * paid
    changed = config.model_copy(update={"margin": 0.3})
    with Store(root, write=False) as store:
        left = estimate(store, changed)
    gpt = left.lines[0]
    assert left.images == len(toys)
    assert gpt.cached == 8
    assert gpt.requests == pytest.approx((len(toys) - 8) * 1.25, abs=1)


def test_an_endpoint_that_wants_a_long_pause_or_has_no_quota_ends_the_pass(
    tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    from data_prep.provider.failures import CallError

    config = DemoConfig.load(write_config())
    import_toys(tmp_path / "s", toys[:3])

    def tomorrow(handler: BaseHTTPRequestHandler, body: dict) -> None:
        send(handler, 429, {"error": {"message": "daily limit"}}, Retry_After="86400")

    with server(tomorrow) as (url, _), pytest.raises(CallError, match="come again in 86400 s"):
        run_pass(tmp_path / "s", config, url)
    with (
        server(lambda h, b: send(h, 429, {"error": {"code": "insufficient_quota"}})) as (url, _),
        pytest.raises(CallError, match="insufficient_quota"),
    ):
        run_pass(tmp_path / "s", config, url)
    assert {state for state, *_ in calls(tmp_path / "s")} == {"rejected"}


def test_counters_are_what_the_tables_hold(tmp_path: Path, toys: list, write_config: Callable[..., Path]) -> None:
    """After a pass, after replaced and deleted rows, and in a ledger of an older program."""
    path = write_config(lambda c: c["simulation"]["models"]["sim-gpt"].update(invalid_json=0.3))
    root = tmp_path / "s"
    import_toys(root, toys[:6])
    with simulated_annotators([r for r, _ in toys], path) as sim:
        run_pass(root, DemoConfig.load(path), sim.base_url)

    def held() -> tuple[object, ...]:
        with Store(root, write=False) as store:
            return store.ledger.outcome_counts(), store.ledger.call_totals(), store.ledger.total_cost()

    def counted() -> tuple[object, ...]:
        with sqlite3.connect(root / "ledger.sqlite") as db:
            states = dict(db.execute("SELECT state, count(*) FROM outcomes GROUP BY state ORDER BY state"))
            items = db.execute("SELECT count(*) FROM items").fetchone()[0]
            rows = db.execute(
                "SELECT annotator, state, count(*), coalesce(sum(cost_nano), 0), sum(state = 'reply' AND prompt_tokens IS NULL) "
                "FROM calls GROUP BY annotator, state ORDER BY annotator, state"
            ).fetchall()
        return {**states, "pending": items - sum(states.values())}, rows, sum(r[3] for r in rows)

    assert held() == counted()
    with Store(root, write=True) as store:
        item, outcome = next(store.ledger.outcomes())
        values = (item.id, "human", outcome.config, 0, outcome.record)
        store.ledger.write_now(
            ("INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?, ?, ?)", values),
            ("UPDATE calls SET cost_nano = cost_nano + 7 WHERE id = 1", ()),
            ("DELETE FROM calls WHERE id = 2", ()),
        )
    assert held() == counted()
    with sqlite3.connect(root / "ledger.sqlite") as db:
        for kind, name in db.execute("SELECT type, name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            db.execute(f"DROP {kind} {name}")
        db.execute("DROP TABLE call_counts")
        db.execute("DROP TABLE row_counts")
        db.execute("DROP INDEX calls_of_batch")
        db.execute("ALTER TABLE calls DROP COLUMN upper_nano")
        db.execute("ALTER TABLE calls DROP COLUMN batch")
    assert held() == counted(), "a reader brings an older ledger up to date"


def test_status_reads_counters_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its statements touch no table that grows with the number of images or calls."""
    Ledger(tmp_path / "ledger.sqlite", write=True).close()
    ledger = Ledger(tmp_path / "ledger.sqlite", write=False)
    said: list[str] = []
    ledger._read.set_trace_callback(said.append)
    ledger.outcome_counts(), ledger.call_totals(), ledger.total_cost(), ledger.open_calls()
    ledger._read.set_trace_callback(None)
    plans = [str(row) for sql in said for row in ledger.read("EXPLAIN QUERY PLAN " + sql)]
    assert len(said) == 4
    assert all("call_counts" in p or "row_counts" in p or "TEMP B-TREE" in p for p in plans), plans
    ledger.close()
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["nano_dollars"] == 0
