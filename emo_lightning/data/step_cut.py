"""How an optimiser step is cut: into ranks, micro-batches and samples, and how it is cut anew for another number of ranks.

Which samples a step holds depends on their number alone (`EpochBatches`, `PackedRows`). So a training that goes on elsewhere goes on with
the same steps, where the new ranks can share them.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol, runtime_checkable

from emo_lightning.core.errors import InputError

ComparisonScope = Literal["nothing", "rank", "ranks", "all"]
"""Which samples a loss sees together: it is a sum over samples (`nothing`), it compares those of a micro-batch on one rank (`rank`) or on
all (`ranks`), or a step is the whole set (`all`)."""


class ComparesSamples:
    """Base of what trains in steps (`tasks.base.Task`)."""

    compares: ComparisonScope = "nothing"
    """Which samples the loss sees together: what must stay together when steps are cut anew for another number of ranks."""


class StepCut(NamedTuple):
    """An optimiser step as it is shared."""

    ranks: int
    """Processes."""
    accumulate: int
    """Micro-batches of each."""
    rows: int
    """Samples in a micro-batch, or 1 where it is a row of tokens."""

    @property
    def whole(self) -> int:
        """Samples, or rows of tokens, of the step."""
        return self.ranks * self.accumulate * self.rows

    def __str__(self) -> str:
        return f"{self.ranks} × {self.accumulate} × {self.rows}"


@runtime_checkable
class CutsSteps(Protocol):
    """A data module whose steps can be cut anew (`FitDataModule`)."""

    @property
    def most_rows(self) -> int:
        """Samples that fit into a micro-batch, as it is configured."""
        ...

    def cut(self) -> StepCut:
        """As it is now."""
        ...

    def take_cut(self, cut: StepCut) -> None:
        """Cut steps like that, from now on; the Trainer is told by the caller."""
        ...


def cut_anew(saved: StepCut, ranks: int, compares: ComparisonScope, most_rows: int) -> StepCut:
    """The same step on another number of ranks.

    Args:
        saved: how it was cut.
        ranks: that share it now.
        compares: what must stay together.
        most_rows: samples that fit into a micro-batch of a rank.

    Raises:
        InputError: they cannot share it evenly; names the numbers of processes that can.
    """
    if ranks == saved.ranks or compares == "all":
        return saved._replace(ranks=ranks)
    # What is divided among the ranks, and what of it stays as it is.
    shared = {
        "nothing": saved.whole,
        "rank": saved.ranks * saved.accumulate,
        "ranks": saved.ranks * saved.rows,
    }[compares]
    if shared % ranks:
        what = {
            "nothing": f"{shared} samples (or rows of tokens)",
            "rank": f"{shared} micro-batches of {saved.rows} samples, which the loss compares,",
            "ranks": f"micro-batches of {shared} samples, which the loss compares over all ranks,",
        }[compares]
        msg = (
            f"trainer.devices: {ranks} processes cannot share a step of this training, which was begun with {saved.ranks}: {what} "
            f"cannot be divided by {ranks}; allowed: {', '.join(map(str, _divisors(shared)))} processes"
        )
        raise InputError(msg)
    each = shared // ranks
    match compares:
        case "rank":
            return StepCut(ranks, each, saved.rows)
        case "ranks":
            return StepCut(ranks, saved.accumulate, each)
        case _:
            accumulate = next(n for n in _divisors(each) if each // n <= max(1, most_rows))
            return StepCut(ranks, accumulate, each // accumulate)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
