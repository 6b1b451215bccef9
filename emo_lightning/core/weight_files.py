"""Files of weights, looked at before any library opens them: whole, of the size that they claim, and no pointer to another file.

Without torch. What is read here is a header of a few kilobytes; no weight is.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.files import read_object
from emo_lightning.core.foreign import decode_json, integer_of, list_of, object_of, refuse_pointer, text_of

__all__ = ["MAX_CONFIG_BYTES", "TensorHeader", "check_weight_file", "check_weight_files", "tensor_headers", "weight_files"]

MAX_CONFIG_BYTES = 1 << 20
"""Of a `config.json` or `adapter_config.json`; the longest that are published have some 20 kB."""

_BEGINNING = 64
_MAX_HEADER = 32 << 20
"""Of a safetensors file; 100,000 tensors take about 12 MB."""
_BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "U8": 8, "I8": 8} | {
    f"{kind}{bits}": bits for kind in "FUI" for bits in (16, 32, 64)
}
_BITS |= {"BF16": 16, "C64": 64}
_INDEX = ".index.json"
"""Ends the name of the file that says in which shard each tensor is."""
_LOOKED_AT = {".safetensors", ".bin", ".pt", ".pth", ".json", ".model", ".txt", ".jinja"}
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


@dataclass(frozen=True)
class TensorHeader:
    """What a safetensors file says of one tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numbers(self) -> int:
        """How many it holds."""
        return math.prod(self.shape)


def tensor_headers(path: str | Path, error: type[UserError] = InputError) -> dict[str, TensorHeader]:
    """The tensors of a safetensors file by name, from its header alone, which must account for every byte of the file.

    Raises:
        UserError: of the type `error`: it cannot be read, is a Git LFS pointer, is cut off or damaged; names the file.
    """
    path = Path(path)
    check_beginning(path, error)
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            msg = f"{path}: cut off, or no safetensors file: it has {size:,} bytes, its header alone claims {length + 8:,}"
            raise error(msg)
        if length > _MAX_HEADER:
            msg = f"{path}: a header of {length:,} bytes; at most {_MAX_HEADER:,} are read"
            raise error(msg)
        text = file.read(length)
    found = object_of(decode_json(text, f"{path}: damaged header", error, max_bytes=_MAX_HEADER), f"{path}: header", error)
    headers, end = {}, 0
    for name, entry in found.items():
        if name != "__metadata__":
            headers[name], last = _tensor(entry, f"{path}: tensor {name[:80]!r}", error)
            end = max(end, last)
    if end != size - 8 - length:
        what = "cut off (or a download that did not end)" if end > size - 8 - length else "longer than its header says"
        msg = f"{path}: {what}: {size:,} bytes, its header speaks of {end + 8 + length:,}"
        raise error(msg)
    return headers


def _tensor(entry: object, where: str, error: type[UserError]) -> tuple[TensorHeader, int]:
    """What is said of one tensor, and where it ends."""
    said = object_of(entry, where, error)
    dtype = text_of(said.get("dtype"), where, error)
    shape = tuple(integer_of(side, where, error, low=0) for side in list_of(said.get("shape"), where, error))
    offsets = [integer_of(place, where, error, low=0) for place in list_of(said.get("data_offsets"), where, error)]
    bits = _BITS.get(dtype)
    if len(offsets) != 2 or (bits is not None and (offsets[1] - offsets[0]) * 8 != math.prod(shape) * bits):
        msg = f"{where}: {dtype} of shape {list(shape)} does not take bytes {offsets}"
        raise error(msg)
    return TensorHeader(dtype, shape), offsets[1]


def check_beginning(path: Path, error: type[UserError] = InputError) -> None:
    """Refuse what stands in a file's place where a copy or a download went wrong.

    Raises:
        UserError: of the type `error`: it cannot be read, is empty, or is a Git LFS pointer.
    """
    try:
        with open(path, "rb") as file:
            beginning = file.read(_BEGINNING)
    except OSError as failure:
        msg = f"{path}: cannot be read: {failure.strerror or failure}"
        raise error(msg) from None
    refuse_pointer(beginning, path, error)
    if not beginning:
        msg = f"{path}: empty; copy or download it again"
        raise error(msg)


def check_weight_file(path: Path, error: type[UserError] = InputError) -> None:
    """Refuse one file of weights that is no whole file.

    Raises:
        UserError: of the type `error`; names the file.
    """
    check_beginning(path, error)
    if path.suffix == ".safetensors":
        tensor_headers(path, error)
        return
    with open(path, "rb") as file:
        zipped = file.read(2) == b"PK"
    # A zip archive's table of contents stands at its end. (Older files of torch are no archive; torch itself sees that they are cut.)
    if zipped and not zipfile.is_zipfile(path):
        msg = f"{path}: cut off (or a download that did not end)"
        raise error(msg)


def check_weight_files(folder: Path, error: type[UserError] = InputError) -> None:
    """Refuse a model or adapter folder with a file that is empty, cut off, a Git LFS pointer, or missing though an index names it.

    Raises:
        UserError: of the type `error`; names the file.
    """
    files = {file.name: file for file in sorted(folder.iterdir()) if file.suffix in _LOOKED_AT and not file.is_dir()}
    for file in files.values():
        if file.suffix in _WEIGHTS:
            check_weight_file(file, error)
        else:
            check_beginning(file, error)
    for index in (file for name, file in files.items() if name.endswith(_INDEX)):
        for shard in sorted(set(_shards(index, error).values())):
            if shard not in files:
                msg = f"{folder / shard}: missing, though {index.name} names it: a download that did not end, or a copy that left it out"
                raise error(msg)


def weight_files(folder: Path) -> list[Path]:
    """The files of weights in a model folder."""
    return [*folder.glob("*.safetensors"), *folder.glob("*.bin")]


def _shards(index: Path, error: type[UserError]) -> Mapping[str, str]:
    """Tensor -> name of the file beside the index that holds it."""
    found = read_object(index, error=error, max_bytes=_MAX_HEADER)
    where = f"{index}: 'weight_map'"
    shards = {name: text_of(file, where, error) for name, file in object_of(found.get("weight_map"), where, error).items()}
    if away := next((file for file in shards.values() if Path(file).name != file), None):
        msg = f"{where}: {away[:80]!r} is no file of this folder"
        raise error(msg)
    return shards
