"""Parquet files that somebody else made, read by a process of its own whose memory and time are limited.

Parquet says much with little: a page of a few bytes may unpack to gigabytes, a row group may have more rows than there are bytes, and
pyarrow asks for memory before it looks. So a child reads, `python -m emo_lightning.core.parquet FILE`, and hands over batches in Arrow's
own format; a file that it cannot read within its limits is refused. A crash of the C++ reader ends the child alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.foreign import open_binary

if TYPE_CHECKING:
    import pyarrow

_MEMORY = 256 * 2**20
"""Bytes that reading may take beside the program itself, and `_MEMORY_TIMES` the file's own size."""
_MEMORY_TIMES = 3
_SECONDS = 8
"""Of processor, and one more for each `_BYTES_A_SECOND` of the file."""
_BYTES_A_SECOND = 8 * 2**20
_MOST_TIMES = 8
_FREE = 64 * 2**20
"""A file may hold so many times its own size, and so much besides: encoded images do not become smaller."""
_BYTES_A_ROW = 200
"""What a row counts for beside its values: as Python objects they take no less."""
_REFUSED = 3
"""Exit status of the child where it says why."""

MODEL_KEY = b"emo_weights"
"""Of a file's metadata: which model's embeddings it holds."""

ParquetRow = dict[str, object]


def parquet_rows(
    path: str | Path,
    error: type[UserError] = InputError,
    *,
    required: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    rows: int = 8,
) -> Iterator[ParquetRow]:
    """The rows of a file, in their order.

    Args:
        path: Parquet.
        error: what is raised.
        required: columns that must be there.
        columns: that are read; None is all.
        rows: that are in memory at a time; a row may hold a whole photograph.

    Yields:
        Values by column: None, bool, int, float, str, bytes, and lists and dicts of them.

    Raises:
        MissingFileError: no such file.
        UserError: of the type `error`: it is not Parquet, a column is missing, or it claims more than it may cost.
    """
    with _child(path, error, required, columns, rows) as stream:
        for batch in stream:
            for row in batch.to_pylist():
                yield {key: _plain(value) for key, value in row.items()}


def parquet_batches(
    path: str | Path,
    error: type[UserError] = InputError,
    *,
    required: Sequence[str] = (),
    columns: Sequence[str] | None = None,
    rows: int = 1024,
) -> Iterator[pyarrow.RecordBatch]:
    """The rows of a file as Arrow has them, some at a time; arguments and errors as `parquet_rows`. `MODEL_KEY` is kept of its metadata."""
    with _child(path, error, required, columns, rows) as stream:
        yield from stream


def parquet_table(
    path: str | Path, error: type[UserError] = InputError, *, required: Sequence[str] = (), columns: Sequence[str] | None = None
) -> pyarrow.Table:
    """The whole of a file; arguments and errors as `parquet_rows`."""
    with _child(path, error, required, columns, 4096) as stream:
        return stream.read_all()


@contextlib.contextmanager
def _child(
    path: str | Path, error: type[UserError], required: Sequence[str], columns: Sequence[str] | None, rows: int
) -> Iterator[pyarrow.RecordBatchReader]:
    """What the child sends; its complaint is raised at the end of it."""
    import pyarrow
    import pyarrow.ipc

    open_binary(path, error).close()
    # -P: nothing is imported from the folder that one stands in.
    command = [sys.executable, "-P", "-m", __name__, str(path), json.dumps([list(required), columns and list(columns), rows])]
    here = str(Path(__file__).resolve().parents[2])
    # The pool of the C library gives up where the limit is; others reserve more address space than they use.
    environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=said)
        assert child.stdout is not None
        try:
            try:
                yield pyarrow.ipc.open_stream(child.stdout)
            # The child has ended in the middle of what it had to say.
            except (pyarrow.ArrowException, OSError) as failure:
                if child.wait() == 0:
                    msg = f"{path}: not a parquet file: {failure}"
                    raise error(msg) from None
            if (status := child.wait()) != 0:
                said.seek(0)
                why = said.read(4000).decode(errors="replace").strip()
                if status in (-signal.SIGXCPU, -signal.SIGKILL):
                    why = "not a parquet file that can be read: it takes longer than its size explains"
                elif status != _REFUSED:
                    why = f"not a parquet file that can be read: the reader ended with status {status}"
                msg = f"{path}: {why}"
                raise error(msg)
        finally:
            child.kill()
            child.wait()
            child.stdout.close()


def _plain(value: object) -> object:
    """Dates, decimals and the like as text."""
    if isinstance(value, list | tuple):
        return [_plain(child) for child in value]
    if isinstance(value, dict):
        return {str(key): _plain(child) for key, child in value.items()}
    return value if value is None or isinstance(value, bool | int | float | str | bytes) else str(value)


# --- the child -------------------------------------------------------------------------------------------------------------------------


class _TooMuchError(Exception):
    """The file claims more than it may cost."""


def _limit(size: int) -> None:
    """From here on, private memory and processor time may grow by what a file of `size` bytes explains."""
    import resource

    with contextlib.suppress(OSError, ValueError, StopIteration):
        text = Path("/proc/self/status").read_text(encoding="utf-8")
        used = next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmData"))
        most = used + _MEMORY + _MEMORY_TIMES * size
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    with contextlib.suppress(OSError, ValueError):
        seconds = _SECONDS + size // _BYTES_A_SECOND
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _send(path: str, size: int, required: list[str], columns: list[str] | None, rows: int) -> None:
    import pyarrow.ipc
    import pyarrow.parquet

    most = left = _MOST_TIMES * size + _FREE
    with pyarrow.parquet.ParquetFile(path, buffer_size=2**20, pre_buffer=False) as table:
        names = table.schema_arrow.names
        if missing := [name for name in required if name not in names]:
            msg = f"column {', '.join(missing)} is missing; found: {', '.join(names)[:300]}"
            raise _TooMuchError(msg)
        wanted = names if columns is None else [name for name in names if name in columns]
        if len(set(wanted)) < len(wanted):
            msg = "two of its columns have one name"
            raise _TooMuchError(msg)
        if (claimed := table.metadata.num_rows) * _BYTES_A_ROW > most:
            msg = f"claims {claimed:,} rows in {size:,} bytes"
            raise _TooMuchError(msg)
        model = (table.schema_arrow.metadata or {}).get(MODEL_KEY)
        fields = [(name, _plain_type(table.schema_arrow.field(name).type)) for name in wanted]
        schema = pyarrow.schema(fields, metadata=None if model is None else {MODEL_KEY: model})
        with pyarrow.ipc.new_stream(sys.stdout.buffer, schema) as out:
            for batch in table.iter_batches(batch_size=rows, columns=wanted, use_threads=False):
                batch = pyarrow.RecordBatch.from_arrays(
                    [batch.column(field.name).cast(field.type) for field in schema], schema=schema
                )
                left -= batch.nbytes + _BYTES_A_ROW * batch.num_rows
                if left < 0:
                    msg = f"holds more than {most:,} bytes, which its own size does not explain"
                    raise _TooMuchError(msg)
                out.write_batch(batch)


def _plain_type(kind: pyarrow.DataType) -> pyarrow.DataType:
    """The type with every value written out: a dictionary or a view says a long text many times in a few bytes."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if types.is_list(kind) or types.is_fixed_size_list(kind):
        return pyarrow.list_(_plain_type(kind.value_type))
    if types.is_large_list(kind):
        return pyarrow.large_list(_plain_type(kind.value_type))
    if types.is_struct(kind):
        return pyarrow.struct([(field.name, _plain_type(field.type)) for field in kind])
    texts = (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary, types.is_fixed_size_binary)
    if not any(check(kind) for check in (*texts, types.is_primitive, types.is_null, types.is_decimal)):
        msg = f"holds values of type {kind}, which are not read"
        raise _TooMuchError(msg)
    return kind


def _main(path: str, wanted: str) -> int:
    import pyarrow.parquet  # noqa: F401 - before the limit: the program itself is not what is limited

    size = Path(path).stat().st_size
    _limit(size)
    try:
        _send(path, size, *json.loads(wanted))
    except _TooMuchError as error:
        why = str(error)
    except MemoryError:
        why = "not a parquet file that can be read: it needs more memory than its size explains"
    # pyarrow raises many kinds of errors on damaged files; a process that does nothing else has no errors of its own to hide.
    except Exception as error:
        why = f"not a parquet file: {error}"
    else:
        return 0
    sys.stderr.write(why[:500].encode("utf-8", "replace").decode())
    return _REFUSED


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2]))
