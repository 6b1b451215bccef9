"""`emo benchmark mvei|vecbench|eemo_bench|page`: public suites by every published scorer and by ours, and a leaderboard."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.commands.arguments import ANSWERS_STORE, add_verb, check_output_file, new_parser
from emo_lightning.core.errors import InputError
from emo_lightning.core.options import ALWAYS, Parser, Whole, named_places, output_path
from emo_lightning.core.suites.item import SUITE_TITLES, SuiteName
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from emo_lightning.analysis.suites.asked import SuiteQuestion


ABOUT = """\
Score replies to a public suite of questions on emotion: by the rules of each published scorer, and by ours, with intervals, beside what others
have published. Or put the suite's questions to a model. Or make a leaderboard of what was handed in."""

EXAMPLES = """\
examples:
  emo benchmark vecbench --data test_8k.jsonl --model runs/emoverse/model --images VECBench --out ours.jsonl
  emo benchmark vecbench --data test_8k.jsonl --predictions base=base.jsonl ours=ours.jsonl --base base --report vecbench
  emo benchmark mvei --data Std-MVEI.json --predictions Std_MVEI_results.json
  emo benchmark eemo_bench --predictions 'EEmo-Bench(gpt-4o-pair).json'
  emo benchmark eemo_bench --data single.json --predictions ours.jsonl --judge deepseek.yaml --out judged.jsonl --budget 5
  emo benchmark page submissions/* --data vecbench=test_8k.jsonl --images vecbench=VECBench --out leaderboard.html"""

_SUITE = """\
Score replies to {title}, or put its questions to a model (--model), greedily. Files of replies are JSON lines of id and reply, as --model writes
them, or files of results as {title} or EmObserver publish them. Without --data the questions are those of the files of results."""

_PAGE = """\
Make one page of submissions: places by our scorer, every other scorer beside it, what was checked of each (missing replies, training images
among the suite's, equal replies), and the rules. A submission is a folder with submission.yaml and a file of replies."""

_SCORE = "scoring (--predictions)"
_ASK = "asking a model (--model)"
_JUDGE = "judging descriptions (--judge)"
_MODES = {
    ALWAYS: ("data", "tasks"),
    _SCORE: ("predictions", "base", "in_domain", "seed", "report", "json"),
    _ASK: ("model", "images", "out", "max_new_tokens", "batch_size", "device"),
}
_MODES_WITH_JUDGE = {**_MODES, _JUDGE: ("predictions", "out", "judge", "store", "budget", "estimate", "resend_unknown")}


def parsers() -> tuple[Parser, dict[SuiteName, Parser]]:
    """The command's arguments, and those of each suite."""
    parser = new_parser("benchmark", ABOUT, EXAMPLES)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="|".join([*SUITE_TITLES, "page"]))
    suites = {
        name: _verb(verbs, name, f"score {title}, or ask a model", _SUITE.format(title=title))
        for name, title in SUITE_TITLES.items()
    }
    for name, suite in suites.items():
        _suite_arguments(suite)
        if name == "eemo_bench":
            _judge_arguments(suite)
        suite.modes(_MODES_WITH_JUDGE if name == "eemo_bench" else _MODES)
    _page_arguments(_verb(verbs, "page", "a leaderboard of submissions", _PAGE))
    return parser, suites


def _verb(verbs: argparse._SubParsersAction[Parser], name: str, short: str, text: str) -> Parser:
    return add_verb(verbs, f"benchmark {name}", short, text, EXAMPLES)


def _suite_arguments(suite: Parser) -> None:
    suite.add_argument(
        "--data",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="the suite's questions as published: one file, or several (questions on one image and on two)",
    )
    suite.add_argument("--tasks", nargs="+", metavar="TASK", help="only the questions of these tasks (default: all)")
    score = suite.add_argument_group("scoring")
    score.add_argument("--predictions", nargs="+", metavar="[NAME=]FILE", help="replies, one file a model")
    score.add_argument(
        "--base", metavar="NAME", help="the model that was not fine-tuned: gain and collapse are measured against it"
    )
    score.add_argument(
        "--in-domain",
        nargs="+",
        metavar="TASK",
        help="tasks like what the models were trained on, which do not count in the collapse (default: what the suite calls so)",
    )
    score.add_argument("--seed", type=Whole(), default=0, help="random seed of the bootstrap (default: 0)")
    score.add_argument(
        "--report", type=output_path, metavar="DIR", help="also write benchmark.json and page.json to this folder"
    )
    score.add_argument("--json", action="store_true", help="print JSON instead of tables")
    ask = suite.add_argument_group("asking a model")
    ask.add_argument(
        "--model", metavar="MODEL", help="folder of an emotion model (of emo export, or of a model stage), or its hub id"
    )
    ask.add_argument("--images", type=Path, metavar="DIR", help="folder of the suite's images")
    ask.add_argument(
        "--out", type=output_path, metavar="FILE.jsonl", help="where the replies go; what is there is not asked again"
    )
    ask.add_argument("--max-new-tokens", type=Whole(1), default=512, help="tokens that one reply may have (default: 512)")
    ask.add_argument("--batch-size", type=Whole(1), default=8, help="questions at a time (default: 8)")
    ask.add_argument("--device", help="torch device (default: a GPU where there is one)")


def _judge_arguments(suite: Parser) -> None:
    judge = suite.add_argument_group("judging descriptions by a language model, of one file of --predictions into --out")
    judge.add_argument(
        "--judge", type=Path, metavar="CONFIG.yaml", help="the endpoint of the judge, as emo predict --endpoint takes it"
    )
    judge.add_argument(
        "--store", type=output_path, default=ANSWERS_STORE, help=f"folder of the ledger (default: {ANSWERS_STORE})"
    )
    judge.add_argument("--budget", metavar="USD", help="stop before more than this is spent, all runs on the store together")
    judge.add_argument("--estimate", action="store_true", help="print the most that it can cost, and stop")
    judge.add_argument("--resend-unknown", action="store_true", help="send again what may have been answered (and paid) before")


def _page_arguments(page: Parser) -> None:
    page.add_argument("submissions", nargs="+", type=Path, metavar="SUBMISSION", help="folders, each with submission.yaml")
    page.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="SUITE=FILE",
        help="a suite's questions; repeat the option for more files",
    )
    page.add_argument(
        "--images",
        action="append",
        default=[],
        metavar="SUITE=DIR",
        help="a suite's images, which are looked for in what was trained on; repeat the option for more suites",
    )
    page.add_argument("--seed", type=Whole(), default=0, help="random seed of the bootstrap (default: 0)")
    page.add_argument(
        "--out", type=output_path, required=True, metavar="FILE.html", help="where to write; tables go to FILE_tables/"
    )


def main(argv: list[str]) -> int:
    """Run `emo benchmark`."""
    parser, suites = parsers()
    args = parser.parse_args(argv)
    if args.verb == "page":
        return _page(args)
    judge = getattr(args, "judge", None)
    modes = [mode for mode, given in ((_SCORE, args.predictions and not judge), (_ASK, args.model), (_JUDGE, judge)) if given]
    if len(modes) != 1:
        msg = f"{' and '.join(modes) or 'neither --predictions nor --model'}: expected one of --predictions (score) and --model (ask)"
        raise InputError(msg)
    suites[args.verb].refuse_unused(argv[argv.index(args.verb) + 1 :], *modes)
    if judge:
        return _judge(args)
    return _ask(args) if args.model else _score(args)


def _judge(args: argparse.Namespace) -> int:
    for option in ("data", "predictions", "out"):
        if not getattr(args, option):
            msg = f"--{option} is missing: the replies of --predictions to the questions of --data are judged, into --out"
            raise InputError(msg)
    if len(args.predictions) > 1 or args.out.suffix != ".jsonl":
        msg = "--predictions names one file of replies, and --out ends in .jsonl"
        raise InputError(msg)
    check_output_file(args.out)
    from emo_lightning.analysis.suites.replies import read_replies
    from emo_lightning.commands.suite_judge import judge_replies

    questions = _questions(args.verb, args.data, args.tasks)
    (path,) = map(Path, named_places("--predictions", args.predictions, _stem).values())
    return judge_replies(args, questions, read_replies(args.verb, path, questions))


def _score(args: argparse.Namespace) -> int:
    from emo_lightning.analysis.suites.benchmark import benchmark
    from emo_lightning.analysis.suites.questions import one_of_each
    from emo_lightning.analysis.suites.replies import read_replies
    from emo_lightning.report.tables.benchmark import benchmark_page
    from emo_lightning.report.terminal import show_result
    from emo_lightning.stages.robustness import write_result

    files = {name: Path(file) for name, file in named_places("--predictions", args.predictions, _stem).items()}
    if args.data:
        questions = _questions(args.verb, args.data, args.tasks)
    else:
        # Each question once: whether the files mean the same by it, the reader of replies looks.
        questions = one_of_each({name: _questions(args.verb, [file], args.tasks) for name, file in files.items()})
    arms = {name: read_replies(args.verb, path, questions) for name, path in files.items()}
    bases = {name: args.base for name in arms if name != args.base} if args.base else {}
    if args.base and args.base not in arms:
        msg = f"--base {args.base}: is none of the models; allowed: {', '.join(arms)}"
        raise InputError(msg)
    result = benchmark(args.verb, questions, arms, bases, args.in_domain, args.seed)
    page = benchmark_page(result)
    if not args.data:
        page.notes.insert(
            0, "The questions, and what is true of them, are those of the files of replies: whoever made these decided both"
        )
    if args.report:
        write_result(args.report, "benchmark", result, page)
    show_result(result, page, as_json=args.json)
    return 0


def _stem(path: Path) -> str:
    return path.stem


def _questions(suite: SuiteName, files: Sequence[Path], tasks: Sequence[str] | None) -> list[SuiteQuestion]:
    from emo_lightning.analysis.suites.questions import read_questions
    from emo_lightning.analysis.suites.replies import is_ours

    if ours := next((file for file in files if is_ours(file)), None):
        msg = f"{ours}: holds replies alone; --data names the files of the suite's questions"
        raise InputError(msg)
    found = read_questions(suite, files)
    known = list(dict.fromkeys(asked.task for asked in found))
    if unknown := [task for task in tasks or () if task not in known]:
        msg = f"--tasks {unknown[0]}: there is no such question; allowed: {', '.join(known)}"
        raise InputError(msg)
    return [asked for asked in found if tasks is None or asked.task in tasks]


def _ask(args: argparse.Namespace) -> int:
    for option in ("data", "images", "out"):
        if not getattr(args, option):
            msg = f"--{option} is missing: a model is asked the questions of --data about the pictures of --images, into --out"
            raise InputError(msg)
    if args.out.suffix != ".jsonl":
        msg = f"--out {args.out}: a file of replies ends in .jsonl"
        raise InputError(msg)
    check_output_file(args.out)
    from emo_lightning.inference.bundle import find_bundle
    from emo_lightning.stages.benchmark import affect_dimensions, ask_suite, askable

    questions = _questions(args.verb, args.data, args.tasks)
    # Before a model is loaded.
    asked = askable(questions, args.images, affect_dimensions(find_bundle(args.model)))
    from emo_lightning.inference.model import EmotionModel

    model = EmotionModel.from_pretrained(args.model, args.device)
    before, now = ask_suite(args.verb, questions, model, args.images, args.out, args.max_new_tokens, args.batch_size)
    silent = len(questions) - len(asked)
    say(
        f"{args.out}: {before + now:,} replies, {now:,} of them new, greedy (published values are mostly sampled at temperature 0.7)"
    )
    if silent:
        say(
            f"{silent:,} questions have no words of the suite's and were not asked: valence, arousal and dominance of EEmo-Bench, "
            "which a model gives that was trained with va_weight"
        )
    return 0


def _page(args: argparse.Namespace) -> int:
    if args.out.suffix.lower() not in (".html", ".htm"):
        msg = f"--out {args.out}: expected a file that ends in .html; tables go beside it"
        raise InputError(msg)
    from emo_lightning.analysis.suites.benchmark import benchmark
    from emo_lightning.analysis.suites.submissions import check, image_marks, read_submission
    from emo_lightning.report.leaderboard import Board, write_leaderboard

    data, images = _of_suites("--data", args.data), _of_suites("--images", args.images)
    questions = {suite: _questions(suite, files, None) for suite, files in data.items()}
    handed_in = [read_submission(folder, questions) for folder in args.submissions]
    boards = []
    for suite, asked in questions.items():
        here = [one for one in handed_in if one.suite == suite]
        names = {one.name: one for one in here}
        if len(names) < len(here):
            msg = f"two submissions to {suite} have one name: {', '.join(sorted(one.name for one in here))}"
            raise InputError(msg)
        if not here:
            continue
        marks = image_marks(asked, images[suite][0] if suite in images else None)
        checks = {one.name: check(one, here, asked, marks) for one in here}
        bases = {one.name: one.base for one in here if one.base is not None}
        result = benchmark(suite, asked, {one.name: one.replies for one in here}, bases, seed=args.seed)
        boards.append(Board(result, names, checks))
    tables = write_leaderboard(args.out, boards)
    say(f"{args.out}: {len(handed_in)} submissions to {', '.join(board.title for board in boards)}; tables in {tables}")
    return 0


def _of_suites(option: str, values: Sequence[str]) -> dict[SuiteName, list[Path]]:
    """Suite -> paths."""
    found: dict[SuiteName, list[Path]] = {}
    names: dict[str, SuiteName] = {"mvei": "mvei", "vecbench": "vecbench", "eemo_bench": "eemo_bench"}
    for value in values:
        name, _, path = value.partition("=")
        if name not in names or not path:
            msg = f"{option} {value}: expected SUITE=PATH, with a suite of {', '.join(names)}"
            raise InputError(msg)
        found.setdefault(names[name], []).append(Path(path))
    return found
