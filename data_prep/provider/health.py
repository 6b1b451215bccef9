"""Whether every annotator of a pass is of any use: one that answers nothing must not go unnoticed among ten thousand images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from data_prep.provider.failures import Failure

MAX_USELESS_IN_A_ROW = 25
"""Questions in a row that one endpoint may decline or answer off the schema; where it declines half of all, so many are one in 30
million."""
_FEW = 3
"""Questions from which on an endpoint that answered none of a whole pass stops it as well."""


@dataclass
class Health:
    """What the endpoints of a pass gave, by name.

    Failures that the next run would get again (`Failure.final`) decide an image without the endpoint's word. So what was decided
    while an endpoint answered nothing is held back (`doubtful`) until it answers again.
    """

    answered: Counter[str] = field(default_factory=Counter)
    failed: dict[str, Counter[str]] = field(default_factory=dict)
    """Questions without a valid answer, by endpoint and kind of failure."""
    last: dict[str, str] = field(default_factory=dict)
    """The latest failure in words."""
    streak: Counter[str] = field(default_factory=Counter)
    """Final failures since the last answer."""

    _counted: set[str] = field(default_factory=set)

    def see(self, name: str, key: str, answer: object) -> str | None:
        """Take note of an answer or a `Failure`; returns why the pass should stop, if it should.

        Args:
            name: of the endpoint.
            key: of the question; a failure that comes up again (batches go through all items several times) counts once.
            answer: what came of it.
        """
        if not isinstance(answer, Failure):
            self.answered[name] += 1
            self.streak[name] = 0
            return None
        if key in self._counted or answer.kind == "batched":
            return None
        self._counted.add(key)
        self.failed.setdefault(name, Counter())[answer.kind] += 1
        self.last[name] = " ".join(answer.message.split())[:300]
        self.streak[name] += answer.final
        return self._useless(name) if self.streak[name] >= MAX_USELESS_IN_A_ROW else None

    def doubtful(self, name: str) -> bool:
        """Whether this endpoint has failed since its last answer."""
        return self.streak[name] > 0

    def verdict(self) -> str | None:
        """At the end of a pass: why it must not count, if it must not."""
        for name, streak in self.streak.items():
            if streak >= _FEW and not self.answered[name]:
                return self._useless(name)
        return None

    def lines(self) -> list[str]:
        """For the report, an endpoint a line."""
        return [
            f"{name}: no valid answer to {sum(kinds.values())} questions "
            f"({', '.join(f'{kind} {n}' for kind, n in sorted(kinds.items()))}), last: {self.last[name]}"
            for name, kinds in sorted(self.failed.items())
        ]

    def _useless(self, name: str) -> str:
        return (
            f"{name}: {self.streak[name]} questions in a row without a valid answer, last: {self.last[name]}; "
            "check its model, parameters and base_url; no image was decided without its word"
        )
