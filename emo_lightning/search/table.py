"""The one module that knows LanceDB: the tables of an index, on disk or on S3, opened, asked and written."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.errors import InputError, MissingFileError, UserError
from emo_lightning.core.stores import is_remote, local_path, scheme_of
from emo_lightning.search.schema import HIT_COLUMNS, IMAGES_TABLE

if TYPE_CHECKING:
    import pyarrow as pa
    from lancedb import DBConnection
    from lancedb.query import LanceVectorQueryBuilder
    from lancedb.table import Table

IndexRow = dict[str, object]

MISSING_INDEX_EXTRA = "an index needs the extra `index`: pip install 'emo-lightning[index]'"


_WIDER = 8
"""Times as many partitions are looked into where a condition leaves few images in each."""
_FAULTS = (RuntimeError, OSError)
"""What LanceDB's Rust library raises for everything but arguments that it does not take."""
_AT_FIRST = (*_FAULTS, ValueError)
"""And where it is connected to a place: that also counts as an argument."""
_NOISE = re.compile(r",? (location: Location|RetryErrorImpl|backtrace: ).*", re.DOTALL)


@contextmanager
def index_errors(place: object, done: str = "read", faults: tuple[type[Exception], ...] = _FAULTS) -> Iterator[None]:
    """What LanceDB says of files that are damaged, forbidden or out of reach, as one line.

    Args:
        place: folder or URL of the index.
        done: what is done with it, for the message.
        faults: what it raises then.

    Raises:
        InputError: it says so.
    """
    try:
        yield
    except faults as error:
        if isinstance(error, UserError):
            raise
        msg = f"{place}: the index cannot be {done}: {' '.join(_NOISE.sub('', str(error)).split())[:400]}"
        raise InputError(msg) from error


def require_lancedb() -> None:
    """Before the minutes that a model takes.

    Raises:
        UserError: LanceDB is not installed.
    """
    # Its Rust library writes a line for every table that it makes.
    os.environ.setdefault("LANCEDB_LOG", "error")
    try:
        import lancedb  # noqa: F401 - whether it can be
    except ImportError:
        raise UserError(MISSING_INDEX_EXTRA) from None


def _storage_options(place: str) -> dict[str, str] | None:
    """What its object store does not take from the environment by itself."""
    if scheme_of(place) not in ("s3", "s3a"):
        return None
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    found = {"aws_endpoint": endpoint, "aws_region": region}
    plain = {"allow_http": "true"} if endpoint and endpoint.startswith("http://") else {}
    return {key: value for key, value in found.items() if value} | plain


class Tables:
    """The tables of an index.

    Args:
        place: folder, or URL of one (`s3://bucket/index`), which need not be there. S3 is reached as the AWS tools reach it:
            `AWS_ACCESS_KEY_ID` and the like, and `AWS_ENDPOINT_URL` where it is not Amazon's.

    Raises:
        UserError: LanceDB is not installed.
        InputError: the place is empty.
    """

    def __init__(self, place: str | Path) -> None:
        require_lancedb()
        self.place = str(local_path(place).expanduser()) if not is_remote(place) else str(place).rstrip("/")

    @cached_property
    def database(self) -> DBConnection:
        """Connected; a local folder is made.

        Raises:
            InputError: the place cannot be reached.
        """
        import lancedb

        with index_errors(self.place, faults=_AT_FIRST):
            return lancedb.connect(self.place, storage_options=_storage_options(self.place))

    def names(self) -> set[str]:
        """Which tables there are.

        Raises:
            InputError: the place cannot be read.
        """
        if not is_remote(self.place):
            # LanceDB makes the folder that it is asked for.
            return {path.name.removesuffix(".lance") for path in Path(self.place).glob("*.lance") if path.is_dir()}
        with index_errors(self.place, faults=_AT_FIRST):
            return set(self.database.table_names(limit=100))

    def open(self, name: str) -> Table:
        """One of them.

        Raises:
            MissingFileError: it is not there.
            InputError: it cannot be read.
        """
        if name not in self.names():
            msg = f"{self.place}: no index there; emo index build makes one"
            raise MissingFileError(msg)
        with index_errors(self.place, faults=_AT_FIRST):
            return self.database.open_table(name)

    def rows(self, name: str) -> list[IndexRow]:
        """All rows of a small one; none where it is not there."""
        if name not in self.names():
            return []
        with index_errors(self.place):
            found: list[IndexRow] = self.open(name).to_arrow().to_pylist()
        return found

    def write(self, name: str, rows: pa.Table) -> None:
        """Put a small table in the place of the one that is there, in one step."""
        with index_errors(self.place, "written"):
            self.database.create_table(name, rows, mode="overwrite" if name in self.names() else "create")


class ImageTable:
    """The table of images, asked.

    Args:
        place: for messages.
        table: opened.
    """

    def __init__(self, place: str, table: Table) -> None:
        self.place = place
        self._table = table

    @classmethod
    def open(cls, tables: Tables) -> ImageTable:
        """That of an index; errors as `Tables.open`."""
        return cls(tables.place, tables.open(IMAGES_TABLE))

    @property
    def schema(self) -> pa.Schema:
        """Columns and metadata."""
        return self._table.schema

    def count(self, where: str | None = None) -> int:
        """How many images fulfil a condition."""
        with index_errors(self.place):
            return self._table.count_rows(where)

    def nearest(
        self,
        vector: NDArray[np.float32],
        k: int,
        where: str | None = None,
        columns: Sequence[str] = HIT_COLUMNS,
        *,
        probes: int | None = None,
        refine: int = 1,
    ) -> list[IndexRow]:
        """The k nearest by cosine, nearest first, equal ones by id.

        Args:
            vector: (des_dim,).
            k: how many.
            where: SQL that they fulfil.
            columns: of the answer, to which `_distance` (1 − cosine, of the stored embedding) is added.
            probes: partitions of the approximate index to look into. Under a condition the nearest lie further away: `_WIDER` times as
                many, and all of them where those have fewer than k. None compares all images.
            refine: times k, how many are compared by their stored embeddings.
        """
        with index_errors(self.place):
            search = self._table.search(vector, vector_column_name="des", query_type="vector")
            query = cast("LanceVectorQueryBuilder", search).distance_type("cosine").limit(k).select([*columns, "_distance"])
            if probes is None:
                query = query.bypass_vector_index()
            else:
                query = query.nprobes(probes if where is None else _WIDER * probes).refine_factor(refine)
            if where is not None:
                query = query.where(where, prefilter=True)
            found: list[IndexRow] = query.to_arrow().to_pylist()
            if probes is not None and where is not None and len(found) < k:
                # Ranking all partitions costs more than looking into a few.
                found = query.maximum_nprobes(0).to_arrow().to_pylist()
        return sorted(found, key=lambda row: (row["_distance"], row["id"]))

    def matching(
        self, text: str, field: str, most: int, where: str | None = None, columns: Sequence[str] = ("id",)
    ) -> list[IndexRow]:
        """Images whose words match a text best (BM25 over stems), best first, with `_score`."""
        with index_errors(self.place):
            query = self._table.search(text, query_type="fts", fts_columns=field).limit(most).select([*columns, "_score"])
            if where is not None:
                query = query.where(where, prefilter=True)
            found: list[IndexRow] = query.to_arrow().to_pylist()
        return sorted(found, key=lambda row: (-float(str(row["_score"])), str(row["id"]) if "id" in row else ""))

    def where(self, condition: str | None, most: int | None = None, columns: Sequence[str] = HIT_COLUMNS) -> list[IndexRow]:
        """Images that fulfil a condition, in any order."""
        with index_errors(self.place):
            query = self._table.search().select(list(columns)).limit(most)
            if condition is not None:
                query = query.where(condition)
            found: list[IndexRow] = query.to_arrow().to_pylist()
        return found

    def batches(self, columns: Sequence[str], rows: int = 4096) -> Iterator[pa.RecordBatch]:
        """Some columns of all images, a stretch at a time."""
        with index_errors(self.place):
            yield from self._table.search().select(list(columns)).limit(None).to_batches(rows)


def vectors_of(column: pa.Array) -> NDArray[np.float32]:
    """(N, D) of a column of lists of one size."""
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, np.float32).reshape(len(column), -1)
