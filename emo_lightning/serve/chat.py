"""An explanation as an answer of OpenAI's chat completions, whole or as a stream of events."""

from __future__ import annotations

import json
import time
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emo_lightning.inference.text import as_text
from emo_lightning.inference.unfinished import settled
from emo_lightning.serve.answers import explained, usage

if TYPE_CHECKING:
    from emo_lightning.inference.results import Explanation
    from emo_lightning.serve.looking import PictureResult
    from emo_lightning.serve.shapes import ChatRequest

STREAM_END = "data: [DONE]\n\n"


@dataclass
class Completion:
    """One answer.

    Args:
        asked: the request.
        model: id of the model.
    """

    asked: ChatRequest
    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))
    sent: str = ""
    """Of a stream, so far."""

    def content(self, explanation: Explanation) -> str:
        """The text: for people, or JSON where that is asked for."""
        wanted = self.asked.response_format
        if wanted is not None and wanted.type == "json_object":
            return json.dumps(explanation.as_json(des=False), ensure_ascii=False, allow_nan=False)
        return as_text(explanation)

    def whole(self, found: PictureResult) -> dict[str, object]:
        """As one object; `explanation` is ours.

        Args:
            found: of the picture, with words.
        """
        assert found.explanation is not None
        content = self.content(found.explanation)
        message: dict[str, object] = {"role": "assistant", "content": content, "refusal": None, "annotations": []}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish(found)}
        return {
            **self._head("chat.completion"),
            "choices": [choice],
            "usage": usage([found.tokens]),
            "explanation": explained(found, embedding=self.asked.embedding),
        }

    def begin(self) -> str:
        """The first event of a stream: who speaks."""
        return self._event({"role": "assistant", "content": ""})

    def more(self, so_far: Explanation) -> str:
        """What has become known since the last event, as an event; empty where nothing has.

        Args:
            so_far: see `EmotionModel.explain`, `on_partial`.
        """
        text = settled(self.content(so_far))
        if len(text) <= len(self.sent) or not text.startswith(self.sent):
            return ""
        piece, self.sent = text[len(self.sent) :], text
        return self._event({"content": piece})

    def end(self, found: PictureResult) -> str:
        """The rest of the text; why it ended, with the explanation; the tokens, where they are asked for.

        Where an answer was cut at its limit it may not be readable, and what has been sent of it does not stand in the text: then all of the
        text follows, after an empty line.

        Args:
            found: of the picture, with words.
        """
        assert found.explanation is not None
        text = self.content(found.explanation)
        rest = text[len(self.sent) :] if text.startswith(self.sent) else f"\n\n{text}"
        extra: dict[str, object] = {"explanation": explained(found, embedding=self.asked.embedding)}
        events = [self._event({"content": rest}) if rest else "", self._event({}, _finish(found), extra)]
        if self._counted:
            events.append(event_of({**self._head("chat.completion.chunk"), "choices": [], "usage": usage([found.tokens])}))
        return "".join([*events, STREAM_END])

    @property
    def _counted(self) -> bool:
        options = self.asked.stream_options
        return options is not None and options.include_usage

    def _event(self, delta: dict[str, object], finish: str | None = None, more: dict[str, object] | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        tokens = {"usage": None} if self._counted else {}
        return event_of({**self._head("chat.completion.chunk"), "choices": [choice], **tokens, **(more or {})})

    def _head(self, kind: str) -> dict[str, object]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def _finish(found: PictureResult) -> str:
    """Why an answer ended."""
    return "length" if found.tokens.cut else "stop"


def event_of(value: object) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(value, ensure_ascii=False, allow_nan=False)}\n\n"
