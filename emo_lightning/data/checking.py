"""Whether tars are whole, member by member; nothing stops at the first fault."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from emo_lightning.core.tar_scan import ShardError
from emo_lightning.data.shard_list import Shard, list_shards
from emo_lightning.data.tar_index import TarIndex


@dataclass
class Checked:
    """What a check has found."""

    shards: int = 0
    samples: int = 0
    unnamed: int = 0
    """Shards that no manifest names."""
    decoded: int = 0
    """Images that were decoded."""
    faults: list[str] = field(default_factory=list)
    """One line for each shard or member that is not as it should be."""

    def as_json(self) -> dict[str, object]:
        """All of it."""
        return dict(vars(self))


def check_tars(paths: Sequence[str | Path], *, decode: bool) -> Checked:
    """Read every byte of tars, and hold it against all that is known of it.

    That is, where they are there: the manifest's length and SHA-256 of each tar, the CRC-32 of each member in the tar's index, and the
    SHA-256 of each image in its record. A tar itself has checksums of its headers alone: of one without manifest, index and records
    nothing says what its images were, but that they decode.

    Args:
        paths: as `TarIndex.open` takes them.
        decode: decode each image, too.

    Raises:
        ShardError: there are no such tars, or a manifest cannot be used.
    """
    found = Checked()
    for shard in list_shards(paths):
        found.shards += 1
        known = _known(shard)
        found.unnamed += not known
        try:
            index = TarIndex.open([shard.url], verify=known, bad_images=True)
        except ShardError as error:
            found.faults.append(str(error))
            continue
        found.samples += len(index)
        for row in range(len(index)):
            try:
                if decode:
                    index.sample(row)
                    found.decoded += 1
                else:
                    index.image_bytes(row)
                index.des(row)
            except ShardError as error:
                found.faults.append(str(error))
    return found


def _known(shard: Shard) -> bool:
    """Whether a manifest beside a shard names it."""
    try:
        return shard.entry is not None or list_shards([shard.url], verify=True)[0].entry is not None
    except ShardError:
        return False
