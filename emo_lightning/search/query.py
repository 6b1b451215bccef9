"""What a person asks with: an image of the index, a picture, or words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from PIL import Image

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.images import IMAGE_SUFFIXES
from emo_lightning.core.names import as_on_disk
from emo_lightning.core.text import shown
from emo_lightning.inference.pictures import as_picture, is_address
from emo_lightning.search.filters import Filters
from emo_lightning.search.index import SearchIndex
from emo_lightning.search.like import Start, start_of
from emo_lightning.search.sources import probes
from emo_lightning.search.words import of_words, parts_of

if TYPE_CHECKING:
    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.inference.results import Unlike


@dataclass(frozen=True)
class QueryPoint:
    """A point of an index, and where it comes from."""

    text: str
    """As it was asked."""
    kind: Literal["id", "picture", "words"]
    start: Start
    picture: Image.Image | None = None
    """That was asked with."""
    note: str = ""
    """How words became a point: a sentence for people."""
    unlike: Unlike | None = None
    """Of a picture: how far it is from what the model was trained on, where that is known."""


def understood(
    index: SearchIndex, text: str, load: Callable[[], EmotionModel], where: Filters | None = None, *, scene: bool = False
) -> QueryPoint:
    """A question: the id of an image of the index, else a file or address of a picture, else words.

    Args:
        index: that is asked.
        text: the question.
        load: loads the model of the index; called for a picture alone.
        where: conditions that the images behind words fulfil.
        scene: whether the words of a picture's background are asked of the model, too.

    Raises:
        MissingFileError: it looks like a file, and there is none.
        InputError: no image of the index has one of the words, or a picture cannot be read.
    """
    if text in index:
        return QueryPoint(text, "id", start_of(index, text))
    if is_address(text) or as_on_disk(Path(text)).is_file():
        return _of_picture(text, load(), scene=scene)
    if Path(text).suffix.lower() in IMAGE_SUFFIXES or ("/" in text and " " not in text):
        msg = f"{text}: no such file, and {index.place} has no image of that id"
        raise MissingFileError(msg)
    try:
        found = of_words(index, text, where)
    except InputError as error:
        near = f" (did you mean {' or '.join(alike)}?)" if (alike := index.alike(text)) else ""
        why = str(error).removeprefix(f"{shown(text)}: ")
        msg = f"{shown(text)}: no image of {index.place} has this id{near}, and no file this name; taken as words: {why}"
        raise InputError(msg) from None
    note = f"the middle of the {len(found.examples)} images whose words match best ({', '.join(found.examples[:3])} …)"
    if found.unused:
        note += f"; not used, as no record has {'them' if len(found.unused) > 1 else 'it'}: {', '.join(found.unused)}"
    return QueryPoint(text, "words", Start(found.vector, background=parts_of(text).get("background")), note=note)


def _of_picture(text: str, model: EmotionModel, *, scene: bool) -> QueryPoint:
    picture = as_picture(text if is_address(text) else str(as_on_disk(Path(text))))
    if scene:
        (found,) = model.explain([picture])
        emotion = str(found.probe.emotion) if found.probe is not None else found.said.category
        start = Start(found.des, None if emotion is None else str(emotion), found.said.background)
        return QueryPoint(text, "picture", start, picture, unlike=found.unlike)
    ((des, unlike),) = model.seen_at_once([picture])
    (probed,) = probes(model, [des])
    return QueryPoint(text, "picture", Start(des, None if probed is None else probed[0]), picture, unlike=unlike)
