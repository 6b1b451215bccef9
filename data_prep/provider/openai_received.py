"""The body of a chat completion, whatever it looks like: an object, an event stream, a list of chunks, lines of JSON, one inside another.

A server may stream though nobody asked it to, a proxy may put a byte order mark before the object or wrap it, and a model's content may
be a text, parts or an object. What was billed and what was not is decided here, by these rules:

- Anything with a `usage` above zero, or with content, was billed.
- An error without either was not.
- What begins like a reply and cannot be read was billed, unless it begins like an error.
- Anything else is not from the API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from data_prep.provider.json_bodies import has_broken_event, has_end, has_reply, is_stream, json_objects, unreadable
from data_prep.provider.received import (
    BodyOutcome,
    NotFromApi,
    PaidReply,
    TransientError,
    Unusable,
    Usage,
    body_excerpt,
    body_text,
    foreign_json,
    model_name,
    paid,
    token_count,
)

_LENGTH = ("length", "max_tokens", "max_output_tokens", "max_completion_tokens", "model_length")
_FILTER = ("content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii", "sensitive", "refusal")
_FAILED = ("error", "network_error", "server_error", "insufficient_system_resource", "abort")
"""Values of `finish_reason`, of all the servers that speak this API."""
_SIGNS = ('"choices"', '"usage"')
_FILLED = re.compile(r'"choices"\s*:\s*\[\s*\{|"usage"\s*:\s*\{\s*"')
_REPLY = ("choices", "usage", "candidates", "usageMetadata", "output", "completion")
"""Keys of replies; some are of other APIs, which then were asked, and bill."""


@dataclass
class _Said:
    """What the objects of a body say together."""

    text: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    arguments: dict[object, list[str]] = field(default_factory=dict)
    """Of tool calls, by index."""
    finish: str = ""
    usage: Usage | None = None
    error: str = ""
    odd: str = ""
    """What is wrong with the content."""
    reply: bool = False
    """Whether it looks like a reply at all."""
    in_pieces: bool = False
    """Whether the text comes as pieces of a stream."""

    @property
    def says_something(self) -> bool:
        """Whether the model has written anything."""
        return bool(self.text or self.refusal or self.arguments)

    @property
    def billed(self) -> bool:
        """Whether there is a sign of it, for a body that reports an error."""
        return self.says_something or (self.usage is not None and self.usage.prompt + self.usage.output > 0)


def read_chat(raw: bytes) -> BodyOutcome:
    """What a body is; it raises nothing, whatever the bytes are."""
    text = body_text(raw)
    objects = json_objects(text)
    if objects is None:
        return unreadable(text, _SIGNS, _FILLED)
    said = _Said()
    for found in objects:
        _hear(said, found)
    if said.error and not said.billed:
        return TransientError(said.error)
    if not said.reply:
        if has_reply(text, _FILLED):
            return Unusable("a reply is in it, in a shape that is not known")
        return NotFromApi(f"no reply: {body_excerpt(text)}" if text else "an empty body")
    body = _judged(said)
    if isinstance(body, PaidReply) and (why := _missing(said, text)):
        return Unusable(why, usage=body.usage)
    return body


def answered_model(raw: bytes) -> str | None:
    """The model that a reply names as its own, in whatever the object came; it raises nothing."""
    for found in json_objects(body_text(raw)) or []:
        if (name := model_name(_unwrapped(found).get("model"))) is not None:
            return name
    return None


def _missing(said: _Said, text: str) -> str:
    """What is missing of a reply that came as a stream; empty where nothing is, or it is no stream."""
    if not said.in_pieces or not is_stream(text):
        return ""
    if has_broken_event(text):
        return "an event of the stream is cut off, or no JSON: a piece of the reply is missing"
    return "" if said.finish or has_end(text) or _is_json("".join(said.text)) else "the stream ended before the reply did"


def _is_json(text: str) -> bool:
    try:
        foreign_json(text)
    except ValueError:
        return False
    return True


def usage_of(usage: object) -> Usage | None:
    """Tokens as a `usage` names them; None where there are none that can be true."""
    if not isinstance(usage, Mapping):
        return None
    try:
        prompt = token_count(usage["prompt_tokens"] if "prompt_tokens" in usage else usage["input_tokens"])
        output = token_count(usage["completion_tokens"] if "completion_tokens" in usage else usage["output_tokens"])
        details = usage.get("prompt_tokens_details")
        cached = token_count((details.get("cached_tokens") if isinstance(details, Mapping) else None) or 0)
        # Gemini's endpoint leaves thinking tokens out of `completion_tokens` but bills them: the total has them.
        output = max(output, token_count(usage.get("total_tokens") or 0) - prompt)
    except (ValueError, KeyError):
        return None
    return Usage.plausible(prompt, cached, output)


def _judged(said: _Said) -> BodyOutcome:
    finish, text = said.finish.lower(), "".join(said.text)
    usage = said.usage if said.usage is None or said.usage.can_be_of(said.says_something) else None
    if said.refusal:
        return paid(None, usage, refusal="".join(said.refusal))
    if finish in _FILTER:
        return paid(None, usage, refusal="content filter" if finish == "content_filter" else finish)
    if said.error:
        return Unusable(f"the reply reports an error: {said.error}", usage=usage)
    if not text.strip() and len(said.arguments) == 1:
        # Asked for JSON, some servers have the model call a tool that takes it.
        text = "".join(next(iter(said.arguments.values())))
    if finish in _LENGTH:
        return paid(text, usage, cut=True)
    if not text.strip() and said.odd:
        return Unusable(said.odd, usage=usage)
    return paid(text, usage)


def _hear(said: _Said, found: dict[str, object]) -> None:
    """Take in one object."""
    found = _unwrapped(found)
    said.reply = said.reply or _is_reply(found)
    if found.get("usage") is not None:
        said.usage = usage_of(found["usage"]) or said.usage
    said.error = said.error or error_of(found)
    choices = found.get("choices")
    if isinstance(found.get("message"), dict) and not choices:
        choices = [found]
    if not isinstance(choices, list):
        return
    first = next((c for c in choices if isinstance(c, dict) and c.get("index", 0) in (0, None)), None)
    if first is None:
        first = next((c for c in choices if isinstance(c, dict)), None)
    if first is None:
        return
    said.error = said.error or error_of(first)
    if isinstance(reason := first.get("finish_reason"), str) and reason:
        said.finish = reason
        if reason.lower() in _FAILED:
            said.error = said.error or f"finish_reason {reason}"
    message = next((first[key] for key in ("message", "delta") if isinstance(first.get(key), dict)), first)
    assert isinstance(message, dict)
    said.in_pieces = said.in_pieces or message is first.get("delta")
    _hear_message(said, message)


def _unwrapped(found: dict[str, object]) -> dict[str, object]:
    """The object itself, where a gateway has put it under a key of its own."""
    inner = [value for value in found.values() if isinstance(value, dict) and isinstance(value.get("choices"), list)]
    return inner[0] if "choices" not in found and len(inner) == 1 else found


def _hear_message(said: _Said, message: dict[str, object]) -> None:
    if (refusal := message.get("refusal")) not in (None, "", False, [], {}):
        said.refusal.append(refusal if isinstance(refusal, str) else json.dumps(refusal, ensure_ascii=False))
    content = message.get("content") if message.get("content") is not None else message.get("text")
    match content:
        case None | "":
            pass
        case str():
            said.text.append(content)
        case dict() if not isinstance(_part_text(content), str):
            # The answer itself, where a server has parsed it for us.
            said.text.append(json.dumps(content, ensure_ascii=False))
        case list() | dict():
            _hear_parts(said, content if isinstance(content, list) else [content])
        case _:
            said.odd = f"the content is {type(content).__name__}, not a text"
    calls = message.get("tool_calls")
    for number, call in enumerate(calls if isinstance(calls, list) else []):
        if isinstance(call, dict) and isinstance(function := call.get("function"), dict):
            index = call.get("index")
            _hear_arguments(said, index if isinstance(index, int) else number, function.get("arguments"))


def _hear_parts(said: _Said, parts: list[object]) -> None:
    """Texts of a list of parts, one after the other; thinking is no part of the answer."""
    for part in parts:
        text = part if isinstance(part, str) else _part_text(part)
        if isinstance(text, str) and text:
            said.text.append(text)
        elif isinstance(part, dict) and isinstance(refusal := part.get("refusal"), str) and refusal:
            said.refusal.append(refusal)
        elif not isinstance(part, dict):
            said.odd = f"the content is a list with {type(part).__name__} in it"


def _part_text(part: object) -> str | None:
    """The text of a part; None where it has none (an image, thinking)."""
    if not isinstance(part, dict) or part.get("type") not in ("text", "output_text", None):
        return None
    text = part.get("text")
    if isinstance(text, dict):
        text = text.get("value")
    # An answer may have a key `text` of its own: a part has no others than these.
    return (
        text if isinstance(text, str) and part.keys() <= {"type", "text", "annotations", "logprobs", "cache_control"} else None
    )


def _hear_arguments(said: _Said, index: int, arguments: object) -> None:
    if isinstance(arguments, dict):
        arguments = json.dumps(arguments, ensure_ascii=False)
    if isinstance(arguments, str):
        said.arguments.setdefault(index, []).append(arguments)


def _is_reply(found: Mapping[str, object]) -> bool:
    kind = found.get("object")
    return (
        any(found.get(key) is not None for key in _REPLY)
        or (isinstance(kind, str) and kind.startswith(("chat.completion", "text_completion")))
        or isinstance(found.get("message"), dict)
    )


def error_of(found: Mapping[str, object]) -> str:
    """What an object says went wrong; empty where nothing did."""
    for key in ("error", "errors"):
        if (error := found.get(key)) not in (None, "", False, [], {}):
            return body_excerpt(error if isinstance(error, str) else json.dumps(error, ensure_ascii=False))
    status = found.get("base_resp")
    if isinstance(status, dict) and status.get("status_code") not in (0, None):
        return body_excerpt(json.dumps(status, ensure_ascii=False))
    failed = found.get("object") == "error" or found.get("type") == "error" or found.get("success") is False
    return body_excerpt(json.dumps(found, ensure_ascii=False)) if failed else ""
