"""Where samples stand in a row, and what each of them sees: what attention among them is computed from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import NamedTuple, cast

import torch
from torch import Tensor


@dataclass(frozen=True)
class Samples:
    """Where each of several samples stands in a row.

    Args:
        lengths: tokens or patches of each, all above 0, in their order.
        bounds: (samples + 1,) int32 on the device of the row: where each begins, and the length of the row.
        sees: the places of what each sees in the row of keys, its own as the last; None: it stands in the same row and sees itself alone.
    """

    lengths: tuple[int, ...]
    bounds: Tensor
    sees: tuple[tuple[range, ...], ...] | None = None

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Samples:
        """From their lengths; nothing waits for the device."""
        bounds = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        return cls(tuple(lengths), bounds.to(device, non_blocking=True))

    @classmethod
    def of_row(cls, batch: Mapping[str, object], device: torch.device) -> Samples:
        """Of a packed batch of the collator."""
        if "branches" in batch:
            return cls.branched(cast("list[list[int]]", batch["branches"]), device)
        return cls.of(cast("list[int]", batch["lengths"]), device)

    @classmethod
    def branched(cls, images: Sequence[Sequence[int]], device: torch.device) -> Samples:
        """Of several images: the first sample of each is seen by those that follow it, and these do not see each other."""
        whole = cls.of([length for image in images for length in image], device)
        return cls(whole.lengths, whole.bounds, tuple(_seen_in(images)))

    @classmethod
    def between(cls, bounds: Tensor) -> Samples:
        """From their boundaries; waits for the device."""
        return cls(tuple(bounds.diff().tolist()), bounds)

    @property
    def longest(self) -> int:
        """Length of the longest."""
        return max(self.lengths)

    @cached_property
    def parts(self) -> tuple[tuple[range, ...], ...]:
        """The places of what each sees, its own as the last."""
        if self.sees is not None:
            return self.sees
        starts = accumulate(self.lengths, initial=0)
        return tuple((range(start, start + length),) for start, length in zip(starts, self.lengths, strict=False))

    @cached_property
    def seen(self) -> tuple[Samples, Tensor]:
        """What each sees, its own as the last, one after another; and where these tokens stand in the row."""
        device = self.bounds.device
        whole = Samples.of([sum(map(len, parts)) for parts in self.parts], device)
        return whole, _places(self.parts).to(device, non_blocking=True)

    @cached_property
    def apart(self) -> bool:
        """Whether what they see follows each other in the row from its beginning: nothing has to be gathered then."""
        return _follow(part for parts in self.parts for part in parts)

    @cached_property
    def sorted(self) -> bool:
        """As `apart`, and all samples of one group stand one after another, as those of a packed row do."""
        return self.apart and _rising(number for group in self.groups.values() for number in group)

    @cached_property
    def groups(self) -> dict[tuple[int, int], list[int]]:
        """(length, tokens that are seen) -> numbers of the samples, in the order of the row."""
        groups: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number, (length, parts) in enumerate(zip(self.lengths, self.parts, strict=True)):
            groups[length, sum(map(len, parts))].append(number)
        return groups

    @cached_property
    def order(self) -> tuple[Tensor, Tensor, Tensor]:
        """Places of the groups in the row, one after another; of what they see; and of the row in the groups."""
        own = torch.arange(sum(self.lengths)).split(list(self.lengths))
        numbers = [number for group in self.groups.values() for number in group]
        order = torch.cat([own[number] for number in numbers])
        seen = _places([self.parts[number] for number in numbers])
        device = self.bounds.device
        first, second, back = (part.to(device, non_blocking=True) for part in (order, seen, order.argsort()))
        return first, second, back


class Ends(NamedTuple):
    """The last tokens of each sample of a row, in a row of their own."""

    samples: Samples
    """In that row; what they see is in the whole one."""
    places: Tensor
    """(E,) int64, where they stand in the whole row."""

    @classmethod
    def of_row(cls, batch: Mapping[str, object], counts: Sequence[int], device: torch.device) -> Ends:
        """Of a packed batch of the collator; nothing waits for the device.

        Args:
            batch: see above.
            counts: tokens of each piece of the row; 0 for none.
            device: of the row.
        """
        images = cast("list[list[int]]", batch.get("branches", [[length] for length in cast("list[int]", batch["lengths"])]))
        taken = [(count, parts) for count, parts in zip(counts, _seen_in(images), strict=True) if count]
        own = _places([(parts[-1][-count:],) for count, parts in taken])
        whole = Samples.of([count for count, _ in taken], device)
        seen = tuple(parts for _, parts in taken)
        return cls(Samples(whole.lengths, whole.bounds, seen), own.to(device, non_blocking=True))


def _seen_in(images: Sequence[Sequence[int]]) -> list[tuple[range, ...]]:
    """The places of what each piece of several images sees: what its image's questions share, and itself."""
    found: list[tuple[range, ...]] = []
    begin = 0
    for first, *rest in images:
        shared = range(begin, begin + first)
        found.append((shared,))
        begin = shared.stop
        for length in rest:
            found.append((shared, range(begin, begin + length)))
            begin += length
    return found


def _places(samples: Sequence[Sequence[range]]) -> Tensor:
    """One after another, (N,) int64."""
    return torch.cat([torch.arange(part.start, part.stop) for parts in samples for part in parts])


def _follow(parts: Iterable[range]) -> bool:
    """Whether each begins where the one before it ends, the first at 0."""
    end = 0
    for part in parts:
        if part.start != end:
            return False
        end = part.stop
    return True


def _rising(numbers: Iterable[int]) -> bool:
    return all(one < other for one, other in pairwise(numbers))
