"""Replies that follow a schema: a pydantic model, its JSON schema in the strict subset that providers share, and the text read back."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from emo_lightning.core.records import SchemaError, describe
from emo_lightning.core.replies import UnreadableReplyError, asked_values, json_values

INVALID_REPLY = """Your reply {attempt} did not follow the JSON schema: {error}
Answer again with the JSON object alone."""
"""What a model is told after a reply off the schema; part of the cache key of the question that follows."""


class Reply(BaseModel):
    """A reply that follows its schema; nothing more, nothing less."""

    model_config = ConfigDict(extra="forbid", frozen=True)


_T = TypeVar("_T", bound=Reply)

# Limits such as `minimum` are refused by some providers; they are checked here, after the reply.
_KEPT = ("type", "enum")


@cache
def strict_schema(model: type[Reply]) -> dict[str, object]:
    """JSON schema for `response_format`: references inlined, every key required, no other key allowed, no limits.

    The same dictionary is returned every time: do not change it.
    """
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})

    # `Any`: a JSON schema as pydantic writes it.
    def convert(node: dict[str, Any]) -> dict[str, object]:
        if "$ref" in node:
            return convert(definitions[node["$ref"].rsplit("/", 1)[1]])
        out: dict[str, object] = {key: node[key] for key in _KEPT if key in node}
        if node.get("type") == "object":
            out["properties"] = {key: convert(value) for key, value in node["properties"].items()}
            out["required"] = list(node["properties"])
            out["additionalProperties"] = False
        elif node.get("type") == "array":
            out["items"] = convert(node["items"])
        return out

    return convert(schema)


class InvalidReplyError(ValueError):
    """A reply that does not follow its schema; the message is what the model is told."""


def parse_reply(model: type[_T], text: str | None) -> _T:
    """The reply as a typed value: the JSON of the whole text, or the last in it that has the keys of the schema, or all that have some.

    Raises:
        InvalidReplyError: no such JSON, or not by the schema.
    """
    try:
        return parse_strictly(model, text)
    except InvalidReplyError as error:
        # Thinking before it, words around it, keys in another case: what it says is the same. In parts only where the last alone is
        # no reply: one that was read stays what it was.
        for in_parts in (False, True):
            with suppress(UnreadableReplyError, InvalidReplyError, RecursionError):
                fields = asked_values(json_values(text or ""), model.model_fields, in_parts=in_parts)
                return _validated(model, json.dumps(fields))
        # The message is part of the next question's cache key, so it is what it always was.
        raise error from None


def parse_strictly(model: type[_T], text: str | None) -> _T:
    """The reply where the whole text is its JSON, perhaps in a fence.

    Of a key that stands twice the last value counts here, as it always has, while the reading that `parse_reply` falls back to refuses two
    values. That stays so: a reply that was taken is part of later questions (of the critic, of revisions), so refusing it now would change
    their cache keys, and stores would buy again what they have paid for.

    Raises:
        InvalidReplyError: see `parse_reply`.
    """
    if not text:
        msg = "the reply is empty"
        raise InvalidReplyError(msg)
    return _validated(model, _without_fence(text))


def _validated(model: type[_T], text: str) -> _T:
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise InvalidReplyError(describe(error)) from None
    except SchemaError as error:
        raise InvalidReplyError(str(error)) from None


def _without_fence(text: str) -> str:
    # Endpoints that ignore `response_format` often wrap the object in a Markdown fence.
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text[text.index("\n") + 1 : -3]
    return text
