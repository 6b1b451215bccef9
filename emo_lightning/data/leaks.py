"""Whether a training set holds what an evaluation must not have been trained on, by what the records say of themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import warn_once
from emo_lightning.core.records import Record
from emo_lightning.data.tar_index import TarIndex

HELD_OUT = {"test", "val", "valid", "validation", "dev", "eval", "heldout", "held-out", "held_out"}
"""Splits that are no training data, whatever their case."""


def check_leaks(sets: Mapping[str, TarIndex], *, allowed: bool, train: str = "train") -> None:
    """Refuse, or only say, that the training set has images of a held-out split, or images that another set has too.

    Two images are the same by id, by the SHA-256 of their bytes, and by the group of near-duplicates that `emo prep export` writes.

    Args:
        sets: name -> images and records; reads every record once.
        allowed: say it and go on (`data.allow_leaks`).
        train: name of the training set; without it nothing is checked.

    Raises:
        InputError: names the sets and the first image.
    """
    if train not in sets:
        return
    names: dict[str, str] = {}
    splits: Counter[str] = Counter()
    for record in _records(sets[train]):
        splits[record.split] += 1
        names.update(dict.fromkeys(_marks(record), record.id))
    found = [
        f"{count} of {len(sets[train])} records of the set {train!r} say split {split!r}"
        for split, count in splits.items()
        if split.lower() in HELD_OUT
    ]
    for name, index in sets.items():
        shared = [(r.id, names[mark]) for r in _records(index) if (mark := _first(_marks(r), names))] if name != train else []
        if shared:
            said = " and ".join(dict.fromkeys(shared[0]))
            found.append(
                f"{len(shared)} of {len(index)} images of the set {name!r} are also in {train!r}, or near to one (first: {said})"
            )
    if not found:
        return
    if not allowed:
        msg = f"{'; '.join(found)}: what is measured there would mean nothing; mend the paths, or set data.allow_leaks: true"
        raise InputError(msg)
    warn_once(f"{'; '.join(found)}; trained on all the same, as data.allow_leaks says")


def _records(index: TarIndex) -> Iterable[Record]:
    return (index.record(row) for row in range(len(index)))


def _marks(record: Record) -> list[str]:
    group = record.provenance.get("group")
    return [f"id {record.id}", f"sha256 {record.sha256}", *([f"group {group}"] if isinstance(group, str) else [])]


def _first(marks: Iterable[str], known: Mapping[str, str]) -> str | None:
    return next((mark for mark in marks if mark in known), None)
