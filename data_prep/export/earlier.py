"""What an export may put something in the place of: an earlier one of its name, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress

from data_prep.export.card import DATASET_CARD_MARK
from emo_lightning.core.errors import InputError
from emo_lightning.core.file_names import CARD_FILE, MANIFEST_FILE
from emo_lightning.core.foreign import decode_json
from emo_lightning.core.shard_manifests import manifest_entries, unfinished_tars
from emo_lightning.core.tar_scan import ShardError


class ExportError(InputError):
    """The tars cannot be written as asked."""


def earlier_tars(
    name: str, manifest: bytes | None, card: bytes | None, there: Iterable[str], of: Callable[[str], object]
) -> frozenset[str]:
    """File names of the tars of the earlier export of this name, whole or broken off.

    Args:
        name: of the export to be.
        manifest: what lies there; None: there is none.
        card: as `manifest`.
        there: names of the files there.
        of: path or URL of such a file, for messages.

    Raises:
        ExportError: a manifest, a card or a tar is there that would be replaced, and is not of an export of this name.
    """
    if card is not None and DATASET_CARD_MARK not in card.decode(errors="replace"):
        msg = f"{of(CARD_FILE)}: not a dataset card of an export, and would be replaced; move it away or choose another folder"
        raise ExportError(msg)
    earlier = frozenset[str]() if manifest is None else _listed(name, manifest, of(MANIFEST_FILE))
    ours = re.compile(rf"{re.escape(name)}-[^\W\d]\w*-\d{{6}}\.tar")
    if strangers := sorted(one for one in there if ours.fullmatch(one) and one not in earlier):
        msg = (
            f"{of(strangers[0])}: could be replaced, and no {MANIFEST_FILE} says that it is of an earlier export named {name!r}; "
            "move it away, or choose another folder or name"
        )
        raise ExportError(msg)
    return earlier


def _listed(name: str, manifest: bytes, where: object) -> frozenset[str]:
    found: object = None
    with suppress(ExportError):
        found = decode_json(manifest, where, ExportError)
    there = found.get("name") if isinstance(found, dict) else None
    if isinstance(found, dict) and there == name:
        with suppress(ShardError):
            unfinished = unfinished_tars(found, where)
            return frozenset(manifest_entries(found, where)) if unfinished is None else unfinished
    if there is None or there == name:
        msg = f"{where}: not the manifest of an export, and would be replaced; move it away or choose another folder"
    else:
        msg = f"{where}: is of an export named {str(there)[:100]!r}, not {name!r}; choose that name or another folder"
    raise ExportError(msg)
