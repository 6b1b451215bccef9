"""The records of a store or of exported tars, for what counts and draws."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from data_prep.export.earlier import ExportError
from data_prep.sources.archives import Archive, BrokenArchiveError
from data_prep.sources.base import RefusedError
from emo_lightning.core.file_names import MANIFEST_FILE
from emo_lightning.core.records import Record
from emo_lightning.core.shard_manifests import FoundManifests, read_manifest, tars_in
from emo_lightning.core.text import printable


def is_store(path: str | Path) -> bool:
    """Whether a path is a store (else it should hold tars)."""
    return (Path(path) / "ledger.sqlite").exists()


def read_records(paths: Iterable[str | Path]) -> Iterator[Record]:
    """Records of stores (the valid ones, as humans left them, without duplicates), of tars, or of folders of tars.

    A folder with a manifest holds the shards that it lists. Order: by path as given, then by id (store) or as in the tar.

    Raises:
        ExportError: there is neither, or a tar cannot be read.
        ShardError: a manifest cannot be used, or is that of an export that is not whole.
        SchemaError: a record does not follow the contract; it names tar and member.
    """
    manifests = FoundManifests()
    for path in map(Path, paths):
        if is_store(path):
            yield from _of_store(path)
        elif path.is_dir():
            for shard in _shards(path):
                yield from _of_tar(shard)
        elif path.is_file():
            manifests.refuse_unfinished(path)
            yield from _of_tar(path)
        else:
            msg = f"{path}: neither a store, nor a tar, nor a folder of tars"
            raise ExportError(msg)


def _of_store(path: Path) -> Iterator[Record]:
    from data_prep.review.log import reviewed_outcomes
    from data_prep.store.store import Store

    with Store(path, write=False) as store:
        left_out = store.ledger.duplicates()
        for item, outcome in reviewed_outcomes(store.ledger):
            if outcome.state == "valid" and item.id not in left_out:
                yield Record.from_json(outcome.record, f"outcome of {item.id}")


def _shards(folder: Path) -> list[Path]:
    manifest = folder / MANIFEST_FILE
    if manifest.exists():
        return [folder / name for name in read_manifest(manifest)]
    if not (found := tars_in(folder)):
        msg = f"{folder}: neither a store nor a folder of tars"
        raise ExportError(msg)
    return found


def _of_tar(path: Path) -> Iterator[Record]:
    archive = Archive(path)
    try:
        for member in archive.members():
            if member.isfile() and member.name.endswith(".json"):
                yield Record.from_json(archive.read(member), f"{path}: {printable(member.name)}")
    except FileNotFoundError:
        msg = f"{path}: the manifest lists it, and it is not there"
        raise ExportError(msg) from None
    except (BrokenArchiveError, RefusedError, OSError) as error:
        msg = f"{path}: not a tar that can be read: {printable(error)}"
        raise ExportError(msg) from None
