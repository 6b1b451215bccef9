"""Grounding behind one interface; heavy backends are imported when they are used."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from data_prep.config import GroundingConfig
from data_prep.engine import LOCAL_ENGINE, Engine, EngineResult, ItemRow, Step, in_batches, portable
from data_prep.grounding.base import Grounder, GroundingError, PhraseQuery, cut, query_text, rank
from data_prep.grounding.regions import RegionGrounder
from data_prep.local_models.checkpoints import identity
from data_prep.local_models.decoding import decode, device_of
from data_prep.review.log import reviewed_outcomes
from data_prep.store.rows import Item, stored_json
from data_prep.store.store import Store
from emo_lightning.core.records import GroundedObject, Record

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Grounder",
    "GroundingError",
    "PhraseQuery",
    "RegionGrounder",
    "backend_key",
    "cut",
    "ground",
    "make_grounder",
    "missing_regions",
    "query_text",
    "rank",
    "store_regions",
]

_BATCH = 64
"""Records per transaction."""


def make_grounder(config: GroundingConfig) -> Grounder:
    """The grounder that is configured; models are loaded once, here.

    Raises:
        CheckpointError: a model is missing or does not fit.
        GroundingError: a package is missing.
        ValueError: the backend grounds nothing.
    """
    match config.backend:
        case "regions":
            return RegionGrounder(config.threshold)
        case "transformers":
            from data_prep.grounding import transformers_backend

            return transformers_backend.load(
                config.detector, config.segmenter, device=device_of(config.device), threshold=config.threshold
            )
        case "original":
            from data_prep.grounding import original_backend

            return original_backend.load(
                config.detector,
                config.segmenter,
                text_encoder=config.text_encoder,
                device=device_of(config.device),
                threshold=config.threshold,
            )
        case _:
            msg = f"grounding.backend {config.backend!r} grounds nothing; allowed: regions, transformers, original"
            raise ValueError(msg)


def backend_key(config: GroundingConfig) -> Callable[[Item], str]:
    """What candidates depend on besides image and phrase: backend, identity of every weight file, threshold.

    Raises:
        CheckpointError: a model cannot be identified.
    """
    if config.backend == "regions":
        # Regions come with the item: equal images of two sources may have different ones.
        return lambda item: f"regions:{_digest(item.regions)}@{config.threshold}"
    key = _models_key(config)
    return lambda _: key


def _models_key(config: GroundingConfig) -> str:
    parts = [identity(config.detector), identity(config.segmenter) if config.segmenter else "boxes"]
    if config.backend == "original":
        parts.append(identity(config.text_encoder))
    return f"{config.backend}:{'+'.join(parts)}@{config.threshold}"


class Grounding(Step["Image.Image"]):
    """The regions of phrases in images, by the models of a configuration.

    Args:
        config: with a backend that looks at images.
        key: `backend_key` of it, where the store lies.
    """

    def __init__(self, config: GroundingConfig, key: str) -> None:
        names = {name: getattr(config, name) for name in ("detector", "segmenter", "text_encoder")}
        self._config = config.model_copy(update={name: value and portable(value) for name, value in names.items()})
        self._key = key

    def prepare(self, data: bytes) -> Image.Image:
        """RGB."""
        return decode(data)

    def load(self) -> Callable[[Sequence[ItemRow], Sequence[Image.Image]], list[EngineResult]]:
        """See `Step.load`; results are JSON lists of `schema.GroundedObject`.

        Raises:
            CheckpointError, GroundingError: see `make_grounder`; or the names mean other models here.
        """
        if (key := _models_key(self._config)) != self._key:
            msg = f"the models of `grounding` are {key} here and {self._key} where the store lies"
            raise GroundingError(msg)
        grounder = make_grounder(self._config)

        def compute(rows: Sequence[ItemRow], images: Sequence[Image.Image]) -> list[EngineResult]:
            found = grounder.ground([PhraseQuery(image, row.given) for row, image in zip(rows, images, strict=True)])
            return [_as_json(objects) for objects in found]

        return compute


def ground(
    store: Store, config: GroundingConfig, on_item: Callable[[], None] | None = None, engine: Engine = LOCAL_ENGINE
) -> Counter[str]:
    """Give every valid record the regions of its subject; what was found before for an image and phrase is not computed again.

    All candidates from `config.threshold` on are stored; those from `config.cut` on come into the record.

    Args:
        store: opened for writing.
        config: the `grounding` part of a pass.
        on_item: called once for every valid record, when its candidates are there.
        engine: where the networks run; regions that a source ships are matched here.

    Returns:
        Counts: `grounded`, `not_found` (no candidate from the cut on) and `computed` (images and phrases of this run).

    Raises:
        CheckpointError, GroundingError: see `make_grounder`.
    """
    counts: Counter[str] = Counter()
    if config.backend == "none":
        return counts
    wanted = list(_subjects(store))
    if not wanted:
        return counts
    key_of = backend_key(config)
    missing = missing_regions(store, wanted, key_of)
    done = sum((item.sha256, subject, key_of(item)) not in missing for item, subject in wanted)
    _report(on_item, done)
    # Candidates first: a record must never show regions that the ledger does not hold.
    for computed in store_regions(store, config, missing, engine):
        counts["computed"] += computed
        _report(on_item, computed)
    _report(on_item, len(wanted) - done - counts["computed"])
    _write_records(store, config, key_of, counts)
    return counts


def missing_regions(
    store: Store, wanted: Iterable[tuple[Item, str]], key_of: Callable[[Item], str]
) -> dict[tuple[str, str, str], Item]:
    """Of pairs (item, phrase) what the ledger does not hold yet: (sha256, phrase, `key_of(item)`) to an item with that image."""
    return {
        (item.sha256, phrase, key_of(item)): item
        for item, phrase in wanted
        if phrase and store.ledger.grounding(item.sha256, phrase, key_of(item)) is None
    }


def store_regions(
    store: Store, config: GroundingConfig, missing: dict[tuple[str, str, str], Item], engine: Engine = LOCAL_ENGINE
) -> Iterator[int]:
    """Find what is missing and write it to the ledger, batch by batch; yields how many were written.

    Args:
        store: opened for writing.
        config: with a backend that grounds.
        missing: see `missing_regions`.
        engine: where the networks run.

    Raises:
        CheckpointError, GroundingError: see `make_grounder`.
    """
    if not missing:
        return
    for rows in _computed(store, config, engine, missing):
        store.ledger.add_groundings(rows)
        yield len(rows)


def _subjects(store: Store) -> Iterator[tuple[Item, str]]:
    # What people made valid, and subjects that they mended, are grounded too.
    for item, outcome in reviewed_outcomes(store.ledger):
        if outcome.state == "valid":
            record = Record.from_json(outcome.record, f"outcome of {item.id}")
            if record.subject:
                yield item, record.subject


def _computed(
    store: Store, config: GroundingConfig, engine: Engine, missing: dict[tuple[str, str, str], Item]
) -> Iterator[list[tuple[str, str, str, str]]]:
    """Rows of the ledger, batch by batch."""
    # Images of one shape travel together through the networks.
    keys = sorted(missing, key=lambda key: (missing[key].width / missing[key].height, key))
    if config.backend == "regions":
        grounder = make_grounder(config)
        for part in in_batches(keys, _BATCH):
            found = grounder.ground([PhraseQuery(None, key[1], _regions(missing[key])) for key in part])
            yield [(*key, _as_json(objects)) for key, objects in zip(part, found, strict=True)]
        return
    parts = in_batches(keys, config.batch_size)
    rows = [[ItemRow(key[0], missing[key].extension, key[1]) for key in part] for part in parts]
    for part, texts in zip(parts, engine.map(store, rows, Grounding(config, keys[0][2])), strict=True):
        yield [(*key, str(text)) for key, text in zip(part, texts, strict=True)]


def _as_json(objects: Sequence[GroundedObject]) -> str:
    return json.dumps([o.model_dump(mode="json") for o in objects])


def _write_records(store: Store, config: GroundingConfig, key_of: Callable[[Item], str], counts: Counter[str]) -> None:
    """Bring the records in line with what is stored."""
    updates: list[tuple[str, tuple[str, str]]] = []
    reviewed = {item.id: outcome for item, outcome in reviewed_outcomes(store.ledger)}
    for item, outcome in list(store.ledger.outcomes()):
        if item.id not in reviewed or reviewed[item.id].state != "valid":
            continue
        subject = Record.from_json(reviewed[item.id].record, f"outcome of {item.id}").subject
        if not subject:
            continue
        stored = store.ledger.grounding(item.sha256, subject, key_of(item))
        objects = cut(
            [GroundedObject.model_validate(o) for o in stored_json(stored or "[]", f"regions of {item.id!r}", list)], config.cut
        )
        counts["grounded" if objects else "not_found"] += 1
        # Only the regions are written back: a review stays a layer above the record, and can be undone.
        record = Record.from_json(outcome.record, f"outcome of {item.id}")
        if objects != record.objects:
            text = record.model_copy(update={"objects": objects}).to_json().decode()
            updates.append(("UPDATE outcomes SET record = ? WHERE item_id = ?", (text, item.id)))
        if len(updates) >= _BATCH:
            store.ledger.write_now(*updates)
            updates.clear()
    if updates:
        store.ledger.write_now(*updates)


def _regions(item: Item) -> list[GroundedObject]:
    return [GroundedObject.model_validate(region) for region in item.regions]


def _digest(regions: Sequence[Mapping[str, object]]) -> str:
    return hashlib.sha256(json.dumps(regions, sort_keys=True).encode()).hexdigest()[:16]


def _report(on_item: Callable[[], None] | None, times: int) -> None:
    if on_item:
        for _ in range(times):
            on_item()
