"""Arrays of numpy that others have written: a header's claim is held against the bytes that are there, before memory is taken."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError
from typing import TYPE_CHECKING

from emo_lightning.core.errors import InputError, UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["read_npy", "read_npz"]

_MAX_NPZ = 256 << 20
"""Bytes of all arrays of one .npz, unpacked; ours hold the points of a plot."""


def read_npy(data: bytes, where: object, error: type[UserError] = InputError) -> NDArray[np.generic]:
    """The array of an .npy file, which must hold exactly what its header says; no pickled objects.

    Args:
        data: the file.
        where: names it, for the message.
        error: what is raised.

    Raises:
        UserError: of the type `error`.
    """
    import numpy as np
    from numpy.lib import format as npy

    stream = io.BytesIO(data)
    try:
        version = npy.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            msg = f"{where}: not an .npy array: version {version}; read are 1.0 and 2.0"
            raise error(msg)
        header = npy.read_array_header_1_0(stream) if version == (1, 0) else npy.read_array_header_2_0(stream)
    # The header is a Python literal, which may be nested deeper than Python parses.
    except (ValueError, TypeError, SyntaxError, EOFError, OverflowError, RecursionError, MemoryError, TokenError) as failure:
        msg = f"{where}: not an .npy array: {' '.join(str(failure).split())[:200]}"
        raise error(msg) from None
    shape, fortran, dtype = header
    held = len(data) - stream.tell()
    if dtype.hasobject or any(side < 0 for side in shape) or math.prod(shape) * dtype.itemsize != held:
        msg = f"{where}: not an .npy array: its header says {dtype} of shape {str(shape)[:80]}, {held:,} bytes follow"
        raise error(msg)
    return np.frombuffer(data, dtype, math.prod(shape), stream.tell()).reshape(shape, order="F" if fortran else "C").copy()


def read_npz(path: Path, error: type[UserError] = InputError) -> dict[str, NDArray[np.generic]]:
    """The arrays of an .npz file by name; see `read_npy`.

    Raises:
        UserError: of the type `error`: it is damaged, or unpacks to more than 256 MiB; names the file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(member.file_size for member in archive.infolist())
            if claimed > _MAX_NPZ:
                msg = f"{path}: unpacks to {claimed:,} bytes; at most {_MAX_NPZ:,} are read"
                raise error(msg)
            members = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error) as failure:
        if isinstance(failure, UserError):
            raise
        msg = f"{path}: not an .npz file: {failure}"
        raise error(msg) from None
    return {name.removesuffix(".npy"): read_npy(data, f"{path}:{name}", error) for name, data in members.items()}
