"""From what a user writes (files, folders, globs, `{000000..000003}`) to a list of shards; and the manifest beside them."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import logging
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from emo_lightning.core.file_names import CARD_FILE, MANIFEST_FILE
from emo_lightning.core.files import read_object
from emo_lightning.core.foreign import decode_json, object_of
from emo_lightning.core.names import as_on_disk, composed, expand_glob, literal_head
from emo_lightning.core.remote import RemoteError
from emo_lightning.core.remote_folder import RemoteFolder
from emo_lightning.core.shard_index import INDEX_SUFFIX
from emo_lightning.core.shard_manifests import (
    FoundManifests,
    ManifestEntry,
    check_whole,
    is_tar,
    parse_manifest,
    passed_over,
    read_manifest,
    tars_in,
)
from emo_lightning.core.stores import ByteStore, beside, is_remote, is_web, name_of, split_query
from emo_lightning.core.tar_scan import ShardError

log = logging.getLogger(__name__)

_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")
_MOST_SHARDS = 1_000_000
_CHUNK = 1 << 22


class Shard(NamedTuple):
    """A shard to open, and its manifest entry where it came by way of a manifest."""

    url: str
    entry: ManifestEntry | None = None


def list_shards(paths: str | Path | Sequence[str | Path], *, verify: bool = False) -> list[Shard]:
    """Expand files, folders, globs, brace ranges and URLs, in the order given (folders and globs by name).

    A folder with a `manifest.json` holds the shards that it lists; other tars beside them are passed over with a warning. One behind a URL
    has to have it. What a glob or a range names is held against the manifest beside it, too, where there is one; a tar that is named by
    itself is not.

    Args:
        paths: one or several of them.
        verify: look for a manifest beside single files, too, and require it.

    Raises:
        ShardError: nothing there, the same shard twice, a manifest that cannot be used, an export that is not whole, or a glob that matches
            fewer tars than the manifest lists.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        msg = "no shards given; expected tar files, folders, globs or name-{000000..000003}.tar"
        raise ShardError(msg)
    manifests = FoundManifests()
    shards = [shard for path in given for shard in _named(str(path).removeprefix("file://"), manifests)]
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


def _named(text: str, manifests: FoundManifests) -> Iterator[Shard]:
    """The shards that a text names."""
    names = list(_braces(text))
    ranged = len(names) > 1
    for shard in (shard for name in names for shard in _expand(name, manifests)):
        # Of one that is named by itself only its index is asked for, behind a URL.
        look = shard.entry is None and (ranged or not is_remote(shard.url))
        if not look or (found := manifests.beside(shard.url)) is None:
            yield shard
            continue
        name = name_of(shard.url)
        found.refuse_unfinished([name])
        yield Shard(shard.url, found.entries.get(composed(name))) if ranged and found.unfinished is None else shard


def _expand(text: str, manifests: FoundManifests) -> list[Shard]:
    if is_remote(text):
        return _remote(text, manifests)
    path = as_on_disk(text.removeprefix("file://"))
    if path.is_dir():
        return _folder(path)
    if not path.exists() and glob.has_magic(text):
        # `d-*` means the tars; their indices may have been made since.
        found = [one for one in expand_glob(str(path)) if not one.endswith(INDEX_SUFFIX)]
        if not found:
            msg = f"{text}: no file matches"
            raise ShardError(msg)
        known = _matched([one for one in found if not Path(one).is_dir()], text, Path(text).name, manifests)
        return [shard for one in found for shard in (_folder(Path(one)) if Path(one).is_dir() else known[one])]
    return [Shard(str(path))]


def _matched(urls: Sequence[str], text: str, pattern: str, manifests: FoundManifests) -> dict[str, list[Shard]]:
    """Each file that a pattern matches as its shard, held against the manifest beside it; as none, where that lists others, but not it.

    Args:
        urls: of the files, or paths.
        text: that names them, for messages.
        pattern: of their names.
        manifests: that have been looked for.

    Raises:
        ShardError: a manifest lists a file that the pattern matches, and it is not there; or it is that of an export that is not whole.
    """
    shards = {url: [Shard(url)] for url in urls}
    folders: dict[str, dict[str, str]] = {}
    for url in urls:
        folders.setdefault(beside(url, ""), {})[composed(name_of(url))] = url
    for there in folders.values():
        found = manifests.beside(next(iter(there.values())))
        if found is None:
            continue
        if found.unfinished is not None:
            found.refuse_unfinished([*there, *(name for name in found.unfinished if _matches(name, pattern))])
            continue
        listed = {name: entry for name, entry in found.entries.items() if _matches(name, pattern)}
        if gone := [name for name in listed if name not in there]:
            more = f" and {len(gone) - 1} more" * (len(gone) > 1)
            msg = (
                f"{text}: {found.where} lists {gone[0]}{more}, which {'is' if len(gone) == 1 else 'are'} not there; restore what is missing, "
                f"name the tars that are there one by one, or remove {MANIFEST_FILE}"
            )
            raise ShardError(msg)
        if not listed:
            continue
        for name, url in there.items():
            shards[url] = [Shard(url, listed[name])] if name in listed else []
        # `*` means what belongs to the export, too.
        others = [name for name in there if name not in listed and name not in (MANIFEST_FILE, CARD_FILE)]
        _say_unlisted(found.where.rpartition("/")[0] or ".", others)
    return shards


def _matches(name: str, pattern: str) -> bool:
    """As a glob does: without hidden files."""
    return fnmatch.fnmatchcase(name, composed(pattern)) and (pattern.startswith(".") or not name.startswith("."))


def _say_unlisted(folder: object, names: Sequence[str]) -> None:
    if names:
        log.warning("%s: %d tars are not in %s and are not read: %s", folder, len(names), MANIFEST_FILE, ", ".join(names[:5]))


def _remote(url: str, manifests: FoundManifests) -> list[Shard]:
    """A shard behind a URL, those of a pattern, or those of a folder's manifest, which is written last: without it nothing is whole."""
    address, query = split_query(url)
    folder, _, name = address.rstrip("/").rpartition("/")
    try:
        # In an address of the web `?` begins a question, such as a signature.
        if any(sign in (pattern := f"{name}{query}") for sign in ("*[" if is_web(url) else "*?[")):
            # First, as what a listing says of its tars is kept until something else is read.
            manifests.beside(url)
            found = [f"{folder}/{one}" for one in RemoteFolder(folder).names(pattern) if not one.endswith(INDEX_SUFFIX)]
            if not found:
                msg = f"{url}: no file matches"
                raise ShardError(msg)
            known = _matched(found, url, pattern, manifests)
            return [shard for one in found for shard in known[one]]
        if is_tar(name) or query:
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
    tars = tars_in(folder)
    if not (folder / MANIFEST_FILE).exists():
        others = passed_over(folder)
        said = f"{len(others)} that are compressed or lie in folders below: {', '.join(others[:5])}" if others else ""
        if not tars:
            msg = f"{folder}: the folder holds neither *.tar nor {MANIFEST_FILE}{said and f', but {said}'}"
            raise ShardError(msg)
        if said:
            log.warning("%s: of its tars %s; they are not read", folder, said)
        return [Shard(str(tar)) for tar in tars]
    listed = read_manifest(folder / MANIFEST_FILE)
    if not listed:
        msg = f"{folder / MANIFEST_FILE}: the manifest lists no shards"
        raise ShardError(msg)
    known = set(map(composed, listed))
    _say_unlisted(folder, [tar.name for tar in tars if composed(tar.name) not in known])
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
        ShardError: there are no such shards, or a manifest is no JSON object, or that of an export that is not whole.
    """
    # Tars of one folder may be asked for with a signature each.
    first: dict[str, str] = {}
    for shard in list_shards(path):
        first.setdefault(split_query(beside(shard.url, MANIFEST_FILE))[0], shard.url)
    for url in first.values():
        where = beside(url, MANIFEST_FILE)
        found: dict[str, object] | None = None
        if not is_remote(where):
            if Path(where).is_file():
                found = read_object(Path(where), error=ShardError)
        else:
            try:
                data = _folder_of(url).read(MANIFEST_FILE)
            except RemoteError as error:
                raise ShardError(str(error)) from error
            if data is not None:
                found = object_of(decode_json(data, where, ShardError), where, ShardError)
        if found is not None:
            check_whole(found, where)
        yield where, found


def _folder_of(url: str) -> RemoteFolder:
    return RemoteFolder(beside(url, ""))


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
