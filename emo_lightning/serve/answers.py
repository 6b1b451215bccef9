"""What is found, as it is sent."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from emo_lightning.inference.text import comparison
from emo_lightning.serve.links import linked

if TYPE_CHECKING:
    from emo_lightning.serve.looking import Found, Tokens


def explained(found: Found, *, embedding: bool) -> dict[str, object]:
    """An explanation, with words and probe compared in a sentence, and the description in pieces that are linked to its regions.

    Args:
        found: with words.
        embedding: with the embedding's numbers, as `des`.
    """
    assert found.explanation is not None
    pieces = [asdict(piece) for piece in linked(found.explanation.said)]
    explained = found.explanation.as_json(des=embedding)
    return {**explained, "comparison": comparison(found.explanation), "sentence": pieces}


def embedded(number: int, found: Found, encoding: str) -> dict[str, object]:
    """An embedding as OpenAI's API gives it.

    Args:
        number: of its input.
        found: of its picture.
        encoding: `float`, or `base64` of float32, least byte first.
    """
    vector = found.des.astype("<f4")
    value = base64.b64encode(vector.tobytes()).decode() if encoding == "base64" else vector.tolist()
    return {"object": "embedding", "index": number, "embedding": value}


def usage(tokens: Sequence[Tokens], *, completion: bool = True) -> dict[str, int]:
    """Tokens read and written.

    Args:
        tokens: of each picture.
        completion: whether there are answers.
    """
    read, written = sum(one.prompt for one in tokens), sum(one.completion for one in tokens)
    counts = {"prompt_tokens": read, "completion_tokens": written} if completion else {"prompt_tokens": read}
    return {**counts, "total_tokens": read + written}
