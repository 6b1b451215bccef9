"""What people said of an image beside its category: ratings on a scale, and votes in words."""

from __future__ import annotations

from collections import Counter
from typing import Self

from pydantic import ConfigDict, Field, model_validator

from emo_lightning.core.records.parsing import CheckedModel
from emo_lightning.core.strict_numbers import StrictInteger, StrictNumber

DIMENSIONS = ("valence", "arousal", "dominance")
"""Of an emotion, in the order that every vector over them uses."""
_OPTIONAL = (*DIMENSIONS, "votes")


class _Model(CheckedModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rating(_Model):
    """The mean of what people said on a scale."""

    mean: StrictNumber
    """On the scale."""
    std: StrictNumber | None = Field(default=None, ge=0)
    """Standard deviation over the people, on the same scale; null where it is not published."""
    low: StrictNumber
    """Where the scale begins."""
    high: StrictNumber
    """Where it ends."""

    @model_validator(mode="after")
    def _on_its_scale(self) -> Self:
        if not self.low < self.high:
            msg = f"found a scale from {self.low:g} to {self.high:g}; expected low < high"
            raise ValueError(msg)
        if not self.low <= self.mean <= self.high:
            msg = f"mean {self.mean:g} is off its scale, {self.low:g} to {self.high:g}"
            raise ValueError(msg)
        return self

    @property
    def centred(self) -> float:
        """The mean on a scale from -1 to 1."""
        return 2 * (self.mean - self.low) / (self.high - self.low) - 1


class Votes(_Model):
    """What people chose, in the source's own words: each person's choices where they are published, else how often each word was chosen."""

    counts: dict[str, StrictInteger]
    """Word -> how many chose it. People who may choose several are in several."""
    raters: StrictInteger | None = Field(default=None, ge=1)
    """How many people; null where it is not published."""
    choices: list[list[str]] | None = None
    """What each person chose, one list a person; null where it is not published."""

    @model_validator(mode="after")
    def _add_up(self) -> Self:
        if any(count < 0 for count in self.counts.values()):
            msg = f"votes.counts: found {min(self.counts.values())}; expected at least 0"
            raise ValueError(msg)
        if self.choices is None:
            return self
        counted = Counter(word for chosen in self.choices for word in chosen)
        if {word: count for word, count in self.counts.items() if count} != counted:
            msg = f"votes.counts are {dict(self.counts)}; the choices add up to {dict(counted)}"
            raise ValueError(msg)
        if self.raters not in (None, len(self.choices)):
            msg = f"votes.raters is {self.raters}; there are choices of {len(self.choices)}"
            raise ValueError(msg)
        return self

    @classmethod
    def of_choices(cls, choices: list[list[str]]) -> Self:
        """Votes of people whose choices are all known."""
        counts = Counter(word for chosen in choices for word in chosen)
        return cls(counts=dict(counts), raters=len(choices) or None, choices=choices)


def without_none(fields: dict[str, object]) -> dict[str, object]:
    """What is written of a record or a prediction: ratings and votes only where there are some."""
    return {name: value for name, value in fields.items() if value is not None or name not in _OPTIONAL}
