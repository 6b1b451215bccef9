"""VECBench (arXiv:2512.15528): emotion and polarity over six data sets, as EmoCaliber and as EmObserver publish it.

EmoCaliber's `test_8k.jsonl` has a row for each question: `conversations`, `task`, `candidates`, `ground_truth`, and in a file of
results `response`; where its runner failed it writes `{original_data, error}` instead, and its evaluation drops those rows. The rows have no
ids: in the suite's own file a question is known by the number of its line. EmObserver's `Std-VECBench.json` is in the layout of `carrier`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from emo_lightning.core.foreign import decode_json, json_lines, open_binary
from emo_lightning.core.suites.carrier import one_image, read_carrier
from emo_lightning.core.suites.item import (
    BadRow,
    FailedRow,
    RowError,
    SuiteError,
    SuiteItem,
    SuiteRows,
    answerable,
    as_object,
    attempt,
    choices,
    need,
    rest,
    text,
)

VECBENCH_TASKS = ("EmoSet-8", "FI-8", "FI-2", "WebEmo-2", "WebEmo-7", "WebEmo-25", "UnbiasedEmo-6", "Abstract-8", "Artphoto-8")
"""By the data set, and how many answers there are."""
_OTHER_SPELLINGS = {"UnbaisedEmo-6": "UnbiasedEmo-6"}
_USED = ("id", "conversations", "task", "candidates", "ground_truth", "response")


def read_vecbench(path: Path) -> SuiteRows:
    """Questions of either file; the one of EmoCaliber is told by its name, `.jsonl`."""
    return _lines(path) if path.suffix.lower() == ".jsonl" else read_carrier(path, _of_carrier)


def _of_carrier(item: SuiteItem, other: Mapping[str, object]) -> SuiteItem:
    extra = rest(item.extra, "task", "candidates")
    return _checked(replace(one_image(item), task=text(other, "task"), candidates=choices(other, "candidates"), extra=extra))


def _lines(path: Path) -> SuiteRows:
    seen: set[str] = set()
    with open_binary(path, SuiteError) as file:
        for where, line in json_lines(file, path, SuiteError):
            number = where.rpartition(":")[2]
            row = decode_json(line, where, SuiteError)
            if isinstance(row, dict) and (error := row.get("error")) is not None:
                # Its `original_data` is no sure sign of the question: after a line that is no JSON it is the row before.
                yield FailedRow(where, f"holds an error in the place of a reply: {str(error)[:160]}")
                continue
            found = attempt(where, partial(_row, row, number))
            if isinstance(found, SuiteItem):
                if found.id in seen:
                    found = BadRow(where, f"id {found.id!r} stands there twice")
                else:
                    seen.add(found.id)
            yield found


def _row(value: object, number: str) -> SuiteItem:
    row = as_object(value, "the row")
    images, words = _conversation(row)
    given, response = row.get("id"), row.get("response")
    if response is not None and not isinstance(response, str):
        msg = f"key 'response' is {str(response)[:60]!r}; expected text"
        raise RowError(msg)
    return _checked(
        one_image(
            SuiteItem(
                id=number if given is None else str(given),
                task=text(row, "task"),
                images=images,
                prompt=words,
                candidates=choices(row, "candidates"),
                truth=text(row, "ground_truth"),
                replies=() if response is None else (response,),
                extra=rest(row, *_USED),
                numbered=given is None,
            )
        )
    )


def _conversation(row: Mapping[str, object]) -> tuple[tuple[str, ...], str]:
    """Images and words of what the user says: messages as Qwen's `process_vision_info` takes them."""
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        msg = f"key 'conversations' is {str(turns)[:60]!r}; expected a list of messages"
        raise RowError(msg)
    images: list[str] = []
    words: list[str] = []
    for turn in turns:
        message = as_object(turn, "a message of conversations")
        if message.get("role") != "user":
            continue
        content = need(message, "content")
        for part in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            piece = as_object(part, "a part of conversations")
            if piece.get("type") == "image" or "image" in piece:
                images.append(text(piece, "image"))
            else:
                words.append(text(piece, "text"))
    if not words:
        msg = "conversations hold no message with role 'user' and text"
        raise RowError(msg)
    return tuple(images), "\n".join(words)


def _checked(item: SuiteItem) -> SuiteItem:
    task = _OTHER_SPELLINGS.get(item.task, item.task)
    if task not in VECBENCH_TASKS:
        msg = f"task is {task[:60]!r}; expected one of {', '.join(VECBENCH_TASKS)}"
        raise RowError(msg)
    return answerable(replace(item, task=task), "ground_truth")
