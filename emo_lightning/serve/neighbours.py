"""The images of an index beside a picture: the nearest, and those along the way from one to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from emo_lightning.core.errors import UserError
from emo_lightning.core.text import shown
from emo_lightning.serve.bodies import Strict
from emo_lightning.serve.failures import ApiError
from emo_lightning.serve.shapes import EmbeddingsInput, FiniteNumber, given_input

if TYPE_CHECKING:
    from fastapi import Request

    from emo_lightning.serve.images import ImageIndex, IndexedImage
    from emo_lightning.serve.service import Service

NO_INDEX = (
    "this server has no index of images; make one with `emo index build PHOTOS --model FOLDER --out INDEX`, and start it as "
    "`emo serve FOLDER --index INDEX`"
)


class SearchStart(Strict):
    """Where to look from: a picture, an embedding as `/v1/explain` gave it, or the id of an image of the index."""

    image: EmbeddingsInput | None = None
    embedding: list[FiniteNumber] | None = None
    id: str | None = None


class Conditions(Strict):
    """What is true of the images that are found, as `search.Filters` takes it."""

    emotion: str | list[str] | None = None
    """Only images of this emotion, or of one of these."""
    intensity: str | FiniteNumber | None = None
    """Only images of this intensity: `low`, `medium`, `high`, a number, a range `7-10`, or `>=7`."""
    where: list[str] = Field(default_factory=list)
    """Only images of which all of these are true: `FIELD=VALUE`, also `!=`, `~` (contains), `<`, `<=`, `>`, `>=`, as `emo index search --where`."""


class SearchRequest(Conditions):
    """The nearest images of the index to a picture, or to an embedding as `/v1/explain` gave it."""

    image: EmbeddingsInput | None = None
    embedding: list[FiniteNumber] | None = None
    k: int = Field(12, ge=1, le=200)


class PathRequest(Conditions):
    """Images of the index along the way from one image to another; conditions are on those between the two."""

    start: SearchStart
    end: SearchStart
    steps: int = Field(5, ge=2, le=20)


async def nearest(request: Request, service: Service, asked: SearchRequest) -> dict[str, object]:
    """See `SearchRequest`.

    Raises:
        ApiError: 404, no index; 400, a picture or an embedding that is none.
    """
    index = _index(service)
    vector, unlike = await _point(request, service, asked, "")
    hits = await _hits(service, lambda: index.find(vector, asked.k, asked.emotion, asked.intensity, asked.where))
    return {"object": "list", "data": hits, "unlike": unlike}


async def between(request: Request, service: Service, asked: PathRequest) -> dict[str, object]:
    """See `PathRequest`.

    Raises:
        ApiError: as `nearest`; also 400, no such id.
    """
    index = _index(service)
    (start, first), (end, last) = [
        (place.id, None)
        if place.id is not None and place.image is None and place.embedding is None
        else await _point(request, service, place, f"{name}.")
        for name, place in (("start", asked.start), ("end", asked.end))
    ]
    hits = await _hits(service, lambda: index.walk(start, end, asked.steps, asked.emotion, asked.intensity, asked.where))
    return {"object": "list", "data": hits, "unlike": {"start": first, "end": last}}


async def thumbnail(service: Service, name: str) -> bytes:
    """The small picture of an image of the index.

    Raises:
        ApiError: 404, there is none.
    """
    index = _index(service)
    try:
        found = await service.pictures.aside(lambda: index.thumbnail(name))
    except UserError as error:
        raise ApiError(404, str(error), "not_found", "id") from None
    if not found:
        raise ApiError(404, f"{shown(name)} has no small picture in the index", "not_found", "id")
    return found


def _index(service: Service) -> ImageIndex:
    if service.index is None:
        raise ApiError(404, NO_INDEX, "no_index")
    return service.index


async def _point(
    request: Request, service: Service, asked: SearchStart | SearchRequest, where: str
) -> tuple[NDArray[np.float32], dict[str, object] | None]:
    """The embedding to look from; and of a picture, how unlike it is what the model was trained on, where that is known."""
    given = [name for name in ("image", "embedding", "id") if getattr(asked, name, None) is not None]
    if asked.embedding is not None and given == ["embedding"]:
        if len(asked.embedding) != service.about.des_dim:
            msg = f"{where}embedding: {len(asked.embedding)} numbers; expected {service.about.des_dim}"
            raise ApiError(400, msg, "invalid_value", f"{where}embedding")
        return np.array(asked.embedding, np.float32), None
    if asked.image is None or given != ["image"]:
        allowed = "image or embedding" if isinstance(asked, SearchRequest) else "one of image, embedding and id"
        raise ApiError(400, f"{where or 'the body'}: expected {allowed}", "invalid_value", where.rstrip(".") or None)
    (found,) = await service.look(request, [given_input(asked.image, f"{where}image")])
    return found.des, None if found.unlike is None else found.unlike.as_json()


async def _hits(service: Service, search: Callable[[], Sequence[IndexedImage]]) -> list[dict[str, object]]:
    try:
        found = await service.pictures.aside(search)
    except UserError as error:
        raise ApiError(400, str(error), "invalid_value") from None
    return [hit.as_json() for hit in found]
