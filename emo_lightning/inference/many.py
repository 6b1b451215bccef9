"""Many images through a model: bad ones are counted and named, a kill costs little, and the same command goes on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypeVar

from PIL import Image

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.files import write_bytes
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.terminal import say
from emo_lightning.inference.inputs import InputImage
from emo_lightning.inference.parts import ImageResult

if TYPE_CHECKING:
    from emo_lightning.inference.model import EmotionModel, Masks
    from emo_lightning.models.label_scoring import LabelScoring

_READERS = 4
"""Threads that decode the next batch while the model is at work."""
_NAMED = 20
"""Images whose faults are printed; the file has all of them."""


class OpenedBatch(NamedTuple):
    """A batch: what could be opened, and what could not."""

    entries: list[InputImage]
    pictures: list[Image.Image]
    failures: dict[str, str]


@dataclass(frozen=True)
class Looked:
    """What has been done by a command."""

    failures: dict[str, str] = field(default_factory=dict)
    """id -> why, of images that cannot be opened. They are asked again by the next command."""
    done: int = 0
    """Images that were looked at."""
    seconds: float = 0.0
    """That it took, with the model loaded."""

    @property
    def rate(self) -> str:
        """For the line that says what is there; empty where nothing was done."""
        return f"{self.done / max(self.seconds, 1e-9):.1f} images a second" if self.done else ""


R = TypeVar("R")

ImageFunction: TypeAlias = Callable[[Sequence[InputImage], Sequence[Image.Image]], Sequence[R]]
"""Looks at some pictures."""
ImageResultFunction: TypeAlias = ImageFunction[ImageResult]


A = TypeVar("A", contravariant=True)


class KeptResults(Protocol[A]):
    """Where results are kept, so that what is done is not done again."""

    def has(self, name: str, stamp: str) -> bool:
        """Whether the image is known; one whose file has changed is not."""
        ...

    def add(self, results: Sequence[A]) -> None:
        """Keep results."""
        ...

    def flush(self) -> None:
        """Write what is waiting."""
        ...

    def remove_empty(self) -> None:
        """Leave nothing behind where nothing is known."""
        ...


def embed_work(model: EmotionModel) -> ImageResultFunction:
    """Embeddings alone."""
    from emo_lightning.models.sound import naming

    def work(found: Sequence[InputImage], pictures: Sequence[Image.Image]) -> list[ImageResult]:
        with naming([entry.id for entry in found]):
            rows = model.embed(list(pictures), len(pictures)).numpy()
        return [ImageResult(entry.id, entry.stamp, "", row) for entry, row in zip(found, rows, strict=True)]

    return work


def explain_work(
    model: EmotionModel,
    max_new_tokens: int,
    overlay: Callable[[str], Path] | None = None,
    masks: Masks | None = None,
    label_scoring: LabelScoring = "plain",
) -> ImageResultFunction:
    """All that the model says.

    Args:
        model: loaded.
        max_new_tokens: of one answer.
        overlay: id -> picture to draw; None draws none.
        masks: see `EmotionModel.explain`.
        label_scoring: see there.
    """
    from emo_lightning.inference.overlay import save_overlay

    def work(found: Sequence[InputImage], pictures: Sequence[Image.Image]) -> list[ImageResult]:
        ids = [entry.id for entry in found]
        explained = model.explain(
            list(pictures),
            ids,
            max_new_tokens=max_new_tokens,
            batch_size=len(pictures),
            masks=masks,
            label_scoring=label_scoring,
        )
        if overlay is not None:
            for one, picture in zip(explained, pictures, strict=True):
                save_overlay(picture, one, overlay(one.id))
        said = (json.dumps(one.as_json(des=False), ensure_ascii=False) for one in explained)
        return [
            ImageResult(entry.id, entry.stamp, text, one.des) for entry, one, text in zip(found, explained, said, strict=True)
        ]

    return work


def look_at_all(
    found: Sequence[InputImage], parts: KeptResults[R], work: Callable[[], ImageFunction[R]], batch_size: int, what: str
) -> Looked:
    """Every image that is not known yet.

    Args:
        found: all images.
        parts: what is known, and what is added to (`Parts`, or the rows of an index).
        work: loads the model; not called where nothing is left.
        batch_size: images at a time.
        what: is done, for the progress bar.

    Raises:
        InputError: no image can be opened.
    """
    left = [entry for entry in found if not parts.has(entry.id, entry.stamp)]
    if len(left) < len(found):
        say(f"{len(found) - len(left)} images are done already, {len(left)} are left", file=sys.stderr)
    failures: dict[str, str] = {}
    if not left:
        return Looked()
    do, start = work(), time.monotonic()
    try:
        with progress_bars("images", stay=False) as bars:
            bar = bars.add_task(what, total=len(left))
            for opened in opened_batches(left, batch_size):
                failures |= opened.failures
                if opened.entries:
                    parts.add(do(opened.entries, opened.pictures))
                bars.advance(bar, len(opened.entries) + len(opened.failures))
    finally:
        # Ctrl-C included: what was paid for is kept.
        parts.flush()
    looked = Looked(failures, len(left) - len(failures), time.monotonic() - start)
    name_failures(failures)
    if not looked.done:
        parts.remove_empty()
        msg = f"none of {len(left)} images can be opened; the first: {next(iter(failures.values()))}"
        raise InputError(msg)
    return looked


def name_failures(failures: Mapping[str, str]) -> None:
    """Say which images could not be opened, and why."""
    for text in list(failures.values())[:_NAMED]:
        say(f"left out: {text}", file=sys.stderr)
    if failures:
        more = f", {len(failures) - _NAMED} more than are named here" if len(failures) > _NAMED else ""
        say(f"{len(failures)} images could not be opened{more}", file=sys.stderr)


def opened_batches(found: Sequence[InputImage], batch_size: int) -> Iterator[OpenedBatch]:
    """Batches, the next one opened while this one is worked on."""
    starts = range(0, len(found), batch_size)
    with ThreadPoolExecutor(_READERS) as readers:

        def begin(start: int) -> list[tuple[InputImage, Callable[[], Image.Image | str]]]:
            batch = found[start : start + batch_size]
            return [(entry, readers.submit(_open, entry).result) for entry in batch]

        waiting = begin(0)
        for start in starts:
            here, waiting = waiting, begin(start + batch_size)
            opened = OpenedBatch([], [], {})
            for entry, result in here:
                picture = result()
                if isinstance(picture, str):
                    opened.failures[entry.id] = picture
                else:
                    opened.entries.append(entry)
                    opened.pictures.append(picture)
            yield opened


def _open(entry: InputImage) -> Image.Image | str:
    """The picture, or why not."""
    try:
        entry.id.encode()
    except UnicodeEncodeError:
        return f"{entry.id!r}: its name is not UTF-8, so that no table can hold it"
    try:
        return entry.open()
    except (UserError, OSError) as error:
        said = str(error)
        return said if entry.id in said else f"{entry.id}: {said}"


def write_failures(out: Path, failures: Mapping[str, str]) -> None:
    """`OUT.failed.jsonl`: `id` and `error` of every image that could not be opened; no file where there is none."""
    path = out.with_name(f"{out.name}.failed.jsonl")
    if not failures:
        path.unlink(missing_ok=True)
        return
    rows = [json.dumps({"id": name, "error": text}, ensure_ascii=False) + "\n" for name, text in failures.items()]
    write_bytes(path, "".join(rows).encode("utf-8", "backslashreplace"))
    say(f"they are listed in {path}", file=sys.stderr)
