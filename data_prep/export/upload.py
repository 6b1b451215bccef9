"""An export behind a URL (`s3://…`): made on this machine, then copied there, its manifest last."""

from __future__ import annotations

import re
from pathlib import Path

from data_prep.export.card import DATASET_CARD_MARK
from emo_lightning.core.errors import InputError
from emo_lightning.core.file_names import CARD_FILE, MANIFEST_FILE
from emo_lightning.core.foreign import decode_json, object_of
from emo_lightning.core.remote_folder import RemoteFolder
from emo_lightning.core.shard_index import index_path
from emo_lightning.core.terminal import say


class UploadError(InputError):
    """What lies behind the URL is no export of this name, and would be replaced."""


def refuse_foreign(url: str, name: str) -> None:
    """Refuse a place with a manifest or a card that would be replaced and is not of an export of this name.

    Raises:
        UploadError: says which.
        StoreError: the place does not answer.
    """
    folder = RemoteFolder(url)
    card = folder.read(CARD_FILE)
    if card is not None and DATASET_CARD_MARK not in card.decode(errors="replace"):
        msg = f"{folder.of(CARD_FILE)}: not a dataset card of an export, and would be replaced; move it away or choose another folder"
        raise UploadError(msg)
    if (manifest := folder.read(MANIFEST_FILE)) is None:
        return
    where = folder.of(MANIFEST_FILE)
    there = object_of(decode_json(manifest, where, UploadError), where, UploadError).get("name")
    if there != name:
        msg = f"{where}: is of an export named {str(there)[:100]!r}, not {name!r}; choose that name or another folder"
        raise UploadError(msg)


def upload_export(local: Path, url: str, name: str, tars: list[str]) -> None:
    """Copy a whole export behind a URL, in the place of an earlier one of its name.

    The manifest of the earlier one is removed first and the new one is written last. Our readers take no folder behind a URL without a
    manifest, so nobody reads the mixture of the moment, or an upload that broke off; the same command again makes it whole.

    Args:
        local: folder of the export.
        url: of the folder to be.
        name: of the export.
        tars: its shards.

    Raises:
        StoreError: the place does not answer, or takes no files.
    """
    folder = RemoteFolder(url)
    folder.remove(MANIFEST_FILE)
    shards = re.compile(rf"{re.escape(name)}-\w+-\d{{6}}\.(tar|index\.npz)")
    files = [file for tar in tars for file in (tar, index_path(tar).name)]
    for old in set(folder.names(f"{name}-*")) - {*files}:
        if shards.fullmatch(old):
            folder.remove(old)
    for number, tar in enumerate(tars, 1):
        for file in (tar, index_path(tar).name):
            folder.put(local / file, file)
        say(f"{folder.of(tar)}: written ({number} of {len(tars)})")
    for last in (CARD_FILE, MANIFEST_FILE):
        folder.put(local / last, last)
