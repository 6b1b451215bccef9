"""What a model has said of an image so far: words whose end is not there yet, marked, so that no more is shown than will stay.

Answers are JSON whose first key is the box. Of the words in it those that stand before the emotion in a record are known as they grow: each
is taken as the letters that are there and a mark; what comes behind the first mark of a text is not known yet (`settled`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from emo_lightning.core.records import Prediction
from emo_lightning.data.chat import objective

UNFINISHED_MARK = "\ue000"
"""Stands where something is not finished; of Unicode's private use."""
STREAMED_KEYS = ("description", "background", "attribute", "subject")
"""Keys that are known as they grow, in the order in which they are shown."""
_TEXT = r'"{}"\s*:\s*"((?:[^"\\]|\\.)*)("?)'
_HALF = re.compile(r"(\\u[dD][89aAbB][0-9a-fA-F]{2})?(\\u[0-9a-fA-F]{0,3})?$")
"""Of an escape, or of a pair of them."""


def unfinished(replies: Sequence[str], questions: Sequence[str], name: str, size: tuple[int, int]) -> Prediction:
    """What answers say that are still being written.

    Args:
        replies: so far, of each question.
        questions: objectives that were asked.
        name: id of the image.
        size: (width, height) of the image.

    Returns:
        Words with `UNFINISHED_MARK` where more may come, the last of them always; no box and no number.
    """
    words: dict[str, str] = {}
    for key in STREAMED_KEYS:
        # The first answer that gives it, as `merge_predictions` has it.
        reply = next((one for one, asked in zip(replies, questions, strict=True) if key in objective(asked).keys), "")
        words[key] = _begun(reply, key)
    words[STREAMED_KEYS[-1]] = words[STREAMED_KEYS[-1]].removesuffix(UNFINISHED_MARK) + UNFINISHED_MARK
    return Prediction.model_validate({"id": name, "width": size[0], "height": size[1], "emotion": UNFINISHED_MARK, **words})


def settled(text: str) -> str:
    """What of a text with marks will stay as it is."""
    # JSON has no quote where there turns out to be no value.
    return text.partition(UNFINISHED_MARK)[0].removesuffix('"')


def _begun(reply: str, key: str) -> str:
    found = re.search(_TEXT.format(key), reply, re.DOTALL) if reply.lstrip().startswith("{") else None
    if found is None:
        return UNFINISHED_MARK
    text, whole = found[1], bool(found[2])
    try:
        value = json.loads(f'"{text if whole else _HALF.sub("", text)}"')
    except ValueError:
        return UNFINISHED_MARK
    if whole:
        # What is empty is shown as something else.
        return value or UNFINISHED_MARK
    # Half of a letter's bytes are read as this.
    return str(value).rstrip("\ufffd") + UNFINISHED_MARK
