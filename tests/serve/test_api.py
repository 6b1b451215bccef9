"""What programs ask: OpenAI's own client, plain HTTP, and the figures of a server."""

from __future__ import annotations

import base64
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionContentPartImageParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionMessageParam,
)

from data_prep.grounding.transformers_backend import load_segmenter
from emo_lightning.core.records import Mask
from emo_lightning.inference.model import EmotionModel
from emo_lightning.inference.text import as_text
from emo_lightning.models.token_stream import TokenStreamer
from emo_lightning.serve.settings import Limits
from tests.data_prep.grounding.models import save_transformers_models
from tests.patience import PATIENCE, wait_until
from tests.serve.conftest import FELT, SEEN, Running, opened, serving

MODEL = "emotion-model"


def uri(data: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def message(data: bytes) -> list[ChatCompletionMessageParam]:
    text: ChatCompletionContentPartTextParam = {"type": "text", "text": "What do you feel?"}
    picture: ChatCompletionContentPartImageParam = {"type": "image_url", "image_url": {"url": uri(data)}}
    return [{"role": "user", "content": [text, picture]}]


def explanation(reply: ChatCompletion | ChatCompletionChunk) -> dict[str, Any]:
    assert reply.model_extra is not None
    found: dict[str, Any] = reply.model_extra["explanation"]
    return found


def test_the_openai_client_gets_words_and_the_embedding_of_one_reading(
    running: Running, model: EmotionModel, pictures: list[bytes]
) -> None:
    client = running.openai
    assert [one.id for one in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "emo-lightning"
    (own,) = model.explain([opened(pictures[0])], ["image"])
    assert own.probe is not None
    before = running.figures["emo_batch_pictures_count"]
    reply = client.chat.completions.create(
        model=MODEL, messages=message(pictures[0]), temperature=0, max_tokens=200, extra_body={"embedding": True}
    )
    assert running.figures["emo_batch_pictures_count"] == before + 1, "one call of the model"
    choice = reply.choices[0]
    assert (choice.message.role, choice.message.content, choice.finish_reason) == ("assistant", as_text(own), "stop")
    told = explanation(reply)
    assert np.allclose(told["des"], own.des, atol=1e-5)
    assert (told["emotion"], told["intensity"], told["probe"]["emotion"]) == ("excitement", 7, str(own.probe.emotion))
    assert reply.usage is not None
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    tokenizer = model.collate.tokenizer
    assert reply.usage.completion_tokens == sum(
        len(tokenizer(json.dumps(said), add_special_tokens=False)["input_ids"]) for said in (SEEN, FELT)
    )
    # As many as the row holds that the model reads.
    batch = model.batch([opened(pictures[0])], *model.bundle.questions)
    assert reply.usage.prompt_tokens == batch["input_ids"].numel()
    as_json = client.chat.completions.create(
        model=MODEL, messages=message(pictures[0]), response_format={"type": "json_object"}
    )
    assert json.loads(as_json.choices[0].message.content or "")["subject"] == "dog"
    assert "des" not in explanation(as_json)
    cut = client.chat.completions.create(model=MODEL, messages=message(pictures[0]), max_completion_tokens=1)
    assert cut.choices[0].finish_reason == "length", "an answer has reached its limit"


@pytest.mark.parametrize("kind", ["text", "json_object"])
def test_a_stream_is_the_same_text_while_it_is_written(
    running: Running, model: EmotionModel, pictures: list[bytes], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"model": MODEL, "messages": message(pictures[1]), "response_format": {"type": kind}}
    whole = running.openai.chat.completions.create(**asked)
    client, seen = threading.Event(), threading.Event()
    put = TokenStreamer.put

    def held(streamer: TokenStreamer, value: torch.Tensor) -> None:
        # Half of the description is written; the rest has to wait for the client.
        if streamer._rows and "Two red dogs" in model.collate.tokenizer.decode(streamer._rows[0]):
            seen.set()
            assert client.wait(PATIENCE), "what is written was not sent"
        put(streamer, value)

    monkeypatch.setattr(TokenStreamer, "put", held)
    chunks = []
    for chunk in running.openai.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        chunks.append(chunk)
        if "dogs" in "".join(one.choices[0].delta.content or "" for one in chunks if one.choices):
            client.set()
    assert seen.is_set()
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == whole.choices[0].message.content
    assert len(texts) > 12, "token by token"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-2:] == [None, "stop"]
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1
    assert explanation(chunks[-2]) == explanation(whole)


def test_a_stream_that_is_cut_ends_with_the_whole_text(running: Running, model: EmotionModel, pictures: list[bytes]) -> None:
    begin = json.dumps(SEEN).partition(" dogs")[0]
    limit = len(model.collate.tokenizer(begin, add_special_tokens=False)["input_ids"])
    asked: dict[str, Any] = {"model": MODEL, "messages": message(pictures[1]), "max_tokens": limit}
    whole = running.openai.chat.completions.create(**asked)
    chunks = list(running.openai.chat.completions.create(**asked, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    begun, _, rest = text.partition("\n\n")
    assert begun.splitlines()[-1].startswith("  sees      Two red"), "what was written was sent"
    assert rest == whole.choices[0].message.content
    assert "(no description)" in rest
    assert chunks[-1].choices[0].finish_reason == "length"


def test_a_stream_begins_with_the_picture_read(running: Running, pictures: list[bytes]) -> None:
    with pytest.raises(openai.BadRequestError, match="not an image in JPEG, PNG or WebP"):
        running.openai.chat.completions.create(model=MODEL, messages=message(b"a text that is no picture"), stream=True)
    before = running.figures["emo_batch_pictures_count"]
    with running.openai.chat.completions.create(model=MODEL, messages=message(pictures[0]), stream=True) as stream:
        next(stream)
    wait_until(lambda: running.figures["emo_places_taken"] == 0)
    wait_until(lambda: running.figures["emo_batch_pictures_count"] == before + 1)


def test_embeddings_are_those_of_the_model_in_both_encodings(
    running: Running, model: EmotionModel, pictures: list[bytes]
) -> None:
    own = model.embed([opened(data) for data in pictures]).numpy()
    inputs = [uri(pictures[0]), base64.b64encode(pictures[1]).decode()]
    # The client asks for base64 by itself.
    coded = running.openai.embeddings.create(model=MODEL, input=inputs)
    plain = running.openai.embeddings.create(model=MODEL, input=uri(pictures[2]), encoding_format="float", dimensions=32)
    assert [one.index for one in coded.data] == [0, 1]
    assert np.allclose([one.embedding for one in (*coded.data, *plain.data)], own, atol=1e-5)
    assert coded.usage.total_tokens == coded.usage.prompt_tokens > 0
    others = running.http.post(
        "/v1/embeddings",
        json={
            "model": MODEL,
            "input": [{"image": uri(pictures[0])}, {"type": "image_url", "image_url": {"url": uri(pictures[1])}}],
        },
    ).json()
    assert np.allclose([one["embedding"] for one in others["data"]], own[:2], atol=1e-5)


def test_errors_are_those_that_the_client_knows(running: Running, pictures: list[bytes]) -> None:
    client = running.openai
    with pytest.raises(openai.NotFoundError, match="model 'gpt-5' is not here; there is 'emotion-model'"):
        client.chat.completions.create(model="gpt-5", messages=message(pictures[0]))
    with pytest.raises(openai.BadRequestError, match="not an image in JPEG, PNG or WebP") as caught:
        client.embeddings.create(model=MODEL, input=uri(b"a text that is no picture"))
    assert (caught.value.code, caught.value.param, caught.value.type) == ("invalid_image", "input", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="address not public"):
        client.embeddings.create(model=MODEL, input="http://127.0.0.1:9/picture.png")
    with pytest.raises(openai.BadRequestError, match=r"dimensions: found 7; .* have 32"):
        client.embeddings.create(model=MODEL, input=uri(pictures[0]), dimensions=7)
    with pytest.raises(openai.BadRequestError, match="no picture; expected a part of type image_url"):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hello"}])
    with pytest.raises(openai.BadRequestError, match="tools: no such key"):
        client.chat.completions.create(
            model=MODEL, messages=message(pictures[0]), tools=[{"type": "function", "function": {"name": "f"}}]
        )
    with pytest.raises(openai.AuthenticationError, match="no token"):
        openai.OpenAI(base_url=f"{running.url}/v1", api_key="another", max_retries=0).models.list()


def test_pictures_come_in_json_in_forms_and_as_they_are(running: Running, model: EmotionModel, pictures: list[bytes]) -> None:
    http = running.http
    one = http.post("/v1/explain", content=pictures[0], headers={"Content-Type": "image/png"}).json()["data"]
    files = [("image", ("a.png", pictures[0])), ("image", ("b.png", pictures[1]))]
    two = http.post("/v1/explain?embedding=false&max_new_tokens=9", files=files).json()["data"]
    given = {"images": [uri(pictures[0]), uri(pictures[1])], "ids": ["x", "y"], "model": MODEL}
    three = http.post("/v1/explain", json=given).json()["data"]
    assert [row["id"] for row in (*one, *two, *three)] == ["image", "0", "1", "x", "y"]
    assert ["des" in row for row in (*one, *two, *three)] == [True, False, False, True, True]
    assert np.allclose(one[0]["des"], three[0]["des"], atol=1e-5)
    assert one[0]["probe"]["conformal_set"][0] == one[0]["probe"]["emotion"]
    assert one[0]["comparison"].startswith("words and probe ")
    assert (one[0]["width"], one[0]["height"], len(one[0]["objects"])) == (112, 112, 2)
    linked = [piece for piece in one[0]["sentence"] if piece["regions"]]
    assert "".join(piece["text"] for piece in one[0]["sentence"]) == SEEN["description"]
    assert [(piece["text"], piece["regions"], piece["parts"]) for piece in linked] == [("dogs", [0, 1], ["subject"])]


def test_masks_are_those_of_the_sam_that_is_served_with(model: EmotionModel, pictures: list[bytes], tmp_path: Path) -> None:
    masks = load_segmenter(
        str(save_transformers_models(tmp_path, size={"shortest_edge": 96, "longest_edge": 128})["sam"])
    ).masks_of
    with serving(model, masks=masks) as server:
        (told,) = server.http.post("/v1/explain", json={"image": uri(pictures[1])}).json()["data"]
        about = server.http.get("/page-data").json()
    (own,) = model.explain([opened(pictures[1])], masks=masks)
    assert about["masks"]
    found = [Mask.model_validate(one["mask"]) for one in told["objects"]]
    assert found == [region.mask for region in own.said.regions]
    assert [one.size for one in found] == [(120, 84)] * 2, "rows and columns of the picture as it was sent"


def test_covering_a_region_is_measured_as_the_analysis_measures_it(
    running: Running, model: EmotionModel, pictures: list[bytes]
) -> None:
    from emo_lightning.data.images import masked
    from emo_lightning.inference.calibration import probed

    box = (8, 8, 40, 48)
    found = running.http.post("/v1/faithfulness", json={"image": uri(pictures[0]), "box": list(box), "draws": 3}).json()
    image = opened(pictures[0])
    probabilities = model.distribution(model.embed([image, masked(image, box, "mean")]))
    assert probabilities is not None
    whole, covered = (probed(row, model.calibration) for row in probabilities.double().tolist())
    assert (found["emotion"], found["draws"]) == (str(whole.emotion), 3)
    assert found["probability"] == pytest.approx(100 * whole.confidence, abs=1e-3)
    assert found["fall"] == pytest.approx(100 * (whole.confidence - covered.distribution[whole.emotion]), abs=1e-3)
    assert found["surplus"] == pytest.approx(found["fall"] - found["random_fall"])
    all_of_it = running.http.post("/v1/faithfulness", json={"image": uri(pictures[0]), "box": [-5, -5, 500, 500]}).json()
    assert (all_of_it["random_fall"], all_of_it["surplus"], all_of_it["draws"]) == (None, None, 0)
    outside = running.http.post("/v1/faithfulness", json={"image": uri(pictures[0]), "box": [500, 0, 600, 10]})
    assert (outside.status_code, outside.json()["error"]["param"]) == (400, "box")


def test_requests_of_one_moment_are_one_call_of_the_model(model: EmotionModel, pictures: list[bytes]) -> None:
    with serving(model, Limits(batch_size=3, wait=3600)) as server, ThreadPoolExecutor(3) as clients:
        sent = list(
            clients.map(
                lambda data: server.http.post("/v1/explain", content=data, headers={"Content-Type": "image/png"}), pictures
            )
        )
        figures = server.figures
        assert [one.status_code for one in sent] == [200] * 3
        assert (figures["emo_batch_pictures_count"], figures["emo_batch_pictures_sum"]) == (1, 3)
        assert figures['emo_requests_total{route="/v1/explain",status="200"}'] == 3
        assert figures["emo_places_taken"] == figures["emo_waiting_pictures"] == 0
    alone = model.explain([opened(data) for data in pictures])
    assert [
        np.allclose(one.json()["data"][0]["des"], other.des, atol=1e-5) for one, other in zip(sent, alone, strict=True)
    ] == [True] * 3


def test_what_there_is_no_room_for_is_sent_away_with_a_time_to_come_back(model: EmotionModel, pictures: list[bytes]) -> None:
    limits = Limits(batch_size=2, wait=3600, queue=2, images=2)
    with serving(model, limits) as server:
        done: list[httpx.Response] = []

        def ask(data: bytes) -> None:
            done.append(server.http.post("/v1/explain", content=data, headers={"Content-Type": "image/png"}))

        first = threading.Thread(target=ask, args=(pictures[0],))
        first.start()
        wait_until(lambda: server.service.batcher.waiting == 1)
        full = server.http.post("/v1/explain", json={"images": [uri(data) for data in pictures[:2]]})
        assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded")
        assert int(full.headers["Retry-After"]) >= 1
        many = server.http.post("/v1/explain", json={"images": [uri(pictures[0])] * 3})
        assert (many.status_code, many.json()["error"]["code"]) == (400, "too_many_images")
        ask(pictures[1])
        first.join()
        assert [one.status_code for one in done] == [200, 200], "what was there first is answered"
        wait_until(lambda: server.service.places.taken == server.service.places.decoded == server.door.held == 0)


def test_who_may_ask(running: Running) -> None:
    url, own = running.url, {"Authorization": "Bearer a-secret-of-the-tests"}
    for path in ("/", "/v1/models", "/metrics", "/docs", "/openapi.json", "/page-data", "/page/main.js", "/wrong-token/"):
        answer = httpx.get(f"{url}{path}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key"), path
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert httpx.get(running.page.removesuffix("/")).headers["Location"].endswith("/a-secret-of-the-tests/")
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example:8390"}, 421),
        ({"Host": "emo.example.org"}, 200),
        ({"Host": "localhost:1"}, 200),
        ({"Host": "[::1]:8390"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": running.url}, 200),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ):
        assert httpx.get(f"{url}/v1/models", headers={**own, **headers}).status_code == status, headers
    closed = httpx.get(running.page).headers
    assert "default-src 'none'" in closed["Content-Security-Policy"]
    assert "unsafe" not in closed["Content-Security-Policy"]
    assert (closed["Cache-Control"], closed["Referrer-Policy"], closed.get("server")) == ("no-store", "no-referrer", None)


def test_without_a_token_whoever_reaches_it_may_ask(model: EmotionModel) -> None:
    with serving(model, token=None) as server:
        assert httpx.get(f"{server.url}/v1/models").status_code == 200
        assert httpx.get(server.url).text.startswith("<!doctype html>")
        assert httpx.get(server.url, headers={"Host": "evil.example"}).status_code == 421


def test_the_api_is_described_without_anything_from_elsewhere(running: Running) -> None:
    from emo_lightning.serve.api import REQUEST_BODIES

    described = running.http.get("/openapi.json").json()
    assert set(described["paths"]) >= {
        "/v1/explain",
        "/v1/embeddings",
        "/v1/chat/completions",
        "/v1/faithfulness",
        "/v1/search",
    }
    text = json.dumps(described)
    for model in REQUEST_BODIES:
        assert f'"#/components/schemas/{model.__name__}"' in text
    known = described["components"]["schemas"]
    assert {name.rpartition("/")[2] for name in _refs(described)} <= set(known)
    page = running.http.get("/docs").text
    assert "POST /v1/chat/completions" in page
    assert "<script" not in page
    assert "max_new_tokens" in page


def _refs(value: object) -> set[str]:
    if isinstance(value, dict):
        own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return own.union(*map(_refs, value.values()))
    return set().union(*map(_refs, value)) if isinstance(value, list) else set()
