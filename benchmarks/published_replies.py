"""Replies that others have released with their verdicts, scored anew: our values beside those that their authors print.

EEmo-Bench's authors released, for each of their models, the reply to every question with their verdict, as `leaderboards/<model>/
EEmo-Bench(<model>-{single,pair}).json` of github.com/workerred/EEmo-Bench; a folder with any of these files is given. For every value of
their table that follows from the files: what they print, what our scorer of the same name gives, and what EmObserver's and our own reading of
the same replies give; and in how many questions these two readings agree with their verdict. `ratio` is the share of their values that
are met within 0.01, which is what rounding leaves of a mean of two rounded values.

    python benchmarks/published_replies.py --replies FOLDER [--quick] [--json FILE]

`--quick` without a folder makes a small file in that layout, with values that are known.
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import numpy as np

from benchmarks.command import command_line, write_json
from emo_lightning.analysis.suites.benchmark import benchmark
from emo_lightning.analysis.suites.eemo import scorers
from emo_lightning.analysis.suites.published import published
from emo_lightning.analysis.suites.questions import read_questions
from emo_lightning.analysis.suites.replies import read_replies
from emo_lightning.analysis.suites.scored import of_tasks
from emo_lightning.core.errors import UserError
from emo_lightning.core.suites.eemo_bench import CHOICE_TASKS

AUTHORS = "EEmo-Bench"
READINGS = ("ours", "EmObserver")
WITHIN = 0.01
MODELS = {
    "InternVL2-8B": "InternVL2-8B",
    "claude-3-7-sonnet": "Claude-3.7-Sonnet",
    "deepseek-vl2-tiny": "Deepseek-VL2-tiny",
    "deepseek_vl": "Deepseek-VL-7B-Chat",
    "gemini-pro-1_5": "Gemini-1.5-pro",
    "gpt-4o": "GPT-4o",
    "internvl2_5-8B": "InternVL2.5-8B",
    "janus_7b": "Janus-Pro-7B",
    "llava-onevision-72b": "LLaVA-Onevision-72B",
    "llava-onevision-7b": "LLaVA-Onevision-7B",
    "llava_next_8b": "LLaVA-NEXT-8B",
    "mPLUG_owl2_7b": "mPLUG-Owl2-7B",
    "mPLUG_owl3_7b": "mPLUG-Owl3-7B",
    "qwen2-72b": "Qwen2-VL-72B",
    "qwen2-7b": "Qwen2-VL-7B",
    "qwen2_5-72b": "Qwen2.5-VL-72B",
    "qwen2_5-7b": "Qwen2.5-VL-7B",
    "qwen_max": "Qwen-VL-Max",
    "qwen_plus": "Qwen-VL-Plus",
}
"""As the files name a model -> as the table does."""
_FILE = re.compile(r"EEmo-Bench\((.+)-(?:single|pair)\)\.json")
_MADE = "made up"


class Line(TypedDict):
    """One metric of one model, in percent."""

    model: str
    metric: str
    published: float
    again: float
    """By the authors' verdicts."""
    readings: dict[str, float | None]
    """By the other two scorers."""


class Found(TypedDict):
    """What is written to --json beside the ratio."""

    values: int
    largest_difference: float
    lines: list[Line]
    agreement: dict[str, dict[str, float]]
    """Model -> scorer and kind -> questions of perception of which it calls right what the authors do, percent."""
    not_read: list[str]


def score(files: list[Path], model: str, expected: Mapping[str, float]) -> tuple[list[Line], dict[str, float]]:
    """All metrics of a model's files that are published too, and the agreement of both readings with its verdicts."""
    questions = read_questions("eemo_bench", files)
    replies = {name: reply for file in files for name, reply in read_replies("eemo_bench", file, questions).items()}
    arm = benchmark("eemo_bench", questions, {model: replies}, resamples=2)["arms"][model]["scorers"]
    given = {name: {key: one["value"] for key, one in found["metrics"].items()} for name, found in arm.items()}
    lines: list[Line] = [
        {
            "model": model,
            "metric": key,
            "published": expected[key],
            "again": value,
            "readings": {name: given[name].get(key) for name in READINGS},
        }
        for key, value in given[AUTHORS].items()
        if key in expected and value is not None
    ]
    pairs = [(asked, replies[asked.id]) for asked in questions if asked.id in replies]
    found = {one.name: one for one in scorers(pairs)}
    same: dict[str, float] = {}
    for kind in CHOICE_TASKS:
        judged = found[AUTHORS].scores & of_tasks(pairs, kind)
        for name in READINGS:
            same[f"{name}, {kind}"] = 100 * float(np.mean((found[name].right == found[AUTHORS].right)[judged]))
    return lines, same


def compare(folder: Path, tables: Mapping[str, Mapping[str, float]]) -> tuple[float, Found]:
    """Every model of which the folder has files, beside its published values; and the share of these that are met."""
    files: defaultdict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.rglob("*.json")):
        if (name := _FILE.fullmatch(path.name)) is not None:
            files[MODELS.get(name[1], name[1])].append(path)
    lines: list[Line] = []
    agreement: dict[str, dict[str, float]] = {}
    not_read: list[str] = []
    for model, paths in files.items():
        if model not in tables:
            not_read.append(f"{model}: no values are published")
            continue
        try:
            more, agreement[model] = score(paths, model, tables[model])
        except UserError as error:
            # A large file may be a pointer to where it lies.
            not_read.append(str(error))
            continue
        lines += more
    gaps = [abs(line["published"] - line["again"]) for line in lines]
    met = [gap <= WITHIN + 1e-9 for gap in gaps]
    return sum(met) / len(met) if met else math.nan, {
        "values": len(lines),
        "largest_difference": max(gaps, default=0.0),
        "lines": lines,
        "agreement": agreement,
        "not_read": not_read,
    }


def make(folder: Path) -> dict[str, dict[str, float]]:
    """A file of 24 questions on pairs in the authors' layout; returns the values that it has."""
    rows = []
    for n in range(24):
        kind, options = ("Yes-or-No", "{'A': 'Yes', 'B': 'No'}") if n % 2 else ("What/How", "{'A': 'Joy', 'B': 'Fear'}")
        right = n % 8 < 6
        rows.append(
            {
                **{"id": n, "image1_url": f"{n}.jpg", "image2_url": f"{n + 1}.jpg", "question": "Which?", "options": options},
                **{"correct_answer": "B", "question_type": kind, f"response({_MADE})": "It is B." if right else "A: Joy"},
                # Of one question they say that it is invalid; it is in no value of theirs.
                **{f"eval_result({_MADE})": int(right), f"if_invalid({_MADE})": int(n == 7)},
            }
        )
    (folder / f"EEmo-Bench({_MADE}-pair).json").write_text(json.dumps(rows), encoding="utf-8")
    yes_no, what_how = 100 * 9 / 11, 100 * 9 / 12
    return {_MADE: {"pair-yes-no": yes_no, "pair-what-how": what_how, "pair-overall": (yes_no + what_how) / 2}}


def show(ratio: float, found: Found) -> None:
    """Print a line a metric."""
    for line in found["lines"]:
        others = "  ".join(f"{name} {'–' if value is None else f'{value:.2f}'}" for name, value in line["readings"].items())
        print(f"{line['model']:20} {line['metric']:18} published {line['published']:.2f}  again {line['again']:.2f}  {others}")
    for model, shares in found["agreement"].items():
        print(f"{model:20} verdicts shared:   " + "  ".join(f"{name}: {share:.1f} %" for name, share in shares.items()))
    for reason in found["not_read"]:
        print(f"not read: {reason}")
    print(
        f"{ratio:.3f} of {found['values']} published values are met within {WITHIN}; largest difference {found['largest_difference']:.4f}"
    )


def main() -> None:
    """Compare, and print."""
    parser = command_line(__doc__, "a small file of made-up replies, where no folder is given: that it runs")
    parser.add_argument("--replies", type=Path, metavar="FOLDER", help="folder with the published files, at any depth")
    args = parser.parse_args()
    if args.replies is None and not args.quick:
        parser.error("--replies names the folder of the published files, which are not part of this project")
    if args.replies is None:
        with tempfile.TemporaryDirectory() as place:
            ratio, found = compare(Path(place), make(Path(place)))
    else:
        (table,) = published("eemo_bench")
        ratio, found = compare(args.replies, {model.model: model.values for model in table.models})
    show(ratio, found)
    if not found["lines"]:
        parser.error(
            f"{args.replies}: no file there whose values are published, as leaderboards/MODEL/EEmo-Bench(MODEL-pair).json"
        )
    write_json(args.json, "the table that the authors print", ratio, found)


if __name__ == "__main__":
    main()
