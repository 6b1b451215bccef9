"""The pass over real HTTP, with the simulated annotators and with servers that misbehave."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path

import pytest

from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE, simulated_annotators
from data_prep.export import export_store
from data_prep.provider.failures import CallError
from data_prep.settings import ConfigError
from data_prep.store.store import Store, StoreError
from emo_lightning.core.records import Record
from tests.data_prep.serving import calls, completion, good, import_toys, run_pass, send, server
from tests.patience import PATIENCE


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "a-key-that-must-not-be-written")


def noisy(config: dict) -> None:
    for model in config["simulation"]["models"].values():
        model["invalid_json"] = 0.15
        model["too_many_requests"] = 0.1


def test_the_whole_pass_is_paid_once_and_reproducible(tmp_path: Path, toys: list, write_config: Callable[..., Path]) -> None:
    path = write_config(noisy)
    config = DemoConfig.load(path)
    exported = []
    for run, concurrency in (("a", 12), ("b", 1)):
        root = tmp_path / run
        import_toys(root, toys)
        tuned = config.model_copy(
            update={"annotators": [a.model_copy(update={"concurrency": concurrency}) for a in config.annotators]}
        )
        with simulated_annotators([r for r, _ in toys], path) as server:
            report = run_pass(root, tuned, server.base_url)
            bill = server.bill()
            again = run_pass(root, tuned, server.base_url)
            assert server.bill() == bill, "the second pass asks nothing"
        assert again.tally.requests == 0
        assert again.done_before == len(toys) == sum(report.outcomes.values())
        assert report.tally.invalid > 0, "this test wants replies off the schema"
        assert report.tally.statuses[429] > 0
        with Store(root, write=False) as store:
            assert store.ledger.total_cost() == sum(row["nano_dollars"] for row in bill.values()) == report.tally.cost_nano
            manifest = export_store(store, root / "tars", "toy", samples_per_shard=5)
            for item, outcome in store.ledger.outcomes():
                record = Record.from_json(outcome.record, item.id)
                if outcome.state == "valid":
                    assert record.emotion is not None
                    assert record.emotion_scores is not None
                    assert record.emotion is max(record.emotion_scores, key=record.emotion_scores.__getitem__)
                    assert record.confidence == record.emotion_scores[record.emotion]
                assert record.provenance["outcome"] == outcome.state
                critic = record.provenance["critic"]
                assert isinstance(critic, list)
                assert len(critic) <= config.max_revisions + 1
        assert sum(manifest["counts"].values()) == report.outcomes["valid"] > len(toys) / 2
        exported.append({p.name: p.read_bytes() for p in (root / "tars").iterdir()})
    assert exported[0] == exported[1], "equal replies give equal bytes, whatever the order they came in"


def test_nothing_but_the_image_reaches_a_model(tmp_path: Path, toys: list, write_config: Callable[..., Path]) -> None:
    path = write_config()
    import_toys(tmp_path / "s", toys)
    with simulated_annotators([r for r, _ in toys], path) as server:
        run_pass(tmp_path / "s", DemoConfig.load(path), server.base_url)
    stored = (tmp_path / "s" / "ledger.sqlite").read_bytes()
    assert b"a-key-that-must-not-be-written" not in stored
    with sqlite3.connect(tmp_path / "s" / "ledger.sqlite") as ledger:
        first = ledger.execute(
            "SELECT DISTINCT text FROM prompts JOIN calls ON prompts.sha256 = prompt_sha256 WHERE annotator != 'critic' "
            "AND text NOT LIKE '%inspector%' AND text NOT LIKE '%did not follow%'"
        ).fetchall()
        assert len(first) == 2, "the first round asks every image the same"
        for (text,) in ledger.execute("SELECT text FROM prompts"):
            assert "toy-" not in text
            assert "drawn by a test" not in text


def test_a_new_critic_prompt_costs_no_annotator_call(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config()
    config = DemoConfig.load(path)
    import_toys(tmp_path / "s", toys)
    with simulated_annotators([r for r, _ in toys], path) as server:
        run_pass(tmp_path / "s", config.model_copy(update={"max_revisions": 0}), server.base_url)
        before = server.bill()
        monkeypatch.setattr(
            "data_prep.annotate.critic.CRITIC_PROMPT",
            "Be strict.\n" + __import__("data_prep.annotate.prompts", fromlist=["x"]).CRITIC_PROMPT,
        )
        monkeypatch.setattr("data_prep.annotate.prompts.CRITIC_PROMPT", "changed")
        run_pass(tmp_path / "s", config.model_copy(update={"max_revisions": 0}), server.base_url)
        after = server.bill()
    assert after["sim-critic"]["replies"] >= before["sim-critic"]["replies"] + len(toys)
    assert {m: after[m] for m in after if m != "sim-critic"} == {m: before[m] for m in before if m != "sim-critic"}


# -- servers that misbehave ----------------------------------------------------------------------------------------------------


def test_a_connection_lost_after_sending_is_unknown_and_not_sent_again(
    tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    config = DemoConfig.load(write_config())
    import_toys(tmp_path / "s", toys[:1])
    lost: list[dict[str, object]] = []

    def drop_first_gpt(handler: BaseHTTPRequestHandler, body: dict) -> None:
        if body["model"] == "sim-gpt" and not lost:
            lost.append(body)
            handler.connection.close()
            handler.close_connection = True
            return
        send(handler, 200, good(body))

    with server(drop_first_gpt) as (url, seen):
        report = run_pass(tmp_path / "s", config, url)
        assert (report.tally.unknown, report.pending["unknown"]) == (1, 1)
        count = len(seen)
        report = run_pass(tmp_path / "s", config, url)
        assert report.pending["unknown"] == 1
        assert len(seen) == count, "neither the unknown call nor the answered ones are sent again"
        report = run_pass(tmp_path / "s", config, url, resend_unknown=True)
        assert report.outcomes["valid"] == 1
    assert [state for state, *_ in calls(tmp_path / "s")].count("unknown") == 1


def test_a_server_that_is_not_there_ends_the_pass_and_costs_nothing(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def few(config: dict) -> None:
        for endpoint in [*config["annotators"], config["critic"]]:
            endpoint["max_attempts"] = 2

    config = DemoConfig.load(write_config(few))
    import_toys(tmp_path / "s", toys[:2])
    with pytest.raises(CallError, match=r"cannot connect to http://127\.0\.0\.1:9/v1"):
        run_pass(tmp_path / "s", config, "http://127.0.0.1:9/v1")
    assert {state for state, *_ in calls(tmp_path / "s")} == {"unsent"}


def test_rejections_are_retried_each_a_row_and_retry_after_is_obeyed(
    tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    config = DemoConfig.load(write_config())
    import_toys(tmp_path / "s", toys[:1])
    times: list[float] = []

    def busy(handler: BaseHTTPRequestHandler, body: dict) -> None:
        if body["model"] == "sim-emovit":
            times.append(time.monotonic())
            if len(times) < 3:
                send(handler, 429 if len(times) == 1 else 503, {"error": "busy"}, Retry_After="0.3")
                return
        send(handler, 200, good(body))

    with server(busy) as (url, _):
        report = run_pass(tmp_path / "s", config, url)
    assert report.outcomes["valid"] == 1
    assert report.tally.statuses == {429: 1, 503: 1}
    assert min(b - a for a, b in pairwise(times)) >= 0.3
    assert sorted(state for state, *_ in calls(tmp_path / "s")) == ["rejected"] * 2 + ["reply"] * 4


def test_invalid_replies_are_paid_kept_and_asked_again_twice_with_the_error(
    tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    config = DemoConfig.load(write_config())
    import_toys(tmp_path / "s", toys[:1])

    def gemini_talks(handler: BaseHTTPRequestHandler, body: dict) -> None:
        send(handler, 200, completion("It is a nice image.") if body["model"] == "sim-gemini" else good(body))

    with server(gemini_talks) as (url, seen):
        report = run_pass(tmp_path / "s", config, url)
        asked = [body for body in seen if body["model"] == "sim-gemini"]
        assert run_pass(tmp_path / "s", config, url).tally.requests == 0
    assert len(asked) == 1 + config.max_invalid
    assert "did not follow the JSON schema" in asked[1]["messages"][2]["content"]
    assert report.outcomes["valid"] == 1, "the others carry the image"
    gemini, gpt, critic = 1250, 2500, 2500
    outputs = 10 * 10_000
    assert report.tally.cost_nano == 3 * (100 * gemini + outputs) + (100 * gpt + outputs) + (100 * critic + outputs)


def test_a_wrong_key_ends_the_pass_with_one_message(tmp_path: Path, toys: list, write_config: Callable[..., Path]) -> None:
    config = DemoConfig.load(write_config())
    import_toys(tmp_path / "s", toys)
    with (
        server(lambda handler, body: send(handler, 401, {"error": "bad key"})) as (url, seen),
        pytest.raises(CallError, match="HTTP 401"),
    ):
        run_pass(tmp_path / "s", config, url)
    assert len(seen) <= 3 * 12, "no more than was in flight"


def test_missing_key_and_price_stop_before_the_first_request(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import_toys(tmp_path / "s", toys[:1])
    config = DemoConfig.load(write_config(lambda c: c["critic"].update(model="unheard-of")))
    with pytest.raises(ConfigError, match="no price for unheard-of"):
        run_pass(tmp_path / "s", config, "http://127.0.0.1:9/v1")
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(ConfigError, match=KEY_VARIABLE):
        run_pass(tmp_path / "s", DemoConfig.load(write_config()), "http://127.0.0.1:9/v1")
    assert calls(tmp_path / "s") == []


def test_two_programs_cannot_write_one_store(tmp_path: Path) -> None:
    with Store(tmp_path / "s", write=True), pytest.raises(StoreError, match="another program"):
        Store(tmp_path / "s", write=True)


def test_kill_and_interrupt_lose_no_reply(tmp_path: Path, toys: list, write_config: Callable[..., Path]) -> None:
    """kill -9 in the middle, then Ctrl-C, then `kill`, then to the end: what was received is used, only what was in flight is bought
    twice."""

    def slow_start(config: dict) -> None:
        for endpoint in [*config["annotators"], config["critic"]]:
            endpoint["concurrency"] = 1
        for model in config["simulation"]["models"].values():
            # So long that no pass is done before its signal arrives.
            model["latency"] = 0.1

    path = write_config(slow_start)
    root = tmp_path / "s"
    import_toys(root, toys)
    program = "import sys; from data_prep.cli import main; sys.exit(main(sys.argv[1:]))"

    def replies() -> int:
        return sum(state == "reply" for state, *_ in calls(root))

    with simulated_annotators([r for r, _ in toys], path) as sim:
        arguments = ["annotate", str(root), "--config", str(path), "--base-url", sim.base_url, "--resend-unknown"]
        command = [sys.executable, "-c", program, *arguments]
        for sent in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
            before = replies()
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ, encoding="utf-8"
            )
            deadline = time.monotonic() + PATIENCE
            while replies() < before + 10 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(sent)
            out, _ = process.communicate(timeout=PATIENCE)
            assert process.returncode == (-9 if sent is signal.SIGKILL else 130), out
        # The interrupted runs waited for what they had sent.
        assert all(state != "intent" for state, *_ in calls(root))
        last = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ, encoding="utf-8", check=True
        )
        bill = sim.bill()
    served = sum(row["replies"] for row in bill.values())
    rows = calls(root)
    unknown = sum(state == "unknown" for state, *_ in rows)
    assert "cost of this run" in last.stdout
    assert replies() <= served <= replies() + unknown
    # Of four endpoints: one request on its way, and one whose intent or reply is being written.
    assert unknown <= 4 * (1 + 1), "no more than was open at the kill"
    with Store(root, write=False) as store:
        assert store.ledger.outcome_counts()["pending"] == 0
