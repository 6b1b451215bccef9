"""Money in integer nano-dollars: what a pass has spent, and a budget that the sum of its requests cannot pass."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

NANO_PER_DOLLAR = 1_000_000_000
"""Nano-dollars in a dollar."""
_MOST_DOLLARS = 10**9
"""Of a budget: its nano-dollars fit the ledger's whole numbers."""


@dataclass
class Tally:
    """What a pass did so far, for progress and report."""

    requests: int = 0
    cached: int = 0
    invalid: int = 0
    unknown: int = 0
    batched: int = 0
    """Of the requests, those that travel in batches."""
    estimated: int = 0
    """Replies that named no usage: counted at the most that they can cost."""
    garbled: int = 0
    """Lines of batches' result files that cannot be read: their requests count as of unknown outcome."""
    lost: list[str] = field(default_factory=list)
    """Batches of which not everything came back that their provider says it answered: by name, and why."""
    differs: list[str] = field(default_factory=list)
    """Batches whose provider counts otherwise than their files have rows: by name, with the numbers. Nothing paid is missing."""
    over_bound: int = 0
    """Replies that cost more than was held for them: the price table counts the images of their model wrongly."""
    cost_nano: int = 0
    adapted: Counter[str] = field(default_factory=Counter)
    """Parameters that a model declined and was asked again without, in words: answers that said so."""
    statuses: Counter[int] = field(default_factory=Counter)
    """HTTP statuses other than 200."""


class Budget:
    """What may be spent on a store, all of its runs together.

    A request is sent only when its bound fits beside everything paid, everything in flight at its own bound, and everything whose
    outcome is unknown at its bound. So the sum cannot pass the limit, whatever the replies turn out to cost.

    Args:
        limit: nano-dollars; None is no limit.
        paid: nano-dollars of all replies in the ledger.
        held: bounds of the calls in the ledger whose cost is not known (unknown outcome, or in a batch).
    """

    def __init__(self, limit: int | None = None, paid: int = 0, held: int = 0) -> None:
        self.limit = limit
        self.paid = paid
        self.held = held
        self.in_flight = 0
        """Requests that hold a part of the budget and will give some of it back."""
        self._factor: dict[str, float] = {}
        # Loaded when used: `emo prep status` wants the numbers of this module alone, at once.
        import asyncio

        self._changed = asyncio.Event()

    @property
    def committed(self) -> int:
        """Nano-dollars paid or held."""
        return self.paid + self.held

    def scaled(self, model: str, upper: int) -> int:
        """A bound, raised by as much as replies of this model have ever gone above theirs."""
        return math.ceil(upper * self._factor.get(model, 1.0))

    def fits(self, upper: int) -> bool:
        """Whether a request of this bound may be sent now."""
        return self.limit is None or self.committed + upper <= self.limit

    def hold(self, upper: int) -> None:
        """Set a bound aside."""
        self.held += upper
        self.in_flight += 1

    async def reserve(self, upper: int, stopped: Callable[[], bool]) -> bool:
        """Hold a bound as soon as it fits; False where it never will (nothing is in flight that could give money back).

        Args:
            upper: nano-dollars.
            stopped: whether to stop waiting.
        """
        while not self.fits(upper):
            if self.in_flight == 0 or stopped():
                return False
            self._changed.clear()
            await self._changed.wait()
        self.hold(upper)
        return True

    def correct(self, change: int) -> None:
        """Money of earlier runs was counted wrongly: add nano-dollars to what is paid."""
        self.paid += change
        self._changed.set()

    def settle(self, model: str, upper: int, cost: int | None, bound: int | None = None) -> bool:
        """A request has ended.

        Args:
            model: that was asked.
            upper: nano-dollars that were held for it.
            cost: what was paid, None where that is not known (what was held stays so).
            bound: of the request, before it was `scaled`; None: as `upper`.

        Returns:
            Whether it cost more than its bound.
        """
        self.in_flight -= 1
        over = False
        if cost is not None:
            self.held -= upper
            self.paid += cost
            if over := cost > upper > 0:
                # Many that are in flight together may be above: by so much, and not each by so much more than the one before.
                self._factor[model] = max(self._factor.get(model, 1.0), cost / (bound or upper))
        self._changed.set()
        return over


def budget_nano(dollars: str) -> int:
    """Nano-dollars of a `--budget`.

    Raises:
        ConfigError: not a positive number of dollars.
    """
    # Loaded when used: as above.
    from decimal import Decimal, InvalidOperation

    from data_prep.settings import ConfigError

    try:
        value = Decimal(dollars)
    except InvalidOperation:
        msg = f"--budget {dollars}: not a number of dollars"
        raise ConfigError(msg) from None
    if not value.is_finite() or not 0 < value <= _MOST_DOLLARS:
        msg = f"--budget {dollars[:40]}: must be more than 0 dollars, and at most {_MOST_DOLLARS:,}"
        raise ConfigError(msg)
    return int(value * NANO_PER_DOLLAR)
