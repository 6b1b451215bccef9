"""A suite's questions put to an emotion model, into a file of replies; an interrupted pass goes on where it stopped.

Valence, arousal and dominance have no words: what the model's affect head gives of the picture, where it has one, is the reply's value.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.analysis.suites.asked import SuiteQuestion, SuiteReply
from emo_lightning.analysis.suites.replies import line_of, read_replies
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import read_object, write_json, write_text
from emo_lightning.core.records import DIMENSIONS
from emo_lightning.core.suites import find_image
from emo_lightning.core.suites.item import SuiteName

if TYPE_CHECKING:
    from emo_lightning.inference.bundle import Bundle
    from emo_lightning.inference.free_questions import FreeQuestion
    from emo_lightning.inference.model import EmotionModel

_PLACEHOLDER = re.compile(r"<image>\n?")
"""Where some chat templates put a picture; ours puts pictures in front."""


def affect_dimensions(bundle: Bundle | None) -> list[str]:
    """Valence, arousal and dominance, as far as a model's affect head was trained for them; none where it has no such head.

    Args:
        bundle: of the model; None for what is no emotion model.
    """
    from emo_lightning.models.affect import AffectHead

    return [] if bundle is None or bundle.affect is None else AffectHead.from_pretrained(bundle.affect).dimensions


def askable(questions: Sequence[SuiteQuestion], root: Path, dimensions: Collection[str] = ()) -> dict[str, list[Path]]:
    """Files of the images of every question that the suite has words for, or that an affect head answers.

    Args:
        questions: of the suite.
        root: folder of its images.
        dimensions: that the affect head gives.

    Raises:
        InputError: no question has words, or an image is not there; names how many and the first.
    """
    asked = [one for one in questions if one.images and (one.task in dimensions if one.task in DIMENSIONS else one.prompt)]
    if not asked:
        felt = any(one.task in DIMENSIONS for one in questions)
        msg = "no question of these has a prompt and an image" + (
            "; valence, arousal and dominance are given by a model that was trained with va_weight" if felt else ""
        )
        raise InputError(msg)
    places = {name: find_image(root, name) for name in dict.fromkeys(name for one in asked for name in one.images)}
    if lost := [name for name, file in places.items() if file is None]:
        msg = f"{root}: {len(lost)} of {len(places)} images of the suite are not there, first: {lost[0]!r}; --tasks asks some tasks alone"
        raise InputError(msg)
    return {one.id: [file for name in one.images if (file := places[name]) is not None] for one in asked}


def ask_suite(
    suite: SuiteName,
    questions: Sequence[SuiteQuestion],
    model: EmotionModel,
    images: Path,
    out: Path,
    max_new_tokens: int = 512,
    batch_size: int = 8,
) -> tuple[int, int]:
    """Write the model's greedy replies to `out`, JSON lines by the questions' order.

    What is answered is kept in `OUT.part.jsonl` as it comes, and `OUT.about.json` says whose answers they are.

    Args:
        suite: which it is.
        questions: those to ask.
        model: loaded.
        images: folder of the suite's images.
        out: file of replies, `.jsonl`.
        max_new_tokens: of a reply; one that is cut there is read as far as it goes.
        batch_size: questions at a time.

    Returns:
        Questions that were answered before, and that were asked now.

    Raises:
        InputError: an image is missing or is none; or what is there was answered by another model or otherwise.
    """
    from emo_lightning.core.progress import progress_bars
    from emo_lightning.inference.free_questions import answers
    from emo_lightning.models.sound import naming

    files = askable(questions, images, [] if model.affect is None else model.affect.dimensions)
    part = out.with_suffix(".part.jsonl")
    felt = any(one.id in files and one.task in DIMENSIONS for one in questions)
    _begin(out, part, _about(suite, questions, model, max_new_tokens, felt=felt))
    done = _kept(suite, out, part)
    left = [one for one in questions if one.id in files and one.id not in done]
    with progress_bars("questions") as bars, open(part, "a", encoding="utf-8", errors="backslashreplace") as kept:
        bar = bars.add_task("questions", total=len(left))
        for start in range(0, len(left), batch_size):
            here = left[start : start + batch_size]
            worded = [one for one in here if one.task not in DIMENSIONS]
            asked = [_question(one, files[one.id]) for one in worded]
            with naming([one.id for one in worded]):
                said = answers(model.backbone, asked, max_new_tokens) if asked else []
            replies = {one.id: SuiteReply(text) for one, text in zip(worded, said, strict=True)}
            replies |= _values(model, [one for one in here if one.task in DIMENSIONS], files)
            kept.write("".join(line_of(name, reply) + "\n" for name, reply in replies.items()))
            kept.flush()
            done |= replies
            bars.advance(bar, len(here))
    lines = [line_of(one.id, done[one.id]) for one in questions if one.id in done]
    write_text(out, "\n".join(lines).encode("utf-8", "backslashreplace").decode() + "\n")
    part.unlink()
    return len(done) - len(left), len(left)


def _values(
    model: EmotionModel, questions: Sequence[SuiteQuestion], files: Mapping[str, Sequence[Path]]
) -> dict[str, SuiteReply]:
    """What the affect head gives; a picture that several of them are about is read once."""
    if not questions:
        return {}
    pictures = list(dict.fromkeys(files[one.id][0] for one in questions))
    points = dict(zip(pictures, model.points(model.embed(pictures)) or [], strict=True))
    return {one.id: SuiteReply("", value=points[files[one.id][0]][one.task]) for one in questions}


def _question(asked: SuiteQuestion, files: Sequence[Path]) -> FreeQuestion:
    from emo_lightning.inference.free_questions import FreeQuestion
    from emo_lightning.inference.pictures import as_picture

    return FreeQuestion([as_picture(file) for file in files], _PLACEHOLDER.sub("", asked.prompt).strip())


def _about(
    suite: SuiteName, questions: Sequence[SuiteQuestion], model: EmotionModel, max_new_tokens: int, *, felt: bool
) -> dict[str, object]:
    """What decides the replies; `felt`: among them are values of the affect head."""
    from emo_lightning.core.model_folders import weights_hash

    config = model.backbone.config
    asked = "\n".join(json.dumps([one.id, one.prompt, list(one.images)]) for one in questions)
    return {
        "suite": suite,
        "questions": hashlib.sha256(asked.encode()).hexdigest(),
        "weights": weights_hash(model.bundle.backbone),
        "decoding": "greedy",
        "prompts": "the suite's",
        "max_new_tokens": max_new_tokens,
        "pixels": list(model.backbone.family.pixel_limits(model.backbone.processor)),
        "dtype": str(model.backbone.base.dtype).removeprefix("torch."),
        "attention": config.attention,
        **({"affect": [weights_hash(model.bundle.head), weights_hash(str(model.bundle.affect))]} if felt else {}),
    }


def _begin(out: Path, part: Path, about: dict[str, object]) -> None:
    """Say whose answers they are; refuse to go on with those of another."""
    beside = out.with_name(out.name.removesuffix(".jsonl") + ".about.json")
    if out.exists() or part.exists():
        old = read_object(beside) if beside.exists() else {}
        for key, value in about.items():
            # Replies of earlier versions do not say how they were computed.
            if old.get(key) != value and (key in old or key not in ("dtype", "attention")):
                msg = (
                    f"{out}: was begun with {key} {str(old.get(key))[:40]!r}, now it is {str(value)[:40]!r}; choose another --out, or remove "
                    f"{out}, {beside.name} and {part.name}"
                )
                raise InputError(msg)
    write_json(beside, about)


def _kept(suite: SuiteName, out: Path, part: Path) -> dict[str, SuiteReply]:
    """What an earlier pass has answered; the half of a line that a kill leaves is removed, and asked again."""
    found: dict[str, SuiteReply] = {}
    if part.exists():
        whole, _, half = part.read_bytes().rpartition(b"\n")
        if half:
            part.write_bytes(whole + b"\n" if whole else b"")
    for path in (out, part):
        if path.exists() and path.stat().st_size:
            found |= read_replies(suite, path, [])
    return found
