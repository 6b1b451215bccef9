"""A model behind an endpoint as a model under test: our questions, its replies, a predictions file like any other.

`endpoint` is a `data_prep.provider.model_under_test.Endpoint`, handed in: this package does not know the factory.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from emo_lightning.core.records import Prediction, Record
from emo_lightning.data.chat import merge_predictions, objective, parse_reply, prompt
from emo_lightning.data.declared_boxes import DeclaredBoxes
from emo_lightning.data.images import grey
from emo_lightning.data.tar_index import TarIndex


def about(config: Any, objectives: Sequence[str], blind: bool) -> dict[str, Any]:
    """What decides the answers (`AnswerFiles.begin`).

    Args:
        config: `data_prep.provider.model_under_test.UnderTest`.
        objectives: what is asked.
        blind: grey in place of every image.
    """
    return {
        "_endpoint": config.base_url,
        "model": config.model,
        "revision": config.revision,
        "parameters": config.parameters,
        "boxes": [config.boxes, config.order, config.min_pixels, config.max_pixels],
        "blind": blind,
        "prompts": {name: prompt(objective(name).keys) for name in objectives},
    }


def questions(
    index: TarIndex, objectives: Sequence[str], picture: Callable[..., Any], request: Callable[[Any, str], Any], blind: bool
) -> list[Any]:
    """The requests, image by image and objective by objective.

    Args:
        index: the images.
        objectives: what is asked of each.
        picture: makes a picture of (sha256, extension, read, width, height): `data_prep.provider.request.Picture`.
        request: makes a request of a picture and a prompt.
        blind: grey in place of every image.
    """
    prompts = [prompt(objective(name).keys) for name in objectives]
    return [request(shown, text) for shown in _pictures(index, picture, blind) for text in prompts]


def predictions(
    index: TarIndex, objectives: Sequence[str], replies: dict[int, Any], config: Any
) -> list[tuple[Prediction, Record]]:
    """The replies as predictions, each with its record; no reply at all stays None, with the reason in `provenance`.

    Args:
        index: the images that `questions` asked about.
        objectives: the same.
        replies: by the request's number: text, or a failure with `kind` and `message`.
        config: `data_prep.provider.model_under_test.UnderTest`, for the coordinates of boxes.
    """
    codec = DeclaredBoxes(config.boxes, config.order, config.min_pixels, config.max_pixels)
    found = []
    for row in range(len(index)):
        record = index.record(row)
        original = (record.width, record.height)
        parts = []
        for number in range(row * len(objectives), (row + 1) * len(objectives)):
            reply = replies[number]
            if isinstance(reply, str):
                parts.append(parse_reply(reply, id=record.id, original=original, resized=codec.frame(original), codec=codec))
            else:
                why = {"reply": None, "problems": [f"no reply ({reply.kind}): {reply.message}"]}
                parts.append(Prediction(id=record.id, width=record.width, height=record.height, provenance=why))
        found.append((merge_predictions(parts), record))
    return found


def _pictures(index: TarIndex, picture: Callable[..., Any], blind: bool) -> Iterator[Any]:
    greys: dict[tuple[int, int], bytes] = {}
    for row in range(len(index)):
        record = index.record(row)
        size = (record.width, record.height)
        if blind:
            if size not in greys:
                buffer = io.BytesIO()
                grey(size).save(buffer, "PNG")
                greys[size] = buffer.getvalue()
            data = greys[size]
            yield picture(hashlib.sha256(data).hexdigest(), "png", lambda data=data: data, *size)
        else:
            # Read when it is sent, not before: the images of a large set do not fit into memory.
            extension = index.image_extension(row)
            yield picture(record.sha256, extension, lambda row=row: index.image_bytes(row)[0], *size)
