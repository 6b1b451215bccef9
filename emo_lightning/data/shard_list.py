"""From what a user writes (files, folders, globs, `{000000..000003}`) to a list of shards; and the manifest beside them."""

from __future__ import annotations

import glob
import hashlib
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from emo_lightning.core.file_names import MANIFEST_FILE
from emo_lightning.core.files import read_object
from emo_lightning.core.foreign import decode_json, integer_of, list_of, object_of, text_of
from emo_lightning.core.names import as_on_disk, expand_glob, literal_head
from emo_lightning.core.records import SCHEMA_VERSION
from emo_lightning.core.remote import RemoteError
from emo_lightning.core.remote_folder import RemoteFolder
from emo_lightning.core.shard_index import INDEX_SUFFIX
from emo_lightning.core.stores import ByteStore, beside, is_remote, is_web, name_of, split_query
from emo_lightning.core.tar_scan import ShardError
from emo_lightning.core.text import name_fault

log = logging.getLogger(__name__)

_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_MOST_SHARDS = 1_000_000
_CHUNK = 1 << 22


@dataclass(frozen=True)
class ManifestEntry:
    """What a manifest says of one shard; None where it does not say."""

    count: int | None
    bytes: int | None
    sha256: str | None


class Shard(NamedTuple):
    """A shard to open, and its manifest entry where it came by way of a manifest."""

    url: str
    entry: ManifestEntry | None = None


def list_shards(paths: str | Path | Sequence[str | Path], *, verify: bool = False) -> list[Shard]:
    """Expand files, folders, globs, brace ranges and URLs, in the order given (folders and globs by name).

    A folder with a `manifest.json` holds the shards that it lists; other tars beside them are passed over with a warning. One behind a URL
    has to have it: an upload that broke off has none.

    Args:
        paths: one or several of them.
        verify: look for a manifest beside single files, too, and require it.

    Raises:
        ShardError: nothing there, the same shard twice, or a manifest that cannot be used.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        msg = "no shards given; expected tar files, folders, globs or name-{000000..000003}.tar"
        raise ShardError(msg)
    shards = [shard for path in given for one in _braces(str(path).removeprefix("file://")) for shard in _expand(one)]
    seen: set[str] = set()
    for shard in shards:
        if shard.url in seen:
            msg = f"{shard.url}: the shard is listed twice"
            raise ShardError(msg)
        seen.add(shard.url)
    return [shard if shard.entry else _beside(shard) for shard in shards] if verify else shards


def _braces(text: str) -> Iterator[str]:
    """The ranges of a path, but for those in names that are there."""
    if is_remote(text):
        yield from _ranges(text)
    elif as_on_disk(text).exists():
        yield text
    else:
        head, rest = literal_head(text)
        for one in _ranges(rest):
            yield one if head == "." else str(Path(head) / one)


def _ranges(text: str) -> Iterator[str]:
    match = _RANGE.search(text)
    if match is None:
        yield text
        return
    first, last = match.groups()
    if int(first) > int(last):
        msg = f"{text}: range {match.group()} runs backwards"
        raise ShardError(msg)
    if int(last) - int(first) >= _MOST_SHARDS:
        msg = f"{text}: range {match.group()} has more than {_MOST_SHARDS:,} shards"
        raise ShardError(msg)
    if math.prod(int(last) - int(first) + 1 for first, last in _RANGE.findall(text)) > _MOST_SHARDS:
        msg = f"{text}: its ranges make more than {_MOST_SHARDS:,} shards"
        raise ShardError(msg)
    for number in range(int(first), int(last) + 1):
        yield from _ranges(f"{text[: match.start()]}{number:0{len(first)}d}{text[match.end() :]}")


def _expand(text: str) -> list[Shard]:
    if is_remote(text):
        return _remote(text)
    path = as_on_disk(text.removeprefix("file://"))
    if path.is_dir():
        return _folder(path)
    if not path.exists() and glob.has_magic(text):
        # `d-*` means the tars; their indices may have been made since.
        found = [one for one in expand_glob(str(path)) if not one.endswith(INDEX_SUFFIX)]
        if not found:
            msg = f"{text}: no file matches"
            raise ShardError(msg)
        return [shard for one in found for shard in (_folder(Path(one)) if Path(one).is_dir() else [Shard(one)])]
    return [Shard(str(path))]


def _remote(url: str) -> list[Shard]:
    """A shard behind a URL, those of a pattern, or those of a folder's manifest, which is written last: without it nothing is whole."""
    address, query = split_query(url)
    folder, _, name = address.rstrip("/").rpartition("/")
    try:
        # In an address of the web `?` begins a question, such as a signature.
        if any(sign in (pattern := f"{name}{query}") for sign in ("*[" if is_web(url) else "*?[")):
            found = [one for one in RemoteFolder(folder).names(pattern) if not one.endswith(INDEX_SUFFIX)]
            if not found:
                msg = f"{url}: no file matches"
                raise ShardError(msg)
            return [Shard(f"{folder}/{one}") for one in found]
        if name.endswith(".tar") or query:
            return [Shard(url)]
        data = RemoteFolder(url).read(MANIFEST_FILE)
        if data is None and url.endswith("/"):
            msg = f"{url}: holds no {MANIFEST_FILE}: an export that is not whole yet, or tars of others, which are named one by one or by {url}*.tar"
            raise ShardError(msg)
    except RemoteError as error:
        raise ShardError(str(error)) from error
    if data is None:
        return [Shard(url)]
    where = f"{url.rstrip('/')}/{MANIFEST_FILE}"
    if not (listed := parse_manifest(data, where)):
        msg = f"{where}: the manifest lists no shards"
        raise ShardError(msg)
    return [Shard(f"{url.rstrip('/')}/{name}", entry) for name, entry in listed.items()]


def _folder(folder: Path) -> list[Shard]:
    tars = sorted(folder.glob("*.tar"))
    if not (folder / MANIFEST_FILE).exists():
        if not tars:
            msg = f"{folder}: the folder holds neither *.tar nor {MANIFEST_FILE}"
            raise ShardError(msg)
        return [Shard(str(tar)) for tar in tars]
    listed = read_manifest(folder / MANIFEST_FILE)
    if not listed:
        msg = f"{folder / MANIFEST_FILE}: the manifest lists no shards"
        raise ShardError(msg)
    extra = [tar.name for tar in tars if tar.name not in listed]
    if extra:
        log.warning("%s: %d tars are not in %s and are not read: %s", folder, len(extra), MANIFEST_FILE, ", ".join(extra[:5]))
    return [Shard(str(as_on_disk(folder / name)), entry) for name, entry in listed.items()]


def _beside(shard: Shard) -> Shard:
    url = shard.url.removeprefix("file://")
    name, manifest = name_of(url), beside(url, MANIFEST_FILE)
    try:
        data = _folder_of(url).read(MANIFEST_FILE) if is_remote(shard.url) else None
    except RemoteError as error:
        raise ShardError(str(error)) from error
    if data is None and (is_remote(shard.url) or not Path(manifest).exists()):
        msg = f"{shard.url}: nothing to verify with; expected {MANIFEST_FILE} beside it"
        raise ShardError(msg)
    entry = (read_manifest(Path(manifest)) if data is None else parse_manifest(data, manifest)).get(name)
    if entry is None:
        msg = f"{manifest}: does not list {name!r}"
        raise ShardError(msg)
    return Shard(shard.url, entry)


def manifests_of(path: str | Path) -> Iterator[tuple[str, dict[str, object] | None]]:
    """The manifest of each folder, here or behind a URL, that holds shards of a path: where it is looked for, and what it says, if it is there.

    Raises:
        ShardError: there are no such shards, or a manifest is no JSON object.
    """
    # Tars of one folder may be asked for with a signature each.
    first: dict[str, str] = {}
    for shard in list_shards(path):
        first.setdefault(split_query(beside(shard.url, MANIFEST_FILE))[0], shard.url)
    for url in first.values():
        where = beside(url, MANIFEST_FILE)
        if not is_remote(where):
            yield where, read_object(Path(where), error=ShardError) if Path(where).is_file() else None
            continue
        try:
            data = _folder_of(url).read(MANIFEST_FILE)
        except RemoteError as error:
            raise ShardError(str(error)) from error
        yield where, None if data is None else object_of(decode_json(data, where, ShardError), where, ShardError)


def _folder_of(url: str) -> RemoteFolder:
    return RemoteFolder(beside(url, ""))


def read_manifest(path: Path) -> dict[str, ManifestEntry]:
    """The shards of a manifest by file name, in its order.

    Raises:
        ShardError: not JSON, another schema version, or entries without a file name.
    """
    return _entries(read_object(path, error=ShardError), path)


def parse_manifest(data: bytes, where: str) -> dict[str, ManifestEntry]:
    """As `read_manifest`, of the bytes of one.

    Args:
        data: of the file.
        where: its URL, for messages.
    """
    return _entries(object_of(decode_json(data, where, ShardError), where, ShardError), where)


def _entries(manifest: Mapping[str, object], path: object) -> dict[str, ManifestEntry]:
    version = manifest.get("schema_version")
    if version != SCHEMA_VERSION or isinstance(version, bool):
        msg = f"{path}: key 'schema_version': found {version!r:.60}; this version reads {SCHEMA_VERSION}"
        raise ShardError(msg)
    found: dict[str, ManifestEntry] = {}
    for number, value in enumerate(list_of(manifest.get("shards"), f"{path}: key 'shards'", ShardError)):
        where = f"{path}: key 'shards[{number}]'"
        entry = object_of(value, where, ShardError)
        name = text_of(entry.get("file"), f"{where}: key 'file'", ShardError)
        if fault := name_fault(name):
            msg = f"{where}: key 'file': {name[:80]!r} {fault}"
            raise ShardError(msg)
        if name in found:
            msg = f"{where}: key 'file': {name!r} is listed twice"
            raise ShardError(msg)
        count, size, sha256 = entry.get("count"), entry.get("bytes"), entry.get("sha256")
        found[name] = ManifestEntry(
            None if count is None else integer_of(count, f"{where}: key 'count'", ShardError, low=0),
            None if size is None else integer_of(size, f"{where}: key 'bytes'", ShardError, low=0),
            None if sha256 is None else text_of(sha256, f"{where}: key 'sha256'", ShardError),
        )
    return found


def check_entry(shard: Shard, store: ByteStore, count: int, *, verify: bool) -> None:
    """Hold a shard against its manifest entry: length and count always, sha256 (reads every byte) with `verify`.

    Raises:
        ShardError: they differ, or `verify` and the manifest names no sha256.
    """
    if shard.entry is None:
        return
    for what, expected, found in (("bytes", shard.entry.bytes, store.size), ("samples", shard.entry.count, count)):
        if expected is not None and expected != found:
            msg = f"{shard.url}: has {found} {what}, its {MANIFEST_FILE} says {expected}"
            raise ShardError(msg)
    if not verify:
        return
    digest = hashlib.sha256()
    for offset in range(0, store.size, _CHUNK):
        digest.update(store.read(offset, _CHUNK))
    if digest.hexdigest() != shard.entry.sha256:
        msg = f"{shard.url}: sha256 is {digest.hexdigest()}, its {MANIFEST_FILE} says {shard.entry.sha256}"
        raise ShardError(msg)
