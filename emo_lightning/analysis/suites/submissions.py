"""What is handed in for the leaderboard of a suite, and what is checked of it.

A submission is a folder with `submission.yaml` and a file of replies:

    name: our-3b
    suite: vecbench
    replies: replies.jsonl
    decoding: greedy
    prompts: the suite's
    trained_on: [train.sha256, data/train]
    base: qwen2.5-vl-3b

`trained_on` lists the images that the model has seen in training: files of SHA-256 sums (as `sha256sum` writes them), tars or records. An
empty list says that there are none; without the key it is not known, the page says so, and the submission has no place.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from emo_lightning.analysis.cross_dataset import trained_images
from emo_lightning.analysis.references import References
from emo_lightning.analysis.suites.asked import SuiteQuestion, SuiteReply
from emo_lightning.analysis.suites.replies import read_replies
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import read_yaml
from emo_lightning.core.foreign import json_lines, open_binary, read_capped
from emo_lightning.core.overlap import file_marks
from emo_lightning.core.suites import find_image
from emo_lightning.core.suites.item import SuiteName

SUBMISSION_FILE = "submission.yaml"

SUBMISSION_RULES = (
    "Every question of the suite is answered once; a question without a reply counts as wrong.",
    "Replies are the model's own words, whole, as it gave them. No scorer's reading of them, and nobody's correction.",
    "How they were drawn is said: greedy, or sampled and at what temperature. Published values of these suites are of one sample at temperature "
    "0.7, so that another sample has other values.",
    "With which prompts is said: the suite's, or others.",
    "Every image that the model was trained on, in any round, is listed by the SHA-256 of its file. Who does not list them stands on the page "
    "with “not known”, and is not ranked.",
    "No image of the suite may be among them. EmObserver is trained on images of EmoSet's test split and is scored on it: such a row stands on "
    "the page with the number of images it has seen, and is not ranked.",
    "A fine-tuned model names the untuned one, which is submitted too: its collapse is measured against it.",
    "Every value is given by each scorer apart. Rows are ordered by ours, and rows by two scorers are never compared.",
)
"""Of submission."""

_SUM = re.compile(r"[0-9a-f]{64}")
_MOST_BYTES = 1 << 30
"""Of a picture's file."""


class _Form(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    suite: SuiteName
    replies: str
    decoding: str
    prompts: str
    trained_on: list[str] | None = None
    base: str | None = None


class Submission(NamedTuple):
    """A submission, read."""

    folder: Path
    name: str
    suite: SuiteName
    replies: Mapping[str, SuiteReply]
    decoding: str
    prompts: str
    trained_on: frozenset[str] | None
    """SHA-256 of the files of the images that were trained on; None where it is not known."""
    base: str | None


class Checks(NamedTuple):
    """What was found of a submission."""

    missing: int
    unknown: int
    """Replies to questions that the suite does not have."""
    seen: int | None
    """Images of the suite that the model was trained on; None where that could not be checked."""
    checked: int
    """Images of the suite that were looked for in what it was trained on."""
    alike: tuple[str, ...]
    """Submissions with the same replies to every question."""
    listed: bool
    """Whether it says what the model was trained on."""

    @property
    def ranked(self) -> bool:
        """Whether it may have a place: it says what the model was trained on, none of it is of the suite, and no reply is missing."""
        return self.listed and not self.seen and not self.missing


def read_submission(folder: Path, questions: Mapping[SuiteName, Sequence[SuiteQuestion]]) -> Submission:
    """A submission from its folder.

    Args:
        folder: of it.
        questions: of the suites that there are.

    Raises:
        InputError: no such file, a key is missing or unknown, its suite is none of those, or a file that it names lies elsewhere or is not as
            expected; names it.
    """
    path = Path(folder) / SUBMISSION_FILE
    try:
        form = _Form.model_validate(read_yaml(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        msg = f"{path}: key {key!r}: {first['msg']}; expected {', '.join(_Form.model_fields)}"
        raise InputError(msg) from None
    if form.suite not in questions:
        msg = f"{path}: of the suite {form.suite!r}; there are the questions of {', '.join(questions) or 'none'} (--data)"
        raise InputError(msg)
    replies = read_replies(form.suite, _inside(path, form.replies), questions[form.suite])
    trained = None
    if form.trained_on is not None:
        trained = frozenset[str]().union(*(_digests(_inside(path, one)) for one in form.trained_on))
    return Submission(Path(folder), form.name, form.suite, replies, form.decoding, form.prompts, trained, form.base)


def _inside(path: Path, name: str) -> Path:
    """What a submission names, in its own folder: it comes from others."""
    found = (path.parent / name).resolve()
    if not found.is_relative_to(path.parent.resolve()):
        msg = f"{path}: names {name!r}, which lies outside of its folder"
        raise InputError(msg)
    return found


def _digests(path: Path) -> set[str]:
    """SHA-256 sums of a list, or of the images of tars and records."""
    if path.suffix.lower() not in (".sha256", ".txt"):
        return trained_images(References.load([path]).records)
    found = set()
    with open_binary(path) as lines:
        for where, line in json_lines(lines, path):
            word = line.split()[0].decode("utf-8", "replace").lower()
            if not _SUM.fullmatch(word):
                msg = f"{where}: found {word[:70]!r}; expected a SHA-256 sum, 64 hexadecimal digits, as the first word of each line"
                raise InputError(msg)
            found.add(word)
    return found


def image_marks(questions: Sequence[SuiteQuestion], root: Path | None) -> dict[str, tuple[str, ...]]:
    """SHA-256 sums by which a suite's images may be listed, by the paths that it writes; those whose file is not below `root` are left out.

    Args:
        questions: of the suite.
        root: folder of its images; None where it is not there.
    """
    found: dict[str, tuple[str, ...]] = {}
    for name in dict.fromkeys(image for asked in questions for image in asked.images):
        file = None if root is None else find_image(root, name)
        if file is not None:
            data = read_capped(file, _MOST_BYTES)
            try:
                found[name] = file_marks(data)
            except InputError:
                found[name] = (hashlib.sha256(data).hexdigest(),)
    return found


def check(
    submission: Submission,
    others: Sequence[Submission],
    questions: Sequence[SuiteQuestion],
    marks: Mapping[str, tuple[str, ...]],
) -> Checks:
    """What can be known of a submission.

    Args:
        submission: it.
        others: of the same suite.
        questions: of the suite.
        marks: of its images (`image_marks`).
    """
    ids = {asked.id for asked in questions}
    said = {name: reply.text for name, reply in submission.replies.items() if name in ids}
    alike = tuple(
        other.name
        for other in others
        if other is not submission and said == {name: reply.text for name, reply in other.replies.items() if name in ids}
    )
    seen = None
    if submission.trained_on is not None and (marks or not submission.trained_on):
        seen = sum(not submission.trained_on.isdisjoint(one) for one in marks.values())
    checked = len(marks) if seen is not None else 0
    listed = submission.trained_on is not None
    return Checks(len(ids) - len(said), len(submission.replies) - len(said), seen, checked, alike, listed)
