"""Folders of tars: which files are tars, what the `manifest.json` beside them says of each, and whether the export there is whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from emo_lightning.core.file_names import MANIFEST_FILE
from emo_lightning.core.files import MAX_OBJECT_BYTES, read_object
from emo_lightning.core.foreign import decode_json, integer_of, list_of, object_of, read_capped, text_of
from emo_lightning.core.names import composed
from emo_lightning.core.records import SCHEMA_VERSION
from emo_lightning.core.remote import RemoteError
from emo_lightning.core.remote_clients import is_forbidden
from emo_lightning.core.remote_folder import RemoteFolder
from emo_lightning.core.stores import beside, is_remote, split_query
from emo_lightning.core.tar_scan import ShardError
from emo_lightning.core.text import name_fault

UNFINISHED = "unfinished"
"""Key of the manifest that stands in the place of the real one while an export is put in its place: the tars that may be of it, of the one
before, or not there."""


_TAR = ".tar"
_COMPRESSED = (".tgz", ".tbz2", ".txz", *(f"{_TAR}{ending}" for ending in (".gz", ".bz2", ".xz", ".zst", ".lz4", ".z")))


@dataclass(frozen=True)
class ManifestEntry:
    """What a manifest says of one shard; None where it does not say."""

    count: int | None
    bytes: int | None
    sha256: str | None


def is_tar(path: str | Path) -> bool:
    """Whether a name is that of a tar: it ends in `.tar`, in letters of either case."""
    return str(path).lower().endswith(_TAR)


def tars_in(folder: Path) -> list[Path]:
    """The tars of a folder (`is_tar`), by name; none where it cannot be listed."""
    return sorted(path for path in folder.glob("*") if is_tar(path))


def passed_over(folder: Path) -> list[str]:
    """What a folder of tars holds beside `tars_in` that is not read: compressed tars, and tars in the folders right below it; by name."""
    compressed = sorted(path.name for path in folder.glob("*") if path.name.lower().endswith(_COMPRESSED))
    return compressed + sorted(f"{path.parent.name}/{path.name}" for path in folder.glob("*/*") if is_tar(path))


def unfinished_manifest(name: str, tars: Iterable[str]) -> dict[str, object]:
    """The manifest of an export that is not whole; every reader refuses it, those of earlier versions for want of shards.

    Args:
        name: of the export.
        tars: file names of the earlier export and of the new one.
    """
    return {"schema_version": SCHEMA_VERSION, "name": name, "shards": [], UNFINISHED: sorted(tars)}


def read_manifest(path: Path) -> dict[str, ManifestEntry]:
    """The shards of a manifest by file name, in its order.

    Raises:
        ShardError: not JSON, another schema version, entries without a file name, or an export that is not whole.
    """
    return manifest_entries(read_object(path, error=ShardError), path)


def parse_manifest(data: bytes, where: str) -> dict[str, ManifestEntry]:
    """As `read_manifest`, of the bytes of one.

    Args:
        data: of the file.
        where: its URL, for messages.
    """
    return manifest_entries(object_of(decode_json(data, where, ShardError), where, ShardError), where)


@dataclass(frozen=True)
class FoundManifest:
    """A manifest of ours, not yet looked into."""

    where: str
    said: Mapping[str, object]

    @cached_property
    def entries(self) -> dict[str, ManifestEntry]:
        """See `read_manifest`; by composed names."""
        return {composed(name): entry for name, entry in manifest_entries(self.said, self.where).items()}

    @cached_property
    def unfinished(self) -> frozenset[str] | None:
        """See `unfinished_tars`; composed names."""
        names = unfinished_tars(self.said, self.where)
        return None if names is None else frozenset(map(composed, names))

    def refuse_unfinished(self, tars: Iterable[str]) -> None:
        """Refuse tars of an export that is not whole.

        Args:
            tars: file names.

        Raises:
            ShardError: one of them may be of it.
        """
        if self.unfinished is not None and not self.unfinished.isdisjoint(map(composed, tars)):
            check_whole(self.said, self.where)


class FoundManifests:
    """The manifests beside tars; each is looked for once."""

    def __init__(self) -> None:
        self._found: dict[str, FoundManifest | None] = {}

    def beside(self, url: str) -> FoundManifest | None:
        """That in the folder of a tar, here or behind a URL; None where there is none, or one that is not ours.

        Raises:
            ShardError: it cannot be read.
        """
        where = beside(url, MANIFEST_FILE)
        # Tars of one folder may be asked for with a signature each.
        folder = split_query(where)[0]
        if folder not in self._found:
            data = _far(url) if is_remote(url) else _near(Path(where))
            self._found[folder] = None if data is None else _ours(data, where)
        return self._found[folder]

    def refuse_unfinished(self, tar: Path) -> None:
        """Refuse a tar of an export that is not whole.

        Raises:
            ShardError: it may be of one.
        """
        if (found := self.beside(str(tar))) is not None:
            found.refuse_unfinished([tar.name])


def _near(path: Path) -> bytes | None:
    return read_capped(path, MAX_OBJECT_BYTES, ShardError) if path.is_file() else None


def _far(url: str) -> bytes | None:
    try:
        return RemoteFolder(beside(url, "")).read(MANIFEST_FILE)
    except RemoteError as error:
        # So places answer who may not list, of what is not there.
        if is_forbidden(error):
            return None
        raise ShardError(str(error)) from error


def _ours(data: bytes, where: str) -> FoundManifest | None:
    try:
        found = decode_json(data, where, ShardError)
    except ShardError:
        return None
    if not isinstance(found, dict) or not found.keys() >= {"schema_version", "shards"}:
        return None
    return FoundManifest(where, found)


def unfinished_tars(manifest: Mapping[str, object], where: object) -> frozenset[str] | None:
    """The tars that a manifest says are not whole; None where it is that of a whole export.

    Raises:
        ShardError: they are no names of files.
    """
    if UNFINISHED not in manifest:
        return None
    key = f"{where}: key {UNFINISHED!r}"
    return frozenset(_file_name(name, key) for name in list_of(manifest[UNFINISHED], key, ShardError))


def check_whole(manifest: Mapping[str, object], where: object) -> None:
    """Refuse the manifest of an export that is not whole.

    Raises:
        ShardError: it is.
    """
    if unfinished_tars(manifest, where) is not None:
        msg = f"{where}: an export into this folder broke off: run it again (or wait, where it is still being written)"
        raise ShardError(msg)


def manifest_entries(manifest: Mapping[str, object], where: object) -> dict[str, ManifestEntry]:
    """The shards that a manifest lists, by file name, in its order.

    Raises:
        ShardError: see `read_manifest`.
    """
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        msg = f"{where}: key 'schema_version': found {version!r:.60}; this version reads {SCHEMA_VERSION}"
        raise ShardError(msg)
    check_whole(manifest, where)
    found: dict[str, ManifestEntry] = {}
    for number, value in enumerate(list_of(manifest.get("shards"), f"{where}: key 'shards'", ShardError)):
        key = f"{where}: key 'shards[{number}]'"
        entry = object_of(value, key, ShardError)
        name = _file_name(entry.get("file"), f"{key}: key 'file'")
        if name in found:
            msg = f"{key}: key 'file': {name!r} is listed twice"
            raise ShardError(msg)
        count, size, sha256 = entry.get("count"), entry.get("bytes"), entry.get("sha256")
        found[name] = ManifestEntry(
            None if count is None else integer_of(count, f"{key}: key 'count'", ShardError, low=0),
            None if size is None else integer_of(size, f"{key}: key 'bytes'", ShardError, low=0),
            None if sha256 is None else text_of(sha256, f"{key}: key 'sha256'", ShardError),
        )
    return found


def _file_name(value: object, key: str) -> str:
    name = text_of(value, key, ShardError)
    if fault := name_fault(name):
        msg = f"{key}: {name[:80]!r} {fault}"
        raise ShardError(msg)
    return name
