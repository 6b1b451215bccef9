"""Parts of a cache: safetensors files that are mapped and not read, written whole or not at all, with a checksum of all they hold.

Both caches are folders of such parts: the hidden states of a frozen backbone (`features.py`), and what leaves a frozen vision tower
(`vision_cache.py`). A part is small, so that a kill loses little, and says in its header what is in it.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from emo_lightning.core.errors import InputError
from emo_lightning.core.files import replacing
from emo_lightning.core.foreign import decode_json, integer_of, object_of
from emo_lightning.core.stores import ByteStore

PART_BYTES = 32 << 20
"""Size of a part, about: what a kill can lose."""
MAX_HEADER_BYTES = 16 << 20
"""Of a part that lies behind a URL."""
_PAGE_BYTES = 4096
_CRC = "crc32"
"""Key of the header: CRC-32 of each tensor's bytes by its name; and of the file's metadata: that of the header's text."""


class PartError(InputError):
    """A part of a cache is damaged, cannot be read, or is of another kind; the message names the file."""


class PartFile(Protocol):
    """A mapped safetensors file; the package's own class has no types."""

    def __enter__(self) -> Self:
        """As a context manager it closes itself."""
        ...

    def __exit__(self, kind: object, error: object, traceback: object, /) -> None:
        """See `__enter__`."""
        ...

    def metadata(self) -> dict[str, str] | None:
        """What stands in the header beside the tensors."""
        ...

    def keys(self) -> list[str]:
        """Names of the tensors."""
        ...

    def get_tensor(self, name: str) -> Tensor:
        """A whole tensor, mapped: nothing is read before it is used."""
        ...


def write_part(
    path: Path, kind: str, header: Mapping[str, object], tensors: Mapping[str, Tensor], *, writer: str | None = None
) -> None:
    """Write a part; its name is there only after its bytes are on disk.

    Args:
        path: of the part.
        kind: of the cache; the header stands under it.
        header: what is in the part, as JSON.
        tensors: by name, on the CPU and contiguous.
        writer: see `replacing`.
    """
    text = json.dumps({**header, _CRC: {name: checksum(tensor) for name, tensor in tensors.items()}})
    whole = memoryview(save(dict(tensors), metadata={kind: text, _CRC: _crc(text)}))
    largest = max(tensors, key=lambda name: tensors[name].nbytes)
    with replacing(path, writer=writer, fsync=True) as temporary, open(temporary, "wb") as file:
        file.writelines(_with_tensor_on_page(whole, largest))
        # `replacing` asks for what the file has, not for what waits here.
        file.flush()


def _with_tensor_on_page(whole: memoryview, name: str) -> tuple[bytes, memoryview]:
    """The bytes of a safetensors file, its header padded with blanks (as the format allows) so that a tensor begins where a page does.

    A vector of 4 KiB that lies across two pages takes about a fifth longer to read at random.
    """
    ends = 8 + int.from_bytes(whole[:8], "little")
    header = bytes(whole[8:ends])
    blanks = -(ends + json.loads(header)[name]["data_offsets"][0]) % _PAGE_BYTES
    return (len(header) + blanks).to_bytes(8, "little") + header + b" " * blanks, whole[ends:]


def checksum(tensor: Tensor) -> int:
    """CRC-32 of the bytes of a contiguous tensor."""
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data)


def open_part(path: Path, error: type[PartError] = PartError) -> PartFile:
    """Map a part.

    Raises:
        PartError: of the type `error`: it is damaged or cannot be read.
    """
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as failure:
        msg = f"{path}: damaged or unreadable part of a cache: {failure}"
        raise error(msg) from None


def header_text(path: Path, file: PartFile, kind: str, error: type[PartError] = PartError) -> str:
    """The text of a part's header, as it was written; parts that version 0.2 wrote have no checksum of it.

    Raises:
        PartError: of the type `error`: there is none, or it has changed.
    """
    metadata = file.metadata() or {}
    text = _text(path, metadata, kind, error)
    if metadata.get(_CRC) is None and f'"{_CRC}"' not in text:
        return text
    return summed_text(path, metadata, kind, error)


def summed_text(where: object, metadata: Mapping[str, object], kind: str, error: type[PartError] = PartError) -> str:
    """The text of a header that has a checksum, out of its file's metadata.

    Args:
        where: the part, for messages.
        metadata: of the safetensors file.
        kind: of the cache.
        error: what is raised.

    Raises:
        PartError: of the type `error`: there is none, it has no checksum, or it has changed.
    """
    text = _text(where, metadata, kind, error)
    if metadata.get(_CRC) != _crc(text):
        msg = f"{where}: damaged: the checksum of its header is another one than when it was written"
        raise error(msg)
    return text


def _text(where: object, metadata: Mapping[str, object], kind: str, error: type[PartError]) -> str:
    text = metadata.get(kind)
    if not isinstance(text, str):
        msg = f"{where}: its header has no key {kind!r}: no part of a cache of this kind"
        raise error(msg)
    return text


def far_metadata(url: str, store: ByteStore) -> dict[str, object]:
    """The metadata of a safetensors file, of which nothing else is read.

    Args:
        url: for messages.
        store: the file.

    Raises:
        PartError: it is none.
    """
    length = int.from_bytes(store.read(0, 8), "little")
    if not 2 <= length <= min(MAX_HEADER_BYTES, store.size - 8):
        msg = f"{url}: damaged: its header has {length:,} bytes, the whole {store.size:,}"
        raise PartError(msg)
    header = object_of(decode_json(store.read(8, length), url, PartError), url, PartError)
    return object_of(header.get("__metadata__", {}), url, PartError)


def _crc(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def named_tensor(path: Path, file: PartFile, name: str, error: type[PartError] = PartError) -> Tensor:
    """A tensor of a part, mapped; nothing of it is read.

    Raises:
        PartError: of the type `error`: there is no such tensor.
    """
    try:
        return file.get_tensor(name)
    except SafetensorError as failure:
        msg = f"{path}: damaged: {failure}"
        raise error(msg) from None


def checked_tensor(path: Path, file: PartFile, kind: str, name: str, error: type[PartError] = PartError) -> Tensor:
    """A tensor of a part, mapped, after all of it has been read once and compared with its checksum.

    Parts that version 0.2 wrote have none, and are taken as they are.

    Raises:
        PartError: of the type `error`: a byte is another one than was written.
    """
    tensor = named_tensor(path, file, name, error)
    checksums = _checksums(path, file, kind, error)
    if checksums is not None and checksums.get(name) != checksum(tensor):
        msg = (
            f"{path}: damaged: the checksum of {name!r} is another one than when it was written; delete this file and run again"
        )
        raise error(msg)
    return tensor


def _checksums(path: Path, file: PartFile, kind: str, error: type[PartError]) -> dict[str, int] | None:
    where = f"{path}: header"
    header = object_of(decode_json(header_text(path, file, kind, error), where, error), where, error)
    if _CRC not in header:
        return None
    return {name: integer_of(value, where, error) for name, value in object_of(header[_CRC], where, error).items()}
