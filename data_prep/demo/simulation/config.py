"""How the simulated annotators behave: the key `simulation` of a configuration."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from data_prep.settings import Settings


class SimulatedModel(Settings):
    """Error rates of one simulated annotator or critic."""

    role: Literal["full", "emotion", "critic"]
    """What it is asked for."""
    emotion_error: float = Field(default=0.0, ge=0, le=1)
    """Chance to name a neighbouring emotion (drawn from the rest of the true distribution)."""
    word_error: float = Field(default=0.0, ge=0, le=1)
    """Chance for each element of the triplet to be another one of the world."""
    description: Literal["affective", "neutral"] = "affective"
    """Which of the two captions of the world it writes."""
    description_error: float = Field(default=0.0, ge=0, le=1)
    """Chance to describe another image."""
    intensity_noise: float = Field(default=0.0, ge=0)
    """Standard deviation of the intensity, in steps of the 1–10 scale."""
    invalid_json: float = Field(default=0.0, ge=0, le=1)
    """Chance of a reply cut in the middle of its JSON."""
    too_many_requests: float = Field(default=0.0, ge=0, le=1)
    """Chance of HTTP 429 for a request that was not refused before."""
    latency: float = Field(default=0.0, ge=0)
    """Seconds before a reply is sent."""
    requests_per_second: float | None = Field(default=None, gt=0)
    """Rate of a token bucket; a request that finds it empty is answered with 429."""
    burst: float = Field(default=1.0, ge=1)
    """Requests that a full bucket holds."""
    tokens_per_second: float | None = Field(default=None, gt=0)
    """As `requests_per_second`, for the tokens of requests and replies."""
    token_burst: float = Field(default=1.0, ge=1)
    """Tokens that a full bucket holds."""
    rate_headers: bool = False
    """Answers say what is left (`x-ratelimit-limit-requests`, `-remaining-`, `-reset-`, and the same for tokens)."""
    retry_after: Literal["milliseconds", "seconds", "date", "none"] = "milliseconds"
    """How a 429 says when to come again."""
    recall: dict[str, float] = Field(default={})
    """Critic: chance to flag a wrong field, by field (emotion, description, triplet, intensity)."""
    false_alarm: dict[str, float] = Field(default={})
    """Critic: chance to flag a right field, by field."""
    discard: float = Field(default=0.0, ge=0, le=1)
    """Critic: chance to discard an annotation in which description, triplet and emotion are all wrong."""


class SimulatedBatches(Settings):
    """How the simulated Batch API behaves."""

    seconds: float = Field(default=0.2, ge=0)
    """From creation to the end of a batch."""
    expire: float = Field(default=0.0, ge=0, le=1)
    """Chance that a batch expires with half of its requests answered."""
    line_error: float = Field(default=0.0, ge=0, le=1)
    """Chance that a request in a batch fails with HTTP 500 the first time."""
    create_error: float = Field(default=0.0, ge=0, le=1)
    """Chance that the creation of a batch fails: in equal parts with HTTP 429, with 503, and with 503 though the batch is made."""


class SimulatedImages(Settings):
    """How one simulated image model misbehaves; every rate is the chance per request."""

    refusal: float = Field(default=0.0, ge=0, le=1)
    """HTTP 400 with the code of a content refusal; not billed, and the same for the same request."""
    too_many_requests: float = Field(default=0.0, ge=0, le=1)
    """HTTP 429, at most once for a request."""
    server_error: float = Field(default=0.0, ge=0, le=1)
    """HTTP 500, at most once for a request."""
    lost: float = Field(default=0.0, ge=0, le=1)
    """The image is made and billed, and the connection closed without an answer, at most once for a request."""


class SimulationConfig(Settings):
    """The simulated annotators, by model name."""

    seed: int = 0
    """Of every error, which depends on it and on the request alone."""
    models: dict[str, SimulatedModel]
    """Annotators and critics, by model name."""
    batches: SimulatedBatches = SimulatedBatches()
    """Their Batch API."""
    images: dict[str, SimulatedImages] = Field(default={})
    """Image models (`POST /v1/images/generations`), by model name."""
    writers: tuple[str, ...] = ()
    """Models that write search queries for `emo prep expand queries`."""
