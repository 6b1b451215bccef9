"""What the body of an answer with status 200 is: one of six kinds, four of them paid. Nothing else can come out of a provider's `read`.

| kind | paid | what is done with it |
|---|---|---|
| `PaidReply` | yes | read by its schema |
| `Unusable` | yes | asked again, with what was wrong |
| `Refusal` | yes | the image ends without this model's word |
| `CutByLength` | yes | asked again with a higher limit, or not at all |
| `TransientError` | no | tried again later: the API says, under status 200, that it did not answer |
| `NotFromApi` | no | tried again later: the page of a proxy, a greeting, nothing |
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from emo_lightning.core.foreign import decode_json, whole_characters

MAX_TOKENS = 10**9
"""Of one request; a reply that claims more is mistaken, and its cost would not fit the ledger."""
EMPTY_REPLY = "the reply is empty"
"""Why an `Unusable` without a text is none."""
_NAME = 200
"""Characters of a model's name that are kept."""
_BLANKS = " \t\r\n"
_SHOWN = 300


@dataclass(frozen=True)
class Usage:
    """Tokens that a reply was billed for."""

    prompt: int
    cached: int
    """Of the prompt."""
    output: int
    """Thinking included."""

    @classmethod
    def plausible(cls, prompt: int, cached: int, output: int) -> Usage | None:
        """What a reply claims; None where it cannot be true, as a negative count or more than `MAX_TOKENS`."""
        if not (0 <= prompt <= MAX_TOKENS and 0 <= output <= MAX_TOKENS and cached >= 0):
            return None
        return cls(prompt, min(cached, prompt), output)

    def can_be_of(self, says_something: bool) -> bool:
        """Whether a reply can have cost this: one with words in it was asked something, and wrote something."""
        return not says_something or (self.prompt > 0 and self.output > 0)


@dataclass(frozen=True)
class PaidReply:
    """A reply with a text in it."""

    text: str
    usage: Usage | None = None
    """Of this and the other paid kinds: None where the body names none that can be true. Then the reply counts as the most that its
    request can cost."""


@dataclass(frozen=True)
class Unusable:
    """A reply that was billed and has no text that can be read."""

    why: str
    text: str = ""
    """What there is of it, to be shown to the model again."""
    usage: Usage | None = None


@dataclass(frozen=True)
class Refusal:
    """The model, or a filter of its provider, declines."""

    why: str
    usage: Usage | None = None


@dataclass(frozen=True)
class CutByLength:
    """A reply that ended at the limit of tokens; where all went into thinking, its text is empty."""

    text: str = ""
    usage: Usage | None = None


@dataclass(frozen=True)
class TransientError:
    """The API reports an error under status 200: nothing was answered, nothing is billed."""

    why: str


@dataclass(frozen=True)
class NotFromApi:
    """Somebody else answered, as a proxy does."""

    why: str


Paid = PaidReply | Unusable | Refusal | CutByLength
Unpaid = TransientError | NotFromApi
BodyOutcome = Paid | Unpaid


def paid(text: str | None, usage: Usage | None, *, refusal: str | None = None, cut: bool = False) -> Paid:
    """What a reply that was billed is.

    Args:
        text: of the reply.
        usage: that it names.
        refusal: why the model declines.
        cut: whether it ended at the limit of tokens.
    """
    if refusal:
        return Refusal(whole_characters(refusal), usage)
    said = whole_characters(text or "")
    if cut:
        return CutByLength(said, usage)
    if not said.strip():
        return Unusable(EMPTY_REPLY, said, usage)
    if said != text:
        # It cannot be kept as it was, and to put another character there would change what the model said.
        return Unusable("the reply holds half a character (a lone surrogate)", said, usage)
    return PaidReply(said, usage)


def body_excerpt(raw: bytes | str) -> str:
    """The beginning of a body in one line, for messages and the ledger; what a terminal would obey is an escape."""
    text = raw[: 4 * _SHOWN].decode("utf-8", "replace") if isinstance(raw, bytes) else raw[: 4 * _SHOWN]
    line = " ".join(re.split(r"[ \t\r\n]+", whole_characters(text).strip(_BLANKS)))
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)[:_SHOWN]


def body_text(raw: bytes) -> str:
    """The text of a body: UTF-8, or UTF-16 and UTF-32 as JSON may be. Bytes that are none become half characters (`surrogateescape`)."""
    encoding = json.detect_encoding(raw)
    if encoding.startswith("utf-8"):
        return raw.decode("utf-8", "surrogateescape").lstrip("\ufeff").strip(_BLANKS)
    return raw.decode(encoding, "replace").strip(_BLANKS)


def foreign_json(text: str) -> object:
    """The value of a JSON text of a provider. Only nonsense is refused: what was paid for is read wherever it can be.

    Raises:
        InputError: it is no JSON, nested too deep, or has a number of hundreds of digits.
    """
    return decode_json(text, "reply", integers="any float", half_characters="keep", repeated_keys="last", on_constant=float)


def model_name(value: object) -> str | None:
    """The name of a model, where a value is one."""
    return value[:_NAME] if isinstance(value, str) and value.isprintable() and value.strip() else None


def token_count(value: object) -> int:
    """A count of tokens: a whole number, also as 12.0 or "12"; a boolean is none.

    Raises:
        ValueError: anything else.
    """
    match value:
        case bool():
            pass
        case int():
            return value
        case float() if value.is_integer():
            return int(value)
        case str() if re.fullmatch(r"[0-9]{1,15}", value):
            return int(value)
    msg = f"{str(value)[:40]!r} is no count"
    raise ValueError(msg)
