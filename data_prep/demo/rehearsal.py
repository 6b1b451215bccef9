"""A rehearsal: the whole pass over one's own photographs, with answers that this machine makes up.

It works on a store of its own beside the real one, whose images carry the mark of `store.rehearsal`. Nothing is sent, no key is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from data_prep.annotate.estimate import PassEstimate, estimate
from data_prep.annotate.pipeline import PassReport, annotate
from data_prep.config import GroundingConfig, PrepConfig
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.plausible import Rehearsal, plausible_truth
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.demo.simulation.server import SimulationServer
from data_prep.grounding import ground
from data_prep.provider.config import EndpointConfig
from data_prep.store.items import SourceItem
from data_prep.store.rehearsal import REHEARSAL_LABEL, REHEARSAL_PARTY, RehearsalError, marked, refuse_rehearsal
from data_prep.store.rows import Item
from data_prep.store.store import Store
from emo_lightning.core.records import Record

_E = TypeVar("_E", bound=EndpointConfig)

REHEARSAL_SUFFIX = "-rehearsal"
"""Of the rehearsal's store, behind the name of the real one."""


@dataclass(frozen=True)
class Rehearsed:
    """What a rehearsal did."""

    store: Path
    """Where it is."""
    report: PassReport
    grounded: dict[str, int]
    bill: PassEstimate
    """Of the pass over the real store."""


def rehearse(root: Path, config: DemoConfig, on_progress: Callable[[PassReport], None] | None = None) -> Rehearsed:
    """Run a pass with made-up answers on copies of a store's images.

    Args:
        root: of the real store, which is only read.
        config: of the pass; its models give their names and prices.
        on_progress: as of `annotate`.

    Raises:
        RehearsalError: the store is one of a rehearsal itself, or what lies where its rehearsal would be is none.
        ConfigError: a price is missing.
        LedgerError: no store there.
    """
    place = root.with_name(root.name + REHEARSAL_SUFFIX)
    with Store(root, write=False) as real:
        refuse_rehearsal(real.ledger, "rehearse on the store that it was made of")
        bill = estimate(real, config)
        truth = _copied(real, place)
    with Store(place, write=True) as store, _served(truth, config) as address:
        at_server = rehearsed(config, address)
        report = asyncio.run(annotate(store, at_server, on_progress=on_progress, resend_unknown=True))
        grounded = {} if report.stopped else dict(ground(store, at_server.grounding))
    return Rehearsed(place, report, grounded, bill)


def rehearsed(config: DemoConfig, address: str) -> DemoConfig:
    """A pass whose endpoints are all made up, and which grounds in the regions that the rehearsal's images carry."""

    def moved(endpoint: _E) -> _E:
        return endpoint.moved(address, KEY_VARIABLE).model_copy(update={"party": REHEARSAL_PARTY, "provider": "openai"})

    return config.model_copy(
        update={
            "annotators": [moved(one) for one in config.annotators],
            "local": [],
            "critic": moved(config.critic),
            "grounding": GroundingConfig(backend="regions", threshold=0.25, cut=0.25),
        }
    )


def _copied(real: Store, place: Path) -> list[Record]:
    """Put the images of a store into that of its rehearsal; returns what is taken for true of them."""
    left_out = real.ledger.duplicates()
    items = [item for item in real.ledger.items() if item.id not in left_out]
    if not items:
        msg = f"{real.root}: holds no image to rehearse on; `emo prep import` puts some there"
        raise RehearsalError(msg)
    truth: list[Record] = []
    with Store(place, write=True) as store:
        images, found = marked(store.ledger)
        if found < images:
            msg = f"{place}: is no store of a rehearsal, and would be taken for one; move it away"
            raise RehearsalError(msg)
        store.import_items(_marked(real, items, truth))
    return truth


def _marked(real: Store, items: Iterable[Item], truth: list[Record]) -> Iterator[SourceItem]:
    for item in items:
        known = plausible_truth(item, real.image(item.sha256, item.extension))
        truth.append(known)
        yield SourceItem(
            key=item.key,
            image=real.image(item.sha256, item.extension, keep_metadata=True),
            extension=item.extension,
            width=item.width,
            height=item.height,
            source=item.source,
            split=item.split,
            group=item.group,
            labels={**item.labels, REHEARSAL_LABEL: True},
            regions=tuple(known.objects),
            licence=item.licence,
            origin=item.origin,
        )


@contextlib.contextmanager
def _served(truth: list[Record], config: DemoConfig) -> Iterator[str]:
    """The made-up models behind an endpoint on loopback, in a thread of this process."""
    server = SimulationServer(_models(truth, config), config)
    loop = asyncio.new_event_loop()
    listening = loop.run_until_complete(server.serve(0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    os.environ.setdefault(KEY_VARIABLE, "simulated")
    try:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1"
    finally:
        loop.call_soon_threadsafe(listening.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _models(truth: list[Record], config: PrepConfig) -> Rehearsal:
    full = {one.model for one in config.annotators if one.role == "full"}
    voters = {one.model for one in config.annotators if one.role == "emotion"}
    return Rehearsal(truth, full, voters, config.critic.model)
