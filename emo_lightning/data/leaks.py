"""Whether a training set holds what an evaluation must not have been trained on, by what the records say of themselves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np

from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import warn_once
from emo_lightning.core.records import Record
from emo_lightning.data.tar_index import TarIndex

HELD_OUT_SPLITS = {"test", "val", "valid", "validation", "dev", "eval", "heldout", "held-out", "held_out"}
"""Splits that are no training data, whatever their case."""


class Origin(NamedTuple):
    """Which image a sample is of. A feature cache keeps it, as its samples have no record any more."""

    id: str
    split: str | None = None
    """None where it is not known."""
    sha256: str | None = None
    """Of the image's bytes; None where it is not known."""
    group: str | None = None
    """Of near-duplicates, as `emo prep export` writes it; None where there is none."""
    source_sha256: str | None = None
    """Of the file that the bytes were made of (`Record.source_sha256`)."""

    @classmethod
    def of(cls, record: Record) -> Self:
        """That of a record."""
        group = record.provenance.get("group")
        return cls(record.id, record.split, record.sha256, group if isinstance(group, str) else None, record.source_sha256)

    def as_row(self) -> list[str | None]:
        """All but the id, as a feature cache keeps it: three values, or four where the bytes were made of another file."""
        return list(self[1:] if self.source_sha256 is not None else self[1:4])

    def marks(self) -> list[str]:
        """By any of these two images are the same, or near to each other."""
        known = (("id", self.id), ("sha256", self.sha256), ("group", self.group), ("sha256", self.source_sha256))
        return [f"{what} {value}" for what, value in known if value is not None]


def check_leaks(sets: Mapping[str, TarIndex], *, allowed: bool) -> None:
    """`check_origins` of tars; no record is read.

    Args:
        sets: name -> images and records.
        allowed: say it and go on (`data.allow_leaks`).

    Raises:
        InputError: names the sets and the first image.
    """
    if "train" in sets:
        check_origins({name: _origins(index) for name, index in sets.items()}, allowed=allowed)


def _origins(index: TarIndex) -> list[Origin]:
    # Nothing is learned of what is left out; and no bytes at all, or an error's page, may stand in both sets.
    index = index.take(np.flatnonzero(~index.stand_ins))
    ids = map(index.id, range(len(index)))
    return list(map(Origin, ids, index.splits(), index.hashes(), index.groups(), index.source_hashes()))


def check_origins(sets: Mapping[str, Sequence[Origin]], *, allowed: bool) -> None:
    """Refuse, or only say, that the set `train` has images of a held-out split, or images that another set has too.

    Two images are the same by id, by the SHA-256 of their bytes or of the file that these were made of, and by the group of
    near-duplicates that `emo prep export` writes.

    Args:
        sets: name -> its images; without `train` nothing is checked.
        allowed: say it and go on (`data.allow_leaks`).

    Raises:
        InputError: names the sets and the first image.
    """
    if "train" not in sets:
        return
    train = sets["train"]
    names = {mark: one.id for one in train for mark in one.marks()}
    splits = Counter(one.split for one in train if one.split is not None)
    found = [
        f"{count} of {len(train)} records of the set 'train' say split {split!r}"
        for split, count in splits.items()
        if split.lower() in HELD_OUT_SPLITS
    ]
    for name, origins in sets.items():
        near = ((one.id, next((names[mark] for mark in one.marks() if mark in names), None)) for one in origins)
        shared = [(own, other) for own, other in near if other is not None] if name != "train" else []
        if shared:
            said = " and ".join(dict.fromkeys(shared[0]))
            found.append(
                f"{len(shared)} of {len(origins)} images of the set {name!r} are also in 'train', or near to one (first: {said})"
            )
    if not found:
        return
    if not allowed:
        msg = f"{'; '.join(found)}: what is measured there would mean nothing; mend the paths, or set data.allow_leaks: true"
        raise InputError(msg)
    warn_once(f"{'; '.join(found)}; trained on all the same, as data.allow_leaks says")
