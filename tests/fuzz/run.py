"""One reader against many spoilt inputs."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field

from emo_lightning.core.errors import UserError
from tests.fuzz.mutations import spoilt
from tests.fuzz.target import Target


@dataclass
class Outcome:
    """What became of the inputs."""

    taken: int = 0
    refused: int = 0
    """By a `UserError`."""
    foreign: list[tuple[int, str]] = field(default_factory=list)
    """Number of the input, and any other exception: a bug."""
    slowest: float = 0.0
    """Seconds of processor for one input."""


def run(target: Target, inputs: int, seed: int) -> Outcome:
    """Feed a reader; the same seed gives the same inputs.

    Args:
        target: the reader and whole inputs.
        inputs: how many; a slow reader gets fewer (`Target.one_of`).
        seed: of the mutations.
    """
    found = Outcome()
    for number in range(0, inputs, target.one_of):
        rng = random.Random(f"{seed}/{number}")
        data = spoilt(rng.choice(target.whole), rng)
        began = time.process_time()
        try:
            target.read(data)
            found.taken += 1
        except UserError as error:
            # A message that cannot be printed is no message.
            str(error).encode()
            found.refused += 1
        except Exception as error:
            found.foreign.append((number, f"{type(error).__name__}: {str(error)[:200]!r}"))
        found.slowest = max(found.slowest, time.process_time() - began)
    return found
