"""What an engine is, and the steps that it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Generic, Protocol, TypeVar

from emo_lightning.core.errors import UserError

if TYPE_CHECKING:
    from data_prep.provider.attempts import Attempts
    from data_prep.store.store import Store

_T = TypeVar("_T")
Prepared = TypeVar("Prepared")
"""An image as a step wants it: decoded, or bytes as they are."""

MakeAttempts = Callable[..., "Attempts"]
"""Called as the class `Attempts` is."""

EngineResult = str | bytes
"""What a step finds in one image, as the ledger keeps it."""


class EngineError(UserError, RuntimeError):
    """An engine cannot be used as asked, or a part of it failed."""


@dataclass(frozen=True)
class ItemRow:
    """One image of a store, and what is asked about it."""

    sha256: str
    extension: str
    given: str = ""
    """E.g. a phrase to find."""


class Step(ABC, Generic[Prepared]):
    """A pure function of images. It is sent to other processes, so it holds names and settings, never a loaded model."""

    resident: ClassVar[bool] = True
    """Whether `load` brings something large into memory, so that a process is better kept for many batches."""

    @abstractmethod
    def prepare(self, data: bytes) -> Prepared:
        """One encoded image, made ready; several run at once in threads."""

    @abstractmethod
    def load(self) -> Callable[[Sequence[ItemRow], Sequence[Prepared]], list[EngineResult]]:
        """Load what is needed, once in a process; returns the function of a batch: rows and their prepared images to results.

        Raises:
            UserError: a model is missing, or is not the one that the step was made for.
        """


class Engine(Protocol):
    """See `data_prep.engine`."""

    def map(self, store: Store, batches: Sequence[Sequence[ItemRow]], step: Step[Prepared]) -> Iterator[list[EngineResult]]:
        """The results of each batch, in the order of the batches; nothing is loaded where there are none.

        Args:
            store: has the images.
            batches: what goes through the step together.
            step: the function.

        Raises:
            StoreError: an image is missing or damaged.
            UserError: what `Step.load` raises.
        """
        ...

    def paid(self, store: Store) -> AbstractContextManager[MakeAttempts]:
        """Who sends paid requests while the context is open; `store.ledger` may be another object meanwhile.

        Args:
            store: opened for writing.
        """
        ...


def in_batches(rows: Sequence[_T], size: int) -> list[Sequence[_T]]:
    """Consecutive parts of `size`; the last one may be shorter."""
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def portable(name: str) -> str:
    """A model's name for other processes, whose current directory may be another one: local paths become absolute."""
    return str(Path(name).resolve()) if Path(name).exists() else name
