"""Simulated annotators: the truth, with seeded errors at configured rates. Pure functions of (seed, model, image, prompt)."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from data_prep.demo.simulation.boxes import box_verdict
from data_prep.demo.simulation.config import SimulatedModel, SimulationConfig
from emo_lightning.core.errors import UserError
from emo_lightning.core.records import EMOTIONS, INTENSITY_LEVELS, TRIPLET_PARTS, Emotion, Record, intensity_level

SHOWN_ANNOTATION = re.compile(r"^Annotation: (\{.*\})\nPooled votes on the emotion: (\{.*\})$", re.MULTILINE)
"""How `prompts.CRITIC_PROMPT` shows an annotation."""


class SimulationError(UserError, ValueError):
    """The request cannot be answered; sent to the client as HTTP 400."""


@dataclass(frozen=True)
class SimulatedReply:
    """HTTP status, text of the answer, and whether the request was refused for its rate."""

    text: str
    prompt_tokens: int
    output_tokens: int


class Simulation:
    """Answers as the configured models would.

    Args:
        truth: records with everything known; `provenance.neutral_description` where there is a neutral caption.
        config: error rates by model.

    Raises:
        SimulationError: no truth at all.
    """

    def __init__(self, truth: Iterable[Record], config: SimulationConfig) -> None:
        self.truth = {record.sha256: record for record in truth}
        if not self.truth:
            msg = "there is no truth to simulate annotators from"
            raise SimulationError(msg)
        self.config = config
        self._hashes = sorted(self.truth)
        self._words = {key: sorted({getattr(r, key) for r in self.truth.values() if getattr(r, key)}) for key in TRIPLET_PARTS}

    def generator(self, *parts: str) -> random.Random:
        """Randomness that depends on the seed and the parts alone."""
        digest = hashlib.sha256("\0".join([str(self.config.seed), *parts]).encode()).digest()
        return random.Random(int.from_bytes(digest[:8], "big"))

    def model(self, name: str) -> SimulatedModel:
        """Rates of a model.

        Raises:
            SimulationError: it is not configured.
        """
        if name not in self.config.models:
            msg = f"model {name!r} is not simulated; there are: {', '.join(sorted(self.config.models))}"
            raise SimulationError(msg)
        return self.config.models[name]

    def asked(self, name: str, prompt: str) -> SimulatedModel:  # noqa: ARG002 - a rehearsal goes by it
        """Rates of a model for what it is asked; here they do not depend on that."""
        return self.model(name)

    def answer(self, model_name: str, image_sha256: str, prompt: str) -> SimulatedReply:
        """The reply of a model.

        Args:
            model_name: key in the configuration.
            image_sha256: of the image's bytes.
            prompt: all text of the request.

        Raises:
            SimulationError: unknown model or image.
        """
        model = self.asked(model_name, prompt)
        if image_sha256 not in self.truth:
            msg = f"image {image_sha256} is not in the truth of this simulation ({len(self.truth)} images)"
            raise SimulationError(msg)
        truth = self.truth[image_sha256]
        rng = self.generator(model_name, image_sha256, prompt)
        match model.role:
            case "full":
                reply = self._full(model, truth, rng)
            case "emotion":
                reply = self._vote(model, truth, rng)
            case "critic":
                reply = self._critic(model, truth, prompt, rng)
        text = json.dumps(reply, ensure_ascii=False)
        if rng.random() < model.invalid_json:
            text = text[: rng.randrange(len(text) // 4, len(text) - 1)]
        # About four characters a token; 255 for a small image, as GPT-4o counts one tile.
        return SimulatedReply(text, 255 + len(prompt) // 4, max(1, len(text) // 4))

    def _vote(self, model: SimulatedModel, truth: Record, rng: random.Random) -> dict[str, object]:
        emotion = _required(truth).emotion
        assert emotion is not None
        if rng.random() < model.emotion_error:
            return {"emotion": str(_neighbour(truth, rng)), "confidence": round(rng.uniform(0.35, 0.75), 2)}
        return {"emotion": str(emotion), "confidence": round(rng.uniform(0.55, 0.95), 2)}

    def _full(self, model: SimulatedModel, truth: Record, rng: random.Random) -> dict[str, object]:
        described = truth
        if rng.random() < model.description_error:
            described = self.truth[rng.choice(self._hashes)]
        triplet = {key: getattr(truth, key) for key in TRIPLET_PARTS}
        for key in TRIPLET_PARTS:
            others = [word for word in self._words[key] if word != triplet[key]]
            if rng.random() < model.word_error and others:
                triplet[key] = rng.choice(others)
        noisy = round((truth.intensity or 5) + rng.gauss(0, model.intensity_noise))
        return {
            "description": _description(model, described),
            **triplet,
            **self._vote(model, truth, rng),
            "intensity": min(10, max(1, noisy)),
        }

    def _critic(self, model: SimulatedModel, truth: Record, prompt: str, rng: random.Random) -> dict[str, object]:
        shown = SHOWN_ANNOTATION.search(prompt)
        if shown is None and (verdict := box_verdict(model, truth, prompt, rng)) is not None:
            return verdict
        if shown is None:
            msg = "the prompt shows no annotation to criticise"
            raise SimulationError(msg)
        annotation, votes = json.loads(shown[1]), json.loads(shown[2])
        emotion, level = _required(truth).emotion, intensity_level(truth.intensity or 5)
        right = {
            "description": annotation["description"] in _descriptions(truth),
            "triplet": all(annotation[key] == getattr(truth, key) for key in TRIPLET_PARTS),
            "emotion": annotation["emotion"] == emotion,
            "intensity": annotation["intensity_level"] == level,
        }
        # One draw per field, always, so that the fields do not depend on each other.
        draws = {field: rng.random() for field in right}
        flagged = {
            field: draws[field] < (model.false_alarm if ok else model.recall).get(field, 0.0) for field, ok in right.items()
        }
        own = _neighbour(truth, rng) if rng.random() < model.emotion_error else emotion
        if not votes["contested"] and not flagged["emotion"]:
            own = Emotion.parse(annotation["emotion"])
        hopeless = not (right["description"] or right["triplet"] or right["emotion"])
        discard = rng.random() < model.discard and hopeless
        wrong_level = next(lv for lv in INTENSITY_LEVELS if lv != annotation["intensity_level"])
        scene = _neutral(truth)
        return {
            "scene": scene,
            **{f"{f}_check": f"the {f} {'does not agree' if flagged[f] else 'agrees'} with the scene" for f in list(right)[:3]},
            "emotion": str(own),
            "intensity_level": annotation["intensity_level"]
            if not flagged["intensity"]
            else level
            if not right["intensity"]
            else wrong_level,
            **{f"{f}_verdict": "revisable" if flagged[f] else "valid" for f in right},
            "overall": "discarded" if discard else "revisable" if any(flagged.values()) else "valid",
            "instructions": "; ".join(f"look at the {f} again" for f in right if flagged[f]),
        }


def _required(truth: Record) -> Record:
    if truth.emotion is None or truth.triplet is None or truth.description is None:
        msg = f"the truth of {truth.id} lacks emotion, triplet or description"
        raise SimulationError(msg)
    return truth


def _neighbour(truth: Record, rng: random.Random) -> Emotion:
    """Another emotion, as likely as the true distribution holds it (uniform without one)."""
    scores: Mapping[Emotion, float] = truth.emotion_scores or {}
    others = [e for e in EMOTIONS if e is not truth.emotion]
    return rng.choices(others, [scores.get(e, 0.0) + 1e-3 for e in others])[0]


def _neutral(truth: Record) -> str:
    return str(truth.provenance.get("neutral_description") or truth.description)


def _description(model: SimulatedModel, truth: Record) -> str:
    return _neutral(truth) if model.description == "neutral" else str(truth.description)


def _descriptions(truth: Record) -> tuple[str, str]:
    return str(truth.description), _neutral(truth)
