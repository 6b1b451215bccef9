"""Requests read: JSON, the bytes of pictures, or a form with files; every key known, every value of its type."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.datastructures import UploadFile

from emo_lightning.core.errors import InputError
from emo_lightning.core.foreign import decode_json, object_of
from emo_lightning.core.text import shown
from emo_lightning.serve.failures import ApiError
from emo_lightning.serve.pictures import Given

if TYPE_CHECKING:
    from fastapi import Request

    from emo_lightning.serve.service import Service

Model = TypeVar("Model", bound=BaseModel)

_CODES = {"extra_forbidden": "unknown_parameter", "missing": "missing_required_parameter"}
"""OpenAI's names for pydantic's."""


_KEY = re.compile("[a-z_]+")
_ALTERNATIVES = ("str", "int", "float", "bool", "none")


class Strict(BaseModel):
    """A request: no key that nobody knows, and no text where a number is wanted."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


async def read_json(request: Request, service: Service, model: type[Model]) -> Model:
    """The body as `model`.

    Raises:
        ApiError: 415, another type; 400, it is no JSON, or not of this model: names the key.
    """
    kind = _kind(request)
    if kind not in ("", "application/json"):
        raise ApiError(415, f"Content-Type {shown(kind)}; expected application/json", "unsupported_media_type")
    body = await request.body()
    return await service.pictures.aside(lambda: _parsed(body, model, service.limits.body))


async def read_files(request: Request, most: int) -> list[Given] | None:
    """Pictures that are sent as they are, or as files of a form; None of a request in JSON.

    Args:
        request: its body has not been read.
        most: files of a form.

    Raises:
        ApiError: 400, no picture in it; 413, more than `most`.
    """
    kind = _kind(request)
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [Given(await request.body(), "image")]
    if kind != "multipart/form-data":
        return None
    # Starlette itself answers a broken form, and one of more files, by 400.
    async with request.form(max_files=most, max_fields=0) as form:
        files = [(name, file) for name, file in form.multi_items() if isinstance(file, UploadFile)]
        if other := next((name for name, _ in files if name != "image"), None):
            raise ApiError(400, f"file {shown(other)}: expected files named image", "unknown_parameter", other)
        if not files:
            raise ApiError(400, "no file in the form; expected one or more, named image", "missing_required_parameter", "image")
        return [Given(await file.read(), "image") for _, file in files]


def read_query(request: Request, model: type[Model]) -> Model:
    """The part after `?`, as `model`, whose values are written as text there.

    Raises:
        ApiError: 400, a key or a value that the model has not.
    """
    try:
        return model.model_validate(dict(request.query_params), strict=False)
    except ValidationError as error:
        raise refused(error) from None


def refused(error: ValidationError) -> ApiError:
    """What pydantic has found, of the first key."""
    first = min(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    # Without the alternatives of a union, which pydantic names among the keys.
    own = [str(part) for part in first["loc"] if isinstance(part, int) or (_KEY.fullmatch(part) and part not in _ALTERNATIVES)]
    param = ".".join(own) or None
    code = _CODES.get(first["type"], "invalid_value")
    if code == "unknown_parameter":
        return ApiError(400, f"{param}: no such key", code, param)
    found = "" if code == "missing_required_parameter" else f": found {shown(first['input'])}"
    return ApiError(400, f"{param}{found}: {first['msg']}", code, param)


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _parsed(body: bytes, model: type[Model], most: int) -> Model:
    try:
        found: Mapping[str, object] = object_of(decode_json(body, "the body", max_bytes=most), "the body")
    except InputError as error:
        raise ApiError(400, str(error), "invalid_json") from None
    try:
        return model.model_validate(found)
    except ValidationError as error:
        raise refused(error) from None
