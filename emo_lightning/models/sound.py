"""A model whose numbers are not finite says nothing, and nothing is taken for its answer.

Its greedy answer would be the first token there is, and its most probable emotion the first of the eight. It happens where weights do not
fit their type (float16 ends at 65,504), and where a training has left the finite numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import LogitsProcessor

from emo_lightning.core.errors import InputError

_SHOWN = 8
"""Ids of images that a message names."""


class NotFiniteAnswerError(InputError):
    """What a model says of some rows of a batch is no number.

    Args:
        rows: of the batch.
        ids: of their images, once they are known.
    """

    def __init__(self, rows: Sequence[int], ids: Sequence[str] = ()) -> None:
        self.rows, self.ids = list(rows), list(ids)
        named = ", ".join(self.ids[:_SHOWN]) or f"rows {', '.join(map(str, self.rows[:_SHOWN]))} of a batch"
        more = f" and {len(self.rows) - _SHOWN} more" if len(self.rows) > _SHOWN else ""
        super().__init__(
            f"{named}{more}: what the model makes of this is not finite, so that it is no answer. Its numbers may be too large for their "
            "type (float16 ends at 65504; bfloat16 and float32 go further), or its weights are damaged"
        )


@contextmanager
def naming(ids: Sequence[str]) -> Iterator[None]:
    """Name the images of a batch in the error.

    Args:
        ids: of the batch's images, whose rows are all images' first question, then all images' second.

    Raises:
        NotFiniteAnswerError: the one from within, with their names.
    """
    try:
        yield
    except NotFiniteAnswerError as error:
        if error.ids:
            raise
        rows = sorted({row % len(ids) for row in error.rows})
        raise NotFiniteAnswerError(rows, [ids[row] for row in rows]) from None


def check_rows(values: Tensor) -> None:
    """Refuse rows with a number that is not finite.

    Args:
        values: (B, ...).

    Raises:
        NotFiniteAnswerError: names them.
    """
    fine = values.flatten(1).isfinite().all(1)
    if not bool(fine.all()):
        raise NotFiniteAnswerError((~fine).nonzero()[:, 0].tolist())


class WatchedScores(LogitsProcessor):
    """Leaves the scores of a generation as they are, and remembers whose were not finite; nothing waits for the device.

    Args:
        ends: ids of the tokens that end an answer; what a row is filled up with behind them is nobody's.
    """

    def __init__(self, ends: Sequence[int]) -> None:
        self._ends = list(ends)
        self._bad: Tensor | None = None
        self._over: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """(rows, vocabulary) -> the same."""
        # The largest is NaN where one is; minus infinity is what a token has that is never said.
        bad = ~scores.amax(-1).isfinite()
        if self._bad is None or self._over is None:
            self._bad, self._over = bad, torch.zeros_like(bad)
        else:
            self._over |= torch.isin(input_ids[:, -1], torch.tensor(self._ends, device=input_ids.device))
            self._bad |= bad & ~self._over
        return scores

    def check(self) -> None:
        """Refuse what was generated.

        Raises:
            NotFiniteAnswerError: names the rows.
        """
        if self._bad is not None:
            check_rows(torch.where(self._bad, torch.nan, 0.0)[:, None])
