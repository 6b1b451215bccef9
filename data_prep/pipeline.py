"""The pass over a store: annotate, cross-verify, criticise, revise; then ground.

Every step is a function of replies, and replies come from the ledger or are bought once. So the pass may be interrupted at any
point and started again: it goes on with the items that have no outcome yet.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from data_prep import prompts
from data_prep.annotators import asked_again, first_prompt, revision_prompt
from data_prep.client import Caller, Failure, Picture, Stopped, Tally
from data_prep.config import AnnotatorConfig, EndpointConfig, PrepConfig, load_prices
from data_prep.critic import Draft, Judgement, critic_prompt, judge, merge
from data_prep.ledger import Item, Outcome
from data_prep.replies import CriticReply, EmotionVote, FullAnnotation
from data_prep.store import Store
from data_prep.verify import decided, pool, pooled_intensity
from emo_lightning.schema import Record, intensity_level


@dataclass
class PassReport:
    """What a pass did."""

    total: int = 0
    """Items in the store."""
    done_before: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    """Of this run: valid, discarded, human."""
    pending: Counter[str] = field(default_factory=Counter)
    """Of this run: items left for another run, by the kind of failure."""
    revised: int = 0
    """Items that ended after at least one revision."""
    stopped: bool = False
    seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)
    recovered: int = 0
    """Calls of a run that died: their outcome is unknown."""


class _Pending(Exception):
    """This item cannot be finished now; a later run may."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


async def _all(*calls: Awaitable[None]) -> None:
    """Wait for every call, then raise the first error: what is in flight is paid for, and must reach the ledger."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def pass_digest(config: PrepConfig) -> str:
    """Digest of all that decides an outcome; addresses, keys and concurrency do not."""
    ignored = {"base_url", "api_key_env", "concurrency", "timeout", "max_attempts"}
    parts: list[Any] = [e.model_dump(mode="json", exclude=ignored) for e in config.endpoints]
    parts += [config.preferred, config.margin, config.max_revisions, config.max_invalid]
    parts += [prompts.ANNOTATE, prompts.EMOTION_ONLY, prompts.REVISE, prompts.CRITIC, prompts.INVALID_REPLY]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class ItemPass:
    """One item through annotate → cross-verify → critic → revise."""

    def __init__(self, config: PrepConfig, digest: str, caller: Caller, item: Item, read: Callable[[], bytes]) -> None:
        self.config = config
        self.digest = digest
        self.caller = caller
        self.item = item
        self.picture = Picture(item.sha256, item.extension, read)
        self.weights = {a.name: a.weight for a in config.annotators}
        self.said: list[dict[str, Any]] = []
        self.rounds: list[dict[str, Any]] = []
        self.full: dict[str, FullAnnotation] = {}
        self.votes: dict[str, EmotionVote] = {}

    async def run(self) -> Outcome:
        """The outcome of the item.

        Raises:
            _Pending: an outcome needs replies that cannot be had in this run.
        """
        await _all(*(self._first(a) for a in self.config.annotators))
        self.said.sort(key=lambda row: row["annotator"])
        if not self.full:
            return self._outcome("human", None, 0, "no annotator gave a valid annotation")
        preferred = (
            self.config.preferred
            if self.config.preferred in self.full
            else next(a.name for a in self.config.annotators if a.name in self.full)
        )
        for revision in range(self.config.max_revisions + 1):
            draft = self._draft(preferred)
            reply = await self._ask(self.config.critic, critic_prompt(draft, revision), CriticReply, revision)
            if reply is None:
                return self._outcome("human", draft, revision, "the critic gave no valid reply")
            judgement = judge(draft, reply)
            self.rounds.append({**reply.model_dump(mode="json"), "verdict": judgement.verdict})
            if judgement.verdict == "valid" and draft.contested:
                draft = self._settled(draft, judgement)
            if judgement.verdict != "revisable":
                return self._outcome(judgement.verdict, draft, revision, None)
            if revision < self.config.max_revisions:
                again = asked_again(self.config.annotators, preferred, judgement.flagged)
                await _all(*(self._revise(a, judgement, revision + 1) for a in again if a.name in self.full))
        return self._outcome("human", draft, self.config.max_revisions, "still revisable after the last revision")

    async def _ask(self, endpoint: EndpointConfig, prompt: str, reply: type[Any], revision: int) -> Any:
        answer, key = await self.caller.ask(endpoint, self.picture, prompt, reply, max_invalid=self.config.max_invalid)
        row: dict[str, Any] = {"annotator": endpoint.name, "model": endpoint.model, "round": revision, "call": key[:16]}
        if isinstance(answer, Failure):
            if not answer.final:
                raise _Pending(answer.kind)
            row["failed"] = f"{answer.kind}: {answer.message}"[:300]
            answer = None
        elif endpoint is not self.config.critic:
            row["reply"] = answer.model_dump(mode="json")
        self.said.append(row)
        return answer

    async def _first(self, annotator: AnnotatorConfig) -> None:
        prompt, reply = first_prompt(annotator)
        answer = await self._ask(annotator, prompt, reply, 0)
        if answer is not None:
            self.votes[annotator.name] = answer
            if isinstance(answer, FullAnnotation):
                self.full[annotator.name] = answer

    async def _revise(self, annotator: AnnotatorConfig, judgement: Judgement, revision: int) -> None:
        own = self.full[annotator.name]
        prompt = revision_prompt(own, judgement.flagged, judgement.instructions, revision)
        answer = await self._ask(annotator, prompt, FullAnnotation, revision)
        if answer is not None:
            self.full[annotator.name] = self.votes[annotator.name] = merge(own, answer, judgement.flagged)

    def _draft(self, preferred: str) -> Draft:
        text = self.full[preferred]
        pooled = pool(self.votes, self.weights)
        return Draft(
            description=text.description,
            background=text.background,
            attribute=text.attribute,
            subject=text.subject,
            intensity=pooled_intensity(self.full, self.weights),
            pool=pooled,
            contested=pooled.margin < self.config.margin,
        )

    @staticmethod
    def _settled(draft: Draft, judgement: Judgement) -> Draft:
        return Draft(**{**vars(draft), "pool": decided(draft.pool, judgement.emotion)})

    def _outcome(self, state: str, draft: Draft | None, revisions: int, reason: str | None) -> Outcome:
        item = self.item
        # Rounds are concurrent: the order in which replies came must not show in the record.
        self.said.sort(key=lambda row: (row["round"], row["annotator"]))
        provenance: dict[str, Any] = {
            "licence": item.licence,
            "origin": item.origin,
            "source_labels": item.labels,
            "outcome": state,
            "revisions": revisions,
            "said": self.said,
            "critic": self.rounds,
        }
        if reason:
            provenance["reason"] = reason
        fields: dict[str, Any] = {}
        if draft is not None:
            pooled = draft.pool
            provenance["pool"] = {
                "margin": round(pooled.margin, 6),
                "agreement": round(pooled.agreement, 6),
                "contested": draft.contested,
            }
            fields = {
                **{key: getattr(draft, key) for key in ("description", "background", "attribute", "subject", "intensity")},
                "emotion": pooled.emotion,
                "emotion_scores": {e: round(p, 6) for e, p in pooled.scores.items()},
                "confidence": round(pooled.confidence, 6),
                "intensity_level": intensity_level(draft.intensity),
            }
        record = Record(
            id=item.id,
            source=item.source,
            width=item.width,
            height=item.height,
            sha256=item.sha256,
            split=item.split or "",
            provenance=provenance,
            **fields,
        )
        return Outcome(item.id, state, self.digest, revisions, record.to_json().decode())


async def annotate(
    store: Store,
    config: PrepConfig,
    *,
    resend_unknown: bool = False,
    on_progress: Callable[[PassReport], None] | None = None,
) -> PassReport:
    """Bring every item of a store to an outcome.

    Args:
        store: opened for writing.
        config: who annotates.
        resend_unknown: send calls again whose outcome is unknown (they may be paid twice).
        on_progress: called after every item.

    Raises:
        ConfigError: a key or a price is missing (before any request).
        CallError: an endpoint answers nothing at all; what was received is in the ledger.
    """
    started = time.monotonic()
    caller = Caller(store.ledger, load_prices(config.prices), config.endpoints, resend_unknown=resend_unknown)
    report = PassReport(recovered=store.ledger.recover(), tally=caller.tally)
    digest = pass_digest(config)
    before = store.ledger.outcome_configs()
    todo = []
    for item in store.ledger.items():
        report.total += 1
        if before.get(item.id) == digest:
            report.done_before += 1
        else:
            todo.append(item)
    errors: list[BaseException] = []

    async def worker(queue: Iterator[Item]) -> None:
        for item in queue:
            if caller.stop:
                return
            try:
                read = partial(store.image, item.sha256, item.extension)
                outcome = await ItemPass(config, digest, caller, item, read).run()
                await store.ledger.set_outcome(outcome)
            except Stopped:
                return
            except _Pending as pending:
                report.pending[pending.kind] += 1
            except Exception as error:
                # The other workers finish what is in flight, so that nothing paid is lost; then the pass ends with this error.
                caller.stop = True
                errors.append(error)
                return
            else:
                report.outcomes[outcome.state] += 1
                report.revised += outcome.revisions > 0
            report.seconds = time.monotonic() - started
            if on_progress:
                on_progress(report)

    queue = iter(todo)
    with _stop_on_interrupt(caller):
        await asyncio.gather(*(worker(queue) for _ in range(min(len(todo), sum(e.concurrency for e in config.endpoints)))))
    await caller.close()
    report.seconds = time.monotonic() - started
    report.stopped = caller.stop
    if error := caller.fatal or next(iter(errors), None):
        raise error
    return report


@contextlib.contextmanager
def _stop_on_interrupt(caller: Caller) -> Iterator[None]:
    """First Ctrl-C: send nothing more, wait for what is in flight (it is paid for). Second: at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        caller.stop = True
        loop.remove_signal_handler(signal.SIGINT)

    try:
        loop.add_signal_handler(signal.SIGINT, stop)
    except (ValueError, RuntimeError, NotImplementedError):
        # Not the main thread: interrupts are the caller's affair.
        yield
        return
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
