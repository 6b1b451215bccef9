"""What is sent to OpenAI-compatible endpoints, and under which key its reply is kept: to the byte what it always was."""

from __future__ import annotations

import hashlib
import json

import pytest

from data_prep.annotate import prompts
from data_prep.annotate.item import pass_digest
from data_prep.annotate.replies import BoxReply, CriticReply, EmotionVote, FullAnnotation
from data_prep.demo.config import DemoConfig
from data_prep.expand.config import ImagesConfig
from data_prep.expand.queries import QueryReply, TextRequest
from data_prep.expand.requests import IMAGES_PROVIDER, ImageRequest
from data_prep.provider.config import EndpointConfig
from data_prep.provider.model_under_test import FreeRequest, UnderTest
from data_prep.provider.openai import OpenAIProvider
from data_prep.provider.openai_batches import OpenAIBatches
from data_prep.provider.reply_schema import INVALID_REPLY, Reply
from data_prep.provider.request import NO_PICTURE, LaterTurn, Picture, Request

DATA = b"\x89PNG not really"
PNG = Picture(hashlib.sha256(DATA).hexdigest(), "png", lambda: DATA, 40, 32)
JPG = Picture(hashlib.sha256(b"j").hexdigest(), "jpg", lambda: b"j")
GPT = EndpointConfig(
    name="gpt",
    model="gpt-4o",
    base_url="https://api.openai.com/v1",
    api_key_env="K",
    parameters={"temperature": 0, "max_completion_tokens": 600},
)
GEMINI = EndpointConfig(name="g", model="gemini", base_url="https://x/v1", api_key_env="K")
UNDER_TEST = UnderTest.of({"model": "qwen", "base_url": "http://h/v1", "api_key_env": "K"}, "here")
DRAWS = ImagesConfig(
    name="i",
    model="im",
    base_url="http://h/v1",
    api_key_env="K",
    size="1024x1024",
    seed_parameter="seed",
    parameters={"quality": "high"},
)
AGAIN: tuple[LaterTurn, ...] = (
    {"role": "assistant", "content": "{bad é"},
    {"role": "user", "content": INVALID_REPLY.format(attempt=1, error="x")},
)
CRITIC = prompts.CRITIC_PROMPT.format(annotation="{}", votes="{}", inspection=1, note="")

REQUESTS: dict[str, Request] = {
    "full": Request(GPT, PNG, prompts.ANNOTATION_PROMPT, (), FullAnnotation),
    "full again": Request(GPT, PNG, prompts.ANNOTATION_PROMPT, AGAIN, FullAnnotation),
    "emotion": Request(GEMINI, JPG, prompts.EMOTION_PROMPT, (), EmotionVote),
    "critic": Request(GPT, JPG, CRITIC, (), CriticReply),
    "box": Request(GPT, PNG, prompts.BOX_CRITIC_PROMPT.format(phrase="a", box="b"), (), BoxReply),
    "free": FreeRequest(UNDER_TEST, PNG, "what?", (), Reply, ""),
    "free revised": FreeRequest(UNDER_TEST, PNG, "what?", (), Reply, "r2"),
    "text": TextRequest(GPT, NO_PICTURE, "write", (), QueryReply),
}
# Cache key, body, line of a batch, text in the ledger: the first digits of their sha256, as of version 0.1.0. A changed key means that
# everybody who has a store pays for it again.
KNOWN = {
    "full": ("7215af32071cee40", "2df76a578773ab1b", "6f97c91b73ab7543", "700123c091d1f434"),
    "full again": ("b9ab0bf744801cea", "57e782f12ac8073e", "7b6b3bd0438289b7", "beb41be306d66de6"),
    "emotion": ("b37a5d3d41c7f1ce", "e973a7b443f4c561", "d8ee0ad0c52d547f", "235cdd965428c7db"),
    "critic": ("6e0671d654727f4c", "50883c3aade13229", "c69d374317d51ae7", "2a7ee09408ba357a"),
    "box": ("5a5259688324c4c3", "5ef783d6b9adf009", "da15bd4816c5d715", "bd95e2c6d83c39ec"),
    "free": ("787bac4521114b74", "3fb0d024026e59be", "24e80e9d0c90f331", "d61a62554c81e1a3"),
    "free revised": ("655c0af3436f3f89", "3fb0d024026e59be", "f574000f45792ba3", "d61a62554c81e1a3"),
    "text": ("a96dc46edc7603bc", "118088c2dda9f34f", "94fd58ef2d043bbc", "37aefe2d2724d019"),
}


def short(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


@pytest.mark.parametrize("name", REQUESTS)
def test_keys_and_bytes_of_requests_are_what_they_were(name: str) -> None:
    request, provider = REQUESTS[name], OpenAIProvider()
    body = json.dumps(provider.body(request.question())).encode()
    line = OpenAIBatches(None, provider).line(request.question(), request.key_of(None))  # type: ignore[arg-type]  # no client is needed
    # By the key of before parties were part of it, replies of that time are found.
    found = (request.key_of(None)[:16], short(body), short(line), short(request.text.encode()))
    assert found == KNOWN[name]
    assert request.key == request.key_of(request.endpoint.party_name) != request.key_of(None)


def test_keys_and_bytes_of_image_requests_are_what_they_were() -> None:
    request = ImageRequest.of(DRAWS, "a dog", 7)
    body = json.dumps(IMAGES_PROVIDER.body(request.question())).encode()
    found = (request.key_of(None)[:16], short(body), short(request.text.encode()))
    assert found == ("f7d1d0cd656b8c1b", "f83fc1000098f998", "b60d0bd9a184b944")


def test_digests_of_our_passes_are_what_they_were() -> None:
    found = {name: pass_digest(DemoConfig.load(f"configs/prep/{name}.yaml")) for name in ("default", "api_only", "world")}
    assert found == {"default": "60a17a6f50eeff6d", "api_only": "193e396f404da4b0", "world": "b61f5f528e14881d"}
