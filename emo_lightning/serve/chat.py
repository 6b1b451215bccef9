"""An explanation as an answer of OpenAI's chat completions, whole or as a stream of events."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emo_lightning.inference.text import as_text
from emo_lightning.serve.answers import explained, usage

if TYPE_CHECKING:
    from emo_lightning.serve.looking import Found
    from emo_lightning.serve.shapes import ChatRequest

DONE = "data: [DONE]\n\n"
_PIECE = re.compile(r"\S+\s*|\s+")
"""What a stream sends at a time: a word."""


@dataclass(frozen=True)
class Completion:
    """One answer.

    Args:
        asked: the request.
        found: of its picture, with words.
        model: id of the model.
    """

    asked: ChatRequest
    found: Found
    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def content(self) -> str:
        """The text: for people, or JSON where that is asked for."""
        explanation = self.found.explanation
        assert explanation is not None
        wanted = self.asked.response_format
        if wanted is not None and wanted.type == "json_object":
            return json.dumps(explanation.as_json(des=False), ensure_ascii=False, allow_nan=False)
        return as_text(explanation)

    @property
    def finish(self) -> str:
        """Why it ended."""
        return "length" if self.found.tokens.cut else "stop"

    def whole(self) -> dict[str, object]:
        """As one object; `explanation` is ours."""
        message: dict[str, object] = {"role": "assistant", "content": self.content, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self.finish}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": usage([self.found.tokens]),
            "explanation": explained(self.found, embedding=self.asked.embedding),
        }

    def events(self) -> Iterator[str]:
        """As server-sent events, a word each; the last but one says why it ended and holds the explanation."""
        options = self.asked.stream_options
        counted = options is not None and options.include_usage
        more: dict[str, object] = {"usage": None} if counted else {}
        yield self._event({"role": "assistant", "content": ""}, None, more)
        for found in _PIECE.finditer(self.content):
            yield self._event({"content": found[0]}, None, more)
        yield self._event({}, self.finish, {**more, "explanation": explained(self.found, embedding=self.asked.embedding)})
        if counted:
            head = self._head("chat.completion.chunk")
            yield f"data: {_json({**head, 'choices': [], 'usage': usage([self.found.tokens])})}\n\n"
        yield DONE

    def _event(self, delta: dict[str, object], finish: str | None, more: dict[str, object]) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return f"data: {_json({**self._head('chat.completion.chunk'), 'choices': [choice], **more})}\n\n"

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _json(value: dict[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
