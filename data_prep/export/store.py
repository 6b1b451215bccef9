"""From a store to tars: which records, in which split."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.config import SplitConfig
from data_prep.export.earlier import ExportError
from data_prep.export.manifest import UNKNOWN_LICENCE, Manifest
from data_prep.export.pictures import ImageType, most_common
from data_prep.export.shards import write_shards
from data_prep.export.splits import assign_for_good
from data_prep.review.log import reviewed_outcomes
from data_prep.sources.labels import said_by_people, source_record
from data_prep.store.rehearsal import refuse_rehearsal
from data_prep.store.rows import Item, stored_json
from data_prep.store.store import Store
from emo_lightning.core.records import SOURCE_SHA256, Record

LabelOrigin = Literal["annotations", "source"]


@dataclass(frozen=True)
class Selection:
    """Which images go out, by licence and source. `unknown` stands for images without a licence."""

    licences: tuple[str, ...] = ()
    """These alone; empty: all."""
    exclude_licences: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    """These alone; empty: all."""

    def check(self, items: Iterable[Item]) -> None:
        """Refuse names that no image of the store has: a slip would leave out everything, or nothing.

        Raises:
            ExportError: it names what there is.
        """
        seen: dict[str, set[str]] = {"licence": set(), "source": set()}
        for item in items:
            seen["licence"].add(item.licence or UNKNOWN_LICENCE)
            seen["source"].add(item.source)
        for kind, names in (("licence", (*self.licences, *self.exclude_licences)), ("source", self.sources)):
            if strange := sorted(set(names) - seen[kind]):
                there = ", ".join(sorted(seen[kind])) or "none"
                msg = f"no image has the {kind} {', '.join(strange)}; in the store: {there}"
                raise ExportError(msg)

    def reason_against(self, item: Item) -> str | None:
        """Why an item stays behind, as a key of the manifest's `excluded`; None if it goes."""
        licence = item.licence or UNKNOWN_LICENCE
        if (self.licences and licence not in self.licences) or licence in self.exclude_licences:
            return f"licence {licence}"
        if self.sources and item.source not in self.sources:
            return f"source {item.source}"
        return None

    def as_json(self) -> dict[str, list[str]]:
        """What was asked for, without what was not."""
        return {key: sorted(value) for key, value in vars(self).items() if value}


def export_store(
    store: Store,
    out: str | Path,
    name: str,
    *,
    samples_per_shard: int = 1000,
    shares: SplitConfig | None = None,
    selection: Selection | None = None,
    labels: LabelOrigin = "annotations",
    resplit: bool = False,
    keep_metadata: bool = False,
    images: ImageType | None = None,
) -> Manifest:
    """Export a store; what stays behind is counted in the manifest.

    Duplicates stay behind, and of the outcomes (as humans left them) all but the valid ones. Splits are those of the source, else
    assigned once and for good (`splits.assign_for_good`), for all valid records, so that a selection never moves an image.

    Args:
        store: opened for reading or writing.
        out: directory of the tars.
        name: of the data set.
        samples_per_shard: at most this many images in one tar.
        shares: of the splits, for images whose source names none.
        selection: by licence and source.
        labels: `annotations`, or `source`: what the source itself says, annotated or not, for evaluation against it.
        resplit: forget the splits of earlier exports.
        keep_metadata: image files go out with all that they say: place, time, camera, author. Without it, a record names the
            sha256 of the file that goes out, and as `provenance.source_sha256` that of the store's.
        images: the type of all images; None: the one that most of them have. See `write_shards`.

    Returns:
        The manifest.

    Raises:
        ExportError: nothing to export; a selection that names what is not there; see `write_shards`.
        RehearsalError: the store is one of a rehearsal.
    """
    if labels not in ("annotations", "source"):
        msg = f"labels {labels!r}; allowed: annotations, source"
        raise ExportError(msg)
    refuse_rehearsal(store.ledger, "it is not exported")
    shares = shares or SplitConfig()
    selection = selection or Selection()
    items = list(store.ledger.items())
    selection.check(items)
    excluded: Counter[str] = Counter()
    emotions: dict[str, str] = {}
    digest = hashlib.sha256()
    duplicates = store.ledger.duplicates()
    seen = set()
    for item, state, text in _records(store, labels, items):
        digest.update(f"{item.id}\0{state}\0{text}\n".encode())
        seen.add(item.id)
        if item.id in duplicates:
            excluded["duplicate"] += 1
        elif state != "valid":
            excluded[state] += 1
        else:
            emotions[item.id] = str(stored_json(text, f"outcome of {item.id!r}", dict)["emotion"] or "")
    for item in items:
        if item.id not in seen:
            excluded["duplicate" if item.id in duplicates else "pending"] += 1
    assignment = assign_for_good(store.ledger.path, items, emotions, shares, forget=resplit)
    created_from: dict[str, object] = {"outcomes_sha256": digest.hexdigest(), "splits": shares.model_dump(), "labels": labels}
    if selection.as_json():
        created_from["selection"] = selection.as_json()
    if assignment.moved:
        created_from["moved_to_the_split_of_their_group"] = assignment.moved

    cleaned: set[str] = set()
    if keep_metadata:
        created_from["metadata"] = "kept"

    def selected() -> Iterator[tuple[Record, bytes, str]]:
        for item, _, text in _records(store, labels, items):
            if (split := assignment.splits.get(item.id)) is None:
                continue
            if reason := selection.reason_against(item):
                excluded[reason] += 1
                continue
            record = Record.from_json(text, f"record of {item.id}")
            # Licence and origin stand in every record, whoever made it.
            provenance = {**record.provenance, "licence": item.licence, "origin": item.origin}
            if item.group:
                # Near-duplicates stay in one split: a training that mixes exports can see it.
                provenance["group"] = item.group
            image = store.image(item.sha256, item.extension, keep_metadata=keep_metadata)
            # What people said is known whoever annotated the image; no annotator was shown it.
            update: dict[str, object] = {"split": split, "provenance": provenance, **said_by_people(item)}
            if not keep_metadata and record.sha256 == item.sha256:
                sha256 = hashlib.sha256(image).hexdigest()
                if sha256 != item.sha256:
                    provenance[SOURCE_SHA256] = item.sha256
                    cleaned.add(item.id)
                    created_from["metadata_removed"] = len(cleaned)
                update["sha256"] = sha256
            yield record.model_copy(update=update), image, item.extension

    if images is None:
        going = (item for item in items if item.id in assignment.splits and not selection.reason_against(item))
        images = most_common(item.extension for item in going)
    return write_shards(selected(), out, name, samples_per_shard, images=images, created_from=created_from, excluded=excluded)


def _records(store: Store, labels: LabelOrigin, items: Iterable[Item]) -> Iterator[tuple[Item, str, str]]:
    """(item, state, record as JSON) by id; by the labels of the source, an item without one has the state `unlabelled`."""
    if labels == "annotations":
        for item, outcome in reviewed_outcomes(store.ledger):
            yield item, outcome.state, outcome.record
        return
    for item in items:
        record = source_record(item)
        yield item, "unlabelled" if record is None else "valid", "" if record is None else record.to_json().decode()
