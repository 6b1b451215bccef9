"""Votes of models on this machine: computed once, kept in the ledger, read by the pass like any other vote."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_prep.config import LocalAnnotatorConfig, PrepConfig
from data_prep.emovit.vote import DistributionVote, SaidRow
from data_prep.engine import LOCAL_ENGINE, Engine, EngineResult, ItemRow, Step, in_batches, portable
from data_prep.local_models.checkpoints import CheckpointError, identity
from data_prep.local_models.decoding import decode, device_of
from data_prep.store.ledger import Ledger
from data_prep.store.rows import Item
from data_prep.store.store import Store
from emo_lightning.core.errors import UserError
from emo_lightning.core.records import EMOTIONS, Emotion

if TYPE_CHECKING:
    from PIL import Image


class MissingVoteError(UserError, RuntimeError):
    """A local model has not voted on an image yet."""


@dataclass(frozen=True)
class LocalVote:
    """What one local annotator says of one image."""

    annotator: str
    model: str
    """Identity of the weights."""
    weight: float
    vote: DistributionVote

    def said_row(self) -> SaidRow:
        """The row for `provenance.said`, beside those of the paid annotators."""
        reply: dict[str, object] = {
            "emotion": str(self.vote.emotion),
            "confidence": round(self.vote.confidence, 6),
            "scores": {str(e): round(p, 6) for e, p in self.vote.scores.items()},
        }
        return {"annotator": self.annotator, "model": self.model, "round": 0, "reply": reply}


class LocalVotes:
    """The stored votes of all local annotators of a configuration.

    Args:
        ledger: open for reading or writing.
        config: of the pass.

    Raises:
        CheckpointError: a model cannot be identified.
    """

    def __init__(self, ledger: Ledger, config: PrepConfig) -> None:
        self._ledger = ledger
        self._voters = _voters(config)

    def of(self, item: Item) -> list[LocalVote]:
        """One vote per local annotator, in the order of the configuration.

        Raises:
            MissingVoteError: a model has not voted; `run_local_votes` fills the table.
        """
        votes = []
        for voter, model, prompt in self._voters:
            query = "SELECT distribution FROM local_votes WHERE image_sha256 = ? AND model = ? AND prompt_sha256 = ?"
            rows = self._ledger.read(query, (item.sha256, model, prompt))
            if not rows:
                msg = f"{item.id}: {voter.name} has not voted; `emo prep vote` lets it"
                raise MissingVoteError(msg)
            scores = {Emotion(name): p for name, p in json.loads(rows[0][0]).items()}
            votes.append(LocalVote(voter.name, model, voter.weight, DistributionVote(scores)))
        return votes


class Voting(Step["Image.Image"]):
    """The votes of one local annotator.

    Args:
        voter: its configuration.
        model: `identity` of its weights, where the store lies.
    """

    def __init__(self, voter: LocalAnnotatorConfig, model: str) -> None:
        self._voter = voter.model_copy(update={"path": portable(voter.path)})
        self._model = model

    def prepare(self, data: bytes) -> Image.Image:
        """RGB."""
        return decode(data)

    def load(self) -> Callable[[Sequence[ItemRow], Sequence[Image.Image]], list[EngineResult]]:
        """See `Step.load`; results are JSON objects, probabilities by emotion.

        Raises:
            CheckpointError: the model is missing, does not fit, or is another one here.
        """
        voter = self._voter
        if (found := identity(voter.path)) != self._model:
            msg = f"{voter.name}: {voter.path} is {found} here and {self._model} where the store lies"
            raise CheckpointError(msg)
        from data_prep.emovit.scorer import LocalVoter

        scorer = LocalVoter.from_pretrained(
            voter.path, voter.prompt, device=device_of(voter.device), batch_size=voter.batch_size
        )

        def votes(_: Sequence[ItemRow], images: Sequence[Image.Image]) -> list[EngineResult]:
            return [json.dumps({str(e): vote[e] for e in EMOTIONS}) for vote in scorer.vote(images)]

        return votes


def run_local_votes(
    store: Store, config: PrepConfig, on_images: Callable[[int], None] | None = None, engine: Engine = LOCAL_ENGINE
) -> Counter[str]:
    """Let every local annotator vote on every image that it has not voted on; a model is loaded only if it has work.

    Args:
        store: opened for writing.
        config: of the pass; without local annotators nothing is done.
        on_images: called with the number of votes that have come to the ledger, batch by batch.
        engine: where the models run.

    Returns:
        By annotator: votes of this run.

    Raises:
        CheckpointError: a model is missing or does not fit.
        StoreError: an image is missing.
    """
    counts: Counter[str] = Counter()
    for voter in config.local:
        model, prompt = identity(voter.path), _prompt_key(voter)
        query = "SELECT image_sha256 FROM local_votes WHERE model = ? AND prompt_sha256 = ?"
        known = {row[0] for row in store.ledger.read(query, (model, prompt))}
        # Equal images of two sources are one image here.
        todo = list({item.sha256: item for item in store.ledger.items() if item.sha256 not in known}.values())
        if not todo:
            continue
        store.ledger.write_now(("INSERT OR IGNORE INTO prompts VALUES (?, ?)", (prompt, voter.prompt)))
        batches = [[ItemRow(i.sha256, i.extension) for i in batch] for batch in in_batches(todo, voter.batch_size)]
        for batch, votes in zip(batches, engine.map(store, batches, Voting(voter, model)), strict=True):
            rows = [(row.sha256, model, prompt, vote) for row, vote in zip(batch, votes, strict=True)]
            store.ledger.write_now(*(("INSERT OR REPLACE INTO local_votes VALUES (?, ?, ?, ?)", row) for row in rows))
            counts[voter.name] += len(rows)
            if on_images:
                on_images(len(rows))
    return counts


def local_votes_digest(config: PrepConfig) -> list[list[object]]:
    """What an outcome depends on of local annotators, for the digest of the pass.

    Raises:
        CheckpointError: a model cannot be identified.
    """
    return [[voter.name, voter.weight, model, prompt] for voter, model, prompt in _voters(config)]


def _voters(config: PrepConfig) -> list[tuple[LocalAnnotatorConfig, str, str]]:
    """Each with the identity of its weights and the key of its prompt."""
    return [(voter, identity(voter.path), _prompt_key(voter)) for voter in config.local]


def _prompt_key(voter: LocalAnnotatorConfig) -> str:
    return hashlib.sha256(voter.prompt.encode()).hexdigest()
