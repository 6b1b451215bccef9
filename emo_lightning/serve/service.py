"""What the routes share: the model behind its batcher, the places before it, and what is open beside it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from emo_lightning.inference.bundle import BUNDLE_FILE
from emo_lightning.serve.batcher import Batcher
from emo_lightning.serve.failures import ApiError, ClientGoneError
from emo_lightning.serve.looking import Asked, Found, Looking
from emo_lightning.serve.measured import Measured
from emo_lightning.serve.pictures import Given, Pictures, together
from emo_lightning.serve.places import Places

if TYPE_CHECKING:
    from fastapi import Request

    from emo_lightning.inference.explaining import OnPartial
    from emo_lightning.inference.model import EmotionModel, Masks
    from emo_lightning.serve.images import Images
    from emo_lightning.serve.settings import Limits

T = TypeVar("T")


@dataclass(frozen=True)
class About:
    """The model, as clients are told."""

    id: str
    """By which requests name it."""
    created: int
    """Seconds since 1970."""
    des_dim: int
    """Numbers of an embedding."""
    calibrated: bool
    """Whether the probe's probabilities are."""
    has_probe: bool
    """Whether emotions are read off the embedding."""
    masks: bool
    """Whether boxes have masks."""


class Service:
    """One model, served.

    Args:
        model: loaded; from now on it belongs to the batcher's thread.
        limits: how much at a time.
        index: of images to search; None: there is none.
        masks: see `EmotionModel.explain`.
        name: by which requests name the model; None: that of its folder.
    """

    def __init__(
        self,
        model: EmotionModel,
        limits: Limits,
        index: Images | None = None,
        masks: Masks | None = None,
        name: str | None = None,
    ) -> None:
        self.limits, self.index = limits, index
        file = Path(model.folder) / BUNDLE_FILE
        self.about = About(
            # As it was named, and not where a link leads.
            name or Path(model.folder).absolute().name,
            int(file.stat().st_mtime),
            model.des_dim,
            model.calibration is not None,
            model.probe is not None,
            masks is not None,
        )
        self.measured = Measured(limits.batch_size)
        self.batcher: Batcher[Asked, Found] = Batcher(
            Looking(model, masks), limits.batch_size, limits.wait, self.measured.worked
        )
        self.places = Places(limits.queue, limits.pixels, lambda taken: taken * self.batcher.seconds)
        self.pictures = Pictures()
        self.measured.watch("emo_places_taken", "Pictures on their way", lambda: self.places.taken)
        self.measured.watch("emo_waiting_pictures", "Pictures that wait for the model", lambda: self.batcher.waiting)
        self.measured.watch("emo_dropped_pictures", "Pictures given up before their turn", lambda: self.batcher.dropped)

    def check_model(self, name: str | None) -> None:
        """Refuse requests for another model.

        Raises:
            ApiError: 404.
        """
        if name not in (None, self.about.id):
            msg = f"model {name[:80]!r} is not here; there is {self.about.id!r}"
            raise ApiError(404, msg, "model_not_found", "model")

    def limit(self, asked: int | None) -> int:
        """Tokens of one answer, where so many are asked for."""
        most = self.limits.max_new_tokens
        return most if asked is None else min(asked, most)

    async def look(
        self,
        request: Request,
        pictures: Sequence[Given],
        names: Sequence[str] | None = None,
        tokens: int | None = None,
        on_partial: OnPartial | None = None,
    ) -> list[Found]:
        """What the model gives for the pictures of a request, while its client waits.

        Args:
            request: its body has been read.
            pictures: of it.
            names: of what is said of each.
            tokens: of one answer; None where embeddings alone are wanted.
            on_partial: told, in the model's thread, what is known of a picture while its answers are written.

        Raises:
            ApiError: 400, one is no picture; 503, there is no room.
            ClientGoneError: nobody waits any more; what had not begun is given up.
        """
        if len(pictures) > self.limits.images:
            msg = f"{len(pictures)} pictures; at most {self.limits.images} in a request"
            raise ApiError(400, msg, "too_many_images")
        with self.places.hold(len(pictures)) as held:

            async def work() -> list[Found]:
                opened = await self.pictures.open(pictures, held)
                called = names or ["image"] * len(opened)
                return await self.ask([Asked(one, name, tokens, on_partial) for one, name in zip(opened, called, strict=True)])

            return await while_connected(request, work())

    async def ask(self, asked: Sequence[Asked]) -> list[Found]:
        """What the model gives for pictures that hold their places; giving up takes those back whose turn has not come."""
        return await together([asyncio.wrap_future(self.batcher.put(one)) for one in asked])

    async def close(self) -> None:
        """Finish what the model has begun, and end all threads."""
        await asyncio.to_thread(self.batcher.close, self.limits.grace)
        await self.pictures.close()


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of some work, which is given up when the client closes its connection.

    Args:
        request: its body has been read.
        work: may be cancelled.

    Raises:
        ClientGoneError: it has.
    """
    doing, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({doing, gone}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientGoneError
    finally:
        for task in (doing, gone):
            task.cancel()
        await asyncio.gather(doing, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
