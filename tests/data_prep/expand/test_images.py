"""Generated images over real HTTP: the simulated endpoint with a bill of its own, and endpoints that misbehave."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from data_prep.cli import main
from data_prep.demo.simulation.serve import simulated_annotators
from data_prep.expand.config import ExpandConfig, image_price
from data_prep.expand.fetch import ImageFetchError, fetch_image
from data_prep.expand.images import GenerationReport, generate
from data_prep.expand.plan import make_plan, save_plan
from data_prep.provider.failures import CallError
from data_prep.store.store import Store
from emo_lightning.core.errors import BUDGET_REACHED_EXIT, LEFT_EXIT
from tests.data_prep.conftest import ROOT, picture
from tests.data_prep.expand.annotated import KEY, annotated_store, images_server, rows, states, write_configs
from tests.patience import PATIENCE

PRICE = 30_000_000
"""Nano-dollars of an image of `sim-images`."""


def run(
    root: Path,
    config: Path,
    url: str,
    count: int,
    *,
    change: Mapping[str, object] | None = None,
    limit_nano: int | None = None,
    resend_unknown: bool = False,
) -> GenerationReport:
    """As the command does it, on an endpoint of the test."""
    loaded = ExpandConfig.load(config).at(url)
    if change is not None:
        loaded = loaded.model_copy(update={"images": loaded.images.model_copy(update=change)})
    with Store(root, write=True) as store:
        plan = make_plan(store.ledger, loaded, count, 0)
        save_plan(store.ledger, plan)
        price = image_price(loaded.prices, loaded.images.model)
        made = generate(store, plan, loaded, price, limit_nano=limit_nano, resend_unknown=resend_unknown)
        return asyncio.run(made)


def items(root: Path) -> list[tuple]:
    query = "SELECT id, sha256 || '.' || extension, split, grp, labels, licence FROM items WHERE source = 'aigc' ORDER BY id"
    return [(*row[:4], json.loads(row[4]), row[5]) for row in rows(root, query)]


def test_images_are_paid_once_and_come_with_their_lineage(tmp_path: Path, root: Path, toys: list) -> None:
    server, config = write_configs(tmp_path, refusal=0.25, server_error=0.25)
    with simulated_annotators([r for r, _ in toys], server) as sim:
        report = run(root, config, sim.base_url, 12)
        bill = sim.bill()["sim-images"]
        again = run(root, config, sim.base_url, 12)
        assert sim.bill()["sim-images"] == bill, "the second run asks nothing, not even what was refused"
        more = run(root, config, sim.base_url, 13)
        assert sim.bill()["sim-images"]["repeated"] == 0
    assert report.tally.statuses[500] > 0
    assert report.done["refused"] > 0
    assert report.done["imported"] + report.done["refused"] == 12
    assert bill["replies"] == report.done["imported"]
    assert report.tally.cost_nano == bill["nano_dollars"] == bill["replies"] * PRICE
    assert (again.tally.requests, again.before.total(), more.done.total()) == (0, 12, 1)

    parents = {row[0]: row[1:] for row in rows(root, "SELECT id, split, grp, sha256 FROM items WHERE source = 'toy'")}
    made = items(root)
    assert len(made) == report.done["imported"] + more.done["imported"]
    for _, image, split, group, labels, licence in made:
        assert list(labels) == ["lineage"], "what was intended is no label"
        lineage = labels["lineage"]
        parent_split, parent_group, parent_sha256 = parents[lineage["parents"][0]]
        assert (split, group) == (parent_split, parent_group), "in the split of its parent"
        assert group == parent_sha256, "which stays where it was"
        assert set(lineage["replaced"]) == {
            part for part in lineage["triplet"] if lineage["triplet"][part] != lineage["parent_triplet"][part]
        }
        assert lineage["cost_nano"] == PRICE
        assert (lineage["model"], licence) == ("sim-images", "CC0-1.0")
        assert all(word in lineage["prompt"] for word in lineage["triplet"].values())
        with Store(root, write=False) as store:
            assert store.image(*image.split("."))
    everything = b"".join(p.read_bytes() for p in root.rglob("*") if p.is_file())
    assert b"a-key-that-must-not-be-written" not in everything
    assert b"b64_json" in everything
    assert len(max(rows(root, "SELECT raw FROM calls WHERE state = 'reply'"), key=lambda r: len(r[0]))[0]) < 300, (
        "the ledger names the images, it does not hold them"
    )


def test_a_lost_connection_is_never_sent_again_unless_asked(tmp_path: Path, root: Path, toys: list) -> None:
    server, config = write_configs(tmp_path, lost=0.5)
    with simulated_annotators([r for r, _ in toys], server) as sim:
        report = run(root, config, sim.base_url, 8)
        lost, bill = report.open["unknown"], sim.bill()["sim-images"]
        assert lost > 0
        assert report.done["imported"] == 8 - lost
        assert bill["replies"] == 8, "the lost ones were made and billed"
        # Another size is another request, yet the same image of the plan: it may be there already.
        for change in ({}, {"size": "512x512"}):
            again = run(root, config, sim.base_url, 8, change=change)
            assert (again.tally.requests, again.open["unknown"]) == (0, lost)
        assert sim.bill()["sim-images"] == bill
        resent = run(root, config, sim.base_url, 8, resend_unknown=True)
        assert resent.done["imported"] == lost
        assert sim.bill()["sim-images"]["repeated"] == lost
    assert states(root) == {"reply": 8, "unknown": lost}


def test_the_budget_is_never_passed_and_counts_what_is_unknown(tmp_path: Path, root: Path, toys: list) -> None:
    server, config = write_configs(tmp_path, lost=0.3)
    with simulated_annotators([r for r, _ in toys], server) as sim:
        report = run(root, config, sim.base_url, 10, limit_nano=4 * PRICE + 1)
        assert report.by_budget
        assert sim.bill()["sim-images"]["nano_dollars"] == 4 * PRICE, "the server's bill, lost images included"
        assert run(root, config, sim.base_url, 10, limit_nano=4 * PRICE + 1).tally.requests == 0
        rest = run(root, config, sim.base_url, 10, limit_nano=10 * PRICE)
        assert not rest.by_budget
        assert sim.bill()["sim-images"]["nano_dollars"] == 10 * PRICE


def test_the_exit_status_says_whether_all_is_there(
    tmp_path: Path, root: Path, toys: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    server, config = write_configs(tmp_path, lost=0.3)
    with simulated_annotators([r for r, _ in toys], server) as sim:
        command = ["expand", "images", str(root), "--count", "6", "--config", str(config), "--base-url", sim.base_url]
        assert main([*command, "--budget", "0.07"]) == BUDGET_REACHED_EXIT
        assert main(command) == LEFT_EXIT, "some were lost on the way, and may have been paid"
        assert main([*command, "--resend-unknown"]) == 0
    assert states(root)["reply"] == 6


def test_a_dry_run_writes_nothing_and_shows_the_plan(
    root: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY)
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    arguments = ["expand", "images", str(root), "--count", "40", "--dry-run", "--config", "configs/prep/expand_world.yaml"]
    monkeypatch.chdir(ROOT)
    assert main(arguments) == 0
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name[-4:] not in ("-shm", "-wal")} == before
    out = capsys.readouterr().out
    table = {line.split()[0]: [int(n) for n in line.split()[1:4]] for line in out.splitlines()[1:9]}
    todo = sum(row[2] for row in table.values())
    assert sum(row[0] for row in table.values()) == 14
    assert todo < 40, "27 triplets are not enough"
    assert f"{40 - todo} fewer than wanted" in out
    assert f"cost ${todo * 0.03:.6f}" in out


def test_what_has_no_triplets_is_one_message(tmp_path: Path, toys: list, capsys: pytest.CaptureFixture) -> None:
    annotated_store(tmp_path / "s", [(toys[0][0].model_copy(update={"subject": None}), toys[0][1])])
    for command in (
        ["images", str(tmp_path / "s")],
        ["queries", str(tmp_path / "s"), "--out", str(tmp_path / "q"), "--no-llm"],
    ):
        assert main(["expand", *command, "--count", "3"]) == 2
        assert "emo prep annotate" in capsys.readouterr().err
    assert main(["expand", "images", str(tmp_path / "s"), "--count", "3", "--budget", "a lot"]) == 2
    assert "--budget a lot" in capsys.readouterr().err


def test_kill_9_in_mid_run_loses_no_image_and_buys_none_twice(tmp_path: Path, root: Path, toys: list) -> None:
    server, config = write_configs(tmp_path)
    text = config.read_text().replace("concurrency: 8", "concurrency: 2")
    config.write_text(text)
    program = "import sys; from data_prep.cli import main; sys.exit(main(sys.argv[1:]))"
    with simulated_annotators([r for r, _ in toys], server) as sim:
        arguments = ["expand", "images", str(root), "--count", "13", "--config", str(config), "--base-url", sim.base_url]
        command = [sys.executable, "-c", program, *arguments]
        for kill_at in (5,):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
            deadline = time.monotonic() + PATIENCE
            while sim.bill().get("sim-images", {}).get("replies", 0) < kill_at and time.monotonic() < deadline:
                assert process.poll() is None, "it ended before it could be killed"
                time.sleep(0.002)
            process.send_signal(signal.SIGKILL)
            assert process.wait(10) == -signal.SIGKILL
        last = subprocess.run(command, capture_output=True, encoding="utf-8", env=os.environ, check=False)
        bill = sim.bill()["sim-images"]
    unknown = states(root).get("unknown", 0)
    assert last.returncode == (LEFT_EXIT if unknown else 0), last.stderr
    assert unknown <= 2, "no more than was in flight at the kill"
    assert bill["repeated"] == 0, "nothing is bought twice without being asked"
    received = states(root)["reply"]
    assert received <= bill["replies"] <= received + unknown
    made = items(root)
    assert len(made) == received, "every image that was received is in the store"
    assert len({row[1] for row in made}) == len(made)
    assert len(made) + unknown == 13
    if unknown:
        assert f"unknown {unknown}" in last.stdout


def b64(data: bytes) -> dict:
    return {"data": [{"b64_json": base64.b64encode(data).decode(), "revised_prompt": "finer"}]}


def test_replies_by_address_are_downloaded(tmp_path: Path, root: Path) -> None:
    _, config = write_configs(tmp_path)
    broken = {"once"}

    def answer(path: str, body: dict) -> tuple[int, dict | bytes]:
        if path.startswith("/files/"):
            number = int(path.rsplit("/", 1)[1])
            if number == 0:
                return 404, b"gone"
            if number == 1 and broken:
                broken.clear()
                return 500, b"later"
            return 200, picture(number, kind="JPEG")
        number = len(seen) - 1
        return 200, {"data": [{"url": "http://10.0.0.1/x.png" if number == 3 else f"{url[:-3]}/files/{number}"}]}

    with images_server(answer) as (url, seen):
        first = run(root, config, url, 4, change={"concurrency": 1})
        second = run(root, config, url, 4, change={"concurrency": 1})
    assert dict(first.done) == {"imported": 1, "lost": 2}, "gone, and on a private address"
    assert dict(first.open) == {"no_download": 1}
    assert (dict(second.done), second.tally.requests) == ({"imported": 1}, 0), "downloaded again, not bought again"
    assert len(seen) == 4
    assert "10.0.0.1 is no public address" in str(rows(root, "SELECT error FROM generations"))


def test_a_name_that_moves_to_this_machine_after_a_look_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """DNS rebinding: public for whoever checks, loopback for whoever connects."""
    real, asked, reached = socket.getaddrinfo, [], []

    def moving(host: str | bytes, port: int, *args: Any, **more: Any) -> list[tuple]:  # noqa: ANN401 - as getaddrinfo
        if host not in ("moving.example", b"moving.example"):
            return real(host, port, *args, **more)
        asked.append(host)
        address = "127.0.0.1" if len(asked) > looks else "93.184.215.14"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", moving)

    def answer(path: str, body: dict) -> tuple[int, bytes]:
        reached.append(path)
        return 200, picture(1)

    with images_server(answer) as (url, _):
        port = urlsplit(url).port
        # Seen as loopback at once, or only by the second who asks.
        for looks in (0, 1):
            asked.clear()
            with pytest.raises(ImageFetchError) as error:
                asyncio.run(fetch_image(f"http://moving.example:{port}/x.png", base_url="https://api.example/v1", timeout=2))
            assert error.value.gone == (looks == 0)
        assert reached == [], "nothing has been asked of this machine"
        assert asyncio.run(fetch_image(f"{url}/x.png", base_url=url, timeout=PATIENCE)) == picture(1)


def test_what_is_no_image_is_kept_paid_and_not_asked_again(tmp_path: Path, root: Path) -> None:
    _, config = write_configs(tmp_path)
    replies = [
        b64(b"no image at all"),
        {"data": [{"b64_json": "%%%"}]},
        {"data": []},
        {"data": [{"error": {"code": "OutputImageSensitiveContentDetected"}}]},
        b64(picture(9)),
    ]
    with images_server(lambda path, body: (200, replies[len(seen) - 1])) as (url, seen):
        report = run(root, config, url, 5, change={"concurrency": 1})
        assert run(root, config, url, 5).tally.requests == 0
    assert dict(report.done) == {"invalid": 3, "refused": 1, "imported": 1}
    assert report.tally.cost_nano == 3 * PRICE, "a reply without an image is not billed"
    with Store(root, write=False) as store:
        assert store.ledger.total_cost() == 3 * PRICE
    assert any(p.read_bytes() == b"no image at all" for p in (root / "images").rglob("*.bin"))
    assert items(root)[0][4]["lineage"]["revised_prompt"] == "finer"


def test_a_refusal_for_the_rate_is_a_row_and_tried_again(tmp_path: Path, root: Path) -> None:
    _, config = write_configs(tmp_path)
    with images_server(lambda path, body: (429, {"error": "busy"}) if len(seen) == 1 else (200, b64(picture(len(seen))))) as (
        url,
        seen,
    ):
        report = run(root, config, url, 2, change={"concurrency": 1})
    assert (report.done["imported"], report.tally.statuses[429], len(seen)) == (2, 1, 3)
    assert states(root) == {"rejected": 1, "reply": 2}


def test_a_gateway_timeout_may_have_been_billed(tmp_path: Path, root: Path) -> None:
    _, config = write_configs(tmp_path)
    with images_server(lambda path, body: (504, {"error": "timeout"})) as (url, seen):
        assert run(root, config, url, 2).open["unknown"] == 2
        assert run(root, config, url, 2).open["unknown"] == 2
        assert len(seen) == 2


def test_a_mistake_of_ours_ends_the_run_and_refuses_nothing(tmp_path: Path, root: Path) -> None:
    _, config = write_configs(tmp_path)
    wrong = {"error": {"message": "size must be one of 1K, 2K", "code": "invalid_parameter"}}
    with images_server(lambda path, body: (400, wrong)) as (url, seen):
        with pytest.raises(CallError, match="size must be one of"):
            run(root, config, url, 12, change={"concurrency": 1})
        assert len(seen) == 5
    with images_server(lambda path, body: (401, {"error": "bad key"})) as (url, seen), pytest.raises(CallError, match="401"):
        run(root, config, url, 12)
    assert rows(root, "SELECT DISTINCT state FROM generations") == [(None,)], "all of it can still be made"


def test_generated_images_are_annotated_like_all_others(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The demo world: import, annotate, expand, annotate. The label is what the annotators say, not what was intended."""
    import yaml

    from data_prep.demo.config import DemoConfig
    from data_prep.demo.simulation.serve import store_truth

    server, config = write_configs(tmp_path)
    world = yaml.safe_load(server.read_text())
    world["world"]["splits"] = {"train": 16}
    server.write_text(yaml.safe_dump(world))
    root = tmp_path / "world"
    assert main(["import", "world", str(server), "--into", str(root)]) == 0
    with simulated_annotators(store_truth(root, DemoConfig.load(server)), server) as sim:
        annotate = ["annotate", str(root), "--config", str(server), "--base-url", sim.base_url]
        assert main(annotate) == 0
        images = ["expand", "images", str(root), "--config", str(config), "--base-url", sim.base_url, "--count", "8"]
        assert main(images) == 0
        bill = sum(row["nano_dollars"] for row in sim.bill().values())
    # A server that starts later knows what the first one drew.
    with simulated_annotators(store_truth(root, DemoConfig.load(server)), server) as sim:
        assert main([*annotate[:-1], sim.base_url]) == 0
        bill += sum(row["nano_dollars"] for row in sim.bill().values())
    outcomes = rows(root, "SELECT record FROM outcomes JOIN items ON items.id = item_id WHERE source = 'aigc'")
    records = [json.loads(row[0]) for row in outcomes]
    assert len(records) == 8
    intended = [r["provenance"]["source_labels"]["lineage"]["intended_emotion"] for r in records]
    said = [r["emotion"] for r in records]
    assert any(a != b for a, b in zip(intended, said, strict=True))
    with Store(root, write=False) as store:
        assert store.ledger.total_cost() == bill
    assert "the images carry no label yet" in capsys.readouterr().out
