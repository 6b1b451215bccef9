"""How paid requests fail, and how a pass is stopped."""

from __future__ import annotations

from dataclasses import dataclass

from emo_lightning.core.errors import UserError


class Stopped(Exception):
    """The pass was asked to stop; nothing was sent."""


class NotSent(Exception):
    """It was not sent, and may be later."""


class CallError(UserError, RuntimeError):
    """A call that cannot succeed for any image; the pass ends."""


@dataclass(frozen=True)
class Failure:
    """Why there is no reply.

    kind: `invalid` (asked again as often as allowed), `refused` (the model or the endpoint declines this image), `unknown`
    (sent once, outcome not known, not sent again), `gave_up` (429, 5xx or no connection too often), `batched` (travels in a batch
    that has not ended), `budget` (it would not fit the budget).
    """

    kind: str
    message: str

    @property
    def final(self) -> bool:
        """Whether another run would get the same; the others are tried again by the next run."""
        return self.kind in ("invalid", "refused")


@dataclass
class Halt:
    """Whether a pass stops, and why."""

    asked: bool = False
    """Nothing more is sent; what is in flight is waited for."""
    fatal: CallError | None = None
    """Why the pass cannot go on."""
    by_budget: bool = False
    """The next request would not have fitted the budget."""

    def __call__(self) -> bool:
        return self.asked

    def fail(self, message: str) -> CallError:
        """Stop because of an error; the first one is kept."""
        self.asked = True
        self.fatal = self.fatal or CallError(message)
        return self.fatal


@dataclass(frozen=True)
class Again:
    """The attempt failed in a way that costs nothing; try again."""

    problem: str
    wait: float | None = None
    """Seconds that the server asks for; None: our own back-off."""
    unsent: bool = False
