"""An answer that is sent while it is written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from emo_lightning.serve.chat import STREAM_END, Completion, event_of
from emo_lightning.serve.failures import ApiError, ClientGoneError

if TYPE_CHECKING:
    from emo_lightning.inference.explaining import OnPartial
    from emo_lightning.inference.results import Explanation
    from emo_lightning.serve.looking import PictureResult


async def stream(completion: Completion, look: Callable[[OnPartial], Awaitable[list[PictureResult]]]) -> AsyncIterator[str]:
    """The events of an answer, once the model has read the picture: what is wrong before that is no stream yet.

    Args:
        completion: of the request.
        look: asks the model, which tells what it is given of every token.

    Raises:
        ApiError: as `Service.look`.
        ClientGoneError: nobody waits any more.
    """
    loop = asyncio.get_running_loop()
    news: asyncio.Queue[Explanation | None] = asyncio.Queue()

    def on_partial(so_far: Explanation) -> None:
        # Of the thread that owns the model, which goes on where a server that was ended has left it.
        if not loop.is_closed():
            loop.call_soon_threadsafe(news.put_nowait, so_far)

    task = asyncio.ensure_future(look(on_partial))
    task.add_done_callback(lambda _: news.put_nowait(None))
    first = await news.get()
    if first is None:
        # It failed, or was answered without a word.
        await task
    return _events(completion, task, news, first)


async def _events(
    completion: Completion,
    task: asyncio.Future[list[PictureResult]],
    news: asyncio.Queue[Explanation | None],
    first: Explanation | None,
) -> AsyncIterator[str]:
    try:
        yield completion.begin()
        so_far = first
        while so_far is not None:
            if event := completion.more(so_far):
                yield event
            so_far = await news.get()
        (found,) = await task
        yield completion.end(found)
    except ClientGoneError:
        return
    except Exception as error:
        # The status has been sent: the error is an event, as OpenAI's clients read it. What is no request's fault has its traceback, too.
        shown = (
            error
            if isinstance(error, ApiError)
            else ApiError(500, f"{type(error).__name__}: a bug of the server's", "internal_error")
        )
        yield event_of(shown.body) + STREAM_END
        if shown is not error:
            raise
    finally:
        task.cancel()
