"""How batches end: what the provider counts against what its files hold, and what is named late, never, twice or not at all."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.annotate.pipeline import PassReport, annotate
from data_prep.cli import main
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.provider.base import RemoteBatch
from data_prep.provider.batch import records, takeover
from data_prep.provider.batch.account import Account
from data_prep.provider.batch.records import BatchResult, open_batches
from data_prep.provider.failures import CallError
from data_prep.provider.openai_batches import identifier, read_batch, read_batch_results
from data_prep.provider.transport import without_key
from data_prep.store.ledger import Ledger
from data_prep.store.store import Store
from tests.data_prep.provider.batch_server import Answered, BatchServer, batch_server
from tests.data_prep.serving import import_toys, run_pass

KEY = "sk-planted/4711+x"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setattr("data_prep.provider.batch.service._PAUSE", 0.02)


@pytest.fixture
def config(write_config: Callable[..., Path]) -> Path:
    def change(config: dict) -> None:
        config["batches"] = {"poll_seconds": 0.02, "settle_seconds": 0.05}
        # One annotator in batches, so that the first batch is its.
        for endpoint in [*config["annotators"], config["critic"]]:
            endpoint |= {"batch": endpoint["name"] == "gpt", "max_attempts": 3}

    return write_config(change)


def states(root: Path, annotator: str = "gpt") -> Counter[str]:
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        return Counter(dict(ledger.execute("SELECT state, count(*) FROM calls WHERE annotator = ? GROUP BY 1", (annotator,))))


def endings(root: Path) -> list[str]:
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        assert ledger.execute("SELECT count(*) FROM batches WHERE state != 'ended'").fetchone() == (0,)
        return [error for (error,) in ledger.execute("SELECT error FROM batches ORDER BY id")]


def annotated(root: Path, config: Path, server: BatchServer, toys: list) -> PassReport:
    import_toys(root, toys[:4])
    with batch_server(server) as url:
        return run_pass(root, DemoConfig.load(config), url, batch=True)


# -- numbers ----------------------------------------------------------------------------------------------------------------------------


def account(replies: int = 0, failed: int = 0, never: int = 0, of: int = 4, garbled: int = 0) -> Account:
    """Of `of` requests, so many were answered, failed, or not executed."""
    keys = [str(n) for n in range(of)]
    rows = [BatchResult(key, "reply", 200) for key in keys[:replies]]
    rows += [BatchResult(key, "rejected", 500) for key in keys[replies : replies + failed]]
    rows += [BatchResult(key, "unsent") for key in keys[replies + failed : replies + failed + never]]
    found = Account(frozenset(keys))
    found.take(rows, garbled)
    return found


def remote(
    status: str,
    completed: int | None = None,
    failed: int | None = None,
    total: int | None = None,
    output: str | None = None,
    failures: str | None = None,
) -> RemoteBatch:
    return RemoteBatch("b", status, output, failures, total, completed, failed)


@pytest.mark.parametrize(
    ("found", "shown", "left", "lost", "differs"),
    [
        # All is there, and counted so.
        (account(4), remote("completed", 4, 0, 4), "unsent", False, False),
        (account(3, 1), remote("completed", 3, 1, 4), "unsent", False, False),
        (account(4), remote("completed"), "unsent", False, False),
        # The provider counts replies that are not there.
        (account(3, 1), remote("completed", 4, 0, 4), "unknown", True, True),
        (account(2, 0, 1), remote("expired", 3, 0, 4), "unknown", True, True),
        (account(), remote("cancelled", 1, 0, 4), "unknown", True, True),
        (account(), remote("failed", 2, 0, 4), "unknown", True, True),
        # It counts all that is there, so the rest was not answered.
        (account(2), remote("expired", 2, 0, 4), "unsent", False, False),
        (account(2, 0, 2), remote("expired", 2, 2, 4), "unsent", False, False),
        (account(2, 0, 2), remote("expired", 2, 0, 4), "unsent", False, False),
        (account(), remote("cancelled", 0, 0, 4), "unsent", False, False),
        (account(), remote("failed"), "unsent", False, False),
        (account(), remote("failed", 0, 0, 0), "unsent", False, False),
        # Completed means executed: what no row names was paid, unless it is counted as failed.
        (account(3), remote("completed", 3, 0, 4), "unknown", True, False),
        (account(3), remote("completed", 3, 1, 4), "unsent", False, True),
        (account(3), remote("completed"), "unknown", True, False),
        # It says nothing of what is not there.
        (account(2), remote("expired"), "unknown", True, False),
        (account(), remote("cancelled"), "unknown", True, False),
        # A line that cannot be read may be anybody's.
        (account(3, garbled=1), remote("expired", 4, 0, 4), "unknown", True, True),
        # Fewer than there are, or of another number.
        (account(4), remote("completed", 3, 0, 4), "unsent", False, True),
        (account(3, 1), remote("completed", 3, 0, 4), "unsent", False, True),
        (account(4), remote("completed", 4, 0, 5), "unsent", False, True),
    ],
)
def test_counts_are_compared_with_rows(found: Account, shown: RemoteBatch, left: str, lost: bool, differs: bool) -> None:
    ending = found.ending(shown, [])
    assert (ending.left, bool(ending.lost)) == (left, lost)
    said = ending.lost or ending.differs
    assert ("the provider counts" in said) == differs
    if differs:
        counted = [shown.total, shown.completed, shown.failed, len(found.keys), found.answered, found.failed, found.never]
        for number in counted:
            assert str("no" if number is None else number) in said


def test_no_ending_gives_away_what_may_have_been_paid() -> None:
    """Over all small batches: a request without a row is free only where the provider counts no more replies than are there."""
    few = range(3)
    for replies, failed, never, counted, bad, garbled in itertools.product(
        few, few, few, (None, 0, 1, 2, 3, 6), (None, 0, 1, 6), few
    ):
        found = account(replies, failed, never, of=6, garbled=garbled)
        for status in ("completed", "expired", "cancelled", "failed"):
            ending = found.ending(remote(status, counted, bad, 6), [])
            if counted is not None and counted > replies + garbled:
                assert ending.lost
            if found.left and ending.left == "unsent":
                assert not ending.lost
                assert garbled == 0
                assert (counted or 0) <= replies
                assert counted is not None or status == "failed"


@pytest.mark.parametrize(
    ("found", "shown", "seconds"),
    [
        (account(), remote("completed", 4, 0, 4), 100),
        (account(), remote("expired", 2, 0, 4), 100),
        (account(2), remote("completed", 2, 2, 4, output="f"), 100),
        (account(), remote("completed", 0, 4, 4), 100),
        (account(2), remote("cancelled", 2, 1, 4, output="f"), 100),
        (account(), remote("completed"), 100),
        # Nothing is said: a moment, and it is what it is.
        (account(), remote("expired"), 3),
        (account(), remote("cancelled"), 3),
        # The failures stand in the file of replies, or all is named.
        (account(2, 2), remote("completed", 2, 2, 4, output="f"), 0),
        (account(2, 0), remote("completed", 2, 2, 4, output="f", failures="g"), 0),
        (account(), remote("expired", 0, 0, 4), 0),
        (account(), remote("failed", 3, 0, 4), 0),
    ],
)
def test_what_is_counted_and_not_named_is_waited_for(found: Account, shown: RemoteBatch, seconds: float) -> None:
    assert found.waits(shown, 100.0, 3.0) == seconds


def test_a_request_counts_once_and_a_reply_comes_first() -> None:
    found = Account(frozenset("ab"))
    new = found.take(
        [BatchResult("a", "rejected", 500), BatchResult("a", "reply", 200, b"1"), BatchResult("a", "reply", 200, b"2")], 0
    )
    assert [(one.key, one.raw) for one in new] == [("a", b"1")]
    new = found.take(
        [
            BatchResult("a", "unsent"),
            BatchResult("b", "unsent"),
            BatchResult("z", "reply", 200),
            BatchResult("b", "reply", 200),
        ],
        0,
    )
    assert [(one.key, one.state) for one in new] == [("b", "reply")]
    assert (found.answered, found.repeated, found.foreign, found.left) == (2, 4, 1, [])
    assert "4 rows repeated, 1 rows of no request of this batch" in found.ending(remote("completed", 2, 0, 2), []).differs


# -- passes -----------------------------------------------------------------------------------------------------------------------------


def late(shown: dict, look: int) -> None:
    """Both files are named later than the end, the error file last."""
    shown["output_file_id"] = shown["output_file_id"] if look >= 3 else ""
    shown["error_file_id"] = shown["error_file_id"] if look >= 5 else None


def test_the_error_file_is_waited_for_as_the_output_file_is(tmp_path: Path, config: Path, toys: list) -> None:
    server = BatchServer(change=late, rows=lambda rows: rows[1:])
    server.failed = lambda rows: [{"custom_id": server.asked[0][0], "response": {"status_code": 500, "body": {}}}]
    report = annotated(tmp_path, config, server, toys)
    assert (report.outcomes.total(), report.tally.lost, report.tally.differs) == (4, [], [])
    assert server.looks["batch_0"] >= 5
    # What failed was asked again, and nothing else.
    assert server.asked[1:] == [server.asked[0][:1]]
    assert states(tmp_path) == {"reply": 4, "rejected": 1}


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_part_of_a_batch_is_taken_and_the_rest_asked_again(tmp_path: Path, config: Path, toys: list, status: str) -> None:
    """Three of four were answered; no row says so of the fourth, but the counts do."""
    server = BatchServer(change=lambda shown, _: shown.update(status=status), rows=lambda rows: rows[:3])
    report = annotated(tmp_path, config, server, toys)
    assert (report.outcomes.total(), report.tally.lost) == (4, [])
    assert server.asked[1:] == [server.asked[0][3:]]
    assert states(tmp_path) == {"reply": 4, "unsent": 1}
    assert endings(tmp_path)[0].startswith(status)


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_a_batch_of_which_nothing_is_said_is_lost_by_name(tmp_path: Path, config: Path, toys: list, status: str) -> None:
    def nothing(shown: dict, _: int) -> None:
        shown.update(status=status, request_counts=None, output_file_id=None, error_file_id="")

    server = BatchServer(change=nothing)
    report = annotated(tmp_path, config, server, toys)
    assert (len(report.tally.lost), report.pending["unknown"], len(server.asked)) == (1, 4, 1)
    assert "batch_0 of gpt, 4 requests" in report.tally.lost[0]
    assert states(tmp_path) == {"unknown": 4}
    with batch_server(server) as url:
        again = run_pass(tmp_path, DemoConfig.load(config), url, batch=True, resend_unknown=True)
    assert again.outcomes.total() == 4, "a later pass goes on"


def test_a_file_that_is_not_there_once_is_asked_for_again(tmp_path: Path, config: Path, toys: list) -> None:
    def once(file_id: str, look: int) -> Answered | None:
        return (404, {"error": {"message": f"No such File object: {file_id}"}}) if look == 1 else None

    server = BatchServer(file=once)
    report = annotated(tmp_path, config, server, toys)
    assert (report.outcomes.total(), report.tally.lost, len(server.asked)) == (4, [], 1)


def test_a_batch_that_is_not_known_once_is_asked_for_again(tmp_path: Path, config: Path, toys: list) -> None:
    """Twice, and known in between: that makes no two in a row."""
    server = BatchServer(
        change=lambda shown, look: (404, {}) if look in (1, 3) else shown.update(status="in_progress") if look == 2 else None
    )
    report = annotated(tmp_path, config, server, toys)
    assert (report.outcomes.total(), report.tally.lost, len(server.asked)) == (4, [], 1)


def test_a_repeated_row_is_said_and_does_not_stand_for_another(
    tmp_path: Path, config: Path, toys: list, capsys: pytest.CaptureFixture[str]
) -> None:
    import_toys(tmp_path, toys[:4])
    server = BatchServer(rows=lambda rows: [*rows[:3], rows[0]])
    with batch_server(server) as url:
        arguments = [str(tmp_path), "--config", str(config), "--base-url", url, "--batch", "--yes", "--no-ground"]
        assert main(["annotate", *arguments]) == 4
    out = capsys.readouterr().out
    assert "lost, may have been paid: batch batch_0 of gpt, 4 requests: the provider counts 4 requests, 4 completed" in out
    assert "its files have 3 replies, 0 failures, 0 not executed, 1 rows repeated" in out
    assert states(tmp_path) == {"reply": 3, "unknown": 1}
    assert main(["status", str(tmp_path)]) == 0
    assert "batch_0: lost, may have been paid: the provider counts 4 requests" in capsys.readouterr().out


def test_a_request_that_no_batch_executes_is_not_asked_for_ever(tmp_path: Path, config: Path, toys: list) -> None:
    server = BatchServer()
    shown = BatchServer._shown

    def expired(self: BatchServer, name: str) -> dict[str, Any]:
        return {
            **shown(self, name),
            "status": "expired",
            "output_file_id": None,
            "request_counts": {"total": 4, "completed": 0, "failed": 0},
        }

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BatchServer, "_shown", expired)
        report = annotated(tmp_path, config, server, toys)
    assert (len(server.asked), report.pending) == (3, {"gave_up": 4})
    assert states(tmp_path) == {"unsent": 12}


def test_what_an_earlier_run_lost_is_sent_again_and_what_this_run_loses_is_not(
    tmp_path: Path, config: Path, toys: list
) -> None:
    """A provider that loses every batch: each pass with `--resend-unknown` buys each request once, and ends."""
    shown, server = BatchServer._shown, BatchServer()

    def lost(self: BatchServer, name: str) -> dict[str, Any]:
        return {**shown(self, name), "output_file_id": None, "request_counts": None, "status": "expired"}

    with pytest.MonkeyPatch.context() as patch, batch_server(server) as url:
        patch.setattr(BatchServer, "_shown", lost)
        import_toys(tmp_path, toys[:4])
        for made, resend in ((1, True), (1, False), (2, True), (3, True)):
            report = run_pass(tmp_path, DemoConfig.load(config), url, batch=True, resend_unknown=resend)
            assert (len(server.asked), report.pending) == (made, {"unknown": 4})
            assert states(tmp_path) == {"unknown": 4 * made}
        assert {tuple(sorted(keys)) for keys in server.asked} == {tuple(sorted(server.asked[0]))}
        # Some come back at last: these are replies, the others stay what they are.
        patch.setattr(BatchServer, "_shown", shown)
        report = run_pass(tmp_path, DemoConfig.load(config), url, batch=True, resend_unknown=True)
        assert (report.outcomes.total(), len(server.asked)) == (4, 4)
        assert run_pass(tmp_path, DemoConfig.load(config), url, batch=True, resend_unknown=True).tally.requests == 0
    assert states(tmp_path) == {"unknown": 12, "reply": 4}


# -- files of any size ------------------------------------------------------------------------------------------------------------------


def test_a_download_that_breaks_off_is_begun_again_and_counted_once(
    tmp_path: Path, config: Path, toys: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file lies in the store meanwhile, for its user alone; what is read of it is written a part at a time."""
    parts: list[int] = []
    write = records.write_results

    async def watched(ledger: Ledger, batch: int, results: list[BatchResult]) -> None:
        parts.append(len(results))
        modes = {path.suffix: path.stat().st_mode & 0o777 for path in (tmp_path / "batches").iterdir()}
        assert modes[".results"] == 0o600
        await write(ledger, batch, results)

    monkeypatch.setattr(records, "write_results", watched)
    monkeypatch.setattr(takeover, "_PART_BYTES", 1)
    # A request has a failure first and a reply in a later part.
    failure = {"custom_id": "", "response": {"status_code": 500, "body": {}}}
    server = BatchServer(
        broken=2,
        rows=lambda rows: [{**failure, "custom_id": rows[3]["custom_id"]}, *rows],
        change=lambda shown, look: shown["request_counts"].update(completed=4),
    )
    report = annotated(tmp_path, config, server, toys)
    assert (report.outcomes.total(), report.tally.lost, len(server.asked)) == (4, [], 1)
    assert states(tmp_path) == {"reply": 4}
    assert (parts, server.broken) == ([1] * 5, 0)
    assert not list((tmp_path / "batches").iterdir())


def test_of_a_file_that_is_too_large_the_beginning_is_taken(
    tmp_path: Path, config: Path, toys: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = BatchServer()
    import_toys(tmp_path, toys[:4])
    with batch_server(server) as url:
        monkeypatch.setattr("data_prep.provider.openai_batches.MAX_RESULT_BYTES", 900)
        report = run_pass(tmp_path, DemoConfig.load(config), url, batch=True)
        found = states(tmp_path)
        assert found["reply"] == report.outcomes.total() > 0
        assert found["unknown"] == report.pending["unknown"] == 4 - found["reply"] > 0
        (lost,) = report.tally.lost
        assert "file out-batch_0 is larger than the 900 bytes that are read" in lost
        monkeypatch.undo()
        monkeypatch.setenv(KEY_VARIABLE, KEY)
        again = run_pass(tmp_path, DemoConfig.load(config), url, batch=True, resend_unknown=True)
    assert (again.pending.total(), states(tmp_path)["reply"]) == (0, 4), "the pass is not held up by it"
    assert not list((tmp_path / "batches").iterdir())


def test_a_line_that_is_longer_than_any_reply_hides_no_other(
    tmp_path: Path, config: Path, toys: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.provider.openai_batches.MAX_LINE_BYTES", 2000)
    long = {"custom_id": "x", "response": {"status_code": 200, "body": "a" * 9000}}
    report = annotated(tmp_path, config, BatchServer(rows=lambda rows: [*rows[:2], long, *rows[2:]]), toys)
    assert (report.outcomes.total(), report.tally.garbled, states(tmp_path)) == (4, 1, {"reply": 4})


def test_a_file_that_nobody_can_read_is_lost_by_name(tmp_path: Path, config: Path, toys: list) -> None:
    server = BatchServer(coding="gzip", file=lambda file_id, look: (200, b"\x1f\x8b no gzip at all"))
    report = annotated(tmp_path, config, server, toys)
    assert (report.pending["unknown"], states(tmp_path)) == (4, {"unknown": 4})
    assert "file out-batch_0: the answer cannot be read: its compression is damaged" in report.tally.lost[0]


# -- ids, keys, and what is no answer ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", ["", " ", None, 7, True, [], "..", "a\nb"])
def test_what_is_no_id_is_none(nothing: object) -> None:
    assert identifier(nothing) is None
    shown = read_batch(
        {"id": nothing, "status": nothing, "output_file_id": nothing, "error_file_id": nothing, "request_counts": nothing}
    )
    assert (shown.id, shown.files, shown.completed, shown.errors) == ("", (), None, ())


def test_an_upload_without_an_id_is_refused_and_nothing_is_paid(tmp_path: Path, config: Path, toys: list) -> None:
    server = BatchServer(upload=lambda shown: (200, shown | {"id": ""}))
    with pytest.raises(CallError, match="gives the uploaded file no id; no batch was made of it, nothing is paid"):
        annotated(tmp_path, config, server, toys)
    assert (states(tmp_path), server.asked) == ({"unsent": 4}, [])
    assert not list((tmp_path / "batches").iterdir())
    report = annotated(tmp_path, config, BatchServer(), toys)
    assert report.outcomes.total() == 4


def test_a_batch_without_an_id_is_found_by_its_token(tmp_path: Path, config: Path, toys: list) -> None:
    server = BatchServer(create=lambda shown: (200, shown | {"id": ""}))
    report = annotated(tmp_path, config, server, toys)
    assert (report.outcomes.total(), len(server.asked)) == (4, 1)


def test_a_batch_without_an_id_anywhere_may_have_been_paid(
    tmp_path: Path, config: Path, toys: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = BatchServer._shown
    with monkeypatch.context() as patch:
        patch.setattr(BatchServer, "_shown", lambda self, name: shown(self, name) | {"id": None})
        with pytest.raises(CallError, match=r"a batch of 4 requests may have been paid, and is lost.*names no id"):
            annotated(tmp_path, config, BatchServer(), toys)
    assert states(tmp_path) == {"unknown": 4}
    assert "lost, may have been paid" in endings(tmp_path)[0]
    report = annotated(tmp_path, config, BatchServer(), toys)
    assert report.pending == {"unknown": 4}, "a later pass goes on, and sends nothing twice by itself"


@pytest.mark.parametrize("status", [401, 403])
def test_another_key_ends_the_pass_and_loses_no_batch(
    tmp_path: Path, config: Path, toys: list, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """And the key that the answer repeats is in no message, as it is or as JSON writes it."""
    written = KEY.replace("/", "\\/")
    body = b'{"error": {"message": "Incorrect API key provided: %s, %s"}}' % (KEY.encode(), written.encode())
    server = BatchServer(change=lambda shown, look: (status, body))
    import_toys(tmp_path, toys[:4])
    with batch_server(server) as url:
        arguments = [str(tmp_path), "--config", str(config), "--base-url", url, "--batch", "--yes", "--no-ground"]
        assert main(["annotate", *arguments]) == 2
        said = "".join(capsys.readouterr())
        assert f"the Batch API answers HTTP {status}" in said
        assert "[key]" in said
        assert not any(secret in said for secret in (KEY, written, "4711"))
        with Store(tmp_path, write=False) as store:
            assert len(open_batches(store.ledger)) == 1
        server.change = lambda shown, look: None
        assert main(["annotate", *arguments]) == 0
    assert states(tmp_path) == {"reply": 4}
    assert KEY.encode() not in (tmp_path / "ledger.sqlite").read_bytes()


@pytest.mark.parametrize("where", ["upload", "create", "file"])
def test_no_answer_of_the_batch_api_gives_the_key_away(tmp_path: Path, config: Path, toys: list, where: str) -> None:
    refused: Answered = (401, {"error": {"message": f"Incorrect API key provided: {KEY}"}})
    server = BatchServer()
    setattr(server, where, lambda *_: refused)
    with pytest.raises(CallError, match=r"HTTP 401.*Incorrect API key provided: \[key\]") as raised:
        annotated(tmp_path, config, server, toys)
    assert KEY not in str(raised.value)
    with Store(tmp_path, write=False) as store:
        assert KEY not in str(store.ledger.read("SELECT * FROM batches")) + str(store.ledger.read("SELECT error FROM calls"))


def test_a_key_in_a_batchs_errors_is_blotted_out(tmp_path: Path, config: Path, toys: list) -> None:
    error = {"code": "invalid_request", "message": f"key {KEY} may not"}
    server = BatchServer(
        change=lambda shown, _: shown.update(status="failed", request_counts=None, errors={"data": [error, KEY]})
    )
    with pytest.raises(CallError, match=r"refuses a batch: invalid_request: key \[key\] may not; \[key\]") as raised:
        annotated(tmp_path, config, server, toys)
    assert KEY not in str(raised.value)
    assert KEY not in str(endings(tmp_path))
    row = b'{"message": "%s"}' % KEY.replace("+", "%2B").replace("/", "%2F").encode()
    assert without_key(row, KEY) == b'{"message": "[key]"}'


def test_a_batch_of_another_account_at_the_same_address_is_not_lost(
    tmp_path: Path, config: Path, toys: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two endpoints with two keys; then they change keys while a batch is open."""
    monkeypatch.setenv("OTHER_KEY", "sk-of-another-account")
    server = BatchServer(keys={"batch_0": KEY}, change=lambda shown, look: (403, {}) if look == 1 else None)
    import_toys(tmp_path, toys[:4])
    first = DemoConfig.load(config)
    with batch_server(server) as url:

        def keyed(gpt: str, others: str) -> DemoConfig:
            here = first.at(url, others)
            return here.model_copy(
                update={"annotators": [a.moved(url, gpt) if a.name == "gpt" else a for a in here.annotators]}
            )

        for settings, stops in ((keyed(KEY_VARIABLE, "OTHER_KEY"), True), (keyed("OTHER_KEY", KEY_VARIABLE), False)):
            with Store(tmp_path, write=True) as store:
                if stops:
                    with pytest.raises(CallError, match="403"):
                        asyncio.run(annotate(store, settings, batch=True))
                else:
                    report = asyncio.run(annotate(store, settings, batch=True))
    assert (report.tally.lost, states(tmp_path)) == ([], {"reply": 4})
    assert server.made_by == [KEY]


def test_whatever_a_batch_looks_like_it_is_read() -> None:
    """Generated answers: nothing is raised, and what comes of them can be written down."""
    rng = random.Random(0)
    odd = [
        "",
        "completed",
        "\ud800",
        "a\x1b[2J",
        None,
        True,
        -1,
        3,
        1.5,
        1e300,
        [],
        {},
        [None],
        {"data": [{"code": "\udfff"}, 7, None]},
    ]
    names = ("id", "status", "output_file_id", "error_file_id", "request_counts", "errors", "metadata", "created_at")
    for _ in range(3000):
        counts = {name: rng.choice(odd) for name in ("total", "completed", "failed")}
        found = {name: rng.choice([*odd, counts]) for name in names if rng.random() < 0.9}
        shown = read_batch(found)
        assert all(text.encode().decode() == text and text.isprintable() for text in (shown.status, *shown.errors))
        assert all(n is None or (type(n) is int and n >= 0) for n in (shown.total, shown.completed, shown.failed))
        account(2).ending(shown, [])


def test_what_a_line_says_of_an_execution() -> None:
    """Some providers write a status 0 where nothing was executed; another one that is none cannot be read."""
    lines = [
        {"custom_id": "never", "response": {"status_code": 0, "body": None}, "error": {"code": "batch_expired"}},
        {"custom_id": "null", "response": None, "error": {"code": "batch_expired"}},
        {"custom_id": "nothing", "response": None, "error": None},
        {"custom_id": "odd", "response": {"status_code": 7, "body": {}}},
    ]
    found = list(read_batch_results(json.dumps(line).encode() for line in lines))
    assert [line and (line.key, line.status) for line in found] == [("never", None), ("null", None), None, None]
    assert read_batch({"status": "Canceled"}).status == "cancelled"


def test_the_page_of_a_proxy_is_no_batch(tmp_path: Path, config: Path, toys: list) -> None:
    """Under status 200: asked again, and nothing is created twice."""
    page = b"<html>please log in</html>"
    server = BatchServer(
        change=lambda shown, look: (200, page) if look == 1 else (200, b"[1]") if look == 2 else None,
        create=lambda shown: (200, page),
    )
    report = annotated(tmp_path, config, server, toys)
    assert (report.outcomes.total(), len(server.asked)) == (4, 1)


def test_what_has_ended_cannot_be_cancelled_and_is_taken_over(tmp_path: Path, config: Path, toys: list) -> None:
    server = BatchServer(change=lambda shown, look: (403, {}))
    import_toys(tmp_path, toys[:4])
    with batch_server(server) as url:
        with pytest.raises(CallError, match="403"):
            run_pass(tmp_path, DemoConfig.load(config), url, batch=True)
        server.change = lambda shown, look: None
        report = run_pass(tmp_path, DemoConfig.load(config), url, cancel_batches=True)
    assert report.open_batches == 0
    assert states(tmp_path) == {"reply": 4}
