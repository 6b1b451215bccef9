"""What models must answer: pydantic models, and their JSON schemas in the strict subset that providers share."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from emo_lightning.core.records import Emotion, IntensityLevel, SchemaError, describe

FieldVerdict = Literal["valid", "revisable"]
Overall = Literal["valid", "revisable", "discarded"]

FIELDS = ("description", "triplet", "emotion", "intensity")
"""What the critic judges, each on its own."""


class Reply(BaseModel):
    """A reply that follows its schema; nothing more, nothing less."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class EmotionVote(Reply):
    """An emotion and how clear it is (0–1)."""

    emotion: Emotion
    confidence: float = Field(ge=0, le=1)

    @field_validator("emotion", mode="before")
    @classmethod
    def _by_name(cls, value: Any) -> Any:
        return Emotion.parse(value) if isinstance(value, str) else value


def _printable(text: str) -> str:
    if bad := next((c for c in text if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\r\t"), None):
        msg = f"holds the control character {bad!a}"
        raise ValueError(msg)
    return text


_Text = Annotated[str, Field(min_length=1, max_length=4000), AfterValidator(_printable)]
_Words = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_printable)]
"""Much more than any honest reply: a model that repeats itself without end is asked again."""


class FullAnnotation(EmotionVote):
    """Everything a VLM says of an image (paper section 3.1.2)."""

    description: _Text
    background: _Words
    attribute: _Words
    subject: _Words
    intensity: int = Field(ge=1, le=10)


class CriticReply(Reply):
    """Reasoning steps, a verdict for each field, and what to change (paper section 3.2)."""

    scene: str
    description_check: str
    triplet_check: str
    emotion_check: str
    emotion: Emotion
    intensity_level: IntensityLevel
    description_verdict: FieldVerdict
    triplet_verdict: FieldVerdict
    emotion_verdict: FieldVerdict
    intensity_verdict: FieldVerdict
    overall: Overall
    instructions: str

    def flagged(self) -> tuple[str, ...]:
        """Fields to revise."""
        return tuple(field for field in FIELDS if getattr(self, f"{field}_verdict") == "revisable")


class BoxReply(Reply):
    """The critic's verdict on the box of a subject (paper Table 3, last row)."""

    seen: str
    box_check: str
    box_verdict: FieldVerdict


_T = TypeVar("_T", bound=Reply)

# Limits such as `minimum` are refused by some providers; they are checked here, after the reply.
_KEPT = ("type", "enum")


@cache
def strict_schema(model: type[Reply]) -> dict[str, Any]:
    """JSON schema for `response_format`: references inlined, every key required, no other key allowed, no limits.

    The same dictionary is returned every time: do not change it.
    """
    schema = model.model_json_schema()
    definitions = schema.get("$defs", {})

    def convert(node: dict[str, Any]) -> dict[str, Any]:
        if "$ref" in node:
            return convert(definitions[node["$ref"].rsplit("/", 1)[1]])
        out = {key: node[key] for key in _KEPT if key in node}
        if node.get("type") == "object":
            out["properties"] = {key: convert(value) for key, value in node["properties"].items()}
            out["required"] = list(node["properties"])
            out["additionalProperties"] = False
        elif node.get("type") == "array":
            out["items"] = convert(node["items"])
        return out

    return convert(schema)


class InvalidReply(ValueError):
    """A reply that does not follow its schema; the message is what the model is told."""


def parse_reply(model: type[_T], text: str | None) -> _T:
    """The reply as a typed value.

    Raises:
        InvalidReply: empty, not JSON, or not by the schema.
    """
    if not text:
        msg = "the reply is empty"
        raise InvalidReply(msg)
    try:
        return model.model_validate_json(_without_fence(text))
    except ValidationError as error:
        raise InvalidReply(describe(error)) from None
    except SchemaError as error:
        raise InvalidReply(str(error)) from None


def _without_fence(text: str) -> str:
    # Endpoints that ignore `response_format` often wrap the object in a Markdown fence.
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and "\n" in text:
        text = text[text.index("\n") + 1 : -3]
    return text
