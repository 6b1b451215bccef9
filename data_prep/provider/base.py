"""What a provider is: everything that depends on whose paid API is asked, behind one interface.

The rest of this room (cache keys, ledger, budget, rate, outages, batches) knows `Provider` alone. One that speaks another API is a
file with a subclass and a line in `registry.PROVIDERS`; `data_prep.provider` says how.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

from data_prep.provider.rate_headers import ReportedBucket
from data_prep.provider.received import BodyOutcome, body_text, foreign_json, model_name
from data_prep.provider.transport import MAX_ANSWER_BYTES, Connection, HttpConnection

FATAL_STATUSES = (401, 402, 404)
"""HTTP statuses after which nothing is gained by going on: the key, the account, the address or the model's name is wrong. Not 403: with it
providers also decline a single image. An endpoint that declines all of them ends the pass as well (`health`)."""


@dataclass(frozen=True)
class Image:
    """An encoded image in a question."""

    media_type: str
    """`image/png`, …"""
    data: bytes


@dataclass(frozen=True)
class Turn:
    """What one side says: texts and images, in order."""

    role: Literal["user", "assistant"]
    parts: tuple[str | Image, ...]


@dataclass(frozen=True)
class ReplySchema:
    """The JSON schema that a reply has to follow (strict: every key required, no other key allowed)."""

    name: str
    schema: Mapping[str, object]


@dataclass(frozen=True)
class Question:
    """What is asked of a model, in no provider's words."""

    model: str
    turns: tuple[Turn, ...]
    schema: ReplySchema | None
    """None for free text."""
    parameters: Mapping[str, object]
    """As the configuration has them, in the provider's own names."""


@dataclass(frozen=True)
class RemoteBatch:
    """A batch as the provider shows it."""

    id: str
    """Empty where it names none."""
    status: str
    """`completed`, `expired`, `cancelled`, `failed` (see `ENDED_BATCH_STATES`); anything else: it is worked on."""
    output: str | None = None
    """Id of the file with replies; a provider may say that a batch has ended before it says where its replies are."""
    failures: str | None = None
    """Id of the file with requests that have none; the same."""
    total: int | None = None
    """Requests, as it counts them; None where it says nothing, here and below."""
    completed: int | None = None
    """Requests that it says it answered."""
    failed: int | None = None
    """Requests that it says it did not answer."""
    errors: tuple[str, ...] = ()
    """`code: message`, of a batch that failed."""
    too_large: bool = False
    """It failed because the account's queue is full: a smaller or a later one may pass."""

    @property
    def files(self) -> tuple[str, ...]:
        """Ids of the files that are named, that of the replies first."""
        return tuple(name for name in (self.output, self.failures) if name is not None)


ENDED_BATCH_STATES = ("completed", "expired", "cancelled", "failed")
"""Statuses of a `RemoteBatch` that changes no more."""


@dataclass(frozen=True)
class BatchLine:
    """What came of one request of a batch."""

    key: str
    """Our name for it, as given to `BatchApi.line`."""
    status: int | None = None
    """HTTP status; None where it was never executed."""
    body: bytes | None = None
    error: str | None = None


class BatchApi(Protocol):
    """Batches of one account; every call is free, only a batch costs.

    Every method may raise `TransportError` (no answer) and `HttpStatusError` (a status other than 2xx); `batch.service` decides
    what to do then.
    """

    def line(self, question: Question, key: str) -> bytes:
        """One request in a file for `upload`, line break included; `key` names it in the results."""
        ...

    async def upload(self, path: Path) -> str:
        """Upload a file of requests; returns its id, an empty one where the provider names none."""
        ...

    async def create(self, file_id: str, token: str) -> RemoteBatch:
        """Create a batch that carries our token."""
        ...

    async def find(self, file_id: str, token: str) -> RemoteBatch | None:
        """The batch that carries our token, None where there is none."""
        ...

    async def retrieve(self, batch_id: str) -> RemoteBatch:
        """The batch as it is now."""
        ...

    async def cancel(self, batch_id: str) -> None:
        """Ask for its end."""
        ...

    async def download(self, file_id: str, path: Path) -> bool:
        """Write a file of results to `path`, from its beginning; whether that is all of it: it may be larger than is read."""
        ...

    def results(self, path: Path) -> Iterator[BatchLine | None]:
        """What a file that was downloaded says, line by line; None for a line that cannot be read."""
        ...


class Provider(ABC):
    """One paid API. It holds no state: one object serves all endpoints that speak it."""

    name: ClassVar[str]
    """Of the key `provider` of an endpoint."""
    most_bytes: ClassVar[int] = MAX_ANSWER_BYTES
    """Of one answer."""

    @abstractmethod
    def path(self, model: str) -> str:
        """Where questions are posted, below `base_url`."""

    @abstractmethod
    def headers(self, api_key: str) -> Mapping[str, str]:
        """HTTP headers that carry the key, and the version of the API where it wants one."""

    @abstractmethod
    def body(self, question: Question) -> dict[str, object]:
        """The JSON body of a question."""

    @abstractmethod
    def read(self, raw: bytes) -> BodyOutcome:
        """What the body of an answer with status 200 is (`received`). It raises nothing, whatever the bytes are.

        Where it may be a reply that was billed and broke off, it is `Unusable`.
        """

    def answered_model(self, raw: bytes) -> str | None:
        """The model that a reply names as its own: behind one name may stand now this model, now that one. It raises nothing."""
        return named_model(raw, "model")

    @abstractmethod
    def max_output_tokens(self, parameters: Mapping[str, object]) -> int | None:
        """The most tokens of a reply that the parameters allow, thinking included; None where they set no limit."""

    def longer(self, parameters: Mapping[str, object]) -> Mapping[str, object] | None:
        """The same with the limit of a reply raised, for one that was cut by it; None: a cut reply is not asked for again."""
        del parameters
        return None

    def without(self, status: int, raw: bytes, parameters: Mapping[str, object]) -> tuple[str, str | None] | None:
        """What to do with a parameter that the model does not take, by the answer that says so.

        Args:
            status: other than 200.
            raw: the body.
            parameters: that were sent.

        Returns:
            The parameter, and the name that it is to be sent under instead (None: it is left out). None where the answer says nothing
            of that kind.
        """
        del status, raw, parameters
        return None

    def connect(self, base_url: str, api_key: str, timeout: float) -> Connection:
        """A connection to an endpoint: JSON over HTTP with `headers`, unless a provider has a client of its own."""
        return HttpConnection(base_url, self.headers(api_key), timeout, secret=api_key, most=self.most_bytes)

    def reported_buckets(self, headers: Mapping[str, str]) -> list[ReportedBucket]:
        """What an answer's headers say is left of the rate limits; without them the rate is found from refusals (429) alone."""
        del headers
        return []

    def is_fatal(self, status: int, raw: bytes) -> bool:
        """Whether no request of this account, or to this model, can be answered: the pass ends.

        Args:
            status: other than 200.
            raw: the body.
        """
        del raw
        # A redirect is not followed with a body: the address is another one.
        return status in FATAL_STATUSES or 300 <= status < 400

    def batches(self, connection: Connection) -> BatchApi | None:
        """Its Batch API; None where it has none."""
        del connection
        return None


def named_model(raw: bytes, key: str) -> str | None:
    """A key of a JSON body that holds the name of a model; None where there is no such name."""
    try:
        found = foreign_json(body_text(raw))
    except ValueError:
        return None
    return model_name(found.get(key)) if isinstance(found, dict) else None
