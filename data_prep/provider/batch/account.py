"""What the files of a batch hold, against what was sent and what its provider counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from data_prep.provider.base import RemoteBatch
from data_prep.provider.batch.records import BatchResult
from data_prep.store.ledger import CallState


@dataclass(frozen=True)
class BatchEnding:
    """How a batch ends."""

    left: CallState
    """State of its calls that no file mentions: `unsent` where the provider says that it answered none of them, else `unknown`."""
    lost: str = ""
    """What may have been paid and has not come, in words."""
    differs: str = ""
    """What the provider counts and what the files hold, where that is not the same."""


@dataclass
class Account:
    """The rows of one batch, each request once, whatever the number of its rows."""

    keys: frozenset[str]
    """That were sent."""
    garbled: int = 0
    """Lines that cannot be read: nobody knows whose they are."""
    repeated: int = 0
    """Rows of a request that has one already."""
    foreign: int = 0
    """Rows of requests that were not sent in this batch."""
    files: set[str] = field(default_factory=set)
    """That were read to their end."""
    cut: list[str] = field(default_factory=list)
    """Of which files only the beginning is read, in words."""
    _found: dict[str, tuple[bool, int | None]] = field(default_factory=dict)
    """By key: whether it is a reply, and its status."""

    def take(self, results: Iterable[BatchResult], garbled: int) -> list[BatchResult]:
        """Count a part of a file; returns what is to be written: the first row of each request, or the first that is a reply."""
        self.garbled += garbled
        new: dict[str, BatchResult] = {}
        for result in results:
            if result.key not in self.keys:
                self.foreign += 1
                continue
            reply, known = result.state == "reply", self._found.get(result.key)
            self.repeated += known is not None
            if known is None or (reply and not known[0]):
                self._found[result.key] = (reply, result.status)
                new[result.key] = result
        return list(new.values())

    @property
    def left(self) -> list[str]:
        """Keys that no row has named."""
        return sorted(self.keys - self._found.keys())

    @property
    def answered(self) -> int:
        """Requests with status 200."""
        return sum(status == 200 for _, status in self._found.values())

    @property
    def failed(self) -> int:
        """Requests with another status."""
        return sum(status not in (200, None) for _, status in self._found.values())

    @property
    def never(self) -> int:
        """Requests that were not executed, by their row."""
        return sum(status is None for _, status in self._found.values())

    def waits(self, remote: RemoteBatch, patience: float, settle: float) -> float:
        """Seconds for which a batch that has ended is worth more looks, as its provider counts more than the named files hold.

        Args:
            remote: as it is now.
            patience: where it counts what is missing.
            settle: where it says nothing at all.
        """
        if remote.status == "failed" or not self.left:
            return 0.0
        if remote.output is None and (remote.completed or 0) > self.answered:
            return patience
        if remote.failures is None and (remote.failed or 0) > self.failed + self.never:
            return patience
        if not remote.files and (remote.status == "completed" or remote.completed is None):
            return patience if remote.status == "completed" else settle
        return 0.0

    def ending(self, remote: RemoteBatch, gone: list[str]) -> BatchEnding:
        """How the batch ends, once nothing more is waited for.

        Args:
            remote: as it is now.
            gone: why files that it names cannot be read.
        """
        said, left = self._differs(remote), len(self.left)
        completed = remote.completed if remote.status != "failed" else remote.completed or 0
        more = (completed or 0) > self.answered + self.garbled
        if completed is None or self.garbled:
            free = False
        else:
            # A completed batch has executed everything: what it does not mention was answered, unless it counts as failed.
            failed = (remote.failed or 0) - self.failed
            free = completed <= self.answered and (remote.status != "completed" or failed >= left)
        if not more and (free or not left):
            return BatchEnding("unsent", differs="; ".join(filter(None, (said, *gone))))
        of = (
            f"{left} requests have no row in its files, and the provider does not say that it answered none of them"
            if left
            else ""
        )
        return BatchEnding("unknown", lost="; ".join(filter(None, (said, of, *gone))))

    def _differs(self, remote: RemoteBatch) -> str:
        """Numbers, where what is counted and what is there are not the same."""
        counts = (remote.total, remote.completed, remote.failed)
        # What was not executed counts as failed with some providers, and with others it does not.
        same = (
            remote.total in (None, len(self.keys)),
            remote.completed in (None, self.answered),
            remote.failed in (None, self.failed, self.failed + self.never),
        )
        if remote.status == "failed" and not any(counts) and not self._found:
            same = (True, True, True)
        if all(same) and not (self.repeated or self.foreign or self.garbled):
            return ""
        shown = ["no" if n is None else str(n) for n in counts]
        text = (
            f"the provider counts {shown[0]} requests, {shown[1]} completed, {shown[2]} failed; {len(self.keys)} were sent, and its "
            f"files have {self.answered} replies, {self.failed} failures, {self.never} not executed"
        )
        odd = ((self.repeated, "repeated"), (self.foreign, "of no request of this batch"), (self.garbled, "unreadable"))
        return text + "".join(f", {n} rows {what}" for n, what in odd if n)
