"""Results of many images while they are made: whole parts on disk, so that a kill costs one of them and the same command goes on.

Each part is a Parquet file of `OUT.parts/`: id and stamp of an image, what was said of it as JSON, its embedding. `about.json` beside them
says which model and settings they are of.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from emo_lightning.core.errors import InputError
from emo_lightning.core.files import read_object, replacing, write_json

IMAGES_PER_PART = 256
"""Images of a part: what a kill may cost."""


class ImageResult(NamedTuple):
    """What is known of one image."""

    id: str
    stamp: str
    said: str
    """JSON, without the embedding; empty where only that was asked for."""
    des: NDArray[np.float32]
    """(des_dim,)."""


class OutputParts:
    """The parts of one output file.

    Args:
        out: the file; the parts stand beside it until it is written.
        about: what decides the results.

    Raises:
        InputError: the parts that are there are of another model or other settings.
    """

    def __init__(self, out: Path, about: Mapping[str, object]) -> None:
        self.folder = out.with_name(out.name + ".parts")
        self.about = dict(about)
        """What decides the results."""
        said = self.folder / "about.json"
        if said.is_file() and (old := read_object(said)) != dict(about):
            key = next(key for key in sorted({*old, *about}) if old.get(key) != about.get(key))
            msg = f"{self.folder} was begun with another {key}; remove it, or choose another --out"
            raise InputError(msg)
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(said, dict(about))
        self._known: dict[str, tuple[str, Path, int]] = {}
        paths = self._paths()
        for path in paths:
            rows = pq.read_table(path, columns=["id", "stamp"]).to_pylist()
            self._known |= {row["id"]: (row["stamp"], path, n) for n, row in enumerate(rows)}
        self._next = len(paths)
        self._waiting: list[ImageResult] = []

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[0-9]*.parquet"))

    def has(self, name: str, stamp: str) -> bool:
        """Whether the image is known; one whose file has changed is not."""
        return name in self._known and self._known[name][0] == stamp

    def add(self, results: Sequence[ImageResult]) -> None:
        """Keep results; every `IMAGES_PER_PART` of them are written."""
        self._waiting += results
        if len(self._waiting) >= IMAGES_PER_PART:
            self.flush()

    def flush(self) -> None:
        """Write what is waiting as one part."""
        if not self._waiting:
            return
        path = self.folder / f"{self._next:06d}.parquet"
        rows, self._waiting = self._waiting, []
        columns = {name: pa.array([getattr(row, name) for row in rows], pa.string()) for name in ("id", "stamp", "said")}
        with replacing(path) as temporary:
            pq.write_table(pa.table({**columns, "des": vectors(np.stack([row.des for row in rows]))}), temporary)
        self._known |= {row.id: (row.stamp, path, n) for n, row in enumerate(rows)}
        self._next += 1

    def results(self, names: Sequence[str]) -> Iterator[ImageResult]:
        """Of these images, in this order; those that are not known are left out. One part is in memory at a time."""
        self.flush()
        held: tuple[Path, pa.Table] | None = None
        for name in names:
            if name not in self._known:
                continue
            _, path, row = self._known[name]
            if held is None or held[0] != path:
                held = path, pq.read_table(path)
            values = held[1].slice(row, 1).to_pylist()[0]
            yield ImageResult(values["id"], values["stamp"], values["said"], np.asarray(values["des"], np.float32))

    def remove_empty(self) -> None:
        """Leave nothing behind where nothing is known."""
        if not self._known:
            self.remove()

    def remove(self) -> None:
        """Once the file is written."""
        shutil.rmtree(self.folder)


def vectors(rows: NDArray[np.float32]) -> pa.FixedSizeListArray:
    """(N, D) as a column of lists of one size."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows, np.float32).reshape(-1)), rows.shape[1])


def as_object(result: ImageResult) -> dict[str, object]:
    """What was said, with the embedding."""
    said: dict[str, object] = json.loads(result.said) if result.said else {"id": result.id}
    return {**said, "des": [float(x) for x in result.des]}
