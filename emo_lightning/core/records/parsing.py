"""From JSON to an object of a schema, or one line that says why not."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic._internal._model_construction import ModelMetaclass

from emo_lightning.core.emotions import SchemaError
from emo_lightning.core.foreign import MAX_LINE_BYTES, decode_json

_MOST_VALUES = 200_000
"""Of a record, by its commas; an embedding has some thousands."""
_M = TypeVar("_M", bound=BaseModel)


def parse(model: type[_M], data: bytes | str, where: str, *, said: bool = False) -> _M:
    """A JSON text as one of our objects.

    Args:
        model: the object's class.
        data: JSON text.
        where: file and member or line, for the message.
        said: a model has said it. It may end in half a character, and its file was paid for; a record with one could not be written. Nor
            may an intensity of 1e999 cost the rest of the file: it is counted as unparsable.

    Raises:
        SchemaError: not JSON, or no such object; names `where`, the key and what was found.
    """
    if (values := data.count(",") if isinstance(data, str) else data.count(b",")) > _MOST_VALUES:
        # pydantic keeps a complaint of each.
        msg = f"{where}: {values:,} values; at most {_MOST_VALUES:,} are read as one record"
        raise SchemaError(msg)
    value = decode_json(
        data,
        where,
        SchemaError,
        max_bytes=MAX_LINE_BYTES,
        half_characters="replace" if said else "refuse",
        on_constant=float if said else None,
    )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        msg = f"{where}: {describe(error)}"
        raise SchemaError(msg) from None
    except SchemaError as error:
        msg = f"{where}: {error}"
        raise SchemaError(msg) from None


if TYPE_CHECKING:

    class CheckedModel(BaseModel):
        """Base of the records: a wrong call raises a `SchemaError`, as their readers do, and no error of pydantic's."""

else:

    class _Checked(ModelMetaclass):
        # Of the call alone: what validates (`model_validate`, a field that holds another record) makes its objects without one.
        def __call__(self, *args, **kwargs):  # noqa: ANN002, ANN003, ANN204 - those of the class
            try:
                return super().__call__(*args, **kwargs)
            except ValidationError as error:
                msg = f"{self.__name__}: {describe(error)}"
                raise SchemaError(msg) from None

    class CheckedModel(BaseModel, metaclass=_Checked):
        """Base of the records: a wrong call raises a `SchemaError`, as their readers do, and no error of pydantic's."""


def describe(error: ValidationError) -> str:
    """The first problem of a pydantic error in one line: key, what was found, what is allowed.

    Keys that do not exist come first: a misspelt one is also the reason why another is missing.
    """
    first = min(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"]) or "record"
    secret = first["type"] == "extra_forbidden" and re.search("key|token|secret|passw|credential|auth", key, re.IGNORECASE)
    found = "" if secret or first["type"] in ("missing", "value_error") else f" (found {str(first['input'])[:80]!r})"
    more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    said = {"extra_forbidden": "unknown key", "missing": "is missing"}.get(first["type"], first["msg"])
    return f"key {key!r}: {said.removeprefix('Value error, ')}{found}{more}"
