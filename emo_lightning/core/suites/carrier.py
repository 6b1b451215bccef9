"""The files that EmObserver evaluates from (github.com/wdqqdw/EmObserver, `evaluate/infer_and_eval.py`): one layout for several suites.

An object of id -> `image_path` (a text or a list), `prompt`, `ground_truth`, `other_info`; a file of results adds `generations`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from emo_lightning.core.foreign import decode_json, read_capped
from emo_lightning.core.suites.item import (
    RowError,
    SuiteError,
    SuiteItem,
    SuiteRows,
    as_object,
    attempt,
    optional_object,
    rest,
    text,
    texts,
)

_MAX_BYTES = 1 << 30
_USED = ("image_path", "prompt", "ground_truth", "other_info", "generations")

FinishItem = Callable[[SuiteItem, Mapping[str, object]], SuiteItem]
"""What a suite adds to an item, given its `other_info`."""


def read_carrier(path: Path, finish: FinishItem) -> SuiteRows:
    """Items of a file, in its order.

    Args:
        path: of the file.
        finish: gives task, candidates and options of the suite, and refuses what is not of it (`RowError`).

    Raises:
        SuiteError: no such file, or no object of ids.
    """
    content = decode_json(read_capped(path, _MAX_BYTES, SuiteError), path, SuiteError)
    if not isinstance(content, dict):
        msg = f"{path}: found a {type(content).__name__}; expected an object of id -> image_path, prompt, ground_truth, other_info"
        raise SuiteError(msg)
    for name, row in content.items():
        yield attempt(f"{path}[{name}]", partial(_item, name, row, finish))


def _item(name: str, row: object, finish: FinishItem) -> SuiteItem:
    value = as_object(row, "the item")
    said = value.get("generations")
    if said is not None and not (isinstance(said, list) and all(isinstance(one, str) for one in said)):
        msg = f"key 'generations' is {str(said)[:60]!r}; expected a list of texts"
        raise RowError(msg)
    other = optional_object(value, "other_info")
    item = SuiteItem(
        id=name,
        task="",
        images=texts(value, "image_path"),
        prompt=text(value, "prompt"),
        truth=text(value, "ground_truth"),
        replies=tuple(map(str, said or ())),
        extra={**rest(value, *_USED), **other},
    )
    return finish(item, other)


def one_image(item: SuiteItem) -> SuiteItem:
    """The item; `RowError` where it shows several images or none."""
    if len(item.images) != 1:
        msg = f"shows {len(item.images)} images; expected one"
        raise RowError(msg)
    return item
