"""Every body of a 200 is one of six kinds: nothing raises, nothing that was billed is free, nothing that was not is booked."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable

import pytest

from data_prep.annotate.replies import EmotionVote
from data_prep.expand.images_received import billed_images, images_of, read_images
from data_prep.provider.follow_up import follow_up
from data_prep.provider.openai import OpenAIProvider
from data_prep.provider.openai_received import read_chat
from data_prep.provider.prices import Price, price_reply
from data_prep.provider.received import (
    EMPTY_REPLY,
    BodyOutcome,
    CutByLength,
    NotFromApi,
    PaidReply,
    Refusal,
    TransientError,
    Unusable,
    Usage,
)
from data_prep.provider.reply_schema import InvalidReplyError, parse_reply
from tests.data_prep.provider.test_openai import REQUESTS

USAGE = {"prompt_tokens": 400, "completion_tokens": 50, "total_tokens": 450}
BILLED = Usage(400, 0, 50)
VOTE = '{"emotion": "awe", "confidence": 0.9}'
PRICE = Price(input=2, cached_input=1, output=10)


def chat(content: object, finish: object = "stop", usage: object = USAGE, **message: object) -> dict[str, object]:
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
    return {"object": "chat.completion", "choices": [choice], "usage": usage}


def sse(*events: object, done: bool = True, between: str = "\n\n") -> bytes:
    lines = [f"data: {json.dumps(event)}" for event in events]
    return (between.join([*lines, "data: [DONE]"] if done else lines) + between).encode()


def delta(text: str | None = None, finish: str | None = None, **more: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {} if text is None else {"content": text}, "finish_reason": finish}], **more}


def raw(value: object) -> bytes:
    return json.dumps(value).encode()


BODIES: dict[str, tuple[bytes, BodyOutcome]] = {
    "whole": (raw(chat(VOTE)), PaidReply(VOTE, BILLED)),
    "no usage": (raw(chat(VOTE, usage=None)), PaidReply(VOTE)),
    "byte order mark": (b"\xef\xbb\xbf" + raw(chat(VOTE)), PaidReply(VOTE, BILLED)),
    "utf-16": (json.dumps(chat(VOTE)).encode("utf-16"), PaidReply(VOTE, BILLED)),
    "blanks of a proxy that keeps the line alive": (b"\n \n" + raw(chat(VOTE)), PaidReply(VOTE, BILLED)),
    "stream": (sse(delta(VOTE[:9]), delta(VOTE[9:], "stop"), {"choices": [], "usage": USAGE}), PaidReply(VOTE, BILLED)),
    "stream of one": (sse(chat(VOTE)), PaidReply(VOTE, BILLED)),
    "stream with comments": (b": PROCESSING\n\n" + sse(delta(VOTE, "stop", usage=USAGE)), PaidReply(VOTE, BILLED)),
    "stream with names": (b"event: message\nid: 4\n" + sse(delta(VOTE, "stop", usage=USAGE)), PaidReply(VOTE, BILLED)),
    "stream without blank lines": (sse(delta(VOTE[:9]), delta(VOTE[9:], usage=USAGE), between="\n"), PaidReply(VOTE, BILLED)),
    "stream with CRLF": (sse(delta(VOTE, usage=USAGE), between="\r\n\r\n"), PaidReply(VOTE, BILLED)),
    "stream without an end": (sse(delta(VOTE[:9]), done=False), Unusable("the stream ended before the reply did")),
    "stream without an end, the reply whole": (sse(delta(VOTE), done=False), PaidReply(VOTE)),
    "stream with a cut event in the middle": (
        sse(delta(VOTE[:9]), delta("x"), delta(VOTE[9:], usage=USAGE)).replace(b'"x"}', b'"x'),
        Unusable("an event of the stream is cut off, or no JSON: a piece of the reply is missing", usage=BILLED),
    ),
    "stream with other ends of lines in a text": (
        sse(delta("aLINEbNEXT"), delta("c", usage=USAGE)).replace(b"LINE", "\u2028".encode()).replace(b"NEXT", "\x85".encode()),
        PaidReply("a\u2028b\x85c", BILLED),
    ),
    "stream that fails at once": (sse({"error": {"message": "overloaded"}}), TransientError('{"message": "overloaded"}')),
    "stream that fails in the middle": (
        sse(delta("{"), {"error": "overloaded"}),
        Unusable("the reply reports an error: overloaded"),
    ),
    "stream that is cut": (
        sse(delta("{"), delta(finish="length", usage=USAGE)),
        CutByLength("{", BILLED),
    ),
    "chunks a line": (raw(delta(VOTE[:9])) + b"\n" + raw(delta(VOTE[9:], usage=USAGE)), PaidReply(VOTE, BILLED)),
    "list of chunks": (raw([delta(VOTE[:9]), delta(VOTE[9:], usage=USAGE)]), PaidReply(VOTE, BILLED)),
    "JSON of JSON": (raw(json.dumps(chat(VOTE))), PaidReply(VOTE, BILLED)),
    "wrapped by a gateway": (raw({"code": 0, "data": chat(VOTE)}), PaidReply(VOTE, BILLED)),
    "parts": (
        raw(
            chat(
                [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": VOTE[:9]}, {"type": "text", "text": VOTE[9:]}]
            )
        ),
        PaidReply(VOTE, BILLED),
    ),
    "parts that are texts": (raw(chat([VOTE[:9], VOTE[9:]])), PaidReply(VOTE, BILLED)),
    "a part with its text in an object": (raw(chat([{"type": "text", "text": {"value": VOTE}}])), PaidReply(VOTE, BILLED)),
    "an object": (raw(chat(json.loads(VOTE))), PaidReply(VOTE, BILLED)),
    "a list of numbers": (raw(chat([1, 2])), Unusable("the content is a list with int in it", usage=BILLED)),
    "a number": (raw(chat(5)), Unusable("the content is int, not a text", usage=BILLED)),
    "a boolean": (raw(chat(True)), Unusable("the content is bool, not a text", usage=BILLED)),
    "empty": (raw(chat("")), Unusable(EMPTY_REPLY, usage=BILLED)),
    "nothing but thinking": (raw(chat(None, reasoning_content="hm")), Unusable(EMPTY_REPLY, usage=BILLED)),
    "a tool's input": (
        raw(chat(None, "tool_calls", tool_calls=[{"function": {"name": "EmotionVote", "arguments": VOTE}}])),
        PaidReply(VOTE, BILLED),
    ),
    "a text of the old API": (
        raw({"choices": [{"text": VOTE, "finish_reason": "stop"}], "usage": USAGE}),
        PaidReply(VOTE, BILLED),
    ),
    "half a character": (
        raw(chat("CUT")).replace(b"CUT", rb"a \ud83d b"),
        Unusable("the reply holds half a character (a lone surrogate)", "a \ufffd b", BILLED),
    ),
    "a whole character of two halves": (raw(chat("CUT")).replace(b"CUT", rb"\ud83d\ude00"), PaidReply("\U0001f600", BILLED)),
    "bytes that are no UTF-8": (
        raw(chat("CUT")).replace(b"CUT", b"caf\xe9"),
        Unusable("the reply holds half a character (a lone surrogate)", "caf\ufffd", BILLED),
    ),
    "refusal": (raw(chat(None, refusal="no people")), Refusal("no people", BILLED)),
    "refusal that is an object": (raw(chat(None, refusal={"reason": "policy"})), Refusal('{"reason": "policy"}', BILLED)),
    "refusal as a part": (raw(chat([{"type": "refusal", "refusal": "no"}])), Refusal("no", BILLED)),
    "refusal that is none": (raw(chat(VOTE, refusal="")), PaidReply(VOTE, BILLED)),
    "filter": (raw(chat("half", "content_filter")), Refusal("content filter", BILLED)),
    "filter of another server": (raw(chat(None, "SAFETY")), Refusal("safety", BILLED)),
    "cut": (raw(chat("", "length")), CutByLength("", BILLED)),
    "cut, by another word": (raw(chat("{", "MAX_TOKENS")), CutByLength("{", BILLED)),
    "an odd reason": (raw(chat(VOTE, {"type": "stop"})), PaidReply(VOTE, BILLED)),
    "error inside": (raw({"error": {"message": "busy", "code": 503}}), TransientError('{"message": "busy", "code": 503}')),
    "error of Gemini": (raw([{"error": {"code": 503}}]), TransientError('{"code": 503}')),
    "error beside no choices": (raw({"choices": [], "error": "busy"}), TransientError("busy")),
    "error beside usage of nothing": (
        raw({"error": "busy", "choices": None, "usage": {"prompt_tokens": 0, "completion_tokens": 0}}),
        TransientError("busy"),
    ),
    "error in a choice": (
        raw({"choices": [{"error": {"code": 502}, "finish_reason": "error", "message": {"content": ""}}]}),
        TransientError('{"code": 502}'),
    ),
    "error by its reason": (raw(chat("", "error", usage=None)), TransientError("finish_reason error")),
    "error that was billed": (
        raw({"error": "broke off", "choices": [], "usage": USAGE}),
        Unusable("the reply reports an error: broke off", usage=BILLED),
    ),
    "error of vLLM": (
        raw({"object": "error", "message": "x"}),
        TransientError('{"object": "error", "message": "x"}'),
    ),
    "error that is none": (raw({**chat(VOTE), "error": None}), PaidReply(VOTE, BILLED)),
    "begun error": (b'{"error": {"message": "bu', TransientError('{"error": {"message": "bu')),
    "begun reply": (b'{"choices": [{"message": {"con', Unusable("the reply is cut off, or no JSON")),
    "begun stream": (b'data: {"choices": [{"delta": {"con', Unusable("the reply is cut off, or no JSON")),
    "too deep": (b"{" + b'"a":[' * 100_000, Unusable("the reply is cut off, or no JSON")),
    "no choices": (raw({"choices": [], "usage": {"prompt_tokens": "x", "completion_tokens": 1}}), Unusable(EMPTY_REPLY)),
    "page": (b"<html>502</html>", NotFromApi("no JSON: <html>502</html>")),
    "words": (b"upstream connect error", NotFromApi("no JSON: upstream connect error")),
    "nothing": (b"", NotFromApi("an empty body")),
    "a greeting": (b'{"status": "ok"}', NotFromApi('no reply: {"status": "ok"}')),
    "null": (b"null", NotFromApi("no reply: null")),
    "a stream of nothing": (b"data: [DONE]\n\n", NotFromApi("no reply: data: [DONE]")),
    "a stream of words": (b"data: hello\n\n", NotFromApi("no JSON: data: hello")),
    "zipped": (b"\x1f\x8b\x08\x00\x00", NotFromApi(r"no JSON: \x1f" + "\ufffd" + r"\x08\x00\x00")),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_read_whatever_it_is(name: str) -> None:
    body, expected = BODIES[name]
    assert read_chat(body) == expected


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({**USAGE, "total_tokens": 500, "prompt_tokens_details": {"cached_tokens": 300}}, Usage(400, 300, 100)),
        ({"prompt_tokens": 400.0, "completion_tokens": "50"}, BILLED),
        ({"input_tokens": 400, "output_tokens": 50}, BILLED),
        ({"prompt_tokens": True, "completion_tokens": 50}, None),
        ({"prompt_tokens": 1, "completion_tokens": 1e30}, None),
        ({"prompt_tokens": 1, "completion_tokens": float("nan")}, None),
        ({"prompt_tokens": -1, "completion_tokens": 50}, None),
        ({"prompt_tokens": 1}, None),
        ({"prompt_tokens": 0, "completion_tokens": 0}, None),
        ({"prompt_tokens": 400, "completion_tokens": 0}, None),
        ([1, 2], None),
        ("free", None),
    ],
)
def test_usage_is_what_can_be_true(usage: object, expected: Usage | None) -> None:
    body = read_chat(raw(chat(VOTE, usage=usage)))
    assert body == PaidReply(VOTE, expected)
    assert price_reply(PaidReply(VOTE, expected), PRICE, 777)[0] == (
        777 if expected is None else PRICE.cost(400, expected.cached, expected.output)
    )


def test_a_number_of_many_digits_is_paid_for_all_the_same() -> None:
    body = read_chat(raw({**chat(VOTE), "created": 1}).replace(b'"created": 1', b'"created": ' + b"9" * 5000))
    assert body == Unusable("the reply is cut off, or no JSON")
    assert read_chat(raw({**chat(VOTE), "logprob": float("-inf")})) == PaidReply(VOTE, BILLED), "a number that nobody asked for"


REPLY = json.dumps(chat(VOTE))
AROUND = {
    "a guard against scripts": (")]}',\n" + REPLY, True),
    "the call of a function": (f"got({REPLY});", True),
    "a comment behind it": (REPLY + "\n<!-- served in 3 ms -->", True),
    "zeros behind it": (REPLY + "\0\0\0", True),
    "a line of a log": (f"2026-01-01 INFO {REPLY}", True),
    "one part of several": (f"--x\r\nContent-Type: application/json\r\n\r\n{REPLY}\r\n--x--", True),
    "a list with something else in it": (f"[{REPLY}, null]", False),
    "wrapped twice": (f'{{"data": {{"result": {REPLY}}}}}', False),
    "twice": (REPLY + REPLY, False),
    "a guard, and cut off": (")]}',\n" + REPLY[: len(REPLY) // 2], False),
    "choices by number": (REPLY.replace('[{"index"', '{"0": {"index"').replace("}]", "}}"), False),
}


@pytest.mark.parametrize("name", AROUND)
def test_a_reply_with_something_around_it_is_read_or_was_paid_at_least(name: str) -> None:
    text, readable = AROUND[name]
    body = read_chat(text.encode())
    assert body == PaidReply(VOTE, BILLED) if readable else isinstance(body, Unusable)


@pytest.mark.parametrize(
    "page", ["<html><pre>{}</pre></html>", '{{"detail": [{{"loc": ["body", "choices"]}}]}}', "see {{ and }}"]
)
def test_a_page_about_replies_is_none(page: str) -> None:
    assert isinstance(read_chat(page.format(REPLY).encode()), NotFromApi)


# -- thousands of bodies, by what is true of them ---------------------------------------------------------------------------------

CONTENTS: list[object] = [
    VOTE,
    "",
    None,
    "words",
    5,
    True,
    [],
    {},
    json.loads(VOTE),
    [{"type": "text", "text": VOTE}],
    [None],
    "\ud83d",
]
JUNK: list[object] = [None, True, -1, 1e308, "", "x", [], {}, [[]], {"a": {"b": [1]}}, "\udc00"]


def _billed(rng: random.Random) -> dict[str, object]:
    """A reply that was billed, in any shape."""
    finish = rng.choice(["stop", "length", "content_filter", None, 7, "tool_calls", "error"])
    body = chat(rng.choice(CONTENTS), finish)
    for _ in range(rng.randrange(3)):
        body[rng.choice(["id", "created", "model", "system_fingerprint", "error", "object"])] = rng.choice(JUNK)
    if rng.random() < 0.3:
        choices = body["choices"]
        assert isinstance(choices, list)
        choices[0]["message"][rng.choice(["refusal", "tool_calls", "reasoning", "role"])] = rng.choice(JUNK)
    if rng.random() < 0.2:
        body["choices"] = rng.choice(JUNK)
    return body


def _as_sent(body: object, rng: random.Random) -> bytes:
    """Bytes of a body as servers and proxies send it."""
    ways: list[Callable[[], bytes]] = [
        lambda: raw(body),
        lambda: b"\xef\xbb\xbf" + raw(body),
        lambda: b" \n" + raw(body) + b"\n",
        lambda: json.dumps(body, indent=2).encode(),
        lambda: sse(body),
        lambda: sse(body, done=False),
        lambda: b": wait\n\n" + sse(body, between="\n"),
        lambda: raw([body]),
        lambda: raw(json.dumps(body)),
        lambda: json.dumps(body).encode("utf-16"),
        lambda: b")]}',\n" + raw(body),
        lambda: raw(body) + b"\n\0\0",
    ]
    return rng.choice(ways)()


def _free(rng: random.Random) -> object:
    """What was not billed: an error inside, or a word of somebody else."""
    error = rng.choice([{"message": "busy", "code": rng.choice([429, 500, "x", None])}, "busy", ["busy"], True])
    return rng.choice(
        [
            {"error": error},
            {
                "error": error,
                "choices": rng.choice([None, [], {}, ""]),
                "usage": rng.choice([None, {}, {"prompt_tokens": 0, "completion_tokens": 0}]),
            },
            {"choices": [{"error": error, "finish_reason": "error", "message": rng.choice([None, {}, {"content": ""}])}]},
            {"status": rng.choice(JUNK)},
            {"detail": "Not found"},
            {"message": "no healthy upstream"},
            {"object": "error", "message": "x"},
        ]
    )


def test_nothing_billed_is_free_and_nothing_free_is_booked() -> None:
    rng, kinds = random.Random(10), Counter[str]()
    for _ in range(4000):
        paid_body = read_chat(_as_sent(_billed(rng), rng))
        assert isinstance(paid_body, PaidReply | Unusable | Refusal | CutByLength)
        assert price_reply(paid_body, PRICE, 777)[0] > 0
        free_body = read_chat(_as_sent(_free(rng), rng))
        assert isinstance(free_body, TransientError | NotFromApi), free_body
        kinds.update(type(body).__name__ for body in (paid_body, free_body))
    assert len(kinds) == 6
    assert min(kinds.values()) > 50


def test_nothing_raises_whatever_the_bytes_are() -> None:
    """Bodies cut, doubled and mixed at random; what follows from them can be sent, kept and looked up."""
    rng = random.Random(11)
    seeds = [body for body, _ in BODIES.values() if len(body) < 2000]
    for _ in range(4000):
        body = bytearray(rng.choice(seeds))
        for _ in range(rng.randrange(1, 6)):
            at = rng.randrange(len(body) + 1)
            match rng.randrange(5):
                case 0:
                    del body[at : at + rng.randrange(1, 30)]
                case 1:
                    body[at:at] = rng.choice(seeds)[: rng.randrange(1, 60)]
                case 2:
                    body[at:at] = rng.choice(
                        [b"\\ud83d", b"NaN", b"1e999", b"9" * 5000, b"[" * 2000, b"{}", b"null", b"\xff", b"\x00"]
                    )
                case 3:
                    body[at : at + 1] = bytes([rng.randrange(256)])
                case _:
                    del body[at:]
        found = read_chat(bytes(body))
        read_images(bytes(body))
        if not isinstance(found, PaidReply | Unusable):
            continue
        wrong = found.why if isinstance(found, Unusable) else "off the schema"
        with contextlib.suppress(InvalidReplyError):
            parse_reply(EmotionVote, found.text)
        following = follow_up(REQUESTS["emotion"], 1, found, wrong)
        assert len(following.key) == 64
        turns = following.question().turns
        json.dumps(OpenAIProvider().body(following.question()), ensure_ascii=False).encode()
        assert [turn.role for turn in turns] == ["user", "assistant", "user"][: len(turns)], "roles alternate"
        assert all(not isinstance(part, str) or part.strip() for turn in turns for part in turn.parts), "no turn is empty"
        assert wrong in str(turns[-1].parts[-1]), "what was wrong is said"


# -- images ---------------------------------------------------------------------------------------------------------------------

IMAGE = {"b64_json": "aGk="}


@pytest.mark.parametrize(
    ("body", "kind", "images"),
    [
        (raw({"data": [IMAGE, {"url": "https://x/y"}]}), PaidReply, 2),
        (b"\xef\xbb\xbf" + raw({"data": [IMAGE]}), PaidReply, 1),
        (raw({"images": [{"url": "https://x/y"}], "timings": {}}), PaidReply, 1),
        (raw({"data": ["https://x/y"]}), PaidReply, 1),
        (
            sse({"type": "image_generation.partial_image", **IMAGE}, {"type": "image_generation.completed", **IMAGE}),
            PaidReply,
            1,
        ),
        (raw({"data": [{"b64_json": {"a": 1}}]}), Unusable, 1),
        (raw({"data": [{"url": 5}]}), Unusable, 1),
        (b'{"data": [{"b64_json": "aGk', Unusable, 1),
        (raw({"data": []}), Unusable, 0),
        (raw({"data": [{"error": {"code": "OutputImageSensitiveContentDetected"}}]}), Refusal, 0),
        (raw({"error": {"code": "content_policy_violation"}}), Refusal, 0),
        (raw({"error": {"message": "busy"}}), TransientError, 0),
        (raw({"error": {"message": "busy"}, "data": []}), TransientError, 0),
        (b"<html>", NotFromApi, 0),
        (b"", NotFromApi, 0),
        (b'{"status": "starting"}', NotFromApi, 0),
        (b"[" * 5000, NotFromApi, 0),
    ],
)
def test_images_and_their_number(body: bytes, kind: type, images: int) -> None:
    found = read_images(body)
    assert type(found) is kind
    assert billed_images(body, found) == images


@pytest.mark.parametrize(
    "reference", ["sha256:" + "a" * 64 + ".png", "sha256:../../../etc/passwd", "sha256:" + "a" * 64 + ".png/../x"]
)
@pytest.mark.parametrize("claim", [{}, {"emo_kept": [0]}, {"emo_kept": {"0": 1}}])
def test_a_reference_that_a_provider_wrote_leads_nowhere(reference: str, claim: dict[str, object]) -> None:
    from data_prep.expand.requests import keep_images
    from data_prep.store.store import Store

    class NoStore(Store):
        def __init__(self) -> None:
            pass

    kept = keep_images(NoStore(), raw({"data": [{"b64_json": reference}], **claim}))
    assert [list(entry) for entry in images_of(kept)] == [["b64_json"]], "a text that is no base64, and no image of the store"


def test_all_pairs_of_error_and_content_are_either_paid_or_free() -> None:
    errors = [None, "busy", {"code": 1}]
    for error, content, usage in itertools.product(errors, CONTENTS, (None, USAGE)):
        body = read_chat(raw({**chat(content, usage=usage), "error": error}))
        free = isinstance(body, TransientError | NotFromApi)
        silent = content in ("", None) or content in (5, True, []) or content == [None]
        assert free == (error is not None and usage is None and silent), (error, content, usage)
