"""An export behind a URL (`s3://…`): made on this machine, then copied there, its manifest last."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from data_prep.export.earlier import ExportError, earlier_tars
from emo_lightning.core.file_names import CARD_FILE, MANIFEST_FILE
from emo_lightning.core.files import write_json
from emo_lightning.core.remote import RemoteError
from emo_lightning.core.remote_folder import RemoteFolder
from emo_lightning.core.shard_index import index_path
from emo_lightning.core.shard_manifests import unfinished_manifest
from emo_lightning.core.stores import is_web, scheme_of
from emo_lightning.core.terminal import say

_BUCKETS = ("s3", "s3a", "gs", "gcs")
"""Schemes whose first part is a bucket."""


def prepared_upload(url: str, name: str) -> Callable[[Path, list[str]], None]:
    """Look whether an export may be put behind a URL, before it is made.

    Args:
        url: of the folder to be.
        name: of the export.

    Returns:
        What copies the whole export there, from a folder, its tars named. A manifest that says that the export is not whole takes the place
        of the earlier one first, and the new one is written last: nobody reads the mixture of the moment, or an upload that broke off. The
        same command again makes it whole.

    Raises:
        ExportError: the URL names no folder that takes files, or what is there would be replaced and is of no export of this name.
        StoreError: the place does not answer, or takes no files.
    """
    _check_kind(url)
    folder = RemoteFolder(url)
    manifest = folder.read(MANIFEST_FILE)
    earlier = earlier_tars(name, manifest, folder.read(CARD_FILE), folder.names(f"{name}-*"), folder.of)
    _try_out(folder, f".{name}.partial", replaces=manifest is not None)

    def upload(local: Path, tars: list[str]) -> None:
        marker = local / "unfinished.json"
        write_json(marker, unfinished_manifest(name, earlier.union(tars)))
        folder.put(marker, MANIFEST_FILE)
        there = set(folder.names(f"{name}-*"))
        for tar in sorted(earlier.difference(tars)):
            for old in there.intersection((tar, index_path(Path(tar)).name)):
                folder.remove(old)
        for number, tar in enumerate(tars, 1):
            index = index_path(local / tar)
            # An index of other bytes would be kept by who opens the tar at this moment.
            if index.name in there:
                folder.remove(index.name)
            for file in (local / tar, index):
                folder.put(file, file.name)
            say(f"{folder.of(tar)}: written ({number} of {len(tars)})")
        for last in (CARD_FILE, MANIFEST_FILE):
            folder.put(local / last, last)

    return upload


def _check_kind(url: str) -> None:
    scheme, _, rest = url.partition("://")
    if is_web(url):
        msg = f"{url}: {scheme}:// takes no files; expected a folder of this machine, or a URL that takes files (s3://bucket/folder, gs://…)"
        raise ExportError(msg)
    if not rest.strip("/") or (scheme_of(url) in _BUCKETS and rest.startswith("/")):
        msg = f"{url}: names no bucket; expected {scheme}://BUCKET/FOLDER"
        raise ExportError(msg)


def _try_out(folder: RemoteFolder, name: str, *, replaces: bool) -> None:
    """Put a file there and remove it: a place that takes none says so before all is made, and what is there stays as it is."""
    with tempfile.TemporaryDirectory() as local:
        probe = Path(local) / name
        probe.write_text("an export is to be put here\n", encoding="utf-8")
        folder.put(probe, name)
    try:
        folder.remove(name)
    except RemoteError:
        # Where nothing is to be replaced, nothing needs to be removed.
        if replaces:
            raise
