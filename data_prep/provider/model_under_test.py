"""A model under test behind a paid endpoint: free-text questions about images, through the ledger, each paid once.

Nothing is asked again because its reply is badly formed: that is what is being tested. How a question reads and what a reply means
is the affair of the caller.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from data_prep.provider.base import Question, Turn
from data_prep.provider.budget import NANO_PER_DOLLAR, Tally, budget_nano
from data_prep.provider.caller import Caller
from data_prep.provider.config import EndpointConfig
from data_prep.provider.failures import Failure
from data_prep.provider.image_tokens import ImageTokens, prompt_bound
from data_prep.provider.party import is_answered
from data_prep.provider.prices import Price, load_prices, nano_per_token
from data_prep.provider.received import EMPTY_REPLY, CutByLength, NotFromApi, Refusal, TransientError, Unusable
from data_prep.provider.reply_schema import Reply
from data_prep.provider.request import NO_PICTURE, Picture, Request, cache_key
from data_prep.provider.workers import ask_all
from data_prep.settings import CONFIGS, ConfigError, Settings, beside, read_yaml
from data_prep.store.store import Store
from emo_lightning.core.records import describe


class OwnPrice(Settings):
    """USD per million tokens, for a model that the price table does not have (own hardware: 0 and 0)."""

    input: Decimal = Field(ge=0)
    """Of the prompt."""
    output: Decimal = Field(ge=0)
    """Of the reply."""
    image: ImageTokens = ImageTokens(kind="patches")
    """How images are counted."""

    def price(self) -> Price:
        """In nano-dollars per token."""
        dear, cheap = (nano_per_token(value, "price") for value in (self.output, self.input))
        return Price(input=cheap, cached_input=cheap, output=dear, image=self.image)


class UnderTest(EndpointConfig):
    """One model behind an endpoint, as `emo predict --endpoint` reads it."""

    parameters: dict[str, object] = Field(default={"temperature": 0, "max_tokens": 600})
    """Sent with every request."""
    revision: str = ""
    """Part of what a reply is kept under: change it when other weights are served under the same model name."""
    prices: Path = CONFIGS / "prices.yaml"
    """Price table, relative to this file."""
    price: OwnPrice | None = None
    """Instead of a row in the table."""
    boxes: Literal["pixels", "resized", "thousandths"] = "pixels"
    """Coordinates in the replies: of the image as sent, of Qwen2.5-VL's resized image (a server of such a model), or of 1000."""
    order: Literal["xyxy", "yxyx"] = "xyxy"
    """Of the four numbers; Gemini's own is `yxyx`."""
    min_pixels: int = Field(default=3136, ge=1)
    """Of the server's image processor, for `resized`."""
    max_pixels: int = Field(default=12845056, ge=1)
    """As `min_pixels`."""

    @model_validator(mode="before")
    @classmethod
    def _named_by_model(cls, value: object) -> object:
        return {"name": value["model"], **value} if isinstance(value, dict) and "model" in value else value

    @classmethod
    def load(cls, path: str | Path) -> UnderTest:
        """From YAML.

        Raises:
            ConfigError: no such file, not YAML, or a wrong key; names file and key.
        """
        path = Path(path)
        return cls.of(read_yaml(path), str(path), path.parent)

    @classmethod
    def of(cls, value: Mapping[str, object], where: str, folder: Path = Path()) -> UnderTest:
        """From a mapping; `where` names it in errors, `prices` is relative to `folder`.

        Raises:
            ConfigError: a wrong key.
        """
        try:
            found = cls.model_validate(value)
        except ValidationError as error:
            msg = f"{where}: {describe(error)}"
            raise ConfigError(msg) from None
        return found.model_copy(update={"prices": beside(folder, found.prices)})

    def price_table(self) -> dict[str, Price]:
        """Prices by model."""
        return {self.model: self.price.price()} if self.price else load_prices(self.prices)


@dataclass(frozen=True)
class FreeRequest(Request):
    """A question without a schema; the image comes before the words, as in our own chats."""

    revision: str = ""

    def key_of(self, party: str | None) -> str:
        """As `Request.key_of`, with the revision in the schema's place."""
        schema = {"revision": self.revision} if self.revision else {}
        e = self.endpoint
        return cache_key(self.picture.sha256, self.text, schema, e.model, e.parameters, e.provider, party)

    def question(self) -> Question:
        """What a provider puts into its own words; reads the image."""
        turn = Turn("user", (self.picture.image(), self.prompt))
        return Question(self.endpoint.model, (turn,), None, self.endpoint.parameters)

    def upper_nano(self, price: Price) -> int | None:
        """The most that the request can cost; None where nothing limits its output."""
        image = price.image.count(self.picture.width, self.picture.height)
        return price.bound(prompt_bound(len(self.text.encode()), image), self.endpoint.max_output_tokens)


@dataclass(frozen=True)
class WordsRequest(FreeRequest):
    """A question in words alone; the same one may be put several times, for as many independent replies, each kept and paid once."""

    draw: int = 0

    def key_of(self, party: str | None) -> str:
        """As `FreeRequest.key_of`, with the number of the draw."""
        schema = {"draw": self.draw, "revision": self.revision}
        e = self.endpoint
        return cache_key(self.picture.sha256, self.text, schema, e.model, e.parameters, e.provider, party)

    def question(self) -> Question:
        """See `FreeRequest.question`."""
        return Question(self.endpoint.model, (Turn("user", (self.prompt,)),), None, self.endpoint.parameters)

    def upper_nano(self, price: Price) -> int | None:
        """See `FreeRequest.upper_nano`."""
        return price.bound(prompt_bound(len(self.text.encode()), 0), self.endpoint.max_output_tokens)


class FreeCaller(Caller):
    """Asks for text, whatever it is."""

    @cached_property
    def cut(self) -> set[str]:
        """Keys of replies that ended at the limit of tokens."""
        return set()

    async def text(self, request: FreeRequest) -> str | Failure:
        """The reply, empty where the model sent none, or why there is no reply.

        Raises:
            CallError: the endpoint can answer no request at all.
            PassStoppedError: the pass is stopping, or its budget is spent.
        """
        raw = await self._paid_once(request, await self.key(request))
        if isinstance(raw, Failure):
            return raw
        match self.read(request.endpoint, raw):
            case TransientError(why) | NotFromApi(why):
                return Failure("gave_up", why)
            case Refusal(why):
                return Failure("refused", why)
            case Unusable(why, text="") if why != EMPTY_REPLY:
                return Failure("invalid", why)
            case CutByLength(text):
                if not text.strip():
                    return Failure("cut", "the limit of tokens was reached before an answer began")
                self.cut.add(request.key)
                return text
            case body:
                return body.text


@dataclass
class Answers:
    """What came of a pass."""

    replies: dict[int, str | Failure] = field(default_factory=dict)
    """By the question's number; one that was not asked is missing."""
    cut: set[int] = field(default_factory=set)
    """Questions whose reply ended at the limit of tokens."""
    tally: Tally = field(default_factory=Tally)
    stopped: bool = False
    by_budget: bool = False
    recovered: int = 0
    """Calls of a dead process, whose outcome is not known."""


@dataclass(frozen=True)
class AnswersEstimate:
    """What a pass would cost."""

    questions: int
    answered: int
    """In the ledger."""
    most_nano: int | None
    """The most that the others can cost, nano-dollars; None where nothing limits the replies."""

    def text(self) -> str:
        """One line."""
        most = (
            "no limit (set parameters.max_tokens)"
            if self.most_nano is None
            else f"at most ${self.most_nano / NANO_PER_DOLLAR:.4f}"
        )
        return f"{self.questions} questions, {self.answered} answered in the ledger, the others cost {most}"


class Endpoint:
    """A model under test and its ledger; a context manager that holds the store's lock.

    Args:
        config: who is asked.
        store: folder with the ledger (`emo prep` stores are such folders).
        budget: dollars that may be spent on this store, all runs together; None is no limit.
        resend_unknown: send again what was sent once with unknown outcome (it may be paid twice).
    """

    def __init__(self, config: UnderTest, store: Path, budget: str | None = None, resend_unknown: bool = False) -> None:
        self.config, self.resend_unknown = config, resend_unknown
        self.limit = budget_nano(budget) if budget is not None else None
        self.prices = config.price_table()
        self._root = store
        self._stack = ExitStack()

    def __enter__(self) -> Endpoint:
        self.store = self._stack.enter_context(Store(self._root, write=True))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def request(self, picture: Picture, prompt: str) -> FreeRequest:
        """The question as it is sent."""
        return FreeRequest(self.config, picture, prompt, (), Reply, self.config.revision)

    def words(self, prompt: str, draw: int) -> WordsRequest:
        """A question without a picture, put for the `draw`-th time."""
        return WordsRequest(self.config, NO_PICTURE, prompt, (), Reply, self.config.revision, draw)

    def estimate(self, requests: Sequence[FreeRequest]) -> AnswersEstimate:
        """What asking all would cost; equal questions are paid once.

        Raises:
            ConfigError: the model has no price.
        """
        price = self.prices.get(self.config.model)
        if price is None:
            known = ", ".join(sorted(self.prices))
            msg = f"no price for {self.config.model}; give `price`, or a row in {self.config.prices} (it has {known})"
            raise ConfigError(msg)
        fresh = {r.key: r for r in requests}
        known_keys = {key for key, r in fresh.items() if is_answered(self.store.ledger, r, [self.config])}
        bounds = [r.upper_nano(price) for key, r in fresh.items() if key not in known_keys]
        endless = any(bound is None for bound in bounds)
        answered = sum(r.key in known_keys for r in requests)
        return AnswersEstimate(len(requests), answered, None if endless else sum(b for b in bounds if b is not None))

    def ask(self, requests: Sequence[FreeRequest], on_progress: Callable[[Tally], None] | None = None) -> Answers:
        """Answers to all questions, from the ledger or bought; Ctrl-C stops sending and waits for what is in flight.

        Raises:
            ConfigError: the key or the price is missing.
            CallError: the endpoint can answer no request at all; what was received is in the ledger.
        """
        return asyncio.run(self._ask(requests, on_progress))

    async def _ask(self, requests: Sequence[FreeRequest], on_progress: Callable[[Tally], None] | None) -> Answers:
        answers = Answers(recovered=self.store.ledger.recover())
        caller = FreeCaller(
            self.store.ledger, self.prices, [self.config], resend_unknown=self.resend_unknown, limit_nano=self.limit
        )
        answers.tally = caller.tally

        async def ask(question: tuple[int, FreeRequest]) -> None:
            number, request = question
            answers.replies[number] = await caller.text(request)
            if request.key in caller.cut:
                answers.cut.add(number)
            if on_progress:
                on_progress(caller.tally)

        try:
            await ask_all(caller.stop, enumerate(requests), ask, caller.attempts.at_once(self.config))
        finally:
            await caller.close()
        answers.stopped, answers.by_budget = caller.stop.is_requested(), caller.stop.by_budget
        return answers
