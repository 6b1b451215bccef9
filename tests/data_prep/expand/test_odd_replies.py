"""Images replies of odd shapes: each row ends, what was billed is booked once, and nothing that a provider wrote is followed on this disk."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from pathlib import Path

import pytest

from data_prep.expand.config import ImagePrice
from data_prep.expand.fetch import FetchError, fetch_image
from data_prep.expand.images_received import billed_images, read_images
from data_prep.provider.received import NotFromApi, TransientError
from tests.data_prep.conftest import picture
from tests.data_prep.expand.annotated import images_server, rows, states, write_configs
from tests.data_prep.expand.test_images import PRICE, b64, items, run
from tests.patience import PATIENCE


def test_every_row_ends_and_no_reference_is_followed(tmp_path: Path, root: Path) -> None:
    _, config = write_configs(tmp_path)
    mine = rows(root, "SELECT sha256 || '.' || extension FROM items LIMIT 1")[0][0]
    replies: list[dict | bytes] = [
        {"data": [{"b64_json": f"sha256:{mine}"}]},
        {"data": [{"b64_json": f"sha256:{mine}"}], "emo_kept": [0]},
        {"data": [{"b64_json": "sha256:../../../../etc/passwd"}]},
        {"data": [{"url": "http://[::1"}]},
        {"data": [{"url": "file:///etc/passwd"}]},
        {"data": [{"url": {"href": "http://x/y.png"}}]},
        {"data": [{"b64_json": ["aGk="]}]},
        b'{"data": [{"b64_json": "aGk',
        b"\xef\xbb\xbf" + json.dumps({**b64(picture(3)), "note": "\ud83d"}).encode(),
        {"data": [{**b64(picture(4))["data"][0], "revised_prompt": {"text": "finer"}}]},
        b64(picture(5)),
    ]
    with images_server(lambda path, body: (200, replies[len(seen) - 1])) as (url, seen):
        report = run(root, config, url, len(replies), change={"concurrency": 1})
        assert run(root, config, url, len(replies)).tally.requests == 0, "nothing is asked again, nothing blocks the store"
    assert dict(report.done) == {"invalid": 6, "lost": 2, "imported": 3}
    assert report.tally.cost_nano == len(replies) * PRICE, "each was billed, also what cannot be read"
    made = items(root)
    assert mine not in [row[1] for row in made]
    prompts = [row[4]["lineage"].get("revised_prompt") for row in made]
    assert sorted(map(str, prompts)) == ["None", "finer", "finer"]


def test_what_is_no_answer_is_free_and_tried_again(tmp_path: Path, root: Path) -> None:
    _, config = write_configs(tmp_path)
    free: list[dict | bytes] = [b"<html>", {"error": {"message": "busy"}}]
    with images_server(lambda path, body: (200, free[len(seen) - 1] if len(seen) <= len(free) else b64(picture(1)))) as (
        url,
        seen,
    ):
        report = run(root, config, url, 1, change={"concurrency": 1})
    assert dict(report.done) == {"imported": 1}
    assert report.tally.cost_nano == PRICE
    assert states(root) == {"rejected": 2, "reply": 1}


def test_an_image_that_was_thrown_away_as_free_is_found_and_not_bought_again(tmp_path: Path, root: Path) -> None:
    """0.2.0 booked bodies as free that it could not read; an error under a 200 that it booked as a reply is asked for again."""
    _, config = write_configs(tmp_path)
    mine = rows(root, "SELECT sha256 || '.' || extension FROM items LIMIT 1")[0][0]
    thrown = [
        b"\xef\xbb\xbf" + json.dumps(b64(picture(3))).encode(),
        b"data: " + json.dumps(b64(picture(4))).encode() + b"\n\ndata: [DONE]\n\n",
        b"\xef\xbb\xbf" + json.dumps({"data": [{"b64_json": f"sha256:{mine}"}]}).encode(),
    ]
    with images_server(lambda path, body: (200, b64(picture(9)))) as (url, _):
        run(root, config, url, 4)
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        ledger.execute("DELETE FROM items WHERE source = 'aigc'")
        ledger.execute("UPDATE generations SET state = NULL, item_id = NULL")
        calls = [call for (call,) in ledger.execute("SELECT id FROM calls ORDER BY id")]
        free = "UPDATE calls SET state = 'rejected', status = 200, raw = ?, cost_nano = 0 WHERE id = ?"
        ledger.executemany(free, zip(thrown, calls, strict=False))
        ledger.execute("UPDATE calls SET raw = ? WHERE id = ?", (b'{"error": {"message": "busy"}}', calls[3]))
    with images_server(lambda path, body: (200, b64(picture(5)))) as (url, seen):
        report = run(root, config, url, 4)
    assert (len(seen), dict(report.done)) == (1, {"imported": 3, "invalid": 1})
    assert states(root) == {"reply": 4, "rejected": 1}
    assert rows(root, "SELECT sum(cost_nano) FROM calls") == [(4 * PRICE,)]
    assert mine not in [row[1] for row in items(root)], "what a provider wrote there is not followed"
    assert len(max(rows(root, "SELECT raw FROM calls WHERE state = 'reply'"), key=lambda r: len(r[0]))[0]) < 300


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "http://x:y/",
        "http://x:99999/",
        "ftp://x/y",
        "//x/y",
        "",
        "http://",
        "http://[]/",
        "http://\x00/",
        "http:///y",
    ],
)
def test_an_address_that_is_none_is_said_to_be_gone(url: str) -> None:
    with pytest.raises(FetchError) as error:
        asyncio.run(fetch_image(url, base_url="http://127.0.0.1:9/v1", timeout=1))
    assert error.value.gone


def test_another_port_of_the_endpoints_host_is_not_the_endpoint() -> None:
    with images_server(lambda path, body: (200, b"secret")) as (url, _):
        with pytest.raises(FetchError, match="no public address"):
            asyncio.run(fetch_image(f"{url}/x", base_url="http://127.0.0.1:9/v1", timeout=5))
        assert asyncio.run(fetch_image(f"{url}/x", base_url=url, timeout=PATIENCE)) == b"secret"


def test_thousands_of_images_replies_are_booked_or_free() -> None:
    rng, price = random.Random(12), ImagePrice(per_image=PRICE)
    junk: list[object] = [None, True, 5, "x", [], {}, {"a": [1]}, "\ud83d"]
    billed = [
        {"b64_json": "aGk="},
        {"url": "https://x/y"},
        {"url": 5},
        {"b64_json": {"a": 1}},
        {"b64_json": "sha256:x"},
        "https://x/y",
    ]
    free = [
        {"error": "busy"},
        {"error": {"code": 503}, "data": []},
        {"status": "ok"},
        {"message": "no healthy upstream"},
        [],
        "busy",
    ]
    for _ in range(1500):
        images = [rng.choice(billed) for _ in range(rng.randrange(1, 4))]
        body = {"data": images, rng.choice(["created", "usage", "error", "x"]): rng.choice(junk)}
        raw = rng.choice([b"", b"\xef\xbb\xbf", b"\n"]) + json.dumps(body).encode()
        found = read_images(raw)
        assert not isinstance(found, TransientError | NotFromApi)
        assert price.charge(billed_images(raw, found), None) == len(images) * PRICE
        cut = raw[: rng.randrange(12, len(raw) - 1)]
        assert price.charge(billed_images(cut, read_images(cut)), None) == PRICE, "what breaks off was billed"
        assert isinstance(read_images(json.dumps(rng.choice(free)).encode()), TransientError | NotFromApi)
