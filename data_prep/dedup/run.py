"""Dedup of a store: hashes and embeddings from the ledger or computed once, then one transaction with what was decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from data_prep.dedup import phash, registration
from data_prep.dedup.groups import Candidate, DedupDecision, Likeness, Thresholds, decide
from data_prep.dedup.pairs import Edges, Forest, Hashes, Indices, close_vectors, components
from data_prep.dedup.search import NO_EDGES, FoundPairs, parts, search
from data_prep.engine import LOCAL_ENGINE, Engine, EngineResult, ItemRow, Prepared, Step, in_batches
from data_prep.store.store import Store
from data_prep.store.tables import COUNT_DUPLICATES
from emo_lightning.core.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from data_prep.dedup.embeddings import Embedder

_CHUNK = 64
"""Images hashed between two writes of the ledger."""
_BATCH = 32
"""Images embedded at once."""
_REGISTERED = 256
"""Pairs registered at once."""

OnProgress = Callable[[str, int, int], None]
"""Told the step, how much of it is done, and the whole."""


class DedupError(InputError):
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
    chain: int = 10
    """Bits up to which an image is left out that is like the one that is kept only through others between them; farther ones are kept.
    By chance two different images are that near once in fifty million pairs; over a chain, 11 to 30 bits show other things: the next
    frame, the same wall. 64: everything that hangs together is one."""
    crops: bool = True
    """Find images of which one shows a part of the other."""
    correlation: float = 0.88
    """Of pixels, once the part is found, from which on two images are duplicates."""
    near_correlation: float = 0.8
    """Correlation from which on two images have to stay in one split."""
    cosine: float = 0.97
    """Cosine of embeddings from which two images are duplicates."""
    near_cosine: float = 0.93
    """Cosine from which two images have to stay in one split."""
    priority: tuple[str, ...] = ()
    """Sources whose images are kept, foremost first."""

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= self.near <= 20:
            msg = f"threshold {self.threshold}, near {self.near}: expected 0 ≤ threshold ≤ near ≤ 20 (bits of 64)"
            raise DedupError(msg)
        if not self.threshold <= self.chain <= 64:
            msg = f"threshold {self.threshold}, chain {self.chain}: expected threshold ≤ chain ≤ 64 (bits of 64)"
            raise DedupError(msg)
        if not 0 < self.near_correlation <= self.correlation <= 1:
            msg = (
                f"correlation {self.correlation:g}, near correlation {self.near_correlation:g}: "
                "expected 0 < near correlation ≤ correlation ≤ 1"
            )
            raise DedupError(msg)
        if not 0 < self.near_cosine <= self.cosine <= 1:
            msg = f"cosine {self.cosine:g}, near cosine {self.near_cosine:g}: expected 0 < near cosine ≤ cosine ≤ 1"
            raise DedupError(msg)


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
    registered: int
    """Pairs whose pixels were fitted to each other."""
    embedded: int
    decision: DedupDecision
    split_by_source: int
    """Groups whose items their sources put into different splits."""

    def how(self) -> Counter[str]:
        """Items left out, by what they have in common with the one that is kept."""
        return Counter(dropped.how for dropped in self.decision.dropped)


def dedup(
    store: Store,
    settings: DedupSettings,
    embedder: Embedder | None = None,
    on_progress: OnProgress = lambda *_: None,
    engine: Engine = LOCAL_ENGINE,
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
        msg = f"priority: no image of source {', '.join(unknown)}; sources in {store.root}: {', '.join(sources)}"
        raise DedupError(msg)
    files = dict(sorted((row[2], row[3]) for row in rows))
    number = {sha256: position for position, sha256 in enumerate(files)}
    items = [Candidate(row[0], row[1], number[row[2]], row[4], row[5]) for row in rows]
    prints, hashed = _hashes(store, files, on_progress, engine)
    found = search(
        prints, settings.near, settings.threshold, settings.crops, lambda done, total: on_progress("compare", done, total)
    )
    vectors, embedded = _embeddings(store, files, embedder, on_progress, engine) if embedder else (None, 0)
    pixel_edges = _registered(
        store, files, prints, _undecided_pairs(found, len(files), settings.threshold), on_progress, engine
    )
    likeness = Likeness(
        prints,
        found.edges,
        pixel_edges,
        NO_EDGES if vectors is None else _embedding_edges(vectors, 1 - settings.near_cosine),
        vectors,
    )
    thresholds = Thresholds(
        (settings.threshold, settings.near),
        (settings.correlation, settings.near_correlation),
        (settings.cosine, settings.near_cosine),
        settings.chain,
    )
    decision = decide(items, likeness, thresholds, settings.priority)
    while len(more := _split_candidates(decision, items, found, pixel_edges)):
        # A crop of the one that is kept may hang together with it through hashes: its pixels have not been asked.
        closer = _registered(store, files, prints, more, on_progress, engine)
        first, second, left = (np.concatenate(pair) for pair in zip(pixel_edges, closer, strict=True))
        pixel_edges = (first, second, left)
        decision = decide(items, replace(likeness, pixel_edges=pixel_edges), thresholds, settings.priority)
    _write(store, items, decision)
    splits = {row[0]: row[6] for row in rows}
    return DedupReport(
        items=len(items),
        images=len(files),
        hashed=hashed,
        plain=sum(not len(hashes) for hashes in prints),
        registered=len(pixel_edges[0]),
        embedded=embedded,
        decision=decision,
        split_by_source=_split_groups(decision, splits),
    )


def _hashes(store: Store, files: dict[str, str], on_progress: OnProgress, engine: Engine) -> tuple[list[Hashes], int]:
    """Fingerprints of every image, and how many were computed now."""
    known, computed = _cached_or_computed(
        store, files, list(files), phash.PHASH_METHOD, phash.Hashing(), on_progress, "hash", engine
    )
    return [np.frombuffer(known[sha256], ">u8").astype(np.uint64) for sha256 in files], computed


def _cached_or_computed(
    store: Store,
    files: dict[str, str],
    images: Sequence[str],
    method: str,
    step: Step[Prepared],
    on_progress: OnProgress,
    name: str,
    engine: Engine,
) -> tuple[dict[str, bytes], int]:
    """What a step finds in images, from the ledger or computed and kept there, and how much was computed now."""
    known = dict(store.ledger.read("SELECT image_sha256, views FROM image_hashes WHERE method = ?", (method,)))
    missing = [sha256 for sha256 in images if sha256 not in known]
    write = "INSERT INTO image_hashes VALUES (?, ?, ?)"
    for chunk, found, done in _computed_in_chunks(store, files, missing, _CHUNK, step, engine):
        store.ledger.write_now(*((write, (sha256, method, value)) for sha256, value in zip(chunk, found, strict=True)))
        known |= dict(zip(chunk, found, strict=True))
        on_progress(name, done, len(missing))
    return known, len(missing)


def _undecided_pairs(found: FoundPairs, images: int, threshold: int) -> Indices:
    """(pairs, 2) candidates that the hashes alone have not put into one group."""
    first, second, bits = found.edges
    same = components(images, (first[bits <= threshold], second[bits <= threshold], bits[bits <= threshold]))
    pairs = found.candidates
    left: Indices = pairs[same[pairs[:, 0]] != same[pairs[:, 1]]]
    return left


def _split_candidates(decision: DedupDecision, items: Sequence[Candidate], found: FoundPairs, registered: Edges) -> Indices:
    """(pairs, 2) images not left out for the foremost of their chain, and that, where one may show a part of the other: not registered yet."""
    image = {item.id: item.image for item in items}
    pairs: set[tuple[int, int]] = set()
    for chain in decision.chains:
        first, *rest = chain.members
        far = [image[member.item_id] for member in rest if member.kept_id != first.item_id]
        pairs |= {(min(i, image[first.item_id]), max(i, image[first.item_id])) for i in far}
    images = 1 + max(image.values(), default=0)
    wanted = np.array(sorted(pairs), np.int64).reshape(-1, 2)
    numbers = wanted @ (images, 1)
    new = np.isin(numbers, found.candidates @ (images, 1)) & ~np.isin(numbers, registered[0] * images + registered[1])
    more: Indices = wanted[new]
    return more


def _registered(
    store: Store,
    files: dict[str, str],
    prints: Sequence[Hashes],
    pairs: Indices,
    on_progress: OnProgress,
    engine: Engine,
) -> Edges:
    """1 − correlation of each pair, the lesser image first."""
    if not len(pairs):
        return NO_EDGES
    names = list(files)
    needed = [names[i] for i in np.unique(pairs)]
    grey, _ = _cached_or_computed(
        store, files, needed, registration.THUMBNAIL_METHOD, registration.Thumbnails(), on_progress, "thumbnails", engine
    )
    distances = []
    for start in range(0, len(pairs), _REGISTERED):
        some = parts(prints, pairs[start : start + _REGISTERED])
        wholes, pieces = ([grey[names[i]] for i in which] for which in (some.whole, some.part))
        distances.append(1 - registration.correlations(wholes, pieces, some.start, some.mirrored))
        on_progress("register", start + len(some.whole), len(pairs))
    return pairs[:, 0], pairs[:, 1], np.concatenate(distances).clip(0)


def _embeddings(
    store: Store, files: dict[str, str], embedder: Embedder, on_progress: OnProgress, engine: Engine
) -> tuple[NDArray[np.float16], int]:
    """(images, dimensions) float16, and how many were computed now."""
    from data_prep.dedup.embeddings import Embedding

    known = dict(store.ledger.read("SELECT image_sha256, vector FROM image_embeddings WHERE model = ?", (embedder.key,)))
    missing = [sha256 for sha256 in files if sha256 not in known]
    write = "INSERT INTO image_embeddings VALUES (?, ?, ?)"
    for chunk, found, done in _computed_in_chunks(store, files, missing, _BATCH, Embedding(embedder), engine):
        store.ledger.write_now(*((write, (sha256, embedder.key, v)) for sha256, v in zip(chunk, found, strict=True)))
        known |= dict(zip(chunk, found, strict=True))
        on_progress("embed", done, len(missing))
    if not files:
        return np.empty((0, 1), np.float16), 0
    return np.stack([np.frombuffer(known[sha256], np.float16) for sha256 in files]), len(missing)


def _computed_in_chunks(
    store: Store, files: dict[str, str], missing: Sequence[str], size: int, step: Step[Prepared], engine: Engine
) -> Iterator[tuple[Sequence[str], list[EngineResult], int]]:
    """Images, what the step finds in them, and how many are done."""
    chunks = in_batches(missing, size)
    rows = [[ItemRow(sha256, files[sha256]) for sha256 in chunk] for chunk in chunks]
    done = 0
    for chunk, found in zip(chunks, engine.map(store, rows, step), strict=True):
        done += len(chunk)
        yield chunk, found, done


def _embedding_edges(vectors: NDArray[np.float16], most: float) -> Edges:
    forest = Forest(len(vectors))
    for edges in close_vectors(vectors, most):
        forest.add(*edges)
    return forest.edges(most)


def _write(store: Store, items: Sequence[Candidate], decision: DedupDecision) -> None:
    before = {item.id: item.group for item in items}
    changed = {item_id: group for item_id, group in decision.groups.items() if before[item_id] != group}
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


def _split_groups(decision: DedupDecision, splits: dict[str, str | None]) -> int:
    found: dict[str, set[str]] = {}
    for item_id, group in decision.groups.items():
        if split := splits[item_id]:
            found.setdefault(group, set()).add(split)
    return sum(len(names) > 1 for names in found.values())
