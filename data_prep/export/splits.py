"""train, val or test for images whose source names no split: by whole groups, even per emotion, and for good.

A hash of the group alone would be stable, but leaves shares to chance: of 50 images of an emotion, 5 % for val are none at all one
time in thirteen. Even shares per emotion depend on the other images, so what was assigned must be remembered for nothing to move
when images are added: assignments stand in the ledger, and a new export only adds to them.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from data_prep.config import SplitConfig
from data_prep.store.group_commit import reader, writable
from data_prep.store.rows import Item
from emo_lightning.core.errors import UserError

EXPORT_SPLITS = ("train", "val", "test")

_HELD_OUT = ("test", "val", "heldout")
"""Which split a group takes where its images are in several: what an evaluation must not have seen comes first."""
_BUSY = 30.0
"""Seconds to wait for another writer of the ledger."""


@dataclass(frozen=True)
class Assignment:
    """A split for every exported image."""

    splits: dict[str, str]
    """By item."""
    moved: int
    """Items that their group takes out of the split that their source (or an earlier export) gave them."""
    new: dict[str, str]
    """Assigned now, for the first time."""


def groups_of(items: Iterable[Item]) -> dict[str, int]:
    """The group of every item, by id, as an arbitrary number.

    Together are: items of one group, equal images, images made from one triplet (`labels["lineage"]["parent_triplet"]`), and such
    an image with the first of the images that show it (`["parents"][0]`; the others show other things in other words alike, and
    would tie half of a store together).
    """
    from networkx.utils import UnionFind

    links: UnionFind = UnionFind()
    ids = []
    for item in items:
        ids.append(item.id)
        of_item = [("item", item.id), ("image", item.sha256)]
        if item.group:
            of_item.append(("group", item.group))
        lineage = item.labels.get("lineage")
        if isinstance(lineage, dict):
            of_item += [("item", str(parent)) for parent in (lineage.get("parents") or ())[:1]]
            if triplet := lineage.get("parent_triplet"):
                of_item.append(("triplet", json.dumps(triplet, sort_keys=True)))
        links.union(*of_item)
    numbers: dict[object, int] = {}
    return {item_id: numbers.setdefault(links["item", item_id], len(numbers)) for item_id in ids}


def assign(
    groups: Mapping[str, int],
    source_splits: Mapping[str, str],
    kept: Mapping[str, str],
    emotions: Mapping[str, str],
    shares: SplitConfig,
) -> Assignment:
    """Splits for the items of `emotions`.

    A group takes the split that its members have already (from the source, else from an earlier export); if they have several, the
    one that is held out most. Groups without one are given, largest first and then in the order of their hashes, to the split that
    lacks most of their emotions. So shares hold per emotion up to a group's size, and neither the order of import nor the machine
    matters.

    Args:
        groups: of every item of the store, by id.
        source_splits: by id, where the source names one.
        kept: by id, from earlier exports.
        emotions: by id, of the items to export ("" without an emotion).
        shares: wanted, of what is assigned here.
    """
    members: dict[int, list[str]] = defaultdict(list)
    for item_id, group in groups.items():
        members[group].append(item_id)
    wanted = {split: getattr(shares, split) for split in EXPORT_SPLITS}
    splits: dict[str, str] = {}
    have: Counter[tuple[str, str]] = Counter()
    total: Counter[str] = Counter()
    free: list[tuple[str, list[str]]] = []
    moved = 0
    for ids in members.values():
        mine = sorted(i for i in ids if i in emotions)
        if not mine:
            continue
        given = {i: source_splits.get(i) or kept.get(i) for i in ids}
        ours = [emotions[i] for i in mine if i not in source_splits]
        total.update(ours)
        if not (fixed := {split for split in given.values() if split}):
            free.append((hashlib.sha256(min(ids).encode()).hexdigest(), mine))
            continue
        split = _most_held_out(fixed)
        moved += sum(given[i] not in (None, split) for i in mine)
        splits |= dict.fromkeys(mine, split)
        have.update((split, emotion) for emotion in ours)
    for digest, mine in sorted(free, key=lambda f: (-len(f[1]), f[0])):
        split = _neediest(Counter(emotions[i] for i in mine), wanted, have, total, digest)
        splits |= dict.fromkeys(mine, split)
        have.update((split, emotions[i]) for i in mine)
    new = {i: split for i, split in splits.items() if i not in source_splits and i not in kept}
    return Assignment(splits, moved, new)


def _most_held_out(splits: set[str]) -> str:
    def order(split: str) -> tuple[int, str]:
        # A name that is unknown here was made by somebody with a purpose; only train is sure to be open.
        return (_HELD_OUT.index(split) if split in _HELD_OUT else 9 if split == "train" else 5, split)

    return min(splits, key=order)


def _neediest(
    emotions: Counter[str], wanted: Mapping[str, float], have: Counter[tuple[str, str]], total: Counter[str], digest: str
) -> str:
    images = total.total()
    held = Counter[str]()
    for (split, _), count in have.items():
        held[split] += count

    def need(split: str) -> tuple[float, float, str]:
        lack = sum(n * (wanted[split] * total[emotion] - have[split, emotion]) for emotion, n in emotions.items())
        overall = wanted[split] * images - held[split]
        # Rounded, so that the last bit of a float does not decide where a hash should.
        return round(lack, 6), round(overall, 6), hashlib.sha256(f"{digest}{split}".encode()).hexdigest()

    return max((split for split in EXPORT_SPLITS if wanted[split] > 0), key=need)


def read_kept(connection: sqlite3.Connection) -> dict[str, str]:
    """Assignments of earlier exports."""
    return dict(connection.execute("SELECT item_id, split FROM splits"))


def assign_for_good(
    ledger: Path, items: Sequence[Item], emotions: Mapping[str, str], shares: SplitConfig, *, forget: bool = False
) -> Assignment:
    """As `assign`, with what earlier exports assigned, and kept for later ones; `forget` starts anew.

    It needs no lock of the store: a pass may run meanwhile.

    Raises:
        UserError: the ledger cannot be written.
    """
    groups = groups_of(items)
    source_splits = {item.id: item.split for item in items if item.split}
    if not writable(ledger) and not forget:
        with closing(reader(ledger)) as archive:
            result = assign(groups, source_splits, read_kept(archive), emotions, shares)
        if result.new:
            msg = f"{ledger}: cannot be written, and {len(result.new)} images have no split yet that could be kept there"
            raise UserError(msg)
        return result
    connection = sqlite3.connect(ledger, isolation_level=None, timeout=_BUSY)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        kept = {} if forget else read_kept(connection)
        result = assign(groups, source_splits, kept, emotions, shares)
        if forget:
            connection.execute("DELETE FROM splits")
        connection.executemany("INSERT INTO splits VALUES (?, ?)", sorted(result.new.items()))
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        msg = f"{ledger}: the splits of this export cannot be kept there: {error}"
        raise UserError(msg) from None
    finally:
        connection.close()
    return result
