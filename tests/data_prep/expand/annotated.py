"""A store whose images count as annotated, so that an expansion has triplets to start from."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from data_prep.store.rows import Outcome
from data_prep.store.store import Store
from tests.data_prep.conftest import ROOT, item_of
from tests.data_prep.serving import Handler, listening, send

KEY = "EMO_SIMULATED_KEY"


def annotated_store(root: Path, toys: list) -> Path:
    """Import records with their images and give each a valid outcome."""
    with Store(root, write=True) as store:
        store.import_items([item_of(record, data) for record, data in toys])

        async def finish() -> None:
            await asyncio.gather(
                *(store.ledger.set_outcome(Outcome(r.id, "valid", "test", 0, r.to_json().decode())) for r, _ in toys)
            )

        asyncio.run(finish())
    return root


def write_configs(tmp_path: Path, **rates: float) -> tuple[Path, Path]:
    """(configuration of the simulated server, configuration of the expansion), with rates of the image model."""
    server = yaml.safe_load((ROOT / "configs/prep/world.yaml").read_text())
    server["prices"] = str(ROOT / "configs/prep/prices.yaml")
    server["simulation"]["images"] = {"sim-images": rates}
    expand = yaml.safe_load((ROOT / "configs/prep/expand_world.yaml").read_text())
    expand["prices"] = server["prices"]
    paths = tmp_path / "server.yaml", tmp_path / "expand.yaml"
    for path, config in zip(paths, (server, expand), strict=True):
        path.write_text(yaml.safe_dump(config))
    return paths


def rows(root: Path, query: str) -> list[tuple]:
    """Of the ledger."""
    with sqlite3.connect(root / "ledger.sqlite") as ledger:
        return ledger.execute(query).fetchall()


def states(root: Path) -> dict[str, int]:
    """Calls by state."""
    return dict(rows(root, "SELECT state, count(*) FROM calls GROUP BY state"))


Reply = tuple[int, dict[str, Any] | bytes]


@contextmanager
def images_server(answer: Callable[[str, dict[str, Any]], Reply | None]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """An endpoint with answers of the test: (status, body) by path and request; None closes the connection. Yields its address
    and the bodies it was sent."""
    seen: list[dict[str, Any]] = []

    class Answering(Handler):
        def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
            body = self.json()
            seen.append(body)
            self.reply(answer(self.path, body))

        def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
            self.reply(answer(self.path, {}))

        def reply(self, reply: Reply | None) -> None:
            if reply is None:
                self.close_connection = True
            else:
                send(self, *reply)

    with listening(Answering) as url:
        yield url, seen
