"""`emo run EXPERIMENT.yaml [--key value …]`, which is also `lightning run`."""

from __future__ import annotations

from dataclasses import dataclass, field

from emo_lightning.core.errors import DEBUG_HELP, InputError
from emo_lightning.core.terminal import say
from emo_lightning.experiment.classes import ALLOW_HELP, allowing

HELP = f"""usage: lightning run EXPERIMENT.yaml [--key value …]      (the same as: emo run …)

Runs the stages of an experiment. Each writes its files to runs/NAME/STAGE/. A finished stage is skipped, an unfinished one goes on.

  --name NAME           run directory below --runs (default: the experiment's name)
  --runs DIR            folder of all runs (default: runs)
  --only STAGE          run this stage only
  --go-back             where a stage's checkpoint is damaged, set it aside and go on from the one before it
  --print_config        print the resolved experiment, and run nothing
  --vars.NAME VALUE     set a variable of the experiment
  --STAGE.KEY VALUE     set a key of one stage, e.g. --round1.model.optim.lr 1e-4
  --wandb.KEY VALUE     how stages are logged to W&B: mode (offline, online, disabled), project, entity, tags
  --KEY VALUE           set a key of every stage that has it, e.g. --trainer.devices 2 --trainer.strategy ddp
  --allow-classes PACKAGE
                        {ALLOW_HELP}
  --debug               {DEBUG_HELP}

Exit status: 0 done, 1 a bug of ours, 2 something that you can mend, 130 interrupted (143 by SIGTERM).

example: lightning run experiments/round1.yaml --vars.train 'data/train-{{000000..000099}}.tar' --trainer.devices 8
torchrun and srun start it as it is: torchrun --nproc-per-node 8 $(which lightning) run experiments/emoverse.yaml"""


@dataclass
class CommandLine:
    """What was typed, by where it goes."""

    experiment: str
    """File, or name of one that is shipped."""
    name: str | None = None
    """Of the run."""
    runs: str = "runs"
    """Folder of all runs."""
    only: str | None = None
    """Stage to run."""
    go_back: bool = False
    """Whether to go on from the checkpoint before a damaged one."""
    print_config: bool = False
    """Whether to print the resolved experiment instead of running it."""
    allow_classes: list[str] = field(default_factory=list)
    """Packages whose classes the experiment may name, beside ours."""
    overrides: list[tuple[str, str]] = field(default_factory=list)
    """(dotted key, YAML text)."""


def parse(argv: list[str]) -> CommandLine:
    """Split the command line.

    Raises:
        InputError: no experiment, an option without a value, or a stray word.
    """
    found = CommandLine("")
    paths: list[str] = []
    words = iter(argv)
    for word in words:
        if not word.startswith("--"):
            paths.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        if key in ("print_config", "print-config"):
            found.print_config = True
            continue
        if key == "go-back":
            found.go_back = True
            continue
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                msg = f"--{key} needs a value"
                raise InputError(msg)
        if key in ("name", "runs", "only"):
            setattr(found, key, value)
        elif key == "allow-classes":
            found.allow_classes.append(value)
        else:
            found.overrides.append((key, value))
    if len(paths) != 1:
        msg = f"expected one experiment file, found {len(paths)}: {' '.join(paths) or 'none'} (see: lightning run --help)"
        raise InputError(msg)
    found.experiment = paths[0]
    return found


def main(argv: list[str]) -> int:
    """Run, or print, an experiment."""
    if not argv or argv[0] in ("-h", "--help"):
        say(HELP)
        return 0
    given = parse(argv)
    with allowing(given.allow_classes):
        return _run(given)


def _run(given: CommandLine) -> int:
    from emo_lightning.experiment.resolve import chosen_stages, load_experiment

    experiment = load_experiment(given.experiment, given.overrides, name=given.name, runs=given.runs)
    if given.print_config:
        from emo_lightning.experiment.arguments import check

        experiment.stages = chosen_stages(experiment, given.only)
        for stage in experiment.stages:
            check(stage)
        say(experiment.as_yaml(), end="")
        return 0
    from emo_lightning.experiment.runner import run_experiment

    run_experiment(experiment, only=given.only, go_back=given.go_back)
    return 0
