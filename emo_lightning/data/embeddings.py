"""DES tables: a parquet file with one embedding per image, and the same in memory as a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.files import replacing
from emo_lightning.core.parquet import parquet_table
from emo_lightning.core.records import Emotion
from emo_lightning.data.batches import EmbeddingBatch, Keys
from emo_lightning.data.loader import SlotDataset
from emo_lightning.data.sampler import Slot, places
from emo_lightning.data.supervision import Supervision, collate_supervision

_MOST_VALUES = 20_000_000
"""Of a small file; a larger one may hold two for each of its bytes."""
SCHEMA = pa.schema([("id", pa.string()), ("emotion", pa.string()), ("split", pa.string()), ("des", pa.list_(pa.float32()))])


@dataclass
class EmbeddingTable:
    """Columns of `des.parquet`.

    Args:
        id: record ids.
        emotion: category names, None where there is none.
        split: name of the split.
        des: (n, des_dim) float32.

    Raises:
        ValueError: the columns differ in length, or an emotion is unknown.
    """

    id: list[str]
    emotion: list[str | None]
    split: list[str]
    des: NDArray[np.float32]

    def __post_init__(self) -> None:
        self.des = np.asarray(self.des, dtype=np.float32)
        lengths = {"id": len(self.id), "emotion": len(self.emotion), "split": len(self.split), "des": len(self.des)}
        if self.des.ndim != 2 or len(set(lengths.values())) != 1:
            msg = f"columns have lengths {lengths} and des has shape {self.des.shape}; expected (n, des_dim) and equal n"
            raise ValueError(msg)
        for name in set(self.emotion) - {None}:
            Emotion.parse(str(name))

    def __len__(self) -> int:
        return len(self.id)

    @classmethod
    def concatenate(cls, tables: Sequence[EmbeddingTable]) -> EmbeddingTable:
        """Rows of all tables, in order."""
        return cls(
            [row for table in tables for row in table.id],
            [row for table in tables for row in table.emotion],
            [row for table in tables for row in table.split],
            np.concatenate([table.des for table in tables]),
        )

    def write(self, path: str | Path) -> None:
        """Write parquet to a temporary name, then rename."""
        flat = pa.array(np.ascontiguousarray(self.des).reshape(-1))
        offsets = pa.array(np.arange(len(self) + 1, dtype=np.int32) * self.des.shape[1])
        columns = [pa.array(column, pa.string()) for column in (self.id, self.emotion, self.split)]
        table = pa.Table.from_arrays([*columns, pa.ListArray.from_arrays(offsets, flat)], schema=SCHEMA)
        with replacing(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def read(cls, path: str | Path, error: type[UserError] = InputError) -> EmbeddingTable:
        """Read what `write` wrote, or any parquet with the same columns.

        Raises:
            MissingFileError: no such file.
            UserError: of the type `error`: not parquet, without rows, a column is missing or of another type, rows of `des` differ in
                length, or an emotion is unknown.
        """
        table = embedding_columns(path, error)
        if not table.num_rows:
            msg = f"{path}: holds no row"
            raise error(msg)
        widths = pc.unique(pc.list_value_length(table["des"])).to_pylist()
        if len(widths) != 1 or widths[0] is None:
            msg = f"{path}: column 'des' has rows of {widths} values; expected one length and no nulls"
            raise error(msg)
        flat = pc.list_flatten(table["des"]).cast(pa.float32()).combine_chunks()
        des = flat.to_numpy(zero_copy_only=False).reshape(table.num_rows, widths[0])
        try:
            return cls(table["id"].to_pylist(), table["emotion"].to_pylist(), table["split"].to_pylist(), des)
        except ValueError as failure:
            msg = f"{path}: {failure}"
            raise error(msg) from None


def embedding_columns(path: str | Path, error: type[UserError]) -> pa.Table:
    """The columns id, emotion, split and des of a parquet file, of the types that they have in ours.

    Raises:
        MissingFileError: no such file.
        UserError: of the type `error`: it cannot be read within the limits of `core.parquet`, or a column is missing or of another type.
    """
    table = parquet_table(path, error)
    if missing := [name for name in SCHEMA.names if name not in table.column_names]:
        msg = f"{path}: columns missing: {missing}; found {table.column_names}"
        raise error(msg)
    table = table.select(SCHEMA.names)
    kind = table.schema.field("des").type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        msg = f"{path}: column 'des' is of type {kind}; expected lists of floats"
        raise error(msg)
    # As numbers of four or eight bytes they take more than in the file.
    values, size = sum(len(chunk.flatten()) for chunk in table["des"].chunks), Path(path).stat().st_size
    if values > (most := max(_MOST_VALUES, 2 * size)):
        msg = f"{path}: holds {values:,} values; at most {most:,} are read from a file of {size:,} bytes"
        raise error(msg)
    for name in ("id", "emotion", "split"):
        found = table.schema.field(name).type
        if found not in (pa.null(), pa.string(), pa.large_string()):
            msg = f"{path}: column {name!r} is of type {found}; expected texts"
            raise error(msg)
    if table["id"].null_count:
        msg = f"{path}: column 'id' has rows without a value"
        raise error(msg)
    return table


class EmbeddingDataset(SlotDataset[Slot]):
    """Embeddings and labels in memory. A sample is its place alone: `collate` takes a batch of rows out of the tensors at once.

    Args:
        keys: n record ids.
        des: (n, des_dim), on the CPU.
        labels: n supervisions.
    """

    def __init__(self, keys: list[str], des: Tensor, labels: list[Supervision]) -> None:
        self.keys, self.des, self.labels = keys, des, labels
        self._columns = collate_supervision(keys, labels, [False] * len(keys))

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, slot: Slot) -> Slot:
        return slot

    def __getitems__(self, slots: Sequence[Slot]) -> Sequence[Slot]:
        """All places of a batch: PyTorch asks for them at once."""
        return slots

    def collate(self, slots: Sequence[Slot]) -> EmbeddingBatch:
        """The batch of B places."""
        places_of, counted = places(slots)
        rows, fillers = torch.from_numpy(places_of), torch.from_numpy(counted)
        return {
            "des": self.des[rows],
            "target": self._columns["target"][rows],
            "emotion": self._columns["emotion"][rows],
            "intensity": self._columns["intensity"][rows],
            "affect": self._columns["affect"][rows],
            "filler": fillers,
            "key": Keys(self.keys, places_of),
        }
