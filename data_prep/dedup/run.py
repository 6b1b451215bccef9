"""Dedup of a store: hashes and embeddings from the ledger or computed once, then one transaction with what was decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_prep.dedup.groups import Candidate, Decision, Likeness, Thresholds, decide
from data_prep.dedup.pairs import Edges, Forest, close_hashes, close_vectors
from data_prep.dedup.phash import METHOD, MIRROR, Hashing
from data_prep.engine import LOCAL, Engine, Result, Row, Step, in_batches
from data_prep.errors import PrepError
from data_prep.ledger.counters import COUNT_DUPLICATES
from data_prep.store import Store

if TYPE_CHECKING:
    from data_prep.dedup.embeddings import Embedder

_CHUNK = 64
"""Images hashed between two writes of the ledger."""
_BATCH = 32
"""Images embedded at once."""
_NONE: Edges = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))

OnProgress = Callable[[str, int, int], None]
"""Told the step, how much of it is done, and the whole."""


class DedupError(PrepError, ValueError):
    """A setting that makes no sense."""


@dataclass(frozen=True)
class DedupSettings:
    """What counts as the same.

    Raises:
        DedupError: a value out of range, or a wider threshold that is narrower.
    """

    threshold: int = 6
    """Bits of 64 up to which two images are duplicates."""
    near: int = 10
    """Bits up to which two images have to stay in one split."""
    cosine: float = 0.97
    """Cosine of embeddings from which two images are duplicates."""
    near_cosine: float = 0.93
    """Cosine from which two images have to stay in one split."""
    priority: tuple[str, ...] = ()
    """Sources whose images are kept, foremost first."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= self.near <= 20:
            raise DedupError(f"threshold {self.threshold}, near {self.near}: expected 0 ≤ threshold ≤ near ≤ 20 (bits of 64)")
        if not 0 < self.near_cosine <= self.cosine <= 1:
            raise DedupError(f"cosine {self.cosine:g}, near cosine {self.near_cosine:g}: expected 0 < near cosine ≤ cosine ≤ 1")


@dataclass(frozen=True)
class DedupReport:
    """What a run found."""

    items: int
    images: int
    """Of different bytes."""
    hashed: int
    """Hashes computed now; the others were in the ledger."""
    plain: int
    """Images that show nothing a hash could compare."""
    embedded: int
    decision: Decision
    split_by_source: int
    """Groups whose items their sources put into different splits."""

    def how(self) -> Counter[str]:
        """Items left out, by what they have in common with the one that is kept."""
        return Counter(dropped.how for dropped in self.decision.dropped)


def dedup(
    store: Store,
    settings: DedupSettings,
    embedder: Embedder | None = None,
    on_progress: OnProgress = lambda step, done, total: None,
    engine: Engine = LOCAL,
) -> DedupReport:
    """Find duplicates in a store and write them into its ledger; a run replaces what an earlier one wrote.

    Args:
        store: open for writing.
        settings: thresholds and priority.
        embedder: compares embeddings as well.
        on_progress: see `OnProgress`.
        engine: who computes hashes and embeddings; pairs and groups are found here.

    Raises:
        DedupError: a source of the priority is not in the store.
        StoreError: an image is missing or damaged.
    """
    rows = store.ledger.read(
        "SELECT id, source, sha256, extension, width * height, CASE WHEN item_id IS NULL THEN items.grp ELSE source_groups.grp END, "
        "split FROM items LEFT JOIN source_groups ON item_id = id ORDER BY id"
    )
    sources = sorted({row[1] for row in rows})
    if unknown := [source for source in settings.priority if source not in sources]:
        raise DedupError(f"priority: no image of source {', '.join(unknown)}; sources in {store.root}: {', '.join(sources)}")
    files = dict(sorted((row[2], row[3]) for row in rows))
    number = {sha256: position for position, sha256 in enumerate(files)}
    items = [Candidate(row[0], row[1], number[row[2]], row[4], row[5]) for row in rows]
    views, hashed = _hashes(store, files, on_progress, engine)
    vectors, embedded = _embeddings(store, files, embedder, on_progress, engine) if embedder else (None, 0)
    likeness = Likeness(
        views,
        _hash_edges(views, settings.near, on_progress),
        _NONE if vectors is None else _embedding_edges(vectors, 1 - settings.near_cosine),
        vectors,
    )
    thresholds = Thresholds((settings.threshold, settings.near), (settings.cosine, settings.near_cosine))
    decision = decide(items, likeness, thresholds, settings.priority)
    _write(store, items, decision)
    splits = {row[0]: row[6] for row in rows}
    return DedupReport(
        items=len(items),
        images=len(files),
        hashed=hashed,
        plain=sum(not len(v) for v in views),
        embedded=embedded,
        decision=decision,
        split_by_source=_split_groups(decision, splits),
    )


def _hashes(store: Store, files: dict[str, str], on_progress: OnProgress, engine: Engine) -> tuple[list[np.ndarray], int]:
    """Hashes of every image, and how many were computed now."""
    known = dict(store.ledger.read("SELECT image_sha256, views FROM image_hashes WHERE method = ?", (METHOD,)))
    missing = [sha256 for sha256 in files if sha256 not in known]
    write = "INSERT INTO image_hashes VALUES (?, ?, ?)"
    for chunk, found, done in _computed(store, files, missing, _CHUNK, Hashing(), engine):
        store.ledger.write_now(*((write, (sha256, METHOD, views)) for sha256, views in zip(chunk, found, strict=True)))
        known |= dict(zip(chunk, found, strict=True))
        on_progress("hash", done, len(missing))
    return [np.frombuffer(known[sha256], ">u8").astype(np.uint64) for sha256 in files], len(missing)


def _embeddings(
    store: Store, files: dict[str, str], embedder: Embedder, on_progress: OnProgress, engine: Engine
) -> tuple[np.ndarray, int]:
    """(images, dimensions) float16, and how many were computed now."""
    from data_prep.dedup.embeddings import Embedding

    known = dict(store.ledger.read("SELECT image_sha256, vector FROM image_embeddings WHERE model = ?", (embedder.key,)))
    missing = [sha256 for sha256 in files if sha256 not in known]
    write = "INSERT INTO image_embeddings VALUES (?, ?, ?)"
    for chunk, found, done in _computed(store, files, missing, _BATCH, Embedding(embedder), engine):
        store.ledger.write_now(*((write, (sha256, embedder.key, v)) for sha256, v in zip(chunk, found, strict=True)))
        known |= dict(zip(chunk, found, strict=True))
        on_progress("embed", done, len(missing))
    return np.stack([np.frombuffer(known[sha256], np.float16) for sha256 in files]) if files else np.empty((0, 1)), len(missing)


def _computed(
    store: Store, files: dict[str, str], missing: Sequence[str], size: int, step: Step, engine: Engine
) -> Iterator[tuple[Sequence[str], list[Result], int]]:
    """Images, what the step finds in them, and how many are done."""
    chunks = in_batches(missing, size)
    rows = [[Row(sha256, files[sha256]) for sha256 in chunk] for chunk in chunks]
    done = 0
    for chunk, found in zip(chunks, engine.map(store, rows, step), strict=True):
        done += len(chunk)
        yield chunk, found, done


def _hash_edges(views: Sequence[np.ndarray], most: int, on_progress: OnProgress) -> Edges:
    """Edges between images, for every group up to `most` bits."""
    forest = Forest(len(views))
    owners = np.repeat(np.arange(len(views)), [len(v) for v in views])
    if len(owners) == 0:
        return _NONE
    order = np.argsort(np.concatenate(views), kind="stable")
    hashes, owners = np.concatenate(views)[order], owners[order]
    # Images of one hash are tied to the first of them, which then stands for all.
    unique, first, counts = np.unique(hashes, return_index=True, return_counts=True)
    leaders = owners[first]
    forest.add(np.repeat(leaders, counts), owners, np.zeros(len(owners)))
    # A hash and its own mirror image: found below, as all pairs are.
    for i, j, distance in close_hashes(unique, most, MIRROR, lambda rows: on_progress("compare", rows, len(unique))):
        forest.add(leaders[i], leaders[j], distance)
    return forest.edges(most)


def _embedding_edges(vectors: np.ndarray, most: float) -> Edges:
    forest = Forest(len(vectors))
    for edges in close_vectors(vectors, most):
        forest.add(*edges)
    return forest.edges(most)


def _write(store: Store, items: Sequence[Candidate], decision: Decision) -> None:
    said = {item.id: item.group for item in items}
    changed = {item_id: group for item_id, group in decision.groups.items() if said[item_id] != group}
    store.ledger.write_now(
        (
            "UPDATE items SET grp = (SELECT grp FROM source_groups WHERE item_id = items.id) "
            "WHERE id IN (SELECT item_id FROM source_groups)",
            (),
        ),
        ("DELETE FROM source_groups", ()),
        ("DELETE FROM duplicates", ()),
        *(("INSERT INTO duplicates VALUES (?, ?, ?, ?)", (d.item_id, d.kept_id, d.how, d.distance)) for d in decision.dropped),
        (COUNT_DUPLICATES, ()),
        *(("INSERT INTO source_groups SELECT id, grp FROM items WHERE id = ?", (item_id,)) for item_id in changed),
        *(("UPDATE items SET grp = ? WHERE id = ?", (group, item_id)) for item_id, group in changed.items()),
    )


def _split_groups(decision: Decision, splits: dict[str, str | None]) -> int:
    found: dict[str, set[str]] = {}
    for item_id, group in decision.groups.items():
        if split := splits[item_id]:
            found.setdefault(group, set()).add(split)
    return sum(len(names) > 1 for names in found.values())
