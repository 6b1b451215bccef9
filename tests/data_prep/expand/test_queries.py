"""Search queries: by the template, and by a chat model over real HTTP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_prep.cli import main
from data_prep.demo.simulation.serve import simulated_annotators
from data_prep.store.store import Store
from emo_lightning.core.errors import BUDGET_REACHED_EXIT, LEFT_EXIT
from tests.data_prep.expand.annotated import KEY, Reply, images_server, rows, states, write_configs

COUNT = 9


def expand(root: Path, out: Path, *more: str) -> int:
    return main(["expand", "queries", str(root), "--out", str(out), "--count", str(COUNT), *more])


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_template_queries_are_the_same_every_time_and_cost_nothing(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY)
    for name in ("a", "b"):
        assert expand(root, tmp_path / name, "--no-llm") == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    lines = read(tmp_path / "a")
    assert len(lines) == COUNT == len({line["query"] for line in lines})
    known = {row[0] for row in rows(root, "SELECT id FROM items")}
    for line in lines:
        assert set(line) == {"query", "triplet", "emotion", "lineage"}
        assert line["query"] == "{attribute} {subject} at {background}".format(**line["triplet"])
        assert set(line["lineage"]["parents"]) <= known
    assert states(root) == {}


def test_written_queries_are_paid_once(tmp_path: Path, root: Path, toys: list) -> None:
    server, config = write_configs(tmp_path)
    with simulated_annotators([r for r, _ in toys], server) as sim:
        arguments = ("--config", str(config), "--base-url", sim.base_url)
        assert expand(root, tmp_path / "a", *arguments) == 0
        bill = sim.bill()
        assert bill["sim-writer"]["replies"] == COUNT
        assert expand(root, tmp_path / "b", *arguments) == 0
        assert sim.bill() == bill
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert {line["lineage"]["written_by"] for line in read(tmp_path / "a")} == {"sim-writer"}
    with Store(root, write=False) as store:
        assert store.ledger.total_cost() == bill["sim-writer"]["nano_dollars"] > 0


def completion(text: str | None, refusal: str | None = None) -> dict:
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return {"choices": [{"message": {"content": text, "refusal": refusal}, "finish_reason": "stop"}], "usage": usage}


def test_bad_replies_refusals_and_lost_connections_are_counted(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, config = write_configs(tmp_path)
    first: list[str] = []

    def answer(_: str, body: dict[str, Any]) -> Reply | None:
        prompt = body["messages"][0]["content"]
        assert isinstance(prompt, str), "no image is sent"
        if prompt not in first:
            first.append(prompt)
        match first.index(prompt):
            case 0:
                return 200, completion("not JSON")
            case 1:
                return 200, completion(None, "I would rather not")
            case 2:
                return None
            case 3:
                return 200, completion('{"query": ""}' if len(body["messages"]) == 1 else '{"query": "mended  query"}')
        return 200, completion('{"query": "Same Words"}')

    with images_server(answer) as (url, seen):
        arguments = ("--config", str(config), "--base-url", url)
        assert expand(root, tmp_path / "q", *arguments) == LEFT_EXIT, "the one of unknown outcome is left"
        count = len(seen)
        assert expand(root, tmp_path / "q", *arguments) == LEFT_EXIT
        assert len(seen) == count, "neither what was lost nor what was refused is sent again"
    assert count == COUNT + 2 + 1, "off the schema: asked again with the error, at most twice"
    assert sorted(line["query"] for line in read(tmp_path / "q")) == ["Same Words", "mended query"]
    out = capsys.readouterr().out
    assert "without a query: invalid 1, refused 1, unknown 1" in out
    assert f"{COUNT - 5} triplets gave a query that another one gave already" in out


def test_the_budget_stops_before_it_is_passed(
    tmp_path: Path, root: Path, toys: list, capsys: pytest.CaptureFixture[str]
) -> None:
    server, config = write_configs(tmp_path)
    with simulated_annotators([r for r, _ in toys], server) as sim:
        assert (
            expand(root, tmp_path / "q", "--config", str(config), "--base-url", sim.base_url, "--budget", "0.00025")
            == BUDGET_REACHED_EXIT
        )
        bill = sim.bill()["sim-writer"]
        assert "nothing is left" not in capsys.readouterr().err
        assert (
            expand(root, tmp_path / "p", "--config", str(config), "--base-url", sim.base_url, "--budget", "0.0000001")
            == BUDGET_REACHED_EXIT
        )
        assert sim.bill()["sim-writer"] == bill
        said = capsys.readouterr()
        assert "nothing is left of the budget of $1e-07: it counts all that this store has cost" in said.err
        assert "stopped before the budget was passed" in said.out
    assert 0 < bill["replies"] < COUNT
    assert bill["nano_dollars"] <= 250_000
    assert len(read(tmp_path / "q")) == bill["replies"]
