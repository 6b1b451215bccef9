"""Ask an index: by an embedding, an image of it, words, a wish, or a point between two images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS
from emo_lightning.core.text import shown
from emo_lightning.search.filters import Filters, quoted
from emo_lightning.search.hits import Hit, as_hit
from emo_lightning.search.schema import CENTROIDS_TABLE, HIT_COLUMNS, LEFT_OUT_TABLE, TUNING_TABLE, Identity
from emo_lightning.search.table import ImageTable, IndexRow, Tables, vectors_of
from emo_lightning.search.tuning import Float32Array
from emo_lightning.search.wishes import Centroids, as_centroid

_ALIKE = 3
"""Ids that are named where one is not found."""
_LOOKED_AT = 20_000
"""Of about its length, that are held against it."""


class SearchIndex:
    """Images by what they make people feel: their embeddings, records and thumbnails.

    Examples:
        >>> index = SearchIndex.open("index")
        >>> hits = index.search(model.embed(["photo.jpg"])[0], k=5, where=Filters(emotion="awe"))
        >>> [hit.id for hit in index.path(hits[0].id, hits[-1].id, steps=5)]
    """

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self.images = ImageTable.open(tables)
        """The table of all images."""
        self.place = tables.place
        """Folder or URL."""
        self.identity = Identity.of_metadata(self.images.schema.metadata, self.place)
        """Whose embeddings it holds."""

    @classmethod
    def open(cls, place: str | Path, weights: str | None = None) -> SearchIndex:
        """Open one.

        Args:
            place: folder that `emo index build` wrote, or its URL (`s3://…`).
            weights: `bundle_fingerprint` of the model whose embeddings will be asked for; see `require`.

        Raises:
            MissingFileError: no index is there.
            InputError: it cannot be read, has another format, or is of another model.
            UserError: LanceDB is not installed.
        """
        found = cls(Tables(place))
        if weights is not None:
            found.require(weights)
        return found

    def require(self, weights: str, name: str = "the model") -> None:
        """Refuse embeddings of another model: their numbers mean something else.

        Args:
            weights: `bundle_fingerprint` of the model.
            name: what it is called.

        Raises:
            InputError: the index is of another one, or does not say of which.
        """
        mine = self.identity
        if mine.weights != weights:
            whose = (
                "embeddings that named no model"
                if mine.weights is None
                else f"embeddings of {mine.model} (weights {mine.weights[:12]})"
            )
            msg = (
                f"{self.place}: holds {whose}, and {name} has weights {weights[:12]}; ask with the model of the index, or build another "
                "index with this one"
            )
            raise InputError(msg)

    def __len__(self) -> int:
        return self.images.count()

    @property
    def des_dim(self) -> int:
        """Numbers of an embedding."""
        return self.identity.des_dim

    def info(self) -> dict[str, object]:
        """What it holds, as JSON: counts, model, how searches are done, and what the last build left out."""
        counts = Counter(batch for one in self.images.batches(("emotion",)) for batch in one["emotion"].to_pylist())
        tuning = next(iter(self._tables.rows(TUNING_TABLE)), {})
        return {
            "images": len(self),
            "des_dim": self.des_dim,
            "model": self.identity.model,
            "weights": self.identity.weights,
            "emotions": {str(emotion): counts[emotion] for emotion in EMOTIONS if counts[emotion]},
            "with_words": self.images.count("background IS NOT NULL"),
            "with_thumbnail": self.images.count("has_thumbnail"),
            "recall": tuning.get("recall"),
            "probes": tuning.get("probes"),
            "left_out": self._tables.rows(LEFT_OUT_TABLE),
        }

    def search(
        self,
        vector: ArrayLike,
        k: int = 10,
        where: Filters | None = None,
        *,
        without: Collection[str] = (),
        exact: bool = False,
    ) -> list[Hit]:
        """The k images whose embeddings are nearest, nearest first.

        Args:
            vector: (des_dim,) an embedding, of any length above 0: the angle counts.
            k: how many; fewer where fewer fulfil the conditions.
            where: conditions that they fulfil.
            without: ids that are left out, for example of the image that is asked with.
            exact: compare all images, also where the index is approximate.

        Raises:
            InputError: the vector is not of this index, or k is less than 1.
        """
        rows = self.nearest(
            self.checked(vector), checked_k(k) + len(without), None if where is None else where.sql(), exact=exact
        )
        return [as_hit(row) for row in rows if row["id"] not in without][:k]

    def find(
        self,
        vector: ArrayLike,
        k: int = 10,
        emotion: str | Sequence[str] | None = None,
        intensity: str | float | None = None,
        where: Sequence[str] = (),
    ) -> list[Hit]:
        """As `search`, with the conditions as `Filters` takes them.

        Raises:
            InputError: as `search` and `Filters`.
        """
        return self.search(vector, k, Filters(emotion, intensity, where))

    def path(self, start: str | ArrayLike, end: str | ArrayLike, steps: int = 7, where: Filters | None = None) -> list[Hit]:
        """The nearest image at each of some points on the line from one image to another, none twice.

        The line runs between the embeddings at length 1, z(t) = (1 − t) a + t b, t from 0 to 1 in equal steps (paper section 3.1.2: DES
        enables "smooth interpolation between emotions").

        Args:
            start: id of an image of the index, which then is the first hit itself, or an embedding.
            end: as `start`, of the last.
            steps: points, both ends among them.
            where: conditions that the images between the ends fulfil.

        Raises:
            InputError: no such image, a vector that is not of this index, or fewer than 2 steps.
        """
        if steps < 2:
            msg = f"steps={steps}; expected at least 2"
            raise InputError(msg)
        found: list[Hit] = []
        ends = {0: start, steps - 1: end}
        # The ends are taken first, so that no point between them is one of them.
        taken = {one for one in ends.values() if isinstance(one, str)}
        for n in range(steps):
            own = ends.get(n)
            if isinstance(own, str):
                found.append(self.get(own))
                continue
            hits = self.search(self.between(start, end, n / (steps - 1)), 1, where, without=taken)
            found += hits
            taken |= {hit.id for hit in hits}
        return found

    def walk(
        self,
        start: str | ArrayLike,
        end: str | ArrayLike,
        steps: int = 7,
        emotion: str | Sequence[str] | None = None,
        intensity: str | float | None = None,
        where: Sequence[str] = (),
    ) -> list[Hit]:
        """As `path`, with the conditions as `Filters` takes them.

        Raises:
            InputError: as `path` and `Filters`.
        """
        return self.path(start, end, steps, Filters(emotion, intensity, where))

    def between(self, start: str | ArrayLike, end: str | ArrayLike, share: float) -> Float32Array:
        """The point of `path` at a share of the way, 0 to 1.

        Raises:
            InputError: as `path`; also of ends that are opposite, so that there is no point halfway.
        """
        a, b = (self.vector(one) if isinstance(one, str) else self.checked(one) for one in (start, end))
        return self.checked((1 - share) * a + share * b)

    def get(self, name: str) -> Hit:
        """An image by its id.

        Raises:
            InputError: there is none of that id; names some that hold it.
        """
        return as_hit(self._row(name, HIT_COLUMNS), 0.0)

    def __contains__(self, name: str) -> bool:
        return bool(self.images.where(f"id = {quoted(name)}", 1, ("id",)))

    def vector(self, name: str) -> Float32Array:
        """The embedding of an image of the index at length 1, (des_dim,).

        Raises:
            InputError: there is none of that id.
        """
        return self.checked(np.asarray(self._row(name, ("id", "des"))["des"], np.float32))

    def thumbnail(self, name: str) -> bytes:
        """The small picture of an image, JPEG; empty where it has none (`Hit.has_thumbnail`).

        Raises:
            InputError: there is no image of that id.
        """
        found = self._row(name, ("id", "thumbnail"))["thumbnail"]
        return found if isinstance(found, bytes) else b""

    @cached_property
    def centroids(self) -> Centroids:
        """Mean embeddings of its emotions."""
        return Centroids([as_centroid(row) for row in self._tables.rows(CENTROIDS_TABLE)], self.place)

    def vectors(self) -> Iterator[tuple[list[str], Float32Array]]:
        """All ids with their embeddings as they were given, (N,) and (N, des_dim), a stretch at a time."""
        for batch in self.images.batches(("id", "des")):
            yield batch.column("id").to_pylist(), vectors_of(batch.column("des"))

    def alike(self, name: str) -> list[str]:
        """Ids that hold a text, or are spelled almost like it."""
        if not name:
            return []
        held = self.images.where(f"contains(lower(id), {quoted(name.lower())})", _ALIKE, ("id",))
        if held:
            return sorted(str(row["id"]) for row in held)
        ids = [
            str(row["id"])
            for row in self.images.where(f"length(id) BETWEEN {len(name) - 2} AND {len(name) + 2}", _LOOKED_AT, ("id",))
        ]
        return get_close_matches(name, ids, 3, 0.8)

    def _row(self, name: str, columns: Sequence[str]) -> IndexRow:
        found = self.images.where(f"id = {quoted(name)}", 1, columns)
        if not found:
            near = f"; did you mean {' or '.join(alike)}?" if (alike := self.alike(name)) else ""
            msg = f"{self.place}: no image of the id {shown(name)}{near}"
            raise InputError(msg)
        return found[0]

    def nearest(
        self, vector: Float32Array, k: int, where: str | None, columns: Sequence[str] = HIT_COLUMNS, *, exact: bool = False
    ) -> list[IndexRow]:
        """Rows as `ImageTable.nearest` gives them, by the approximate index where there is one."""
        tuned = None if exact else self._tuning
        if tuned is None:
            return self.images.nearest(vector, k, where, columns)
        probes, refine = tuned
        return self.images.nearest(vector, k, where, columns, probes=probes, refine=refine)

    @cached_property
    def _tuning(self) -> tuple[int, int] | None:
        """Partitions to look into, and how many times k are compared; None where all images are."""
        rows = self._tables.rows(TUNING_TABLE)
        return (int(str(rows[0]["probes"])), int(str(rows[0]["refine"]))) if rows and rows[0]["probes"] is not None else None

    def checked(self, vector: ArrayLike) -> Float32Array:
        """An embedding at length 1, (des_dim,).

        Raises:
            InputError: it is not of this index, not finite, or all zeros.
        """
        found = np.asarray(vector, np.float64)
        if found.shape == (1, self.des_dim):
            found = found[0]
        if found.shape != (self.des_dim,):
            msg = f"a vector of shape {list(found.shape)}; {self.place} holds embeddings of {self.des_dim} numbers"
            raise InputError(msg)
        length = float(np.linalg.norm(found))
        if not np.isfinite(length) or length == 0:
            msg = f"a vector of length {length}; expected finite numbers that are not all 0"
            raise InputError(msg)
        return (found / length).astype(np.float32)


def checked_k(k: int) -> int:
    """How many are asked for.

    Raises:
        InputError: less than 1.
    """
    if k < 1:
        msg = f"k={k}; expected at least 1"
        raise InputError(msg)
    return k
