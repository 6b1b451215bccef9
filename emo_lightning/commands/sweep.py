"""`emo sweep FILE.yaml`: one sweep, on W&B's server or on this machine alone."""

from __future__ import annotations

from typing import Any

HELP = """usage: emo sweep SWEEP.yaml [--local] [OPTIONS] [--KEY VALUE …]

Runs an experiment once for each choice of the sweep's parameters. The file is W&B's own format; its parameters are keys of `emo run`.
Without --local it is registered on W&B and an agent works on it here; more agents anywhere: wandb agent ENTITY/PROJECT/ID.

  --check               say what is wrong with the file, and run nothing (no network; exit code 2 if anything is)
  --local               run it here without a server: grid, random, or bayes (which needs Optuna: pip install 'emo-lightning[sweep]').
                        Finished runs are not run again, a killed one goes on. Ends in runs/NAME/results.{md,json,png}
  --jobs N              runs at a time (default 1); they share the cores, and the GPUs that CUDA_VISIBLE_DEVICES lists
  --count N             runs in all; with W&B, of this agent (default: the file's run_cap, or a grid's end)
  --seed N              of random and bayes, with --local (default 0)
  --max-failures N      with --local: start no more after so many failures in a row (default 3)
  --runs DIR            with --local: folder of all runs (default: runs)
  --name NAME           with --local: the sweep's folder below --runs (default: the file's `name`)
  --project, --entity   of W&B
  --KEY VALUE           the same value for every run, e.g. --vars.features runs/demo/features-attribute; for a key that the sweep varies a
                        list, which takes the place of the file's: --des.model.head.num_layers '[1, 2, 4]'

example: emo sweep experiments/sweeps/fusion.yaml --local --vars.features runs/demo/features-attribute"""

_NUMBERS = {"jobs": 1, "count": 1, "seed": 0, "max-failures": 1}
"""Option -> the least that it may be."""
_WORDS = ("runs", "name", "project", "entity")
_FLAGS = ("check", "local")


def parse(argv: list[str]) -> tuple[list[str], dict[str, Any], dict[str, str]]:
    """Split the command line into (files, own options, fixed values of the runs).

    Raises:
        ValueError: an option without a value, or a number that is none.
    """
    files: list[str] = []
    own: dict[str, Any] = {}
    fixed: dict[str, str] = {}
    words = iter(argv)
    for word in words:
        if not word.startswith("--"):
            files.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        if key in _FLAGS:
            own[key] = True
            continue
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                msg = f"--{key} needs a value (see: emo sweep --help)"
                raise ValueError(msg)
        if key in _NUMBERS:
            own[key] = _number(key, value)
        elif key in _WORDS:
            own[key] = value
        elif "." not in key:
            from emo_lightning.sweep.parameters import suggestion

            known = (*_FLAGS, *_NUMBERS, *_WORDS)
            msg = f"--{key}: no such option{suggestion(key, known)}; allowed: {', '.join(known)}, or a dotted key of `emo run`"
            raise ValueError(msg)
        else:
            fixed[key] = value
    return files, own, fixed


def _number(key: str, text: str) -> int:
    if not text.lstrip("-").isdigit() or int(text) < _NUMBERS[key]:
        msg = f"--{key} is {text!r}; expected a whole number, at least {_NUMBERS[key]}"
        raise ValueError(msg)
    return int(text)


def main(argv: list[str]) -> int:
    """Check, run here, or run on W&B."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0
    if argv[0] == "--trial":
        from emo_lightning.sweep.remote import trial

        return trial(argv[1:])
    files, own, texts = parse(argv)
    if not files or (len(files) > 1 and not own.get("check")):
        msg = f"expected one sweep file, found {len(files)}: {' '.join(files) or 'none'} (see: emo sweep --help)"
        raise ValueError(msg)
    import yaml

    fixed = {key: yaml.safe_load(text) for key, text in texts.items()}
    faults = sum([_check(file, fixed, bool(own.get("check"))) for file in files])
    if faults or own.get("check"):
        return 2 if faults else 0
    from emo_lightning.sweep.config import beside, load_sweep

    sweep = load_sweep(files[0], fixed)
    fixed = beside(sweep, fixed)
    if own.get("local"):
        return _local(sweep, own, fixed)
    _refuse(own, ("jobs", "seed", "max-failures", "runs", "name"))
    from emo_lightning.sweep.remote import run_on_wandb

    run_on_wandb(sweep, project=own.get("project"), entity=own.get("entity"), count=own.get("count"), fixed=fixed)
    return 0


def _check(file: str, fixed: dict[str, Any], said: bool) -> int:
    """Print what is wrong with a file; returns how much that is."""
    import sys

    from emo_lightning.sweep.lint import lint

    _, problems = lint(file, fixed)
    for problem in problems:
        print(f"error: {file}: {problem}", file=sys.stderr)
    if said and not problems:
        print(f"{file}: no fault found")
    return len(problems)


def _refuse(own: dict[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if name in own:
            msg = f"--{name} belongs to --local; on W&B the file and the server decide"
            raise ValueError(msg)


def _local(sweep: Any, own: dict[str, Any], fixed: dict[str, Any]) -> int:
    from pathlib import Path

    from emo_lightning.cli import main as emo
    from emo_lightning.sweep.local import Outcome, Settings, console, run_local
    from emo_lightning.sweep.results import show_results, write_results

    _refuse_remote = [name for name in ("project", "entity") if name in own]
    if _refuse_remote:
        msg = f"--{_refuse_remote[0]} is W&B's; it means nothing with --local"
        raise ValueError(msg)
    settings = Settings(
        Path(own.get("runs", "runs")),
        own.get("name", sweep.name),
        own.get("jobs", 1),
        own.get("count"),
        own.get("seed", 0),
        own.get("max-failures", 3),
        fixed,
    )
    outcome = Outcome()
    try:
        run_local(sweep, settings, emo, outcome)
    finally:
        # After an interruption too: what there is.
        if outcome.runs:
            written = write_results(sweep, settings, outcome)
            show_results(sweep, outcome, console)
            console.print(" ".join(map(str, written)), soft_wrap=True, markup=False)
    return 1 if outcome.failed or (outcome.stopped and "failed" in outcome.stopped) else 0
