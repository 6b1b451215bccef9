"""Images of planned compositions: bought once, imported with their lineage, never labelled by what was intended."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from data_prep.expand.config import ExpandConfig, ImagePrice
from data_prep.expand.fetch import ImageFetchError, fetch_image
from data_prep.expand.images_received import images_of, is_declined, read_images
from data_prep.expand.plan import Plan, Planned
from data_prep.expand.requests import ImageAttempts, ImageRequest, keep_bytes
from data_prep.provider.budget import Budget, Tally
from data_prep.provider.failures import Failure, PassStoppedError, StopSignal
from data_prep.provider.interrupt import stop_on_interrupt, unless_stopped
from data_prep.provider.received import CutByLength, PaidReply, Refusal
from data_prep.provider.recount import Recount
from data_prep.sources.images import CheckedImage, ImageError, check_image
from data_prep.store.group_commit import Statement
from data_prep.store.rows import Item, item_id
from data_prep.store.store import Store, StoreError

_MISTAKES = 5
"""Such answers without an image between them after which the run ends: it is not about one text."""


@dataclass
class GenerationReport:
    """What a run did."""

    planned: int = 0
    before: Counter[str] = field(default_factory=Counter)
    """Rows that were finished when the run began, by state."""
    done: Counter[str] = field(default_factory=Counter)
    """Rows that this run finished: imported, refused, invalid, lost."""
    open: Counter[str] = field(default_factory=Counter)
    """Rows left for another run, by the kind of failure."""
    recovered: int = 0
    """Calls of a run that died: their outcome is unknown."""
    stopped: bool = False
    by_budget: bool = False
    seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)


class _LeftOpenError(Exception):
    """A signal to `generate`: the row stays open for another run; `kind` says why."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _ClosedError(Exception):
    """A signal to `Generator.make`: the row ends without an image: refused, invalid or lost."""

    def __init__(self, state: str, message: str) -> None:
        super().__init__(message)
        self.state = state


class Generator:
    """Turns rows of a plan into items of a store.

    Args:
        store: opened for writing.
        config: of the expansion.
        price: of the image model.
        limit_nano: nano-dollars that may be spent on this store, everything before included; None is no limit.
        resend_unknown: send again what was sent once with unknown outcome (it may be paid twice).

    Raises:
        ConfigError: the key is missing.
    """

    def __init__(
        self,
        store: Store,
        config: ExpandConfig,
        price: ImagePrice,
        *,
        limit_nano: int | None = None,
        resend_unknown: bool = False,
    ) -> None:
        ledger = store.ledger
        self.store, self.ledger, self.config = store, ledger, config
        self.tally, self.stop = Tally(), StopSignal()
        held = sum(upper for state, (_, upper, _) in ledger.open_calls().items() if state in ("unknown", "batched"))
        budget = Budget(limit_nano, ledger.total_cost(), held)
        self.attempts = ImageAttempts(store, {config.images.model: price}, config.images, budget, self.tally, self.stop)
        self._recount = Recount(self.attempts)
        self._resend_unknown = resend_unknown
        self._mistakes = 0

    async def make(self, row: Planned) -> str:
        """Bring one row to its end; returns its state.

        Raises:
            _LeftOpenError: it stays open.
            CallError: the endpoint can answer nothing at all.
            PassStoppedError: the run is stopping.
        """
        try:
            key, raw = await self._reply(row)
            image, sha256, revised = await self._image(raw)
        except _ClosedError as end:
            await self._close(row, end.state, None, str(end))
            return end.state
        item = self._item(row, key, image, sha256, revised)
        await self._close(row, "imported", item, None)
        return "imported"

    async def _reply(self, row: Planned) -> tuple[str, bytes]:
        """Key and body of the reply, from the ledger or paid for now."""
        if row.call_key is not None:
            await self._recount.put_right(self.config.images, row.call_key)
            if (raw := self.ledger.cached_reply(row.call_key)) is not None:
                self.tally.cached += 1
                return row.call_key, raw
        # Looked up under the key that was sent, so that another model or size in the configuration does not send it again.
        if row.call_key is not None and not self._resend_unknown and self.ledger.is_open(row.call_key, "unknown"):
            kind = "unknown"
            raise _LeftOpenError(kind, "sent before, outcome unknown")
        request = ImageRequest.of(self.config.images, row.prompt, row.image_seed)
        key = request.key
        if key != row.call_key:
            await self.ledger.write(("UPDATE generations SET call_key = ? WHERE id = ?", (key, row.id)))
        result = await self.attempts.run(request, key)
        if isinstance(result, bytes):
            return key, result
        raise self._judged(result)

    def _judged(self, failure: Failure) -> Exception:
        if failure.kind != "refused":
            return _LeftOpenError(failure.kind, failure.message)
        if is_declined(failure.message):
            return _ClosedError("refused", failure.message)
        self._mistakes += 1
        if self._mistakes >= _MISTAKES:
            return self.stop.fail(
                f"{self.config.images.name}: {self._mistakes} requests without an image between them were rejected, "
                f"and not for their content; the last: {failure.message}"
            )
        return _LeftOpenError("rejected", failure.message)

    async def _image(self, raw: bytes) -> tuple[CheckedImage, str, str | None]:
        """The image of a reply, its sha256 as kept, and the prompt as the endpoint revised it."""
        body = read_images(raw)
        entry = next((entry for entry in images_of(raw) if "odd" not in entry), None)
        if entry is None:
            assert not isinstance(body, PaidReply | CutByLength), "such a reply has an image"
            raise _ClosedError("refused" if isinstance(body, Refusal) else "invalid", body.why)
        if "kept" in entry:
            data = await asyncio.to_thread(self.store.image, *entry["kept"])
        elif "url" in entry:
            data = await self._fetched(entry["url"])
        else:
            kind = "invalid"
            raise _ClosedError(kind, "the image is not base64")
        self._mistakes = 0
        try:
            image = await asyncio.to_thread(check_image, data)
        except ImageError as error:
            kind = "invalid"
            raise _ClosedError(kind, str(error)) from None
        sha256 = await asyncio.to_thread(self.store.add_image, image.data, image.extension)
        return image, sha256, entry.get("revised_prompt")

    async def _fetched(self, url: str) -> bytes:
        endpoint = self.config.images
        try:
            # The image is paid and its address is in the ledger: nothing is lost where Ctrl-C ends the download.
            data = await unless_stopped(self.stop, fetch_image(url, base_url=endpoint.base_url, timeout=endpoint.timeout))
        except ImageFetchError as error:
            if error.gone:
                kind = "lost"
                raise _ClosedError(kind, str(error)) from None
            kind = "no_download"
            raise _LeftOpenError(kind, str(error)) from None
        await asyncio.to_thread(keep_bytes, self.store, data)
        return data

    def _item(self, row: Planned, key: str, image: CheckedImage, sha256: str, revised: str | None) -> Item:
        config = self.config
        model, party, cost, text = self.ledger.read(
            "SELECT model, party, cost_nano, text FROM calls JOIN prompts ON prompts.sha256 = prompt_sha256 "
            "WHERE cache_key = ? AND state = 'reply'",
            (key,),
        )[0]
        sent = json.loads(text)
        lineage: dict[str, object] = {
            **row.lineage,
            "triplet": {"background": row.background, "attribute": row.attribute, "subject": row.subject},
            "intended_emotion": row.emotion,
            "prompt": sent.pop("prompt"),
            "model": model,
            "party": party,
            "request": sent,
            "call": key[:16],
            "cost_nano": cost,
        }
        if revised:
            lineage["revised_prompt"] = revised
        anchor = self.ledger.read("SELECT split, grp, sha256 FROM items WHERE id = ?", (row.anchor,))
        if not anchor:
            msg = f"generation {row.id}: its parent {row.anchor} is not in the store any more"
            raise StoreError(msg)
        split, group, parent_sha256 = anchor[0]
        name = f"{config.source}-{key[:20]}"
        return Item(
            id=item_id(config.source, name),
            source=config.source,
            key=name,
            sha256=sha256,
            extension=image.extension,
            width=image.width,
            height=image.height,
            split=split,
            # An image without a group is split by its sha256; as the group of both it leaves the parent where it was.
            group=group or parent_sha256,
            # No key `emotion`: what was intended is no label.
            labels={"lineage": lineage},
            regions=[],
            licence=config.images.licence,
            origin=f"generated by {model}",
        )

    async def _close(self, row: Planned, state: str, item: Item | None, error: str | None) -> None:
        statements: list[Statement] = []
        if item is not None:
            marks = ",".join("?" * len(item.row()))
            statements.append((f"INSERT OR IGNORE INTO items VALUES ({marks})", item.row()))
            statements.append(("UPDATE items SET grp = ? WHERE id = ? AND grp IS NULL", (item.group, row.anchor)))
        values = (state, None if item is None else item.id, error and error[:500], row.id)
        statements.append(("UPDATE generations SET state = ?, item_id = ?, error = ? WHERE id = ?", values))
        await self.ledger.write(*statements)


async def generate(
    store: Store,
    plan: Plan,
    config: ExpandConfig,
    price: ImagePrice,
    *,
    limit_nano: int | None = None,
    resend_unknown: bool = False,
    on_progress: Callable[[GenerationReport], None] | None = None,
) -> GenerationReport:
    """Make the images of a plan that are not made yet; the plan must be written down (`save_plan`).

    Args:
        store: opened for writing.
        plan: of `make_plan`.
        config: of the expansion.
        price: of the image model.
        limit_nano: see `Generator`.
        resend_unknown: see `Generator`.
        on_progress: called after every image.

    Raises:
        ConfigError: the key is missing.
        CallError: the endpoint answers nothing at all; what was received is in the ledger.
    """
    started = time.monotonic()
    recovered = store.ledger.recover()
    generator = Generator(store, config, price, limit_nano=limit_nano, resend_unknown=resend_unknown)
    stop = generator.stop
    report = GenerationReport(planned=len(plan.rows), recovered=recovered, tally=generator.tally)
    report.before.update(row.state for row in plan.rows if row.state is not None)
    errors: list[Exception] = []

    async def worker(queue: Iterator[Planned]) -> None:
        for row in queue:
            if stop.is_requested():
                return
            try:
                report.done[await generator.make(row)] += 1
            except PassStoppedError:
                return
            except _LeftOpenError as left:
                report.open[left.kind] += 1
            except Exception as error:
                # The other workers finish what is in flight; then the run ends with this error.
                stop.request()
                errors.append(error)
                return
            report.seconds = time.monotonic() - started
            if on_progress:
                on_progress(report)

    queue = iter([row for row in plan.rows if row.state is None])
    with stop_on_interrupt(stop):
        await asyncio.gather(*(worker(queue) for _ in range(config.images.concurrency)))
    await generator.attempts.close()
    report.seconds = time.monotonic() - started
    report.stopped, report.by_budget = stop.is_requested(), stop.by_budget
    if error := stop.error or next(iter(errors), None):
        raise error
    return report
