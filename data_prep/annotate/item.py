"""One item through annotate → cross-verify → critic → revise: a function of replies, wherever they come from."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from data_prep.annotate import prompts
from data_prep.annotate.annotators import asked_again, first_prompt, revision_prompt
from data_prep.annotate.critic import Draft, Judgement, critic_prompt, judge, merge
from data_prep.annotate.replies import CriticReply, FullAnnotation
from data_prep.annotate.voting import Vote, decided, pool, pooled_intensity
from data_prep.config import AnnotatorConfig, PrepConfig
from data_prep.emovit.vote import SaidRow
from data_prep.emovit.votes import LocalVote, local_votes_digest
from data_prep.provider.caller import Caller
from data_prep.provider.config import EndpointConfig
from data_prep.provider.failures import Failure
from data_prep.provider.health import Health
from data_prep.provider.registry import DEFAULT_PROVIDER
from data_prep.provider.reply_schema import INVALID_REPLY, Reply
from data_prep.provider.request import Picture
from data_prep.store.rows import Item, Outcome
from emo_lightning.core.records import Record, intensity_level

_R = TypeVar("_R", bound=Reply)


class ItemPendingError(Exception):
    """A signal inside the factory: this item cannot be finished now, and a later run may; `kind` is that of the `Failure`."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


async def _all(*calls: Awaitable[None]) -> None:
    """Wait for every call, then raise the first error: what is in flight is paid for, and must reach the ledger."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def pass_digest(config: PrepConfig) -> str:
    """Digest of all that decides an outcome, local annotators among it; addresses, keys and concurrency do not.

    Raises:
        CheckpointError: a local model cannot be identified.
    """
    ignored = {
        "party",
        "allow_http",
        "base_url",
        "api_key_env",
        "concurrency",
        "timeout",
        "max_attempts",
        "max_outage",
        "batch",
    }
    parts: list[object] = [
        # An endpoint that speaks the usual API has the digest of before there was another one.
        e.model_dump(mode="json", exclude=ignored | ({"provider"} if e.provider == DEFAULT_PROVIDER else set()))
        for e in config.endpoints
    ]
    parts += [config.preferred, config.margin, config.max_revisions, config.max_invalid]
    parts += [prompts.ANNOTATION_PROMPT, prompts.EMOTION_PROMPT, prompts.REVISION_PROMPT, prompts.CRITIC_PROMPT, INVALID_REPLY]
    parts += [config.declined] if config.declined != "human" else []
    # Models of one name at several parties were one before these were told apart: what was decided so is decided again.
    models = {(e.model, e.party_name) for e in config.endpoints}
    parts += [sorted(models)] if len(models) > len({model for model, _ in models}) else []
    # Where there is none, digests are what they were before local annotators existed.
    parts += [local_votes_digest(config)] if config.local else []
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


class ItemPipeline:
    """One item through annotate → cross-verify → critic → revise."""

    def __init__(
        self,
        config: PrepConfig,
        digest: str,
        caller: Caller,
        item: Item,
        read: Callable[[], bytes],
        local: Sequence[LocalVote] = (),
        health: Health | None = None,
    ) -> None:
        self.config = config
        self.digest = digest
        self.caller = caller
        self.health = health or Health()
        self.item = item
        self.picture = Picture(item.sha256, item.extension, read, item.width, item.height)
        self.weights = {a.name: a.weight for a in config.annotators}
        self.said: list[SaidRow] = []
        self.rounds: list[dict[str, object]] = []
        self.full: dict[str, FullAnnotation] = {}
        self.votes: dict[str, Vote] = {}
        self._declined: set[str] = set()
        for vote in local:
            self.votes[vote.annotator] = vote.vote
            self.weights[vote.annotator] = vote.weight
            self.said.append(vote.said_row())

    async def run(self) -> Outcome:
        """The outcome of the item.

        Raises:
            ItemPendingError: an outcome needs replies that cannot be had in this run.
        """
        await _all(*(self._first(a) for a in self.config.annotators))
        self.said.sort(key=lambda row: row["annotator"])
        if not self.full:
            return self._unanswered(None, 0, "no annotator gave a valid annotation")
        preferred = (
            self.config.preferred
            if self.config.preferred in self.full
            else next(a.name for a in self.config.annotators if a.name in self.full)
        )
        for revision in range(self.config.max_revisions + 1):
            draft = self._draft(preferred)
            reply = await self._ask(self.config.critic, critic_prompt(draft, revision), CriticReply, revision)
            if reply is None:
                return self._unanswered(draft, revision, "the critic gave no valid reply")
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

    def in_doubt(self) -> bool:
        """Whether an endpoint that gave this item nothing has given nothing to any item since."""
        return any("failed" in row and self.health.doubtful(row["annotator"]) for row in self.said)

    def _unanswered(self, draft: Draft | None, revisions: int, reason: str) -> Outcome:
        """The outcome of an image that was not answered for: by a person, or none where its provider declined it and that is asked for."""
        if self._declined and self.config.declined == "left_out":
            return self._outcome("discarded", draft, revisions, f"{reason}: declined by {', '.join(sorted(self._declined))}")
        return self._outcome("human", draft, revisions, reason)

    async def _ask(self, endpoint: EndpointConfig, prompt: str, reply: type[_R], revision: int) -> _R | None:
        answer, key = await self.caller.ask(endpoint, self.picture, prompt, reply, max_invalid=self.config.max_invalid)
        if why := self.health.see(endpoint.name, key, answer):
            raise self.caller.stop.fail(why)
        row: SaidRow = {"annotator": endpoint.name, "model": endpoint.model, "round": revision, "call": key[:16]}
        row["party"] = endpoint.party_name
        if model := self.caller.answered_model(endpoint, key):
            row["answered_model"] = model
        if isinstance(answer, Failure):
            if not answer.final:
                raise ItemPendingError(answer.kind)
            if answer.kind == "refused":
                self._declined.add(endpoint.name)
            row["failed"] = f"{answer.kind}: {answer.message}"[:300]
            self.said.append(row)
            return None
        if endpoint is not self.config.critic:
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
        provenance: dict[str, object] = {
            "licence": item.licence,
            "origin": item.origin,
            # An embedding of a thousand numbers stays in the ledger.
            "source_labels": {key: value for key, value in item.labels.items() if key != "des"},
            "outcome": state,
            "revisions": revisions,
            "said": self.said,
            "critic": self.rounds,
        }
        if reason:
            provenance["reason"] = reason
        # `Any`: each goes to a field of a record of its own type, which pydantic checks.
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
