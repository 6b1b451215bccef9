"""What a stage's YAML may say: parsed by jsonargparse against the signatures of its function or classes, before anything runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.stores import check_local_output
from emo_lightning.experiment.argument_errors import explain_arguments, own_errors, raised_by_us, type_hints
from emo_lightning.experiment.classes import dotted_keys, named_classes, parsed_classes, set_policy
from emo_lightning.experiment.environment import leaves, secrets, unresolved
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.kinds import STAGE_KINDS, FunctionKind, TrainerKind, find_kind
from emo_lightning.experiment.saving import SaveEvery, split_config
from emo_lightning.experiment.stage import Stage, value_at

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

PARSER_MODE = "omegaconf+"
"""Interpolation as jsonargparse does it after overrides; plain `omegaconf` keeps values that an override has made stale."""

TRAINER_DEFAULTS = {
    # Our batch samplers already give every rank its share, each sample exactly once.
    "use_distributed_sampler": False,
}


@cache
def parser_of(name: str) -> ArgumentParser:
    """The jsonargparse parser of a kind's arguments.

    Raises:
        ExperimentError: there is no such kind.
    """
    kind = find_kind(name)
    if isinstance(kind, FunctionKind):
        from jsonargparse import ArgumentParser

        parser = ArgumentParser(prog=name, exit_on_error=False)
        parser.add_function_arguments(kind.function(), as_group=False, skip={"out"})
        return parser
    return _trainer_parser(kind)


def _trainer_parser(kind: TrainerKind) -> ArgumentParser:
    """The parser that LightningCLI makes for these two classes, without a command line."""
    from lightning.pytorch import Trainer
    from lightning.pytorch.cli import LightningArgumentParser

    parser = LightningArgumentParser(parser_mode=PARSER_MODE, exit_on_error=False)
    parser.add_argument("--seed_everything", type=bool | int, default=0)
    parser.add_lightning_class_args(Trainer, "trainer")
    parser.set_defaults({f"trainer.{key}": value for key, value in TRAINER_DEFAULTS.items()})
    parser.add_lightning_class_args(kind.task_class(), "model")
    parser.add_lightning_class_args(kind.data_class(), "data")
    if "fit" in kind.verbs:
        parser.add_class_arguments(SaveEvery, "save_every")
    return parser


def has_argument(name: str, key: str) -> bool:
    """Whether a kind has an argument at this dotted key (or one above it that takes free content)."""
    arguments = {action.dest for action in parser_of(name)._actions}
    return any(key == dest or (key.startswith(dest + ".") and dest.count(".") >= 1) for dest in arguments)


def argument_keys(name: str) -> list[str]:
    """Dotted keys of every argument that a kind takes, in the order of its signatures."""
    return [key for key in type_hints(parser_of(name)) if key != "config"]


def problems(stage: Stage) -> list[str]:
    """Everything that is wrong with a stage's arguments: a line each, with the key, what was found, and what is allowed."""
    return _problems(stage)[0]


def _problems(stage: Stage) -> tuple[list[str], Exception | None]:
    """What is wrong, and what the parser has raised where it has."""
    # Before the first thing is imported that a setting names.
    if refused := [
        *named_classes(stage.config),
        *unresolved(stage.config),
        *secrets(stage.config),
        *_not_finite(stage.config),
        *_far_places(stage),
    ]:
        return refused, None
    parser = parser_of(stage.kind)
    if isinstance(find_kind(stage.kind), TrainerKind):
        # jsonargparse passes over anything else without a word.
        sections = {section: stage.config.get(section, {}) for section in ("trainer", "model", "data")}
        if wrong := [
            f"{key}: found {value!r}; expected a mapping of keys"
            for key, value in sections.items()
            if not isinstance(value, dict)
        ]:
            return wrong, None
        if dotted := list(dotted_keys(stage.config)):
            return dotted, None
    set_policy()
    try:
        with own_errors():
            found = parser.parse_object(copy.deepcopy(stage.config))
    except UserError as error:
        return [str(error)], error
    except Exception as error:
        if raised_by_us(error) is not None:
            raise
        return explain_arguments(parser, stage.config, error), error
    try:
        split_config(stage.config)
    except InputError as error:
        return [str(error)], error
    return [*_text_as_other(stage.config, found), *parsed_classes(found, stage.config)], None


def _text_as_other(given: object, found: object, at: str = "") -> Iterator[str]:
    """Texts that jsonargparse has read as a number, true, false or null: "5" is no 5 here, as in no other file of ours."""
    if isinstance(given, dict):
        inside = _inside(found)
        for key, value in given.items():
            if key in inside:
                yield from _text_as_other(value, inside[key], f"{at}.{key}" if at else str(key))
    elif isinstance(given, list) and isinstance(found, list | tuple) and len(given) == len(found):
        for n, (value, inner) in enumerate(zip(given, found, strict=True)):
            yield from _text_as_other(value, inner, f"{at}[{n}]")
    elif isinstance(given, str) and (found is None or isinstance(found, bool | int | float)):
        yield (
            f"{at}: found the text {given!r}; write {given} without quotes (a variable of the environment is text, too: "
            "${oc.decode:${oc.env:NAME}} reads it)"
        )


def _not_finite(settings: object) -> Iterator[str]:
    """Settings that are NaN or infinite: the comparisons that check a range let NaN pass."""
    for key, value in leaves(settings):
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{key}: found {value}; allowed: a finite number"


def _far_places(stage: Stage) -> Iterator[str]:
    """URLs where a stage writes: they would become folders of this machine."""
    for key in find_kind(stage.kind).places:
        value = value_at(stage.config, key)
        for place in value if isinstance(value, Mapping) else [value]:
            try:
                check_local_output(str(place), key)
            except InputError as error:
                yield str(error)


def with_truths(kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings in which `on`, `off`, `yes` and `no` are true and false wherever the kind takes these.

    YAML 1.1 reads these words so, and experiments have been written and run that rely on it: they mean what they did, with the same digest.

    Args:
        kind: of the stage.
        settings: its arguments, resolved.

    Returns:
        The same where there are none, or where they cannot be parsed: `problems` says why.
    """
    if not any(_is_truth(value) for _, value in leaves(settings)) or kind not in STAGE_KINDS:
        return settings
    if any((*named_classes(settings), *unresolved(settings), *secrets(settings))):
        return settings
    set_policy()
    try:
        inside = _inside(parser_of(kind).parse_object(copy.deepcopy(settings)))
    except Exception:  # whatever it raises, `problems` will meet it again
        return settings
    return {key: _truths(value, inside[key]) if key in inside else value for key, value in settings.items()}


def _is_truth(value: object) -> bool:
    return isinstance(value, str) and value.lower() in ("on", "off", "yes", "no")


def _truths(given: object, found: object) -> object:
    if isinstance(given, dict):
        inside = _inside(found)
        return {key: _truths(value, inside[key]) if key in inside else value for key, value in given.items()}
    if isinstance(given, list) and isinstance(found, list | tuple) and len(given) == len(found):
        return [_truths(value, inner) for value, inner in zip(given, found, strict=True)]
    return found if _is_truth(given) and isinstance(found, bool) else given


def _inside(found: object) -> dict[str, object]:
    """What a mapping was parsed to."""
    return dict(found.items()) if isinstance(found, Mapping) else dict(vars(found)) if hasattr(found, "__dict__") else {}


def check(stage: Stage) -> None:
    """Parse a stage's arguments without running it.

    Raises:
        ExperimentError: names the stage, the key, what was found, and what is allowed.
    """
    found, cause = _problems(stage)
    if found:
        msg = f"stage {stage.name!r} ({stage.kind}): {found[0]}"
        raise ExperimentError(msg) from cause


def parsed(stage: Stage) -> dict[str, Any]:
    """The arguments of a stage that is a function, as its signature has them; `check` has passed them."""
    parser = parser_of(stage.kind)
    with own_errors():
        arguments: dict[str, Any] = vars(parser.instantiate_classes(parser.parse_object(copy.deepcopy(stage.config))))
    return arguments
