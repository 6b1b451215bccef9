"""Grounding behind one interface; heavy backends are imported when they are used."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from data_prep.config import GroundingConfig
from data_prep.grounding.base import Grounder, rank
from data_prep.grounding.regions import RegionGrounder
from data_prep.ledger import Item
from data_prep.store import Store
from emo_lightning.schema import GroundedObject, Record

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Grounder", "RegionGrounder", "ground", "make_grounder", "rank"]

_BATCH = 64


def make_grounder(config: GroundingConfig) -> Callable[[Item], Grounder]:
    """A grounder for each item; models are loaded once, here."""
    match config.backend:
        case "regions":
            return lambda item: RegionGrounder(
                [GroundedObject.model_validate(region) for region in item.regions], config.threshold
            )
        case "transformers":
            from data_prep.grounding.transformers_backend import TransformersGrounder

            grounder = TransformersGrounder.from_pretrained(
                config.detector, config.segmenter, device=config.device, threshold=config.threshold
            )
            return lambda item: grounder
        case _:
            raise ValueError(f"grounding.backend {config.backend!r} grounds nothing; allowed: regions, transformers")


def ground(store: Store, config: GroundingConfig, on_item: Callable[[], None] | None = None) -> Counter[str]:
    """Give every valid record the regions of its subject; what was found before for an image and phrase is not computed again.

    Returns counts: `grounded`, `not_found` (no candidate) and `computed` (of this run).
    """
    counts: Counter[str] = Counter()
    if config.backend == "none":
        return counts
    backend = _backend_key(config)
    grounder_of: Callable[[Item], Grounder] | None = None
    ledger = store.ledger
    rows: list[tuple[str, str, str, str]] = []
    updates: list[tuple[str, tuple[str, str]]] = []
    for item, outcome in list(ledger.outcomes()):
        record = Record.from_json(outcome.record, f"outcome of {item.id}")
        if outcome.state != "valid" or not record.subject:
            continue
        stored = ledger.grounding(item.sha256, record.subject, backend)
        if stored is None:
            grounder_of = grounder_of or make_grounder(config)
            found = grounder_of(item).ground(_open(store, item, config), record.subject)
            stored = json.dumps([o.model_dump(mode="json") for o in found])
            rows.append((item.sha256, record.subject, backend, stored))
            counts["computed"] += 1
        objects = [GroundedObject.model_validate(o) for o in json.loads(stored)]
        counts["grounded" if objects else "not_found"] += 1
        if objects != record.objects:
            text = record.model_copy(update={"objects": objects}).to_json().decode()
            updates.append(("UPDATE outcomes SET record = ? WHERE item_id = ?", (text, item.id)))
        if len(updates) >= _BATCH:
            _flush(store, rows, updates)
        if on_item:
            on_item()
    _flush(store, rows, updates)
    return counts


def _backend_key(config: GroundingConfig) -> str:
    if config.backend == "regions":
        return f"regions@{config.threshold}"
    return f"{config.backend}:{config.detector}+{config.segmenter}@{config.threshold}"


def _open(store: Store, item: Item, config: GroundingConfig) -> Image.Image | None:
    if config.backend == "regions":
        return None
    import PIL.Image

    return PIL.Image.open(io.BytesIO(store.image(item.sha256, item.extension))).convert("RGB")


def _flush(store: Store, rows: list[tuple[str, str, str, str]], updates: list[tuple[str, tuple[str, str]]]) -> None:
    # Candidates first: a record must never show regions that the ledger does not hold.
    if rows:
        store.ledger.add_groundings(rows)
    if updates:
        store.ledger.write_now(*updates)
    rows.clear()
    updates.clear()
