"""What a provider has said once and is not believed at once: a list that lags behind, a file that is named later."""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass
class Doubts:
    """Since when each thing has been said."""

    _first: dict[tuple[object, ...], float] = field(default_factory=dict)

    def lasts(self, what: tuple[object, ...], seconds: float) -> bool:
        """Whether this has been said again, and for at least so many seconds by now; to be asked whenever it is said."""
        now = time.monotonic()
        if what not in self._first:
            self._first[what] = now
            return False
        return now - self._first[what] >= seconds

    def over(self, *what: object) -> None:
        """It is not said any more."""
        self._first.pop(what, None)
