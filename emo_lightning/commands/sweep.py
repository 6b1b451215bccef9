"""`emo sweep FILE.yaml`: one sweep, on W&B's server or on this machine alone."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.console import console
from emo_lightning.core.errors import DEBUG_HELP, InputError
from emo_lightning.core.options import ALWAYS, Whole, refuse_unused
from emo_lightning.core.terminal import say
from emo_lightning.experiment.classes import ALLOW_HELP, allowing

if TYPE_CHECKING:
    from emo_lightning.sweep.config import Sweep
    from emo_lightning.sweep.values import TrialValues

HELP = f"""usage: emo sweep SWEEP.yaml [--local] [OPTIONS] [--KEY VALUE …]

Runs an experiment once for each choice of the sweep's parameters. The file has W&B's own format; its parameters are keys of `emo run`.
Without --local the sweep is registered on W&B, and an agent works on it here. Start more agents anywhere: wandb agent ENTITY/PROJECT/ID.

  --check               say what is wrong with the file, and run nothing (needs no network; exit status 2 if anything is wrong)
  --local               run it here without a server, by grid, random or bayes (bayes needs Optuna: pip install 'emo-lightning[sweep]').
                        Finished runs are not run again, a killed one goes on. Results: runs/NAME/results.{{md,json,png}}
  --jobs N              runs at a time (default: 1); they share the cores, and the GPUs that CUDA_VISIBLE_DEVICES lists
  --count N             runs in all; with W&B, runs of this agent (default: the file's run_cap, or the end of the grid)
  --seed N              with --local: random seed of random and bayes (default: 0)
  --max-failures N      with --local: start no more after so many failures in a row (default: 3)
  --runs DIR            with --local: folder of all runs (default: runs)
  --name NAME           with --local: the sweep's folder below --runs (default: the file's `name`)
  --project, --entity   of W&B
  --KEY VALUE           the same value for every run, e.g. --vars.features runs/demo/features-attribute. A list replaces the file's values
                        of a key that the sweep varies: --des.model.head.num_layers '[1, 2, 4]'
  --allow-classes PACKAGE
                        {ALLOW_HELP}
  --debug               {DEBUG_HELP}

Exit status: 0 done, 1 a run failed (or a bug of ours), 2 something that you can mend, 130 interrupted (143 by SIGTERM).

example: emo sweep experiments/sweeps/fusion.yaml --local --vars.features runs/demo/features-attribute"""

_NUMBERS = {"jobs": 1, "count": 1, "seed": 0, "max-failures": 1}
"""Option -> the least that it may be."""
_WORDS = ("runs", "name", "project", "entity")
_FLAGS = ("check", "local")
_ALLOW = "allow-classes"
_RANDOM = "random or bayes (`method` of the file)"
_MODES = {
    ALWAYS: ("count",),
    "--local": ("jobs", "max-failures", "runs", "name"),
    _RANDOM: ("seed",),
    "W&B": ("project", "entity"),
}


@dataclass
class _CommandLine:
    """What was typed, by where it goes."""

    files: list[str] = field(default_factory=list)
    flags: set[str] = field(default_factory=set)
    numbers: dict[str, int] = field(default_factory=dict)
    words: dict[str, str] = field(default_factory=dict)
    allow_classes: list[str] = field(default_factory=list)
    """Packages whose classes the experiment may name, beside ours."""
    fixed: dict[str, str] = field(default_factory=dict)
    """Values of every run: key of `emo run` -> YAML text."""


def parse(argv: list[str]) -> _CommandLine:
    """Split the command line.

    Raises:
        InputError: an option without a value, or a number that is none.
    """
    found = _CommandLine()
    words = iter(argv)
    for word in words:
        if not word.startswith("--"):
            found.files.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        if key in _FLAGS:
            found.flags.add(key)
            continue
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                msg = f"--{key} needs a value (see: emo sweep --help)"
                raise InputError(msg)
        if key in _NUMBERS:
            found.numbers[key] = _number(key, value)
        elif key in _WORDS:
            found.words[key] = value
        elif key == _ALLOW:
            found.allow_classes.append(value)
        elif "." not in key:
            from emo_lightning.sweep.parameters import did_you_mean

            known = (*_FLAGS, *_NUMBERS, *_WORDS, _ALLOW)
            msg = (
                f"--{key}: no such option{did_you_mean(key, known)}; allowed: {', '.join(known)}, or a dotted key of `emo run`"
            )
            raise InputError(msg)
        else:
            found.fixed[key] = value
    return found


def _number(key: str, text: str) -> int:
    try:
        return Whole(_NUMBERS[key])(text)
    except InputError as error:
        msg = f"--{key} {text}: {error}"
        raise InputError(msg) from None


def main(argv: list[str]) -> int:
    """Check, run here, or run on W&B."""
    if not argv or argv[0] in ("-h", "--help"):
        say(HELP)
        return 0
    if argv[0] == "--trial":
        from emo_lightning.sweep.remote import trial

        return trial(argv[1:])
    given = parse(argv)
    files, checking = given.files, "check" in given.flags
    if not files or (len(files) > 1 and not checking):
        msg = f"expected one sweep file, found {len(files)}: {' '.join(files) or 'none'} (see: emo sweep --help)"
        raise InputError(msg)
    with allowing(given.allow_classes):
        return _sweep(given)


def _sweep(given: _CommandLine) -> int:
    files, checking = given.files, "check" in given.flags
    fixed = _fixed_values(given.fixed)
    faults = sum(_check(file, fixed, checking) for file in files)
    if faults or checking:
        return 2 if faults else 0
    from emo_lightning.sweep.config import beside, load_sweep

    sweep = load_sweep(files[0], fixed)
    fixed = beside(sweep, fixed)
    spelled = {name: f"--{name}" for name in (*given.numbers, *given.words)}
    if "local" in given.flags:
        refuse_unused(spelled, _MODES, "--local", *([] if sweep.method == "grid" else [_RANDOM]))
        return _local(sweep, given, fixed)
    refuse_unused(spelled, _MODES, "W&B")
    from emo_lightning.sweep.remote import run_on_wandb

    words = given.words
    run_on_wandb(sweep, project=words.get("project"), entity=words.get("entity"), count=given.numbers.get("count"), fixed=fixed)
    return 0


def _fixed_values(texts: dict[str, str]) -> TrialValues:
    from emo_lightning.experiment.files import parse_value

    return {key: parse_value(text) for key, text in texts.items()}


def _check(file: str, fixed: TrialValues, say_so: bool) -> int:
    """Print what is wrong with a file; returns how much that is."""
    from emo_lightning.sweep.lint import lint

    _, problems = lint(file, fixed)
    for problem in problems:
        say(f"error: {file}: {problem}", file=sys.stderr)
    if say_so and not problems:
        say(f"{file}: no fault found")
    return len(problems)


def _local(sweep: Sweep, given: _CommandLine, fixed: TrialValues) -> int:
    from emo_lightning.cli import main as emo
    from emo_lightning.sweep.local import LocalSettings, SweepOutcome, run_local
    from emo_lightning.sweep.results import show_results, write_results

    settings = LocalSettings(
        Path(given.words.get("runs", "runs")),
        given.words.get("name", sweep.name),
        given.numbers.get("jobs", 1),
        given.numbers.get("count"),
        given.numbers.get("seed", 0),
        given.numbers.get("max-failures", 3),
        fixed,
    )
    outcome = SweepOutcome()
    try:
        run_local(sweep, settings, emo, outcome)
    finally:
        # After an interruption too: what there is.
        if outcome.runs:
            written = write_results(sweep, settings, outcome)
            show_results(sweep, outcome, console)
            console.print(" ".join(map(str, written)), soft_wrap=True, markup=False)
    return 1 if outcome.failed or (outcome.stopped and "failed" in outcome.stopped) else 0
