"""A simulated images endpoint, and a simulated writer of search queries, for `emo prep expand`; with a bill like the annotators'.

A prompt that names a background, an attribute and a subject of the demo world is drawn as such, and its truth is known to the
simulated annotators from then on; any other prompt gives a plain coloured image.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from data_prep.demo.simulation.config import SimulatedImages, SimulationConfig
from data_prep.provider.prices import Price
from emo_lightning.core.records import Record, intensity_level

if TYPE_CHECKING:
    from data_prep.expand.config import ImagePrice

ImagesAnswer = tuple[str, str, Mapping[str, object]]
"""Status line, further header lines, JSON body."""

_ELEMENT = re.compile(r"^(Background|Attribute|Subject): (.*)$", re.MULTILINE)


class ImageSimulation:
    """Answers `POST /v1/images/generations`, and chat requests to the configured writers.

    Args:
        config: models and their rates.
        prices: path of the price table.
        token_prices: of chat models.
        row: the bill's row of a model.
        learn: told the truth of every image drawn from the demo world.
    """

    def __init__(
        self,
        config: SimulationConfig,
        prices: Path,
        token_prices: dict[str, Price],
        row: Callable[[str], dict[str, int]],
        learn: Callable[[Record], None],
    ) -> None:
        self.config, self.token_prices = config, token_prices
        self._prices, self._row, self._learn = prices, row, learn
        self._image_prices: dict[str, ImagePrice] = {}
        self._done: set[tuple[str, str]] = set()

    def answer(self, method: str, path: str, body: bytes) -> ImagesAnswer | None:
        """The answer to a request, or None where it is not for us.

        Raises:
            ConnectionResetError: the connection is to be closed without an answer.
        """
        if (method, path) == ("POST", "/v1/images/generations"):
            return self._generate(body)
        # A request that shows an image is for an annotator; looking for that costs less than parsing it twice.
        if (method, path) == ("POST", "/v1/chat/completions") and self.config.writers and b'"image_url"' not in body:
            return self._write(body)
        return None

    def _generate(self, body: bytes) -> ImagesAnswer:
        try:
            request = json.loads(body)
            model, prompt = str(request["model"]), str(request["prompt"])
            rates = self.config.images[model]
        except (ValueError, KeyError, TypeError) as error:
            known = ", ".join(sorted(self.config.images)) or "none"
            return "400 Bad Request", "", _error(f"not an image request: {error!r}; models: {known}", "invalid_request")
        digest = request_digest(request)
        if refusal := self._misbehave(rates, model, digest):
            return refusal
        image = self._draw(prompt, digest)
        row = self._row(model)
        row["replies"] += 1
        row["repeated"] += ("made", digest) in self._done
        self._done.add(("made", digest))
        row["nano_dollars"] += self._price(model).charge(1, None)
        if self._once("lost", rates.lost, digest):
            raise ConnectionResetError
        return "200 OK", "", {"created": 0, "data": [{"b64_json": base64.b64encode(image).decode()}]}

    def _misbehave(self, rates: SimulatedImages, model: str, digest: str) -> ImagesAnswer | None:
        if self._chance("refusal", digest) < rates.refusal:
            self._row(model)["refused"] += 1
            return "400 Bad Request", "", _error("the prompt was declined", "moderation_blocked")
        if self._once("429", rates.too_many_requests, digest):
            self._row(model)["refused"] += 1
            return "429 Too Many Requests", "Retry-After: 0.05\r\n", _error("simulated rate limit", "rate_limit_exceeded")
        if self._once("500", rates.server_error, digest):
            return "500 Internal Server Error", "Retry-After: 0.05\r\n", _error("simulated failure", "server_error")
        return None

    def _chance(self, what: str, digest: str) -> float:
        return random.Random(f"{self.config.seed}/{what}/{digest}").random()

    def _once(self, what: str, rate: float, digest: str) -> bool:
        """Whether it happens to this request now; at most once to each."""
        if (what, digest) in self._done or self._chance(what, digest) >= rate:
            return False
        self._done.add((what, digest))
        return True

    def _price(self, model: str) -> ImagePrice:
        from data_prep.expand.config import image_price

        if model not in self._image_prices:
            self._image_prices[model] = image_price(self._prices, model)
        return self._image_prices[model]

    def _draw(self, prompt: str, digest: str) -> bytes:
        drawn = draw_world(prompt, f"{self.config.seed}/{digest}")
        if drawn is None:
            return draw_plain(digest)
        image, truth = drawn
        self._learn(truth)
        return image

    def _write(self, body: bytes) -> ImagesAnswer | None:
        """A query in the words of the prompt."""
        try:
            request = json.loads(body)
            model, prompt = request["model"], request["messages"][0]["content"]
        except (ValueError, KeyError, TypeError, IndexError):
            return None
        if model not in self.config.writers or not isinstance(prompt, str):
            return None
        words = dict(_ELEMENT.findall(prompt))
        if len(words) != 3:
            return "400 Bad Request", "", _error("the prompt names no background, attribute and subject", "invalid_request")
        text = json.dumps({"query": f"{words['Attribute']} {words['Subject']} in a {words['Background']}"})
        tokens = (max(1, len(prompt) // 4), max(1, len(text) // 4))
        row = self._row(model)
        row["replies"] += 1
        row["prompt_tokens"] += tokens[0]
        row["output_tokens"] += tokens[1]
        row["nano_dollars"] += self.token_prices[model].cost(tokens[0], 0, tokens[1])
        message = {"role": "assistant", "content": text, "refusal": None}
        usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        return "200 OK", "", {"object": "chat.completion", "model": model, "choices": choices, "usage": usage}


def request_digest(request: Mapping[str, object]) -> str:
    """sha256 of a request, however its JSON was written."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def drawn_truth(labels: Mapping[str, object], config: SimulationConfig) -> Record | None:
    """Truth of an image of a store that a simulated model drew from the demo world, drawn again from its lineage; else None.

    Args:
        labels: of the item.
        config: of the simulation that drew it.
    """
    lineage = labels.get("lineage")
    if not isinstance(lineage, dict) or lineage.get("model") not in config.images:
        return None
    prompt = str(lineage["prompt"])
    drawn = draw_world(prompt, f"{config.seed}/{request_digest({**lineage['request'], 'prompt': prompt})}")
    return drawn and drawn[1]


def draw_plain(seed: str) -> bytes:
    """A small PNG that no other seed gives."""
    from PIL import Image

    rng = random.Random(seed)
    image = Image.frombytes("RGB", (32, 24), rng.randbytes(32 * 24 * 3))
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def draw_world(prompt: str, seed: str) -> tuple[bytes, Record] | None:
    """A JPEG of the composition that a prompt names, and its truth; None where it names none of the demo world.

    The same prompt and seed give the same bytes.
    """
    from data_prep.demo.world.affect import WORLD_ATTRIBUTES, WORLD_BACKGROUNDS, WORLD_SUBJECTS, affect
    from data_prep.demo.world.captions import affective_description
    from data_prep.demo.world.draw import draw_scene
    from data_prep.demo.world.style import STYLES

    found = [
        [w for w in words if re.search(rf"\b{w}\b", prompt)] for words in (WORLD_BACKGROUNDS, WORLD_ATTRIBUTES, WORLD_SUBJECTS)
    ]
    if any(len(words) != 1 for words in found):
        return None
    triplet = (found[0][0], found[1][0], found[2][0])
    rng = random.Random(seed)
    scene = draw_scene(triplet, STYLES["flat"], rng)
    out = io.BytesIO()
    scene.image.save(out, "JPEG", quality=90)
    data, truth = out.getvalue(), affect(*triplet)
    sha256 = hashlib.sha256(data).hexdigest()
    record = Record(
        id=f"drawn-{sha256[:16]}",
        source="aigc",
        width=scene.image.width,
        height=scene.image.height,
        sha256=sha256,
        split="train",
        description=affective_description(triplet, rng),
        background=triplet[0],
        attribute=triplet[1],
        subject=triplet[2],
        emotion=truth.emotion,
        emotion_scores=truth.scores,
        confidence=truth.confidence,
        intensity=truth.intensity,
        intensity_level=intensity_level(truth.intensity),
    )
    return data, record


def _error(message: str, code: str) -> dict[str, object]:
    return {"error": {"message": message, "type": "simulation", "code": code}}
