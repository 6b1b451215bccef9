"""What is asked after a reply that cannot be used: a question that says what was wrong, in a conversation that every provider takes.

No turn is empty and roles alternate: where a reply had no text to show again, what was wrong stands with the first question.
"""

from __future__ import annotations

from dataclasses import replace

from data_prep.provider.base import Provider
from data_prep.provider.received import EMPTY_REPLY, CutByLength, PaidReply, Unusable
from data_prep.provider.reply_schema import INVALID_REPLY, InvalidReplyError, parse_strictly
from data_prep.provider.request import LaterTurn, Request

CUT_REPLY = """Your reply {attempt} was cut off at {limit} tokens, thinking included.
Answer again, at less length, with the JSON object alone."""
_SHOWN_AGAIN = 10_000
"""Characters of a bad reply that are sent back with what is wrong: an endless one would cost as much again."""


def follow_up(request: Request, attempt: int, body: PaidReply | Unusable, error: str) -> Request:
    """The next question after a reply off the schema.

    Only the last bad reply is shown again: a growing conversation would grow the bill. The number makes a second try a new question
    even where the model repeats itself.

    Args:
        request: the question before.
        attempt: number of its reply.
        body: the reply.
        error: what was wrong with it.
    """
    said: LaterTurn = {"role": "user", "content": INVALID_REPLY.format(attempt=attempt, error=error)}
    if not body.text.strip():
        return replace(request, turns=(said,))
    return replace(request, turns=({"role": "assistant", "content": body.text[:_SHOWN_AGAIN]}, said))


def longer(request: Request, attempt: int, provider: Provider) -> Request | None:
    """The next question after a reply that was cut by its limit, with a higher one; None where there is none to raise."""
    endpoint = request.endpoint
    parameters = provider.longer(endpoint.parameters)
    if parameters is None:
        return None
    said: LaterTurn = {"role": "user", "content": CUT_REPLY.format(attempt=attempt, limit=endpoint.max_output_tokens)}
    return replace(request, endpoint=endpoint.model_copy(update={"parameters": dict(parameters)}), turns=(said,))


def as_before(request: Request, attempt: int, body: PaidReply | Unusable | CutByLength) -> Request:
    """What version 0.2.0 asked after such a reply: where its answer is in the ledger, it was paid for, and is used."""
    try:
        parse_strictly(request.reply, body.text)
        error = EMPTY_REPLY
    except InvalidReplyError as problem:
        error = str(problem)
    turns: tuple[LaterTurn, ...] = (
        {"role": "assistant", "content": body.text[:_SHOWN_AGAIN]},
        {"role": "user", "content": INVALID_REPLY.format(attempt=attempt, error=error)},
    )
    return replace(request, turns=turns)
