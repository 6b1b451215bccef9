"""Several questions about one image in one row: what they share stands there once.

A chat begins with the image, so that all that is asked about it begins with the same tokens: they are read once, and each question goes
on from there with its answer as if it stood alone (Molmo, Deitke et al. 2024, section 3: annotations of an image are one sequence).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain
from typing import NamedTuple

from torch import Tensor


class Branches(NamedTuple):
    """How the samples of one image stand in a row.

    Args:
        shared: tokens that they have in common; 0 where there is one sample alone.
        lengths: of each sample, as if it stood alone.
    """

    shared: int
    lengths: list[int]

    @property
    def pieces(self) -> list[int]:
        """Tokens of what is shared, and of each sample after it."""
        return [*([self.shared] if self.shared else []), *(length - self.shared for length in self.lengths)]

    @property
    def shifts(self) -> list[int]:
        """How far behind the beginning of its image each sample would begin, so that its last token stands where it does."""
        return list(accumulate((length - self.shared for length in self.lengths), initial=0))[:-1]


def branches_of(samples: Sequence[list[int]], shared: int) -> Branches:
    """The samples of one image, which begin with `shared` tokens up to the end of its picture.

    Raises:
        ValueError: they begin otherwise; the chat template writes something of a question before the picture.
    """
    if len(samples) == 1:
        return Branches(0, [len(samples[0])])
    if any(sample[:shared] != samples[0][:shared] for sample in samples):
        msg = "the chat template writes something of a question before the picture, so that questions cannot share it"
        raise ValueError(msg)
    return Branches(shared, [len(sample) for sample in samples])


def laid_out(samples: Sequence[Sequence[int]], branches: Branches) -> list[int]:
    """What is of tokens: once what is shared, then the rest of each sample."""
    return flat([samples[0][: branches.shared], *(sample[branches.shared :] for sample in samples)])


def positions_laid_out(samples: Sequence[Tensor], branches: Branches) -> list[Tensor]:
    """See `laid_out`; along the last axis."""
    return [samples[0][..., : branches.shared], *(sample[..., branches.shared :] for sample in samples)]


def flat(rows: Sequence[Sequence[int]]) -> list[int]:
    """One after another."""
    return list(chain.from_iterable(rows))
