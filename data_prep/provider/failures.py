"""How paid requests fail, and how a pass is stopped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from emo_lightning.core.errors import BUDGET_REACHED_EXIT, LEFT_EXIT, UserError

_FINAL = frozenset({"invalid", "cut", "refused"})


class PassStoppedError(Exception):
    """A signal inside the factory: the pass was asked to stop, and nothing was sent. No command sees it."""


class NotSentError(Exception):
    """A signal inside this room: a request was not sent, and may be later."""


class CallError(UserError, RuntimeError):
    """A call that cannot succeed for any image; the pass ends."""


@dataclass(frozen=True)
class Failure:
    """Why there is no reply.

    kind: `invalid` (asked again as often as allowed), `cut` (it ended at the limit
    of tokens, also at a higher one), `refused` (the model or the endpoint declines this image), `unknown`
    (sent once, outcome not known, not sent again), `gave_up` (429, 5xx or no connection too often), `batched` (travels in a batch
    that has not ended), `budget` (it would not fit the budget).
    """

    kind: str
    message: str

    @property
    def final(self) -> bool:
        """Whether another run would get the same; the others are tried again by the next run."""
        return self.kind in _FINAL


def exit_status(*, stopped: bool, by_budget: bool, left: Iterable[str] = ()) -> int:
    """Of a command that pays for what it asks, so that a script knows whether all is there.

    Args:
        stopped: not all was asked.
        by_budget: as the budget did not allow it.
        left: kinds of the failures that it met; those of another run's matter.
    """
    if stopped:
        return BUDGET_REACHED_EXIT if by_budget else 130
    return LEFT_EXIT if set(left) - _FINAL else 0


class StopSignal:
    """Whether a pass stops, and why."""

    def __init__(self) -> None:
        self.error: CallError | None = None
        """Why the pass cannot go on."""
        self.by_budget = False
        """The next request would not have fitted the budget."""
        self._requested = False

    def request(self) -> None:
        """Nothing more is sent from now on; what is in flight is waited for."""
        self._requested = True

    def is_requested(self) -> bool:
        """Whether nothing more is sent."""
        return self._requested

    def fail(self, message: str) -> CallError:
        """Stop because of an error; the first one is kept, and returned."""
        self.request()
        self.error = self.error or CallError(message)
        return self.error


@dataclass(frozen=True)
class Retry:
    """The attempt failed in a way that costs nothing; try again."""

    problem: str
    wait: float | None = None
    """Seconds that the server asks for; None: our own back-off."""
    unsent: bool = False
    """Nothing of it arrived."""
    learnt: bool = False
    """The model does not take a parameter, and is asked again without: no failure of the endpoint."""
