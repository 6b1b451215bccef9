"""Arrays in .npy and .npz files that others wrote: what a header claims is held against the bytes that are there."""

from __future__ import annotations

import io
import math
import tokenize
import warnings
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.foreign import read_capped

MAX_ARRAYS_BYTES = 256 << 20
"""Of all arrays of one .npz together, unpacked."""
_KINDS = "biufUS"
"""Truth values, whole numbers, floats and texts of fixed length; never objects, which are pickles."""
# numpy reads the header with Python's own parser, which has its own errors; zipfile and zlib have theirs.
_OF_NUMPY = (
    ValueError,
    EOFError,
    OSError,
    SyntaxError,
    tokenize.TokenError,
    TypeError,
    LookupError,
    RecursionError,
    MemoryError,
    OverflowError,
)
_LONGEST_HEAD = 20_000
"""Bytes; numpy refuses headers above 10,000."""
_OF_ZIP = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
)


def parse_npy(data: bytes, where: object, error: type[UserError] = InputError) -> NDArray[np.generic]:
    """The array of an .npy file, read-only.

    Args:
        data: the file's bytes.
        where: file or member, for the message.
        error: what is raised.

    Raises:
        UserError: of the type `error`: no .npy, an object array, or another length than its header says.
    """
    try:
        shape, fortran, dtype, start = _header(_head(data))
    except _OF_NUMPY as failure:
        msg = f"{where}: not an .npy array: {str(failure)[:200]}"
        raise error(msg) from None
    if dtype.kind not in _KINDS or dtype.itemsize == 0 or len(shape) > 8 or not all(0 <= side <= len(data) for side in shape):
        msg = f"{where}: not an .npy array of numbers, but of {str(dtype)[:60]} with {len(shape)} dimensions, in {len(data)} bytes"
        raise error(msg)
    size, there = math.prod(shape) * dtype.itemsize, len(data) - start
    if size != there:
        msg = (
            f"{where}: not an .npy array: shape {str(shape)[:80]} of {dtype} takes {str(size)[:30]} bytes, the file has {there}"
        )
        raise error(msg)
    flat = np.frombuffer(data, dtype, math.prod(shape), start)
    return flat.reshape(shape, order="F" if fortran else "C")


def _head(data: bytes) -> bytes:
    """Magic, length and text of a header, as far as numpy reads one."""
    short = data[6:7] == b"\x01"
    size = 10 + int.from_bytes(data[8:10], "little") if short else 12 + int.from_bytes(data[8:12], "little")
    return data[: min(size, _LONGEST_HEAD)]


# The indices of a hundred tars are two thousand arrays of a few shapes, and numpy has Python parse each header.
@lru_cache(maxsize=512)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[np.generic], int]:
    """Shape, whether its order is Fortran's, type, and where the values begin."""
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    # Versions 1 and 2; 3 differs for arrays with named fields alone.
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with warnings.catch_warnings():
        # Of headers that Python 2 wrote, which are read as well.
        warnings.simplefilter("ignore", UserWarning)
        shape, fortran, dtype = read(stream)
    return shape, fortran, dtype, stream.tell()


def read_npz(path: str | Path, error: type[UserError] = InputError) -> dict[str, NDArray[np.generic]]:
    """All arrays of an .npz file by name.

    Raises:
        MissingFileError: no such file.
        UserError: of the type `error`: no .npz, an array that `parse_npy` refuses, or more than `MAX_ARRAYS_BYTES` unpacked.
    """
    return parse_npz(read_capped(path, MAX_ARRAYS_BYTES, error), path, error)


def parse_npz(data: bytes, where: object, error: type[UserError] = InputError) -> dict[str, NDArray[np.generic]]:
    """As `read_npz`, of a file's bytes.

    Raises:
        UserError: see `read_npz`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            size = sum(member.file_size for member in members)
            # `read` gives no more than a member's header says.
            unpacked = {member.filename: archive.read(member) for member in members if size <= MAX_ARRAYS_BYTES}
    except _OF_ZIP as failure:
        msg = f"{where}: not an .npz file: {str(failure)[:200]}"
        raise error(msg) from None
    if size > MAX_ARRAYS_BYTES:
        msg = f"{where}: {size:,} bytes when it is unpacked; at most {MAX_ARRAYS_BYTES:,}"
        raise error(msg)
    return {name.removesuffix(".npy"): parse_npy(body, f"{where}: array {name!r}", error) for name, body in unpacked.items()}
