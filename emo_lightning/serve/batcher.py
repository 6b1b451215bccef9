"""One thread that owns a model, and gives it at once what has come within a few milliseconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, NamedTuple, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")

BatchFunction = Callable[[Sequence[In]], Sequence[Out]]
"""Called in the thread with 1 to `most` pieces; gives one result for each."""


class _Waiting(NamedTuple, Generic[In, Out]):
    piece: In
    future: Future[Out]
    since: float


class Batcher(Generic[In, Out]):
    """Takes pieces one by one and works on several at a time, in the order in which they came.

    What is cancelled before its turn is dropped. Where the work on a batch fails, its pieces are worked on one by one, so that one of them
    cannot spoil the others.

    Args:
        work: on a batch.
        most: pieces of a batch.
        wait: seconds that the first of a batch waits for others. Once the thread is busy nobody waits: what came meanwhile is the batch.
        worked: told of every batch: pieces and seconds.
    """

    def __init__(
        self,
        work: BatchFunction[In, Out],
        most: int,
        wait: float,
        worked: Callable[[int, float], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._work, self._most, self._wait, self._worked, self._clock = work, most, wait, worked, clock
        self._news = threading.Condition()
        self._waiting: dict[int, _Waiting[In, Out]] = {}
        self._next = 0
        self._closing = False
        self.seconds = 0.0
        """Of the model for a piece, about; the latest batches count most."""
        self.dropped = 0
        """Pieces that were cancelled before their turn."""
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Pieces whose turn has not come."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether the thread is there; what ends it is a bug."""
        return self._thread.is_alive()

    def put(self, piece: In) -> Future[Out]:
        """Wait for its turn; cancelling the future gives that up.

        Raises:
            RuntimeError: it is closed.
        """
        future: Future[Out] = Future()
        with self._news:
            if self._closing:
                msg = "the batcher is closed"
                raise RuntimeError(msg)
            number, self._next = self._next, self._next + 1
            self._waiting[number] = _Waiting(piece, future, self._clock())
            self._news.notify()
        future.add_done_callback(lambda done: self._forget(number) if done.cancelled() else None)
        return future

    def hurry(self) -> None:
        """From now on nothing waits for others: nothing more is expected."""
        with self._news:
            self._wait = 0.0
            self._news.notify()

    def close(self, patience: float | None = None) -> None:
        """Finish what is waiting, and end the thread.

        Args:
            patience: seconds to wait for that; None: as long as it takes.
        """
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(patience)

    def _forget(self, number: int) -> None:
        with self._news:
            if self._waiting.pop(number, None) is not None:
                self.dropped += 1

    def _run(self) -> None:
        while batch := self._batch():
            start = self._clock()
            self._answer(batch)
            took = self._clock() - start
            self.seconds += 0.2 * (took / len(batch) - self.seconds) if self.seconds else took / len(batch)
            self._worked(len(batch), took)
            # Pictures are not kept until the next batch has come.
            batch.clear()

    def _batch(self) -> list[_Waiting[In, Out]]:
        """The next ones; none once it is closed and nothing is left."""
        with self._news:
            while True:
                while not self._waiting and not self._closing:
                    self._news.wait()
                if not self._waiting:
                    return []
                first = next(iter(self._waiting.values()))
                left = first.since + self._wait - self._clock()
                if left <= 0 or len(self._waiting) >= self._most or self._closing:
                    break
                self._news.wait(left)
            numbers = list(self._waiting)[: self._most]
            taken = [self._waiting.pop(number) for number in numbers]
        # One that was cancelled in this very moment has no turn.
        begun = [one for one in taken if one.future.set_running_or_notify_cancel()]
        self.dropped += len(taken) - len(begun)
        return begun or self._batch()

    def _answer(self, batch: list[_Waiting[In, Out]]) -> None:
        try:
            results = self._work([one.piece for one in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            # A machine that has no memory for them together may have it for each; a user's mistake is one piece's.
            for one in batch:
                self._answer([one])
            return
        for one, result in zip(batch, results, strict=True):
            one.future.set_result(result)
