"""Images of the web: a list of addresses, downloaded concurrently (see `download` for what is refused)."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from data_prep.sources.addresses import ListedUrl, read_list
from data_prep.sources.base import RefusedError, SourceItem, SourceRefusal
from data_prep.sources.images import MAX_BYTES, ImageError, check_image
from emo_lightning.core.options import Real, Whole
from emo_lightning.core.web.addresses import IPAddress, is_public
from emo_lightning.core.web.download import Downloader, DownloadLimits, unlike_an_image

_WINDOW = 32
"""Addresses taken from the list ahead of each place for a download, so that one slow host does not hold up the others."""


@dataclass(frozen=True)
class _Fetched:
    listed: ListedUrl
    body: bytes
    url: str


_Result = _Fetched | SourceRefusal | BaseException | None
"""An exception ended the downloads; None: there is no more."""


class UrlSource:
    """Downloads the images of a list. Items come as they arrive, not in the order of the list.

    Args:
        name: written as the source into every record.
        licence: of images for which the list names none.
        limits: what a download may cost.
        known: keys (addresses) that are imported already; they are not asked for again, and counted in `skipped`.
        public: which addresses of machines may be connected to.
    """

    def __init__(
        self,
        name: str = "urls",
        licence: str | None = None,
        limits: DownloadLimits | None = None,
        known: Collection[str] = (),
        public: Callable[[IPAddress], bool] = is_public,
    ) -> None:
        self.name = name
        self.licence = licence
        self.limits = limits or DownloadLimits()
        self.known = known
        self.public = public
        self.skipped = 0

    def read(self, path: Path) -> Iterator[SourceItem | SourceRefusal]:
        """Stream items and refusals (see `read_list`, `Downloader` and `check_image`).

        Raises:
            SourceError: the list cannot be read.
        """
        downloads = _Downloads(self, read_list(path))
        try:
            for result in downloads.results():
                yield self._item(result) if isinstance(result, _Fetched) else result
        finally:
            downloads.stop()

    def _item(self, fetched: _Fetched) -> SourceItem | SourceRefusal:
        listed = fetched.listed
        try:
            checked = check_image(fetched.body)
        except ImageError as error:
            return SourceRefusal(listed.file, listed.line, f"{error}: {listed.url}")
        labels = listed.labels.copy()
        if fetched.url != listed.url:
            labels["attributes"] = {**labels.get("attributes", {}), "redirected_to": fetched.url}
        return SourceItem(
            key=listed.url,
            image=checked.data,
            extension=checked.extension,
            width=checked.width,
            height=checked.height,
            source=self.name,
            labels=dict(labels),
            licence=listed.licence or self.licence,
            origin=listed.url,
        )


class _Downloads:
    """An event loop in a thread of its own; what it fetched waits in a bounded queue until it is asked for."""

    def __init__(self, source: UrlSource, rows: Iterator[ListedUrl | SourceRefusal]) -> None:
        self._source = source
        self._rows = rows
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="downloads", daemon=True)
        self._thread.start()
        self._ready.wait()

    def results(self) -> Iterator[_Fetched | SourceRefusal]:
        """Everything, as it arrives."""
        while True:
            result = asyncio.run_coroutine_threadsafe(self._queue.get(), self._loop).result()
            if result is None:
                return
            if isinstance(result, BaseException):
                raise result
            yield result

    def stop(self) -> None:
        """End what is under way."""
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()

    def _main(self) -> None:
        with contextlib.suppress(asyncio.CancelledError), asyncio.Runner() as runner:
            runner.run(self._run())

    async def _run(self) -> None:
        self._loop, self._task = asyncio.get_running_loop(), cast(asyncio.Task[None], asyncio.current_task())
        self._queue: asyncio.Queue[_Result] = asyncio.Queue(maxsize=self._source.limits.concurrency)
        self._ready.set()
        end: BaseException | None = None
        try:
            await self._download_all()
        except BaseExceptionGroup as group:
            end = group.exceptions[0]
        except Exception as error:
            end = error
        await self._queue.put(end)
        # The loop serves `results` until `stop`.
        await asyncio.Event().wait()

    async def _download_all(self) -> None:
        source = self._source
        window = asyncio.Semaphore(_WINDOW * source.limits.concurrency)

        async def download(listed: ListedUrl) -> None:
            async def deliver(body: bytes, url: str) -> None:
                await self._queue.put(_Fetched(listed, body, url))

            try:
                await downloader.fetch(listed.url, unlike_an_image, deliver)
            except RefusedError as error:
                await self._queue.put(SourceRefusal(listed.file, listed.line, f"{error}: {listed.url}"))
            finally:
                window.release()

        async with Downloader(source.limits, source.public) as downloader, asyncio.TaskGroup() as group:
            for listed in self._rows:
                if isinstance(listed, SourceRefusal):
                    await self._queue.put(listed)
                elif listed.url in source.known:
                    source.skipped += 1
                else:
                    await window.acquire()
                    group.create_task(download(listed))


def add_download_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `emo prep import urls`."""
    standard = DownloadLimits()
    options = parser.add_argument_group("urls")
    options.add_argument(
        "--allow-private", action="store_true", help="also connect to private, loopback and link-local addresses"
    )
    options.add_argument(
        "--concurrency",
        type=Whole(1, 1000),
        default=standard.concurrency,
        metavar="N",
        help="downloads at the same time (default: %(default)s)",
    )
    options.add_argument(
        "--per-host-rate",
        type=Real(0, 1e6, above=True),
        default=standard.per_host_rate,
        metavar="RATE",
        help="most requests per second to one host (default: %(default)s)",
    )
    options.add_argument(
        "--timeout",
        type=Real(0, 3600, above=True),
        default=standard.timeout,
        metavar="SECONDS",
        help="longest wait for one image (default: %(default)s)",
    )
    options.add_argument(
        "--max-bytes",
        type=Whole(1),
        default=MAX_BYTES,
        metavar="BYTES",
        help="largest image that is taken (default: %(default)s)",
    )


def download_limits(args: argparse.Namespace) -> DownloadLimits:
    """What the options of `add_download_arguments` say.

    Raises:
        SourceError: a value that makes no sense.
    """
    return DownloadLimits(args.concurrency, args.per_host_rate, args.timeout, args.max_bytes, args.allow_private)
