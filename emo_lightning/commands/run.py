"""`emo run EXPERIMENT.yaml [--key value …]`, which is also `lightning run`."""

from __future__ import annotations

HELP = """usage: lightning run EXPERIMENT.yaml [--key value …]      (the same as: emo run …)

Runs the stages of an experiment into runs/NAME/STAGE/. A finished stage is skipped, a half-finished one resumes.

  --name NAME           run directory below --runs (default: the experiment's name)
  --runs DIR            folder of all runs (default: runs)
  --only STAGE          run just this stage
  --print_config        show the resolved config and stop
  --vars.NAME VALUE     set a variable of the experiment
  --STAGE.KEY VALUE     override a key of one stage, e.g. --round1.model.optim.lr 1e-4
  --KEY VALUE           override a key in every stage that takes it, e.g. --trainer.devices 2 --trainer.strategy ddp

example: lightning run experiments/round1.yaml --vars.train 'data/train-{000000..000099}.tar' --trainer.devices 8
torchrun and srun start it unchanged: torchrun --nproc-per-node 8 $(which lightning) run experiments/emoverse.yaml"""


def parse(argv: list[str]) -> tuple[str, list[tuple[str, str]], dict[str, str | bool]]:
    """Split the command line into (experiment, overrides, own options).

    Raises:
        ValueError: no experiment, an option without a value, or a stray word.
    """
    own: dict[str, str | bool] = {}
    overrides: list[tuple[str, str]] = []
    paths: list[str] = []
    words = iter(argv)
    for word in words:
        if not word.startswith("--"):
            paths.append(word)
            continue
        key, equals, value = word[2:].partition("=")
        if key in ("print_config", "print-config"):
            own["print_config"] = True
            continue
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                msg = f"--{key} needs a value"
                raise ValueError(msg)
        if key in ("name", "runs", "only"):
            own[key] = value
        else:
            overrides.append((key, value))
    if len(paths) != 1:
        msg = f"expected one experiment file, found {len(paths)}: {' '.join(paths) or 'none'} (see: lightning run --help)"
        raise ValueError(msg)
    return paths[0], overrides, own


def main(argv: list[str]) -> int:
    """Run, or print, an experiment."""
    if not argv or argv[0] in ("-h", "--help"):
        print(HELP)
        return 0
    path, overrides, own = parse(argv)
    from emo_lightning.experiment.resolve import load_experiment

    experiment = load_experiment(path, overrides, name=own.get("name"), runs=own.get("runs", "runs"))  # type: ignore[arg-type]
    if own.get("print_config"):
        from emo_lightning.experiment.arguments import check

        for stage in experiment.stages:
            check(stage)
        print(experiment.as_yaml(), end="")
        return 0
    from emo_lightning.experiment.runner import run_experiment

    run_experiment(experiment, only=own.get("only"))  # type: ignore[arg-type]
    return 0
