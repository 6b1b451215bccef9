"""`emo benchmark eemo_bench --judge`: a language model grades descriptions five times each; every grade is paid once."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import replace

from data_prep.provider.budget import NANO_PER_DOLLAR
from data_prep.provider.failures import Failure, exit_status
from data_prep.provider.model_under_test import Answers, Endpoint, UnderTest, WordsRequest
from emo_lightning.analysis.suites.asked import SuiteQuestion, SuiteReply
from emo_lightning.analysis.suites.replies import line_of
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import write_text
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.suites.eemo_bench import OPEN_TASK
from emo_lightning.core.terminal import say
from emo_lightning.metrics.suites.judge import NUM_JUDGEMENTS, judge_prompt, judgement

_PARAMETERS = {"temperature": 1, "max_tokens": 600}
"""Where the endpoint's file names none: five grades of a judge that draws nothing would be one."""


def judge_replies(args: argparse.Namespace, questions: Sequence[SuiteQuestion], replies: Mapping[str, SuiteReply]) -> int:
    """Grade the descriptions among the replies, and write all replies with their grades; returns the exit status.

    Args:
        args: of `emo benchmark`.
        questions: of the suite.
        replies: of one model, by the question's id.

    Raises:
        InputError: nothing is to be graded.
    """
    graded = [asked for asked in questions if asked.task == OPEN_TASK and asked.truth and asked.id in replies]
    if not graded:
        msg = f"no reply is to a question of the task {OPEN_TASK}: nothing is to be graded"
        raise InputError(msg)
    config = UnderTest.load(args.judge)
    if "parameters" not in config.model_fields_set:
        config = config.model_copy(update={"parameters": _PARAMETERS})
    with Endpoint(config, args.store, args.budget, args.resend_unknown) as endpoint:
        requests = [request for asked in graded for request in _requests(endpoint, asked, replies[asked.id])]
        say(endpoint.estimate(requests).text())
        if args.estimate:
            return 0
        with progress_bars() as bars:
            task = bars.add_task("judge", total=len(requests))
            answers = endpoint.ask(requests, lambda _: bars.update(task, advance=1))
    tally = answers.tally
    say(f"requests {tally.requests}, from the ledger {tally.cached}, cost of this run ${tally.cost_nano / NANO_PER_DOLLAR:.6f}")
    if answers.stopped:
        say(f"{len(requests) - len(answers.replies)} grades are left; the same command goes on")
        return exit_status(stopped=True, by_budget=answers.by_budget)
    found = {asked.id: _grades(answers, n) for n, asked in enumerate(graded)}
    out = {
        name: replace(reply, judgements=found[name], judge=config.model) if name in found else reply
        for name, reply in replies.items()
    }
    lines = [line_of(name, reply) for name, reply in out.items()]
    write_text(args.out, "\n".join(lines).encode("utf-8", "backslashreplace").decode() + "\n")
    lacking = sum(len(one) < NUM_JUDGEMENTS for one in found.values())
    more = (
        f"; {lacking:,} have fewer than {NUM_JUDGEMENTS} grades, as a reply of the judge names none or did not come"
        if lacking
        else ""
    )
    say(f"{args.out}: {len(found):,} descriptions graded by {config.model}{more}")
    missing = {reply.kind for reply in answers.replies.values() if isinstance(reply, Failure)}
    return exit_status(stopped=False, by_budget=False, left=missing)


def _requests(endpoint: Endpoint, asked: SuiteQuestion, reply: SuiteReply) -> list[WordsRequest]:
    prompt = judge_prompt(asked.question or asked.prompt, asked.truth, reply.text)
    return [endpoint.words(prompt, draw) for draw in range(NUM_JUDGEMENTS)]


def _grades(answers: Answers, number: int) -> tuple[float, ...]:
    """Those of a description; what cannot be read, or did not come, is none."""
    texts = [answers.replies[number * NUM_JUDGEMENTS + draw] for draw in range(NUM_JUDGEMENTS)]
    found = [None if isinstance(text, Failure) else judgement(text) for text in texts]
    return tuple(float(grade) for grade in found if grade is not None)
