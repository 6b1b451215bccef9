"""Table 3: what cross-verification and critic are worth, and what the critic notices (paper section 4.2.1).

Left half, on images of which the right annotation is known (a truth, or human reviews): accuracy of what each arm would publish.
"w/o critic" and the preserve rate are functions of replies that the pass has bought; "w/o cross-verification" asks the critic (and
its revisions) about the preferred annotator alone, through the ledger, so once. Its description and triplet come from the same
annotator as in the full pass: it differs in emotion and intensity.

Right half: one field is made wrong, and the critic asked. Boxes are not cross-verified, and the critic of the pass does not see
them; as the paper gives it rates for boxes, it is asked about the box in a prompt of its own. (A second run of the grounder
would flag every moved box by construction, and say nothing.)
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypedDict, TypeVar

from data_prep.annotate.critic import critic_prompt, judge
from data_prep.annotate.item import ItemPendingError, ItemPipeline, pass_digest
from data_prep.annotate.prompts import BOX_CRITIC_PROMPT
from data_prep.annotate.replies import BoxReply, CriticReply
from data_prep.config import PrepConfig
from data_prep.provider.caller import Caller
from data_prep.provider.failures import Failure, PassStoppedError
from data_prep.provider.interrupt import stop_on_interrupt
from data_prep.provider.prices import load_prices
from data_prep.provider.reply_schema import Reply
from data_prep.provider.request import Picture
from data_prep.stats.ablations import boxes, final_draft, first_draft, first_judgement, flags, single_annotator
from data_prep.stats.corruptions import Corruption, corrupt, generator
from data_prep.stats.references import TABLE3_FIELDS, CriticReference, Values
from data_prep.store.rows import Item
from data_prep.store.store import Store
from emo_lightning.core.errors import InputError
from emo_lightning.core.intervals import wilson
from emo_lightning.core.records import Box, Record

_Reply = TypeVar("_Reply", bound=Reply)

TABLE3_ARMS = ("full", "no_cross_verification", "no_critic")
TABLE3_COLUMNS = (*TABLE3_ARMS, "preserve", "recall")


class Table3Error(InputError):
    """The table cannot be computed."""


class Rate(TypedDict):
    """One cell of the table."""

    n: int
    hits: int
    percent: float | None
    low: float | None
    high: float | None
    """The 95 % interval of Wilson, percent; null without trials, as `percent`."""


class Table3JSON(TypedDict):
    """The keys of `table3.json`."""

    images: int
    rows: dict[str, dict[str, Rate]]
    """By row and column; besides `TABLE3_COLUMNS`, `recall_1` and `recall_2` by severity."""
    published: dict[str, int]
    """Images that each arm would publish."""
    rightness_unknown: dict[str, int]
    unanswered: dict[str, int]
    requests: int
    cached: int
    nano_dollars: int


@dataclass
class Table3:
    """Hits and trials by column and row."""

    trials: dict[str, dict[str, list[bool]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    """{column: {row: outcomes}}; besides `TABLE3_COLUMNS`, `recall_1` and `recall_2` by severity."""
    published: Counter[str] = field(default_factory=Counter)
    """Images that each arm would publish."""
    images: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    """Values whose rightness is not known, by arm: they are in no rate."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """Questions without a usable reply, by kind of failure."""
    requests: int = 0
    cached: int = 0
    cost_nano: int = 0

    def judge(self, arm: str, values: Values, reference: CriticReference) -> None:
        """Count what an arm publishes."""
        self.published[arm] += 1
        for row in TABLE3_FIELDS:
            if row == "box" and arm == "no_cross_verification":
                # Boxes do not pass cross-verification.
                continue
            right = reference.right(row, getattr(values, row))
            if right is None:
                self.unknown[arm] += 1
            else:
                self.trials[arm][row].append(right)

    def rate(self, column: str, row: str) -> Rate:
        """n, hits, percent, and the 95 % interval of Wilson (percent); nulls without trials."""
        outcomes = self.trials.get(column, {}).get(row, [])
        if not outcomes:
            return {"n": 0, "hits": 0, "percent": None, "low": None, "high": None}
        low, high = wilson(sum(outcomes), len(outcomes))
        return {
            "n": len(outcomes),
            "hits": sum(outcomes),
            "percent": round(100 * sum(outcomes) / len(outcomes), 2),
            "low": round(100 * low, 2),
            "high": round(100 * high, 2),
        }

    def as_json(self) -> Table3JSON:
        """All rates, and how they came about."""
        return {
            "images": self.images,
            "rows": {row: {c: self.rate(c, row) for c in (*TABLE3_COLUMNS, "recall_1", "recall_2")} for row in TABLE3_FIELDS},
            "published": dict(self.published),
            "rightness_unknown": dict(self.unknown),
            "unanswered": dict(self.unanswered),
            "requests": self.requests,
            "cached": self.cached,
            "nano_dollars": self.cost_nano,
        }


@dataclass(frozen=True)
class _Case:
    item: Item
    state: str
    record: Record
    reference: CriticReference | None


async def table3(
    store: Store,
    config: PrepConfig,
    references: Mapping[str, CriticReference],
    *,
    samples: int,
    seed: int = 0,
    limit_nano: int | None = None,
) -> Table3:
    """Compute the table on a seeded sample of the store.

    Args:
        store: opened for writing, annotated with `config`.
        config: of the pass.
        references: what is known to be right, by item. Empty: only recall is computed, and valid records count as right.
        samples: images; 0 takes all.
        seed: of sample and corruptions.
        limit_nano: as `Caller`.

    Returns:
        The table; what the endpoints would not answer is counted in it, and another run asks only for that.

    Raises:
        Table3Error: nothing was annotated with this configuration, or no reference is of an annotated image.
        ConfigError, CallError: see `Caller`.
    """
    everything = _cases(store, config, references)
    donors = [case.record for case in everything if case.state == "valid"]
    cases = [case for case in everything if case.reference is not None or not references]
    if not cases:
        msg = f"{store.root}: no reference is of an image that was annotated ({len(references)} references)"
        raise Table3Error(msg)
    if samples:
        chosen = {case.item.id for case in sorted(cases, key=lambda c: generator(seed, c.item.id).random())[:samples]}
        cases = [case for case in cases if case.item.id in chosen]
    result = Table3(images=len(cases))
    _from_replies(result, store, config, cases)
    store.ledger.recover()
    preferred = next(a for a in config.annotators if a.name == config.preferred)
    caller = Caller(store.ledger, load_prices(config.prices), [preferred, config.critic], limit_nano=limit_nano)
    run = _Run(result, store, config, caller, seed, donors)
    with stop_on_interrupt(caller.stop):
        done = await asyncio.gather(*(run.case(case) for case in cases), return_exceptions=True)
    await caller.close()
    result.requests, result.cached, result.cost_nano = caller.tally.requests, caller.tally.cached, caller.tally.cost_nano
    if error := caller.stop.error or next((e for e in done if e is not None and not isinstance(e, PassStoppedError)), None):
        raise error
    if caller.stop.is_requested():
        # Images of which nothing more was asked; a run without the limit asks for the rest alone.
        result.unanswered["budget" if caller.stop.by_budget else "stopped"] += sum(
            isinstance(e, PassStoppedError) for e in done
        )
    return result


def _cases(store: Store, config: PrepConfig, references: Mapping[str, CriticReference]) -> list[_Case]:
    digest = pass_digest(config)
    outcomes = list(store.ledger.outcomes())
    cases = [
        _Case(item, outcome.state, Record.from_json(outcome.record, f"outcome of {item.id}"), references.get(item.id))
        for item, outcome in outcomes
        if outcome.config == digest
    ]
    if cases:
        return cases
    if outcomes:
        who = ", ".join(f"{one.name}: {one.model}" for one in config.endpoints)
        msg = (
            f"{store.root}: none of its {len(outcomes):,} outcomes was made with this configuration ({who}); give the one that it was "
            "annotated with (--config)"
        )
    else:
        msg = f"{store.root}: nothing is annotated; run `emo prep annotate` first"
    raise Table3Error(msg)


def _from_replies(result: Table3, store: Store, config: PrepConfig, cases: list[_Case]) -> None:
    """Full pass, pass without critic, and what the critic kept: nothing is asked for these."""
    drafts = {case.item.id: first_draft(case.record, config) for case in cases}
    wanted = [(case.item, draft.subject) for case in cases if (draft := drafts[case.item.id]) is not None]
    found = boxes(store, config, wanted)
    for case in cases:
        if case.reference is None:
            continue
        if case.state == "valid":
            result.judge("full", Values.of_record(case.record), case.reference)
        if (draft := drafts[case.item.id]) is None:
            continue
        values = Values.of_draft(draft, found.get((case.item.id, draft.subject)))
        result.judge("no_critic", values, case.reference)
        if (judgement := first_judgement(case.record, draft)) is not None:
            for row in TABLE3_FIELDS[:-1]:
                if case.reference.right(row, getattr(values, row)):
                    result.trials["preserve"][row].append(not flags(judgement, draft, row))


class _Run:
    """What must be asked."""

    def __init__(
        self, result: Table3, store: Store, config: PrepConfig, caller: Caller, seed: int, donors: list[Record]
    ) -> None:
        self.result, self.store, self.config, self.caller, self.seed = result, store, config, caller, seed
        self.donors = donors
        self.alone = single_annotator(config)
        # Images are read when they are asked about; more at once would only wait in memory.
        self.slots = asyncio.Semaphore(2 * config.critic.concurrency)

    async def case(self, case: _Case) -> None:
        async with self.slots:
            if case.reference is not None:
                await self._without_cross_verification(case, case.reference)
            if case.state == "valid":
                await self._corrupted(case)

    async def _without_cross_verification(self, case: _Case, reference: CriticReference) -> None:
        item = case.item
        try:
            outcome = await ItemPipeline(
                self.alone, "", self.caller, item, partial(self.store.image, item.sha256, item.extension)
            ).run()
        except ItemPendingError as pending:
            self.result.unanswered[pending.kind] += 1
            return
        if outcome.state == "valid":
            self.result.judge("no_cross_verification", Values.of_record(Record.from_json(outcome.record, item.id)), reference)

    async def _corrupted(self, case: _Case) -> None:
        draft = final_draft(case.record, self.config.margin)
        if draft is None:
            return
        right = Values.of_record(case.record)
        for row in TABLE3_FIELDS:
            # A field that is wrong already may become right by being changed.
            if case.reference is not None and not case.reference.right(row, getattr(right, row)):
                continue
            if row == "box":
                if right.box is None:
                    continue
                if case.reference is not None and (flagged := await self._box_flagged(case, right.box)) is not None:
                    self.result.trials["preserve"]["box"].append(not flagged)
            size = (case.record.width, case.record.height)
            made = corrupt(row, draft, right.box, size, self.donors, generator(self.seed, case.item.id, row))
            if made is None or (case.reference is not None and case.reference.right(row, _value(made))):
                self.result.unanswered["not corrupted"] += 1
                continue
            flagged = await (self._box_flagged(case, made.box) if row == "box" and made.box else self._flagged(case, made))
            if flagged is not None:
                for column in ("recall", f"recall_{made.severity}"):
                    self.result.trials[column][row].append(flagged)

    async def _flagged(self, case: _Case, made: Corruption) -> bool | None:
        reply = await self._ask(case, critic_prompt(made.draft, 0), CriticReply)
        return None if reply is None else flags(judge(made.draft, reply), made.draft, made.field)

    async def _box_flagged(self, case: _Case, box: Box) -> bool | None:
        reply = await self._ask(case, box_prompt(case.record, box), BoxReply)
        return None if reply is None else bool(reply.box_verdict == "revisable")

    async def _ask(self, case: _Case, prompt: str, kind: type[_Reply]) -> _Reply | None:
        item, critic = case.item, self.config.critic
        picture = Picture(
            item.sha256, item.extension, partial(self.store.image, item.sha256, item.extension), item.width, item.height
        )
        answer, _ = await self.caller.ask(critic, picture, prompt, kind, max_invalid=self.config.max_invalid)
        if isinstance(answer, Failure):
            self.result.unanswered[answer.kind] += 1
            return None
        return answer


def _value(made: Corruption) -> object:
    value: object = getattr(Values.of_draft(made.draft, made.box), made.field)
    return value


def box_prompt(record: Record, box: Box) -> str:
    """The critic's question about a box: in shares of the sides, since a provider may resize the image."""
    sides = (record.width, record.height, record.width, record.height)
    names = ("left", "top", "right", "bottom")
    shares = {name: round(edge / side, 3) for name, edge, side in zip(names, box, sides, strict=True)}
    phrase = record.primary_objects[0].phrase if record.objects else str(record.subject)
    return BOX_CRITIC_PROMPT.format(phrase=json.dumps(phrase, ensure_ascii=False), box=json.dumps(shares))
