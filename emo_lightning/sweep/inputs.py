"""Whether the features that a sweep's runs are to read are there, and hold enough layers: asked before the first run, not in the last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.experiment.stage import Stage
from emo_lightning.sweep.config import Sweep
from emo_lightning.sweep.parameters import SweepError
from emo_lightning.sweep.values import TrialValues, as_text

_LAYERS = "model.head.num_layers"


def check_features(sweep: Sweep, fixed: TrialValues, folder: Path) -> None:
    """Look at the feature caches that runs read and do not make themselves.

    Args:
        sweep: whose file has no fault.
        fixed: further values of every run.
        folder: of the sweep; what lies below is made by the runs.

    Raises:
        SweepError: a cache is missing or cannot be read, or a value asks for more layers than it holds; says how to go on.
    """
    constant = {p.name: p.values[0] for p in sweep.parameters if p.fixed} | fixed
    for parameter in sweep.varied:
        wrong: dict[Any, str] = {}
        for value in parameter.examples():
            overrides = [(key, as_text(v)) for key, v in (constant | {parameter.name: value}).items()]
            stages = load_experiment(sweep.program, overrides, name="x", runs=folder).stages
            problems = [text for stage in stages if stage.kind == "des" if (text := _problem(stage, folder))]
            if problems:
                wrong[as_text(value)] = problems[0]
        if wrong:
            good = [value for value in parameter.examples() if as_text(value) not in wrong]
            hint = f", or leave out what does not fit: --{parameter.name} {as_text(good)!r}" if good else ""
            names = f"{parameter.name} {', '.join(wrong)}: " if good else ""
            msg = f"{sweep.path}: {names}{next(iter(wrong.values()))}{hint}"
            raise SweepError(msg)


def _problem(stage: Stage, folder: Path) -> str | None:
    from emo_lightning.data.feature_parts import FeatureError, complete_parts, feature_folder, read_header

    directory = Path(stage.config["data"]["train"])
    if directory.is_relative_to(folder):
        return None
    try:
        directory = feature_folder(stage.config["data"]["train"])
        spec, _ = read_header(directory / complete_parts(directory)[0])
    except FeatureError as error:
        return (
            f"stage {stage.name!r}: {error}. Name a folder of features with --vars.features, or make one: "
            "emo run experiments/probe.yaml --only features --vars.backbone MODEL"
        )
    layers = stage.config.get("model", {}).get("head", {}).get("num_layers")
    if layers is None or layers <= spec.num_layers:
        return None
    return (
        f"stage {stage.name!r}: {_LAYERS} is {layers}, but the features in {directory} hold {spec.num_layers}; make them with "
        f"--features.model.num_layers {layers}, if the backbone has as many layers"
    )
