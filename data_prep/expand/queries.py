"""Search queries from known triplets, rare emotions first: "joyful crowd at music festival" (paper section 3.1.1).

The texts are written by a chat model, each paid once, or by a template.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import Field

from data_prep.expand.compose import emotion_counts, quotas, rarity_weights
from data_prep.provider.base import Turn
from data_prep.provider.caller import Caller
from data_prep.provider.config import EndpointConfig
from data_prep.provider.failures import Failure
from data_prep.provider.prices import Price
from data_prep.provider.reply_schema import Reply, strict_schema
from data_prep.provider.request import NO_PICTURE, Request
from data_prep.provider.workers import ask_all
from data_prep.stats.graph import Combination, TripletGraph
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import write_text

_R = TypeVar("_R", bound=Reply)

_PARENTS = 8
"""Parents named with a query; all are counted."""
_ENVELOPE = 64
"""Tokens that a provider may add around messages."""
_PREPOSITIONS = (
    *("above", "across", "against", "along", "among", "around", "at", "behind", "below", "beneath", "beside", "between", "by"),
    *("in", "inside", "near", "on", "outside", "over", "through", "under", "with", "within"),
)

QUERY_PROMPT = """You write queries for an image search, to find photographs that show a given scene.
Write one specific query of at most twelve words, as a person would type it: the subject with its attribute, then the setting;
for example "joyful crowd at music festival". Add nothing that is not given, and do not name the emotion unless the attribute does.
Answer in JSON with query.

Background: {background}
Attribute: {attribute}
Subject: {subject}
The picture should make people feel: {emotion}"""


class QueryError(InputError):
    """Queries cannot be written."""


class QueryReply(Reply):
    """One search query."""

    query: str = Field(min_length=3, max_length=200)


@dataclass(frozen=True)
class SearchQuery:
    """A search query and where it comes from."""

    text: str
    combination: Combination
    parents: tuple[str, ...]
    """Ids of the records that show the combination, all of them."""
    written_by: str
    """Name of the model, or `template`."""

    def to_json(self) -> str:
        """One line; with an `url` beside these keys it is a line that `emo prep import urls` reads."""
        c = self.combination
        lineage = {
            "parents": list(self.parents[:_PARENTS]),
            "parents_total": len(self.parents),
            "triplet": {"background": c.background, "attribute": c.attribute, "subject": c.subject},
            "written_by": self.written_by,
        }
        row = {"query": self.text, "triplet": lineage["triplet"], "emotion": c.emotion, "lineage": lineage}
        return json.dumps(row, ensure_ascii=False)


@dataclass
class QueryReport:
    """What a run wrote."""

    queries: list[SearchQuery] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    """Combinations without a query, by the kind of failure."""
    repeated: int = 0
    """Combinations whose query another one has already."""
    stopped: bool = False
    by_budget: bool = False


def choose(graph: TripletGraph, count: int, *, seed: int, temperature: float) -> list[Combination]:
    """Known triplets without repetition, emotions by `rarity_weights`; fewer than `count` where there are no more."""
    rng = random.Random(f"queries/{seed}")
    left: dict[str, list[Combination]] = {}
    for combination in graph.combinations:
        if combination.emotion is not None:
            left.setdefault(combination.emotion, []).append(combination)
    for row in left.values():
        rng.shuffle(row)
    counts = emotion_counts(graph)
    chosen: list[Combination] = []
    used: set[tuple[str, str, str]] = set()
    while len(chosen) < count and any(left.values()):
        weights = rarity_weights({e: n for e, n in counts.items() if left.get(e)}, temperature)
        for emotion, share in quotas(weights, count - len(chosen)).items():
            row = left[emotion]
            while share and row:
                combination = row.pop()
                # A triplet that evokes several emotions still gives one query.
                if combination[:3] not in used:
                    used.add(combination[:3])
                    chosen.append(combination)
                    share -= 1
    rng.shuffle(chosen)
    return chosen


def template_query(combination: Combination) -> str:
    """`ATTRIBUTE SUBJECT at BACKGROUND`; a background that begins with a preposition keeps its own."""
    place = combination.background
    joint = "" if place.split(" ", 1)[0] in _PREPOSITIONS else "at "
    return f"{combination.attribute} {combination.subject} {joint}{place}"


class TextRequest(Request):
    """A question without an image."""

    def first_turn(self) -> Turn:
        """The question."""
        return Turn("user", (self.prompt,))

    def upper_nano(self, price: Price) -> int | None:
        """The most that the request can cost; None where nothing limits its output."""
        texts = len(self.text.encode()) + len(json.dumps(strict_schema(self.reply)))
        # A byte-level tokenizer gives at most one token for a byte.
        return price.bound(texts + _ENVELOPE, self.endpoint.max_output_tokens)


class TextCaller(Caller):
    """Asks questions without an image, by the same rules: paid once, off the schema asked again with the error."""

    async def ask_text(self, endpoint: EndpointConfig, prompt: str, reply: type[_R], *, max_invalid: int) -> _R | Failure:
        """One validated reply.

        Raises:
            CallError: the endpoint can answer no request at all.
            PassStoppedError: the run is stopping, or its budget is spent.
        """
        request = TextRequest(endpoint, NO_PICTURE, prompt, (), reply)
        return (await self.ask_request(request, reply, max_invalid=max_invalid))[0]


def query_prompt(combination: Combination) -> str:
    """What the model is asked."""
    return QUERY_PROMPT.format(**combination._asdict())


def template_queries(graph: TripletGraph, combinations: Sequence[Combination]) -> QueryReport:
    """Queries without a model."""
    return _report(graph, combinations, {c: template_query(c) for c in combinations}, "template")


async def written_queries(
    caller: TextCaller,
    endpoint: EndpointConfig,
    graph: TripletGraph,
    combinations: Sequence[Combination],
    *,
    max_invalid: int,
    on_progress: Callable[[], None] | None = None,
) -> QueryReport:
    """Queries by a model; what was answered before comes from the ledger.

    Raises:
        CallError: the endpoint can answer no request at all; what was received is in the ledger.
    """
    texts: dict[Combination, str] = {}
    failed: Counter[str] = Counter()

    async def ask(combination: Combination) -> None:
        reply = await caller.ask_text(endpoint, query_prompt(combination), QueryReply, max_invalid=max_invalid)
        if isinstance(reply, Failure):
            failed[reply.kind] += 1
        else:
            texts[combination] = " ".join(reply.query.split())
        if on_progress:
            on_progress()

    await ask_all(caller.stop, combinations, ask, caller.attempts.at_once(endpoint))
    report = _report(graph, combinations, texts, endpoint.model)
    report.failed, report.stopped, report.by_budget = failed, caller.stop.is_requested(), caller.stop.by_budget
    return report


def _report(
    graph: TripletGraph, combinations: Sequence[Combination], texts: dict[Combination, str], written_by: str
) -> QueryReport:
    """In the order of the combinations, whatever the order of the replies."""
    report = QueryReport()
    seen: set[str] = set()
    for combination in combinations:
        text = texts.get(combination)
        if text is None:
            continue
        if text.casefold() in seen:
            report.repeated += 1
            continue
        seen.add(text.casefold())
        report.queries.append(SearchQuery(text, combination, graph.combinations[combination], written_by))
    return report


def write_queries(path: str | Path, queries: Sequence[SearchQuery]) -> None:
    """One JSON object per line; the file is whole or not there.

    Raises:
        QueryError: the file cannot be written.
    """
    try:
        write_text(path, "".join(query.to_json() + "\n" for query in queries))
    except OSError as error:
        msg = f"{path}: cannot be written: {error.strerror or error}"
        raise QueryError(msg) from None
