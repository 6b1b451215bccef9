"""Rows written into an index: whole batches, so that a kill costs one of them, and what is there is not asked for again."""

from __future__ import annotations

import fcntl
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.records import TRIPLET_PARTS
from emo_lightning.core.stores import is_remote
from emo_lightning.search.rows import NewRow, as_table, fault_of
from emo_lightning.search.schema import CENTROIDS_TABLE, IMAGES_TABLE, LEFT_OUT_TABLE, TUNING_TABLE, Identity, images_schema
from emo_lightning.search.table import ImageTable, Tables, index_errors, vectors_of
from emo_lightning.search.tuning import make_approximate
from emo_lightning.search.wishes import CentroidSums

if TYPE_CHECKING:
    from lancedb.table import Table

IMAGES_PER_BATCH = 256
"""Images of a batch: what a kill may cost."""
_LOCK = "build.lock"
_SCALARS = ("emotion", "intensity_level", "split")
"""Fields with few values that are filtered by most."""


@dataclass(frozen=True)
class Written:
    """What a build has done."""

    images: int
    """In the index now."""
    new: int
    """Written by this command."""
    changed: int
    """Of these, in the place of a row of the same id whose image was another one."""
    left_out: dict[str, str]
    """id -> why it is not there."""
    recall: float | None
    """recall@10 of the approximate index against exact search, measured on its own images; None where all images are compared."""


class IndexWriter:
    """An index that is written.

    Args:
        place: folder or URL; made with the first rows.
        weights: of the model whose embeddings they are; None where nobody knows.
        model: what that model is called.
        rows: of a batch.

    Raises:
        InputError: the index that is there is of another model.
        UserError: LanceDB is not installed.
    """

    def __init__(self, place: str | Path, weights: str | None, model: str | None, rows: int = IMAGES_PER_BATCH) -> None:
        self.tables = Tables(place)
        self.left_out: dict[str, str] = {}
        self.weights, self._model, self._rows = weights, model, rows
        self._table: Table | None = None
        self._identity: Identity | None = None
        self._known: dict[str, str] = {}
        self._waiting: list[NewRow] = []
        self._new = self._changed = 0
        self._begun_here = IMAGES_TABLE not in self.tables.names()
        if not self._begun_here:
            self._go_on(self.tables.open(IMAGES_TABLE))

    def _go_on(self, table: Table) -> None:
        where = self.tables.place
        identity = Identity.of_metadata(table.schema.metadata, where)
        if identity.weights != self.weights:
            there, here = (weights[:12] if weights else "not named" for weights in (identity.weights, self.weights))
            msg = (
                f"{where}: holds embeddings of {identity.model or 'a model'} (weights {there}), not of {self._model or 'this one'} ({here}); "
                "choose another --out, or remove it"
            )
            raise InputError(msg)
        self._table, self._identity = table, identity
        for batch in ImageTable(where, table).batches(("id", "stamp")):
            self._known |= dict(zip(batch.column("id").to_pylist(), batch.column("stamp").to_pylist(), strict=True))

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While one builds, another command on this machine is refused; on S3 nobody can tell.

        Raises:
            InputError: another one is building.
        """
        if is_remote(self.tables.place):
            yield
            return
        folder = Path(self.tables.place)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / _LOCK, "a", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                msg = f"{folder}: another command is building this index; wait for it"
                raise InputError(msg) from None
            yield

    def __len__(self) -> int:
        return len(self._known)

    def has(self, name: str, stamp: str) -> bool:
        """See `inference.many.KeptResults`."""
        return self._known.get(name) == stamp

    def add(self, results: Sequence[NewRow]) -> None:
        """Keep rows; those whose embedding cannot be searched for are left out. Every `rows` of them are written."""
        for row in results:
            if self._identity is None:
                if row.des.ndim != 1 or not row.des.size:
                    self.left_out[row.id] = f"{row.id}: its embedding has shape {list(row.des.shape)}"
                    continue
                self._identity = Identity(len(row.des), self.weights, self._model)
            if (fault := fault_of(row.des, self._identity.des_dim)) is not None:
                self.left_out[row.id] = f"{row.id}: {fault}"
            else:
                self._waiting.append(row)
        if len(self._waiting) >= self._rows:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting, in one step."""
        if not self._waiting:
            return
        assert self._identity is not None
        rows, self._waiting = self._waiting, []
        with index_errors(self.tables.place, "written"):
            if self._table is None:
                self._table = self.tables.database.create_table(IMAGES_TABLE, schema=images_schema(self._identity))
            found = as_table(rows, self._identity)
            if any(row.id in self._known for row in rows):
                merge = self._table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(found)
            else:
                self._table.add(found)
        self._changed += sum(row.id in self._known for row in rows)
        self._new += len(rows)
        self._known |= {row.id: row.stamp for row in rows}

    def remove_empty(self) -> None:
        """Nothing is there before the first rows are."""

    def finish(self) -> Written:
        """Once all rows are there: what makes searching fast, the means of the emotions, and what was left out.

        Raises:
            MissingFileError: there is no row.
        """
        self.flush()
        if self._table is None:
            msg = f"{self.tables.place}: no image could be taken in, so there is no index"
            raise MissingFileError(msg)
        done = {row["images"] for row in self.tables.rows(TUNING_TABLE)}
        if self._new or done != {len(self)}:
            self._arrange(self._table)
        self._write_left_out()
        recall = next((row["recall"] for row in self.tables.rows(TUNING_TABLE)), None)
        return Written(len(self), self._new, self._changed, self.left_out, recall if isinstance(recall, float) else None)

    def _arrange(self, table: Table) -> None:
        import pyarrow as pa
        from lancedb.index import FTS, Bitmap, BTree

        place = self.tables.place
        with index_errors(place, "written"), warnings.catch_warnings():
            # Nobody can have opened a version of an index that this command has begun: LanceDB warns of those who have.
            warnings.simplefilter("ignore", UserWarning)
            table.optimize(cleanup_older_than=timedelta(0) if self._begun_here else None)
            table.create_index("id", config=BTree(), replace=True)
            for name in _SCALARS:
                table.create_index(name, config=Bitmap(), replace=True)
            for name in TRIPLET_PARTS:
                table.create_index(name, config=FTS(), replace=True)
        images = ImageTable(place, table)
        centroids = CentroidSums()
        for batch in images.batches(("emotion", "intensity_level", "des")):
            centroids.add(batch["emotion"].to_pylist(), batch["intensity_level"].to_pylist(), vectors_of(batch["des"]))
        rows = [
            {"emotion": str(one.emotion), "level": one.level, "count": one.count, "mean": one.mean.tolist()}
            for one in centroids.centroids()
        ]
        kinds = {"emotion": pa.string(), "level": pa.string(), "count": pa.int64(), "mean": pa.list_(pa.float64())}
        self.tables.write(CENTROIDS_TABLE, pa.Table.from_pylist(rows, schema=pa.schema(list(kinds.items()))))
        tuned = make_approximate(images, table, len(self))
        # Last: it says that the rest is there.
        kinds = {"images": pa.int64(), "probes": pa.int64(), "refine": pa.int64(), "recall": pa.float64()}
        self.tables.write(TUNING_TABLE, pa.Table.from_pylist([tuned], schema=pa.schema(list(kinds.items()))))

    def _write_left_out(self) -> None:
        import pyarrow as pa

        rows = [{"id": _whole(name), "reason": _whole(reason)} for name, reason in self.left_out.items()]
        self.tables.write(
            LEFT_OUT_TABLE, pa.Table.from_pylist(rows, schema=pa.schema([("id", pa.string()), ("reason", pa.string())]))
        )


def _whole(text: str) -> str:
    """A text that a table can hold: a name that is not UTF-8 is written with escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
