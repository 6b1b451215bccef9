"""EEmo-Bench (arXiv:2504.16405): questions on one image and on two, rankings, descriptions, and valence, arousal, dominance.

Four layouts are read, and told apart by their keys:

- questions, as the hub and the folders `leaderboards/` have them: a list of rows with `question`, `options` (an object written as
  text), `correct_answer`, `question_type`; of one image `image_url`, of two `image1_url` and `image2_url`. Results add
  `response(MODEL)`, `eval_result(MODEL)`, `if_invalid(MODEL)`, each for one model;
- EmObserver's `Std-EEmo-Bench-{Single,Pair}-Perception.json`, in the layout of `carrier`;
- the truth of each image, EEmo-Logic's `Ebench_1_data(jac_en_check).json`: `image_name`, `emotion_list`, `Valence`, `Arousal`,
  `Dominance`, and the questions;
- its `Ebench_imgpir(en).json`: `image1_url`, `image2_url` and the questions on both.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from emo_lightning.core.foreign import decode_json, read_capped
from emo_lightning.core.records.ratings import DIMENSIONS, Rating
from emo_lightning.core.suites.carrier import read_carrier
from emo_lightning.core.suites.item import (
    BadRow,
    RowError,
    SuiteError,
    SuiteItem,
    SuiteRows,
    answerable,
    as_object,
    attempt,
    need,
    number,
    rest,
    text,
)

EEMO_EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
"""Of the suite, in the order of its prompts."""
CHOICE_TASKS, OPEN_TASK, ASSESSMENT_TASK = ("Yes-or-No", "What/How"), "Open_ended", "assessment"
"""Tasks: questions with options, questions without, and what is known of an image."""
RATING_SCALE = (1.0, 9.0)
"""Of the nine ratings of each image and dimension."""
_MAX_BYTES = 1 << 28
_OF_A_MODEL = re.compile(r"^(response|eval_result|if_invalid)\((.+)\)$")
_LETTERS = ("A", "B", "C", "D")
_LAST_OBJECT = re.compile(r"\{[^{}]*\}", re.DOTALL)
_KEYS = ("id", "image_url", "image1_url", "image2_url", "question", "options", "correct_answer", "question_type")


def read_eemo_bench(path: Path) -> SuiteRows:
    """Items of any of the four layouts.

    Raises:
        SuiteError: no such file, or none of the layouts.
    """
    content = decode_json(read_capped(path, _MAX_BYTES, SuiteError), path, SuiteError)
    if isinstance(content, dict):
        yield from read_carrier(path, _of_carrier)
        return
    if not isinstance(content, list) or not content:
        msg = f"{path}: found {'an empty list' if content == [] else type(content).__name__}; expected a list of questions or images"
        raise SuiteError(msg)
    seen: set[str] = set()
    for place, row in enumerate(content):
        where = f"{path}[{place}]"
        for found in _items(row, where):
            if isinstance(found, SuiteItem) and found.id in seen:
                yield BadRow(where, f"id {found.id!r} stands there twice")
                continue
            if isinstance(found, SuiteItem):
                seen.add(found.id)
            yield found


def _items(row: object, where: str) -> Iterator[SuiteItem | BadRow]:
    if isinstance(row, dict) and "emotion_list" in row:
        yield attempt(where, partial(_assessment, row))
        yield from (attempt(where, partial(_asked, row, kind, _OF_ONE)) for kind in _ASKED if row.get(f"{kind}_Q"))
    elif isinstance(row, dict) and "judge_question" in row:
        yield from (attempt(where, partial(_asked, row, kind, _OF_TWO)) for kind in _ASKED if row.get(f"{kind}_question"))
    else:
        yield attempt(where, partial(_question, row))


def _of_carrier(item: SuiteItem, other: Mapping[str, object]) -> SuiteItem:
    kind = _kind(other)
    if len(item.images) not in (1, 2):
        msg = f"shows {len(item.images)} images; expected one or two"
        raise RowError(msg)
    if kind == OPEN_TASK:
        return replace(item, task=kind)
    objects = _LAST_OBJECT.findall(item.prompt or "")
    options = _options(objects[-1]) if objects else {}
    # A prompt that does not list its options is answered by a letter all the same.
    asked = answerable(replace(item, task=kind, options=options or dict.fromkeys(_LETTERS, "")), "ground_truth")
    return replace(asked, options=options, candidates=tuple(options.values()))


def _question(value: object) -> SuiteItem:
    row = as_object(value, "the row")
    kind = _kind(row)
    images = (text(row, "image_url"),) if "image_url" in row else (text(row, "image1_url"), text(row, "image2_url"))
    options = {} if kind == OPEN_TASK else _options(need(row, "options"))
    truth = row.get("correct_answer") if kind == OPEN_TASK else text(row, "correct_answer").strip()
    if truth is not None and not isinstance(truth, str):
        msg = f"correct_answer is {str(truth)[:60]!r}; expected text"
        raise RowError(msg)
    said = {found[1]: (key, found[2]) for key in row if (found := _OF_A_MODEL.match(key))}
    reply = row[said["response"][0]] if "response" in said else None
    asked = text(row, "question")
    item = SuiteItem(
        id=str(need(row, "id")),
        task=kind,
        images=images,
        prompt=question_prompt(asked, options, images=len(images)),
        question=asked,
        candidates=tuple(options.values()),
        options=options,
        truth=truth,
        replies=(reply,) if isinstance(reply, str) else (),
        judged={name: row[said[name][0]] for name in ("eval_result", "if_invalid") if name in said},
        extra={**({"model": said["response"][1]} if "response" in said else {}), **_unused(row)},
    )
    return answerable(item, "correct_answer") if options else item


def _unused(row: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in rest(row, *_KEYS).items() if not _OF_A_MODEL.match(key)}


def _kind(row: Mapping[str, object]) -> str:
    kind = text(row, "question_type")
    if kind not in (*CHOICE_TASKS, OPEN_TASK):
        msg = f"question_type is {kind[:60]!r}; expected one of {', '.join((*CHOICE_TASKS, OPEN_TASK))}"
        raise RowError(msg)
    return kind


def _options(given: object) -> dict[str, str]:
    """Letter -> answer; as an object, or written as Python or JSON writes one."""
    value = given
    if isinstance(given, str):
        try:
            value = ast.literal_eval(given)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            msg = f"options are {given[:60]!r}; expected an object like {{'A': 'Yes', 'B': 'No'}}"
            raise RowError(msg) from None
    found = as_object(value, "options")
    if not found or not all(isinstance(one, str) for pair in found.items() for one in pair):
        msg = f"options are {str(found)[:60]}; expected a text for each letter"
        raise RowError(msg)
    return {key: str(one) for key, one in found.items()}


_ASKED = {"judge": "Yes-or-No", "choose": "What/How", "open_ended": OPEN_TASK}


class _Names(NamedTuple):
    """Keys of a row that holds all that is asked of its images."""

    images: tuple[str, ...]
    question: str
    options: str


_OF_ONE = _Names(("image_name",), "Q", "A")
_OF_TWO = _Names(("image1_url", "image2_url"), "question", "options")


def _asked(row: Mapping[str, object], kind: str, names: _Names) -> SuiteItem:
    """A question that stands in the row of its images."""
    images, asked = tuple(text(row, key) for key in names.images), text(row, f"{kind}_{names.question}")
    options = {} if kind == "open_ended" else _options(need(row, f"{kind}_{names.options}"))
    item = SuiteItem(
        id=f"{'+'.join(images)}/{kind}",
        task=_ASKED[kind],
        images=images,
        prompt=question_prompt(asked, options, images=len(images)),
        question=asked,
        candidates=tuple(options.values()),
        options=options,
        truth=text(row, f"{kind}_answer").strip() if options else None,
    )
    return answerable(item, f"{kind}_answer") if options else item


def _assessment(row: Mapping[str, object]) -> SuiteItem:
    name = text(row, "image_name")
    return SuiteItem(
        id=f"{name}/{ASSESSMENT_TASK}",
        task=ASSESSMENT_TASK,
        images=(name,),
        scored_emotions=_scored(row),
        ratings={dimension: _rating(row, dimension) for dimension in DIMENSIONS},
        extra={"category": row.get("category"), **{name.title(): row[name.title()] for name in DIMENSIONS}},
    )


def _scored(row: Mapping[str, object]) -> dict[str, float]:
    pairs = need(row, "emotion_list")
    found: dict[str, float] = {}
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        if not isinstance(pair, list) or len(pair) != 2 or pair[0] not in EEMO_EMOTIONS or pair[0] in found:
            msg = f"emotion_list holds {str(pair)[:60]}; expected pairs of one of {', '.join(EEMO_EMOTIONS)}, each once, and its score"
            raise RowError(msg)
        found[pair[0]] = number(pair[1], f"the score of {pair[0]}", 0, 1000)
    return dict(sorted(found.items(), key=lambda one: -one[1]))


def _rating(row: Mapping[str, object], dimension: str) -> Rating:
    """The first value is the mean, the second the standard deviation; what a third one is, is not documented."""
    key = dimension.title()
    values = need(row, key)
    if not isinstance(values, list) or len(values) < 2:
        msg = f"key {key!r} is {str(values)[:60]!r}; expected a list of mean and standard deviation"
        raise RowError(msg)
    low, high = RATING_SCALE
    mean, std = number(values[0], f"the mean of {key}", low, high), number(values[1], f"the spread of {key}", 0, high)
    return Rating(mean=mean, std=std, low=low, high=high)


_EXPERT = "Assume you are an expert in emotional psychology. "
_ONE_CHOICE = (
    "Analyze the following emotional psychology questions based on the image. The involved emotion categories include "
    "anger, disgust, fear, joy, neutral, sadness, and surprise.The question is as follows: "
)
_TWO_CHOICE = (
    "Based on the two given images, please analyze the following emotional psychology questions. Be sure to understand the emotional "
    "attributes each image evokes in the viewer and the emotional relationship between these two images in your answers. "
    "The emotions to be considered include anger, disgust, fear, joy, neutral, sadness, and surprise. The questions are as follows:"
)
_ONE_OPEN = (
    "Based on the given image, analyze the given image and answer the following question or request regarding emotional responses. "
    "The emotions to consider include: anger, disgust, fear, joy, neutral, sadness, and surprise. "
    "Please provide insightful and structured responses based on your analysis. The question or request is shown in []:"
)
_TWO_OPEN = (
    "Based on the two given image, analyze the given images and answer the following question or request regarding emotional responses. "
    "Be sure to understand the three main emotions evoked by each image and the emotional relationship between both image."
    "The emotions to consider include: anger, disgust, fear, joy, neutral, sadness, and surprise. "
    "Please provide insightful and structured responses based on your analysis. The question or request is shown in []:"
)
RANKING_PROMPT = (
    _EXPERT
    + "Based on the given image, carefully identify the three main emotions evoked by the image, ranking them from the strongest "
    "to the weakest. The emotions to consider include: anger, disgust, fear, joy, neutral, sadness, and surprise."
    "Show the all three main emotions and use comma to separate them in []."
)
"""As the authors ask for a ranking (EEmo-Bench, `evaluate_qwen2_5-7b(single).py`), to the letter."""


def question_prompt(question: str, options: Mapping[str, str], *, images: int) -> str:
    """What the authors' scripts ask (`compose_prompt` of `evaluate_qwen2_5-7b(single|pair).py`), to the letter."""
    if not options:
        return f"{_EXPERT}{_ONE_OPEN if images == 1 else _TWO_OPEN}[{question}]"
    listed = " ".join(f"{letter}:{answer}" for letter, answer in options.items())
    return f"{_EXPERT}{_ONE_CHOICE if images == 1 else _TWO_CHOICE}{question} Choose between one of the following options: {listed}"


__all__ = [
    "ASSESSMENT_TASK",
    "CHOICE_TASKS",
    "DIMENSIONS",
    "EEMO_EMOTIONS",
    "OPEN_TASK",
    "RANKING_PROMPT",
    "RATING_SCALE",
    "question_prompt",
    "read_eemo_bench",
]
