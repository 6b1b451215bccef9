"""What requests say: our own, and those of OpenAI's API as far as this model has something to answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from emo_lightning.serve.bodies import Strict
from emo_lightning.serve.failures import ApiError
from emo_lightning.serve.pictures import Given, given

FiniteNumber = Annotated[float, Field(allow_inf_nan=False)]


class Address(Strict):
    """Where a picture is."""

    url: str
    """`data:image/jpeg;base64,…`, or an address (http, https)."""
    detail: Literal["auto", "low", "high"] = "auto"
    """Taken from clients that send it; the picture is read as the model was trained to."""


class ImagePart(Strict):
    """A picture in a message."""

    type: Literal["image_url"]
    image_url: Address


class TextPart(Strict):
    """A text in a message; this model asks its own questions."""

    type: Literal["text"]
    text: str


class Named(Strict):
    """A picture as others' embedding services write it."""

    image: str


EmbeddingsInput = str | Named | ImagePart
"""A picture: a text (`data:` URI, address, base64), or an object that holds one."""


def given_input(one: EmbeddingsInput, param: str) -> Given:
    """The picture of an input."""
    match one:
        case Named():
            return given(one.image, f"{param}.image")
        case ImagePart():
            return given(one.image_url.url, f"{param}.image_url.url")
        case _:
            return given(one, param)


class ExplainOptions(Strict):
    """How pictures are explained; beside pictures that are sent as they are, these stand behind `?`."""

    embedding: bool = True
    """Give the embedding too; it is of the same reading of the picture."""
    max_new_tokens: int | None = Field(None, ge=1)
    """Of one answer; the server's own limit holds beside it."""
    model: str | None = None
    """The id that `/v1/models` names."""


class ExplainRequest(ExplainOptions):
    """Pictures to explain: one as `image`, or several as `images`."""

    image: EmbeddingsInput | None = None
    images: list[EmbeddingsInput] | None = Field(None, min_length=1)
    ids: list[str] | None = None
    """What the answers call them; else `image`, or their numbers."""

    def given(self) -> list[Given]:
        """The pictures.

        Raises:
            ApiError: 400, none, both, or not as many ids.
        """
        if (self.image is None) == (self.images is None):
            raise ApiError(400, "expected either image or images", "missing_required_parameter", "image")
        if self.image is not None:
            return [given_input(self.image, "image")]
        return [given_input(one, f"images.{n}") for n, one in enumerate(self.images or [])]

    def names(self, count: int) -> list[str]:
        """Of so many pictures.

        Raises:
            ApiError: 400, not as many ids.
        """
        if self.ids is None:
            return default_names(count)
        if len(self.ids) != count:
            raise ApiError(400, f"ids: {len(self.ids)} for {count} pictures", "invalid_value", "ids")
        return self.ids


def default_names(count: int) -> list[str]:
    """Ids of pictures that nobody names."""
    return ["image"] if count == 1 else [str(n) for n in range(count)]


class EmbeddingsRequest(Strict):
    """As OpenAI's, with pictures as `input`."""

    model: str
    input: EmbeddingsInput | list[EmbeddingsInput]
    encoding_format: Literal["float", "base64"] = "float"
    """`base64`: of float32, least byte first."""
    dimensions: int | None = None
    """The model's own, where it is given."""
    user: str | None = None

    def given(self) -> list[Given]:
        """The pictures, one or more."""
        several = self.input if isinstance(self.input, list) else None
        if several == []:
            raise ApiError(400, "input: expected a picture, or a list of some", "invalid_value", "input")
        if several is None:
            assert not isinstance(self.input, list)
            return [given_input(self.input, "input")]
        return [given_input(one, f"input.{n}") for n, one in enumerate(several)]


class Message(Strict):
    """One of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart | ImagePart] | None = None
    name: str | None = None
    refusal: None = None
    audio: None = None
    annotations: list[object] | None = None
    function_call: None = None
    tool_calls: None = None


class StreamOptions(Strict):
    """Of `stream`."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ResponseFormat(Strict):
    """What the answer's text is."""

    type: Literal["text", "json_object"]
    """`text`: for people; `json_object`: what `/v1/explain` gives, without the embedding."""


class ChatRequest(Strict):
    """As OpenAI's. The picture of the last message of the user that has one is explained; the model asks its own questions about it."""

    model: str
    messages: list[Message] = Field(min_length=1)
    stream: bool = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    embedding: bool = False
    """Ours: the embedding too, in `explanation.des` of the answer, of the same reading of the picture."""
    n: Literal[1] | None = None
    temperature: FiniteNumber | None = Field(None, ge=0, le=2)
    """Of no effect, as the next five: answers are the most probable ones, always the same."""
    top_p: FiniteNumber | None = Field(None, ge=0, le=1)
    seed: int | None = None
    frequency_penalty: FiniteNumber | None = Field(None, ge=-2, le=2)
    presence_penalty: FiniteNumber | None = Field(None, ge=-2, le=2)
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    logprobs: Literal[False] | None = None
    stop: None = None
    safety_identifier: str | None = None
    service_tier: Literal["auto", "default"] | None = None

    def given(self) -> Given:
        """The picture.

        Raises:
            ApiError: 400, none, or several in one message.
        """
        for place in reversed(range(len(self.messages))):
            message = self.messages[place]
            parts = message.content if message.role == "user" and isinstance(message.content, list) else []
            pictures = [(n, part) for n, part in enumerate(parts) if isinstance(part, ImagePart)]
            if len(pictures) > 1:
                msg = f"messages.{place}: {len(pictures)} pictures; expected one in a message (v1/explain takes several)"
                raise ApiError(400, msg, "invalid_value", f"messages.{place}.content")
            if pictures:
                n, part = pictures[0]
                return given(part.image_url.url, f"messages.{place}.content.{n}.image_url.url")
        msg = "messages: no picture; expected a part of type image_url in a message of the user"
        raise ApiError(400, msg, "missing_required_parameter", "messages")

    @property
    def limit(self) -> int | None:
        """Tokens of one answer, as asked for."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
