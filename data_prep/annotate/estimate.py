"""What a pass will ask and cost, before it asks anything: from the images that are left, the price table, and what the ledger has.

The first round is counted exactly: a question that the ledger can answer costs nothing. What follows (the critic, revisions, replies
off the schema) depends on replies that nobody has yet: it is projected from this store's own calls once there are enough of them,
else from typical token counts that stand here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from data_prep.annotate import prompts
from data_prep.annotate.annotators import first_prompt
from data_prep.annotate.item import pass_digest
from data_prep.annotate.replies import CriticReply, EmotionVote, FullAnnotation
from data_prep.config import PrepConfig
from data_prep.provider.budget import NANO_PER_DOLLAR
from data_prep.provider.caller import check_prices
from data_prep.provider.config import EndpointConfig
from data_prep.provider.follow_up import longer
from data_prep.provider.party import is_answered
from data_prep.provider.prices import Price, load_prices
from data_prep.provider.registry import PROVIDERS
from data_prep.provider.reply_schema import Reply
from data_prep.provider.request import Picture, Request
from data_prep.settings import read_yaml
from data_prep.store.ledger import Ledger
from data_prep.store.rows import Item
from data_prep.store.store import Store

_ENOUGH = 50
"""Items with an outcome from which this store's own averages are used."""
_SAMPLE = 2000
"""Calls that averages are taken over."""
_IMAGES = 1000
"""Images whose size the average size is taken from."""
_PER_ITEM = {"full": 1.25, "emotion": 1.02, "critic": 1.3}
"""Typical requests for an image, revisions and replies off the schema included (the demo world's)."""
_OUTPUT = {"full": 150, "emotion": 20, "critic": 260}
"""Typical tokens of a reply. A model that thinks writes more: its own numbers are known after the first images."""


@dataclass(frozen=True)
class Line:
    """One annotator or the critic."""

    name: str
    model: str
    batched: bool
    requests: int
    cached: int
    """First-round questions that the ledger answers."""
    prompt_tokens: int
    output_tokens: int
    cost_nano: int
    most_nano: int | None
    """If every image went through every revision and every reply were as long and as often off the schema as it may be."""


@dataclass(frozen=True)
class PassEstimate:
    """What a pass will cost."""

    images: int
    """Without an outcome under this configuration."""
    lines: list[Line]
    paid_nano: int
    """Paid on this store before."""
    measured: bool
    """From this store's own calls, not from typical token counts."""
    prices: str
    """Where they come from."""

    @property
    def cost_nano(self) -> int:
        """Of all lines."""
        return sum(line.cost_nano for line in self.lines)

    @property
    def most_nano(self) -> int | None:
        """Of all lines; None where a reply has no limit."""
        most = [line.most_nano for line in self.lines]
        return None if None in most else sum(m for m in most if m is not None)

    def text(self) -> str:
        """A table for people."""
        rows = [("", "model", "requests", "tokens in", "tokens out", "cost", "at most")]
        for line in self.lines:
            most = "no limit" if line.most_nano is None else f"${line.most_nano / NANO_PER_DOLLAR:.2f}"
            rows.append(
                (
                    line.name,
                    line.model + (" (batch)" if line.batched else ""),
                    f"{line.requests:,}",
                    f"{line.prompt_tokens:,}",
                    f"{line.output_tokens:,}",
                    f"${line.cost_nano / NANO_PER_DOLLAR:.2f}",
                    most,
                )
            )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        table = [
            "  " + "  ".join(f"{c:<{w}}" if i < 2 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True)))
            for row in rows
        ]
        source = "this store's calls so far" if self.measured else "typical token counts"
        cached = sum(line.cached for line in self.lines)
        head = f"estimate for {self.images:,} images without an outcome, from {source}; the ledger answers {cached:,} questions"
        most = "no limit" if self.most_nano is None else f"at most ${self.most_nano / NANO_PER_DOLLAR:.2f}"
        tail = f"total ${self.cost_nano / NANO_PER_DOLLAR:.2f} ({most}); paid on this store before: ${self.paid_nano / NANO_PER_DOLLAR:.2f}"
        tail += "\nat most: every image revised to the end, every reply of full length and off the schema as often as it may be"
        return "\n".join([head, *table, self.prices, tail])


def price_source(path: Path) -> str:
    """The price table and the day that it says it is of: prices of last year would make every estimate and budget wrong."""
    as_of = read_yaml(path).get("as_of")
    return f"prices: {path.name}, " + (f"as of {as_of}" if as_of else "of no date (key `as_of`)")


def estimate(store: Store, config: PrepConfig, *, batch: bool = False) -> PassEstimate:
    """What is left to do and what it will cost; asks nobody.

    Args:
        store: may be open for reading alone.
        config: who annotates.
        batch: whether endpoints with `batch: true` are asked through the Batch API.

    Raises:
        ConfigError: a price is missing.
    """
    prices = load_prices(config.prices)
    check_prices(prices, config.endpoints, bounded=False)
    digest = pass_digest(config)
    left_out = store.ledger.duplicates()
    before = store.ledger.outcome_configs()
    todo = [item for item in store.ledger.items() if item.id not in left_out and before.get(item.id) != digest]
    measured = len(before) >= _ENOUGH
    lines = [
        _line(store.ledger, config, endpoint, prices[endpoint.model], todo, len(before) if measured else 0, batch)
        for endpoint in config.endpoints
    ]
    return PassEstimate(len(todo), lines, store.ledger.total_cost(), measured, price_source(config.prices))


def _line(
    ledger: Ledger, config: PrepConfig, endpoint: EndpointConfig, full_price: Price, todo: list[Item], done: int, batch: bool
) -> Line:
    batched = batch and endpoint.batch and full_price.batch is not None
    price = full_price.batch if batched and full_price.batch else full_price
    role = str(getattr(endpoint, "role", "critic"))
    cached = 0 if role == "critic" else _answered(ledger, config, endpoint, todo)
    requests_per_item, prompt, output = _typical(ledger, endpoint, full_price, role, todo, done)
    requests = round((len(todo) - cached) * requests_per_item)
    rounds = 1 if role == "emotion" else 1 + config.max_revisions
    counted = price.model_copy(update={"image": full_price.image})
    bounds = [_most(_bare(endpoint, item, role), counted, config.max_invalid) for item in todo[:_IMAGES]]
    known = [b for b in bounds if b is not None]
    most = None if len(known) < len(bounds) else round(mean(known) * len(todo)) * rounds if known else 0
    return Line(
        endpoint.name,
        endpoint.model,
        batched,
        requests,
        cached,
        requests * prompt,
        requests * output,
        requests * price.cost(prompt, 0, output),
        most,
    )


def _most(request: Request, price: Price, max_invalid: int) -> int | None:
    """The most that a question and all that is asked after it can cost: the first reply is cut, so the others have a higher limit."""
    raised = longer(request, 1, PROVIDERS[request.endpoint.provider]) or request
    first, others = request.upper_nano(price), raised.upper_nano(price)
    return None if first is None or others is None else first + max_invalid * others


def _typical(
    ledger: Ledger, endpoint: EndpointConfig, price: Price, role: str, todo: list[Item], done: int
) -> tuple[float, int, int]:
    """Requests for an image, prompt tokens and output tokens of a request."""
    if done:
        replies = sum(calls for name, state, calls, _, _ in ledger.call_totals() if (name, state) == (endpoint.name, "reply"))
        query = (
            "SELECT avg(prompt_tokens), avg(output_tokens) FROM (SELECT prompt_tokens, output_tokens FROM calls "
            "WHERE annotator = ? AND state = 'reply' AND prompt_tokens IS NOT NULL ORDER BY id DESC LIMIT ?)"
        )
        prompt, output = ledger.read(query, (endpoint.name, _SAMPLE))[0]
        if prompt is not None:
            return replies / done, round(prompt), round(output)
    words = {"full": prompts.ANNOTATION_PROMPT, "emotion": prompts.EMOTION_PROMPT, "critic": prompts.CRITIC_PROMPT}[role]
    image = round(mean(price.image.count(i.width, i.height) for i in todo[:_IMAGES])) if todo else 0
    return _PER_ITEM[role], len(words) // 4 + image, min(_OUTPUT[role], endpoint.max_output_tokens or _OUTPUT[role])


def _bare(endpoint: EndpointConfig, item: Item, role: str) -> Request:
    """A request of about the largest size: a critic's or a revision's prompt shows an annotation as well."""
    replies: dict[str, type[Reply]] = {"full": FullAnnotation, "emotion": EmotionVote, "critic": CriticReply}
    words = {
        "full": prompts.ANNOTATION_PROMPT + prompts.REVISION_PROMPT,
        "emotion": prompts.EMOTION_PROMPT,
        "critic": prompts.CRITIC_PROMPT,
    }[role]
    shown = " " * (4 * (endpoint.max_output_tokens or 0))
    return Request(
        endpoint, Picture(item.sha256, item.extension, bytes, item.width, item.height), words + shown, (), replies[role]
    )


def _answered(ledger: Ledger, config: PrepConfig, endpoint: EndpointConfig, todo: list[Item]) -> int:
    """First-round questions about these images that the ledger answers."""
    annotator = next(a for a in config.annotators if a.name == endpoint.name)
    if not any(state == "reply" for _, state, *_ in ledger.call_totals()):
        return 0
    prompt, reply = first_prompt(annotator)
    asked = (Request(annotator, Picture(i.sha256, i.extension, bytes), prompt, (), reply) for i in todo)
    return sum(is_answered(ledger, request, config.endpoints) for request in asked)
