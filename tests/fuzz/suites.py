"""Questions and replies of public suites, and what is handed in for a leaderboard."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from emo_lightning.analysis.suites.benchmark import benchmark
from emo_lightning.analysis.suites.questions import read_questions
from emo_lightning.analysis.suites.replies import read_replies
from emo_lightning.analysis.suites.submissions import SUBMISSION_FILE, read_submission
from emo_lightning.core.suites.item import SuiteName
from emo_lightning.report.tables.benchmark import benchmark_page
from tests.core.suites.trees import assessed, mvei, pair_row, vecbench_line
from tests.fuzz.target import Make, Target, as_json, through

_RESULT = {"response(m)": "B: It's fear", "eval_result(m)": 1, "if_invalid(m)": 0}
_OURS = b'{"id": "1", "reply": "<answer>awe</answer>", "confidence": 0.5, "value": 0.5, "judgements": [1, 2]}\n'
_LINE = vecbench_line("a.jpg", "FI-8", ["awe", "fear"], "awe", response="<answer>awe</answer><confidence>0.9</confidence>")
_WHOLE: dict[SuiteName, tuple[str, list[bytes]]] = {
    "mvei": ("r.json", [as_json({"a": {**mvei(), "generations": ["<answer>A</answer>"]}})]),
    "vecbench": ("r.jsonl", [_LINE.encode()]),
    "eemo_bench": ("r.json", [as_json([pair_row(1, **_RESULT)]), as_json([assessed()])]),
}


def _results(suite: SuiteName, folder: Path) -> Target:
    """A file of results, scored by every scorer."""
    name, whole = _WHOLE[suite]

    def read(path: Path) -> None:
        questions = read_questions(suite, [path])
        replies = read_replies(suite, path, questions)
        benchmark_page(benchmark(suite, questions, {"m": replies}, resamples=5))

    answered = [data for data in whole if b"emotion_list" not in data]
    return Target(through(folder / name, read), answered, one_of=3)


def _questions(folder: Path) -> Target:
    return Target(through(folder / "truth.json", lambda path: read_questions("eemo_bench", [path])), _WHOLE["eemo_bench"][1])


def _replies(folder: Path) -> Target:
    return Target(through(folder / "r.jsonl", lambda path: read_replies("vecbench", path, [])), [_OURS, _OURS[:-1]])


def _submission(folder: Path) -> Target:
    (folder / "r.jsonl").write_bytes(_OURS)
    (folder / "t.sha256").write_text("0" * 64 + "  a.jpg\n")
    form = b"name: a\nsuite: vecbench\nreplies: r.jsonl\ndecoding: greedy\nprompts: p\ntrained_on: [t.sha256]\nbase: b\n"
    return Target(
        through(folder / SUBMISSION_FILE, lambda path: read_submission(path.parent, {"vecbench": []})), [form], one_of=2
    )


def _sums(folder: Path) -> Target:
    (folder / "r.jsonl").write_bytes(_OURS)
    (folder / SUBMISSION_FILE).write_text(
        "name: a\nsuite: vecbench\nreplies: r.jsonl\ndecoding: g\nprompts: p\ntrained_on: [t.sha256]\n"
    )
    read = through(folder / "t.sha256", lambda path: read_submission(path.parent, {"vecbench": []}))
    return Target(read, [b"0" * 64 + b"  a.jpg\n" + b"f" * 64 + b"\n"], one_of=2)


SUITES: dict[str, Make] = {
    **{f"suite: results of {suite}": partial(_results, suite) for suite in _WHOLE},
    "suite: questions of EEmo-Bench": _questions,
    "suite: replies": _replies,
    "suite: submission": _submission,
    "suite: list of training images": _sums,
}
