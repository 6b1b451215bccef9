"""Rows of a Parquet file that somebody else made, read by a process of its own whose memory is limited.

Parquet says much with little: a page of a few bytes may unpack to gigabytes, a row group may have more rows than there are bytes, and
pyarrow asks for memory before it looks. So a child reads, `python -m data_prep.sources.parquet_rows FILE`, and hands over rows of
plain values; a file that it cannot read within its limits is refused. A crash of the C++ reader ends the child alone.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

from data_prep.sources.base import SourceError

if TYPE_CHECKING:
    import pyarrow

_ROWS = 8
"""Rows of a batch; a row holds a whole photograph."""
_MEMORY = 400 * 2**20
"""Bytes that reading may take beside the program itself."""
_BYTES_A_ROW = 32
"""Of the file: no image is smaller."""
_ROWS_FREE = 1000
_MOST_TIMES = 8
_FREE = 64 * 2**20
"""A file may hold so many times its own size, and so much besides: encoded images do not become smaller."""
_FRAME = struct.Struct("<Q")

Row = dict[str, object]


def parquet_rows(file: Path, required: tuple[str, ...]) -> Iterator[Row]:
    """The rows of a file, in their order.

    Args:
        file: Parquet.
        required: columns that must be there.

    Yields:
        Values by column: None, bool, int, float, str, bytes, and lists and dicts of them.

    Raises:
        SourceError: it is not Parquet, a column is missing, or it claims more than it may cost.
    """
    # -P: nothing is imported from the folder that one stands in.
    command = [sys.executable, "-P", "-m", __name__, str(file), *required]
    here = str(Path(__file__).resolve().parents[2])
    # The pool of the C library gives up where the limit is; others reserve more address space than they use.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert child.stdout is not None
    try:
        while (frame := _receive(child.stdout)) is not None:
            if isinstance(frame, str):
                msg = f"{file}: {frame}"
                raise SourceError(msg)
            yield from frame
        if (status := child.wait()) != 0:
            msg = f"{file}: not Parquet that can be read: the reader ended with status {status}"
            raise SourceError(msg)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


class _Plain(pickle.Unpickler):
    """Values alone: nothing that names a class."""

    def find_class(self, module: str, name: str) -> NoReturn:
        msg = f"{module}.{name}: not a plain value"
        raise pickle.UnpicklingError(msg)


def _receive(pipe: IO[bytes]) -> list[Row] | str | None:
    """The next rows, or why there are none; None at the end."""
    head = pipe.read(_FRAME.size)
    if len(head) < _FRAME.size:
        return None
    found: list[Row] | str = _Plain(_Body(pipe, _FRAME.unpack(head)[0])).load()
    return found


class _Body:
    """One frame of a pipe, as a file."""

    def __init__(self, pipe: IO[bytes], size: int) -> None:
        self._pipe, self._left = pipe, size

    def read(self, size: int) -> bytes:
        data = self._pipe.read(min(size, self._left))
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._pipe.readline(self._left)
        self._left -= len(data)
        return data


# --- the child -------------------------------------------------------------------------------------------------------------------------


class _TooMuchError(Exception):
    """The file claims more than it may cost."""


def _send(value: object) -> None:
    data = pickle.dumps(value, protocol=4)
    sys.stdout.buffer.write(_FRAME.pack(len(data)) + data)
    sys.stdout.buffer.flush()


def _limit_memory() -> None:
    """From here on, private memory may grow by `_MEMORY`."""
    import resource

    with contextlib.suppress(OSError, ValueError, StopIteration):
        text = Path("/proc/self/status").read_text(encoding="utf-8")
        used = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmData"))
        resource.setrlimit(resource.RLIMIT_DATA, (used + _MEMORY, used + _MEMORY))


def _batches(path: str, required: list[str]) -> Iterator[pyarrow.RecordBatch]:
    import pyarrow.parquet

    size = Path(path).stat().st_size
    left = _MOST_TIMES * size + _FREE
    with pyarrow.parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as table:
        names = table.schema_arrow.names
        if missing := [name for name in required if name not in names]:
            msg = f"column {', '.join(missing)} is missing; found: {', '.join(names)[:300]}"
            raise _TooMuchError(msg)
        if (rows := table.metadata.num_rows) > size // _BYTES_A_ROW + _ROWS_FREE:
            msg = f"claims {rows:,} rows in {size:,} bytes"
            raise _TooMuchError(msg)
        for batch in table.iter_batches(batch_size=_ROWS, use_threads=False):
            left -= batch.nbytes
            if left < 0 or batch.nbytes > _FREE + _ROWS * size:
                msg = f"holds more than {_MOST_TIMES * size + _FREE:,} bytes, which its own size does not explain"
                raise _TooMuchError(msg)
            yield batch


def _plain(value: object) -> object:
    """Dates, decimals and the like as text."""
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, dict):
        return {str(key): _plain(child) for key, child in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str | bytes) else str(value)


def _main(path: str, required: list[str]) -> None:
    import pyarrow.parquet  # noqa: F401 - before the limit: the program itself is not what is limited

    _limit_memory()
    try:
        for batch in _batches(path, required):
            _send([_plain(row) for row in batch.to_pylist()])
    except _TooMuchError as error:
        _send(str(error))
    except MemoryError:
        _send("not Parquet that can be read: it needs more memory than its size explains")
    # pyarrow raises many kinds of errors on damaged files; a process that does nothing else has no errors of its own to hide.
    except Exception as error:
        _send(f"not Parquet: {error}"[:500])


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
