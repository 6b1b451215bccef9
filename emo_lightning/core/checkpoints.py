"""Checkpoints of a training, read as plain tensors, numbers, texts and lists: whatever else stands in the file, no code of it is run.

A run folder may come from anybody, and a checkpoint is a pickle. Ours need no more than what `torch.load(weights_only=True)` allows by
itself, so nothing is added to its list. torch is imported when a file is read.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["MAX_PICKLE_BYTES", "START_ANEW_ADVICE", "CheckpointFileError", "check_content", "pickle_of", "read_checkpoint"]

_KEYS = {"state_dict": dict, "epoch": int, "global_step": int, "loops": dict, "optimizer_states": list, "lr_schedulers": list}
"""What Lightning reads of a checkpoint, and of which type it has to be."""


MAX_PICKLE_BYTES = 5_000_000
"""Bytes of what a checkpoint holds beside its tensors: of ten thousand of them it is 2 MB. Each may become a hundred in memory."""


START_ANEW_ADVICE = "remove it to start this stage from its beginning"
"""Ends every message about a file that cannot be gone on from."""


class CheckpointFileError(InputError):
    """A checkpoint cannot be gone on from; the message names the file, and what to do."""


def read_checkpoint(path: str | Path) -> dict[str, object]:
    """A checkpoint of Lightning, on the CPU; its tensors are mapped from the file and not copied.

    Raises:
        CheckpointFileError: no such file, cut off, of another form, or with something in it that would run code.
    """
    import torch

    path = Path(path)
    mend = START_ANEW_ADVICE
    if not path.is_file():
        msg = f"{path}: no such file" if not path.exists() else f"{path}: a folder; expected a file; {mend}"
        raise CheckpointFileError(msg)
    _check_archive(path, mend)
    try:
        found: object = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except pickle.UnpicklingError as error:
        # Not torch's advice, which is to run the code.
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({named[1]})" if named else ""
        msg = f"{path}: holds more than tensors, numbers and texts{what}, and is not read, as it could run code; {mend}"
        raise CheckpointFileError(msg) from None
    except (RuntimeError, EOFError, KeyError, ValueError, TypeError, AttributeError, IndexError, struct.error) as error:
        # All that torch raises of a file that is damaged or made up; memory that is full is none of them.
        msg = f"{path}: damaged: {' '.join(str(error).split())[:200]}; {mend}"
        raise CheckpointFileError(msg) from None
    if not isinstance(found, dict) or not all(isinstance(found.get(key), kind) for key, kind in _KEYS.items()):
        msg = f"{path}: no checkpoint of a training: expected {', '.join(_KEYS)}; {mend}"
        raise CheckpointFileError(msg)
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(found, torch.Tensor))
    if claimed > 2 * path.stat().st_size:
        msg = f"{path}: its tensors claim {claimed:,} bytes, the file has {path.stat().st_size:,}; {mend}"
        raise CheckpointFileError(msg)
    return found


def check_content(path: Path) -> None:
    """Hold every byte of a checkpoint against the checksums that torch has written into it; reads the whole file.

    Raises:
        CheckpointFileError: a bit has changed since.
    """
    if not path.is_file():
        msg = f"{path}: no such file"
        raise CheckpointFileError(msg)
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        msg = f"{path}: damaged: {error}; {START_ANEW_ADVICE}"
        raise CheckpointFileError(msg) from None
    if wrong is not None:
        msg = f"{path}: damaged: {wrong} has changed since it was written (its checksum is another); {START_ANEW_ADVICE}"
        raise CheckpointFileError(msg)


def pickle_of(path: Path) -> bytes | None:
    """What a checkpoint holds beside its tensors, as it was written; None of a file that is no archive, as its end is missing.

    Raises:
        CheckpointFileError: it has changed since it was written.
    """
    if not zipfile.is_zipfile(path):
        return None
    _check_archive(path, START_ANEW_ADVICE)
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(member) for member in archive.infolist() if _is_pickle(member))


def _is_pickle(member: zipfile.ZipInfo) -> bool:
    return member.filename.endswith("data.pkl")


def _check_archive(path: Path, mend: str) -> None:
    """Refuse what torch would unpack to more than the file holds; torch itself writes without compression."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        msg = f"{path}: cut off, or no checkpoint of torch: {error}; {mend}"
        raise CheckpointFileError(msg) from None
    if large := next((member for member in members if _is_pickle(member) and member.file_size > MAX_PICKLE_BYTES), None):
        msg = f"{path}: {large.filename} has {large.file_size:,} bytes; at most {MAX_PICKLE_BYTES:,} are read; {mend}"
        raise CheckpointFileError(msg)
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(member.file_size for member in members) > path.stat().st_size:
        msg = f"{path}: packed; a checkpoint of torch is not; {mend}"
        raise CheckpointFileError(msg)
    try:
        with zipfile.ZipFile(path) as archive:
            # torch holds nothing against the checksums; of tensors, see `check_content`.
            for member in filter(_is_pickle, members):
                archive.read(member)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        msg = f"{path}: damaged: {error}; {mend}"
        raise CheckpointFileError(msg) from None


def _tensors(value: object, kind: type[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Every tensor in a tree of dicts, lists and tuples, each container once."""
    seen: set[int] = set()
    left = [value]
    while left:
        at = left.pop()
        if isinstance(at, kind):
            yield at
        elif isinstance(at, Mapping | list | tuple) and id(at) not in seen:
            seen.add(id(at))
            left += at.values() if isinstance(at, Mapping) else at
