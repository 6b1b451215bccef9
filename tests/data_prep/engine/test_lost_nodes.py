"""A node that is killed in mid-run: nothing is lost, and nothing is paid twice that was not in flight."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from data_prep.annotate.pipeline import PassReport, annotate
from data_prep.dedup.run import DedupSettings, dedup
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE, simulated_annotators
from data_prep.engine import LOCAL_ENGINE, ItemRow, in_batches, ray_calls
from data_prep.engine.cluster import RayEngine
from data_prep.engine.ray_handles import cluster_nodes
from data_prep.export import export_store
from data_prep.store.group_commit import LedgerError
from data_prep.store.ledger import CallIntent
from data_prep.store.store import Store, StoreError
from tests.data_prep.dedup.test_dedup import encoded, item, scene
from tests.data_prep.engine.conftest import Where
from tests.data_prep.serving import Handler, import_toys, listening, send
from tests.patience import PATIENCE

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

_IN_FLIGHT = 12


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")


def few_at_once(config: dict) -> None:
    for endpoint in [*config["annotators"], config["critic"]]:
        endpoint.update(concurrency=_IN_FLIGHT // 4, timeout=PATIENCE)


@contextlib.contextmanager
def held_from(base_url: str, number: int, enough: int, then: Callable[[], None]) -> Iterator[str]:
    """A gate before a server: requests from `number` on are held until `enough` of them are, and `then` was called."""
    lock, opened = threading.Lock(), threading.Event()
    arrived = 0

    class Gate(Handler):
        def do_POST(self) -> None:  # noqa: N802 - a name of http.server
            nonlocal arrived
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with lock:
                arrived += 1
                mine = arrived
            if mine == number + enough - 1:
                then()
                opened.set()
            elif mine >= number:
                opened.wait(PATIENCE)
            passed_on = {"Content-Type": "application/json", "Authorization": self.headers["Authorization"]}
            try:
                answer = urlopen(Request(base_url.removesuffix("/v1") + self.path, body, passed_on))
            except HTTPError as error:
                answer = error
            with contextlib.suppress(OSError):  # Whoever asked may be gone.
                send(self, answer.status, answer.read())

    with listening(Gate) as url:
        yield url


def tars(root: Path) -> dict[str, bytes]:
    with Store(root, write=False) as store:
        export_store(store, root / "tars", "toy", samples_per_shard=4)
    return {path.name: path.read_bytes() for path in (root / "tars").iterdir()}


def test_a_node_lost_while_it_waits_for_replies(
    cluster: Cluster, doomed: Callable[[], None], tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    toys = toys[:9]
    for name in ("local", "ray"):
        import_toys(tmp_path / name, toys)
    path = write_config()
    with simulated_annotators([r for r, _ in toys], path) as sim, Store(tmp_path / "local", write=True) as store:
        asyncio.run(annotate(store, DemoConfig.load(path).at(sim.base_url, KEY_VARIABLE)))

    path = write_config(few_at_once)
    # Calls go to the nodes in turn, so of six that wait for their reply at once, each node has sent one at least.
    with (
        simulated_annotators([r for r, _ in toys], path) as sim,
        held_from(sim.base_url, 10, 6, doomed) as url,
        Store(tmp_path / "ray", write=True) as store,
    ):
        there = DemoConfig.load(path).at(url, KEY_VARIABLE)
        first = asyncio.run(annotate(store, there, engine=RayEngine()))
        states = dict(store.ledger.read("SELECT state, count(*) FROM calls GROUP BY state"))
        unknown = states.get("unknown", 0)
        assert 1 <= unknown <= _IN_FLIGHT
        assert set(states) == {"reply", "unknown"}, "a lost call is settled at once, not by a later run"
        assert first.tally.unknown == unknown
        assert first.outcomes.total() + first.pending["unknown"] == len(toys), "the other nodes went on to the end"
        assert store.ledger.total_cost() == first.tally.cost_nano
        last = asyncio.run(annotate(store, there, engine=RayEngine(), resend_unknown=True))
        assert last.outcomes.total() == first.pending["unknown"]
        replies, total = store.ledger.read("SELECT count(*), sum(cost_nano) FROM calls WHERE state = 'reply'")[0]
        bill = sim.bill().values()
    served, repeated = (sum(row[name] for row in bill) for name in ("replies", "repeated"))
    assert served - replies == repeated <= unknown, "only what was in flight on the lost node was bought again"
    assert sum(row["nano_dollars"] for row in bill) - total >= 0
    assert tars(tmp_path / "ray") == tars(tmp_path / "local"), "to the byte, as if nothing had happened"


def test_senders_are_spread_and_a_node_gone_by_then_gets_none(
    cluster: Cluster, tmp_path: Path, toys: list, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = "ab" * 28
    nodes = cluster_nodes
    monkeypatch.setattr(ray_calls, "cluster_nodes", lambda: [*nodes(), {"NodeID": gone, "Alive": True}])
    started: list[tuple[str | None, Any]] = []
    start = ray_calls.RayAttempts._start_sender

    def note(self: ray_calls.RayAttempts, node: str | None) -> ray_calls._RunningSender:
        sender = start(self, node)
        started.append((node, sender.actor))
        return sender

    def place(sender: object) -> str:
        import ray

        return ray.get(cast(Any, sender).__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))

    def look(report: PassReport) -> None:
        if report.outcomes.total() == 2:
            places.update({node: place(sender) for node, sender in started if node not in (None, gone)})

    places: dict[str | None, str] = {}
    monkeypatch.setattr(ray_calls.RayAttempts, "_start_sender", note)
    import_toys(tmp_path / "s", toys[:4])
    path = write_config()
    with simulated_annotators([r for r, _ in toys[:4]], path) as sim, Store(tmp_path / "s", write=True) as store:
        there = DemoConfig.load(path).at(sim.base_url, KEY_VARIABLE)
        report = asyncio.run(annotate(store, there, engine=RayEngine(), on_progress=look))
    assert report.outcomes.total() == 4
    assert report.tally.unknown == 0, "nothing was sent from there"
    assert [node for node, _ in started[-2:]] == [gone, None]
    assert places == {node["NodeID"]: node["NodeID"] for node in nodes() if node["Alive"]}, "each where it was told to"


def test_a_node_lost_while_it_hashes(cluster: Cluster, doomed: Callable[[], None], tmp_path: Path) -> None:
    pictures = [item(f"i-{n}", encoded(scene(n, (40, 30)))) for n in range(320)]
    found = []
    for engine in (LOCAL_ENGINE, RayEngine()):
        with Store(tmp_path / type(engine).__name__, write=True) as store:
            store.import_items(pictures)
            report = dedup(store, DedupSettings(), None, lambda step, done, total: doomed() if done < total else None, engine)
            assert report.hashed == len(pictures)
            found.append(store.ledger.read("SELECT * FROM image_hashes ORDER BY image_sha256"))
        cluster.wait_for_nodes()
    assert found[0] == found[1]


def test_a_node_lost_while_a_model_computes(cluster: Cluster, doomed: Callable[[], None], tmp_path: Path) -> None:
    """Batches go to all nodes as the caller made them, come back in order, and none is lost with a node."""
    with Store(tmp_path / "s", write=True) as store:
        store.import_items([item(f"i-{n}", encoded(scene(n, (40, 30)))) for n in range(41)])
        rows = [ItemRow(*row) for row in store.ledger.read("SELECT sha256, extension, id FROM items ORDER BY id")]
        found: list[Any] = []
        for number, batch in enumerate(RayEngine().map(store, in_batches(rows, 2), Where(tmp_path, 3))):
            if number == 8:
                doomed()
            found += [json.loads(text) for text in batch]
        assert [(given, together, size) for _, given, together, size in found] == [
            (row.given, 1 if row is rows[-1] else 2, len(store.image(row.sha256, row.extension))) for row in rows
        ]
        assert len({node for node, *_ in found}) == 3


def test_the_ledger_is_lent_with_its_lock_and_comes_back(cluster: Cluster, tmp_path: Path) -> None:
    import ray

    from data_prep.engine.ray_ledger import ledger_in_actor

    with Store(tmp_path / "s", write=True) as store:
        with ledger_in_actor(store) as actor:
            with pytest.raises(StoreError, match="another program"):
                Store(tmp_path / "s", write=True)
            store.ledger.write_now(("INSERT INTO prompts VALUES ('a', 'b')", ()))
            assert store.ledger.read("SELECT text FROM prompts") == [("b",)]
            with pytest.raises(LedgerError, match="no such table"):
                store.ledger.write_now(("INSERT INTO nowhere VALUES (1)", ()))
            # Not `ray.kill`, which returns before the actor has ended: what is told in between may yet be written.
            process = psutil.Process(ray.get(cast(Any, actor).__ray_call__.remote(lambda _: os.getpid())))
            process.kill()
            psutil.wait_procs([process])
            with pytest.raises(LedgerError, match="what was written is on disk"):
                store.ledger.write_now(("INSERT INTO prompts VALUES ('c', 'd')", ()))
        store.ledger.write_now(("INSERT INTO prompts VALUES ('e', 'f')", ()))
        assert store.ledger.read("SELECT sha256 FROM prompts") == [("a",), ("e",)]
        with pytest.raises(StoreError, match="another program"):
            Store(tmp_path / "s", write=True)


def test_a_sender_that_was_given_up_sends_no_more(tmp_path: Path) -> None:
    """No cluster: the ledger's actor as the class that it is."""
    from data_prep.engine.ray_ledger import LedgerActor

    async def go() -> None:
        actor = LedgerActor(str(tmp_path / "s"))
        await actor.open()
        intent: dict[str, Any] = {
            "image_sha256": "i",
            "prompt_sha256": "p",
            "prompt": "?",
            "annotator": "a",
            "model": "m",
            "started": 1.0,
        }
        first = await actor.begin_call(1, cast(CallIntent, {**intent, "cache_key": "k", "upper_nano": 7}))
        second = await actor.begin_call(1, cast(CallIntent, {**intent, "cache_key": "l", "upper_nano": 7}))
        await actor.end_call(second, "reply", {"ended": 2.0, "raw": b"said", "cost_nano": 5})
        lost = await actor.lose(1, "k", 0, "gone")
        assert lost is not None
        assert lost.state == "unknown"
        kept = await actor.lose(1, "l", 0, "gone")
        assert kept is not None
        assert (kept.state, kept.raw, kept.cost_nano) == ("reply", b"said", 5)
        assert await actor.lose(1, "k", first, "gone") is None, "never written down, so never sent"
        with pytest.raises(LedgerError, match="given up as lost"):
            await actor.begin_call(1, cast(CallIntent, {**intent, "cache_key": "n"}))
        await actor.end_call(first, "reply", {"ended": 3.0, "raw": b"late", "cost_nano": 6})
        await actor.close()

    asyncio.run(go())
    with Store(tmp_path / "s", write=False) as store:
        assert store.ledger.cached_reply("k") == b"late", "a reply that was received is kept"
        assert store.ledger.total_cost() == 11
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
