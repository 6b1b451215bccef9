"""A sweep on W&B's server: registered, worked on by its agent here, and each run's metrics sent to it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from emo_lightning.core.files import parse_yaml
from emo_lightning.core.foreign import decode_json, object_of
from emo_lightning.core.lifetimes import PARENT_VARIABLE, die_with_parent
from emo_lightning.core.terminal import say
from emo_lightning.core.wandb_defaults import wandb_mode, wandb_project
from emo_lightning.experiment.stage_metrics import usable
from emo_lightning.sweep.config import Sweep, locate
from emo_lightning.sweep.metrics import run_metrics
from emo_lightning.sweep.parameters import SweepError
from emo_lightning.sweep.values import TrialValues, as_text, values_digest

_ANSWER_SECONDS = 5
_SETTING = re.compile(r"[\w+-]+(\.[\w+-]+)+")
"""A key of `emo run` that is none of its options, which have no point: where it writes, and with whose code."""
_OF_THE_AGENT = ("WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_RUN_ID", "WANDB_SERVICE")
"""By these a stage's own logger would take itself for the sweep's run."""


def run_on_wandb(sweep: Sweep, *, project: str | None, entity: str | None, count: int | None, fixed: TrialValues) -> None:
    """Register the sweep, then work on it with an agent until it ends.

    Further agents, on any machine with the same files: `wandb agent ENTITY/PROJECT/ID`.

    Args:
        sweep: whose file has no fault.
        project: None takes the file's, else `WANDB_PROJECT`, else `emo-lightning`.
        entity: user or team; None takes the file's, else the default of the account.
        count: runs of this agent; None goes on until the sweep ends.
        fixed: values of every run beside the file's.

    Raises:
        SweepError: W&B is switched off, or does not answer.
        wandb.UsageError: no API key.
    """
    mode = wandb_mode(default="online")
    if mode in ("offline", "disabled", "dryrun"):
        msg = f"WANDB_MODE is {mode}, but a sweep on W&B needs its server; unset it, or use --local, which needs none"
        raise SweepError(msg)
    import wandb

    _require_server(str(wandb.setup().settings.base_url))
    content = {**sweep.raw, "name": sweep.name, "program": str(sweep.program)}
    content["parameters"] = sweep.raw["parameters"] | {key: {"value": value} for key, value in fixed.items()}
    project, entity = wandb_project(project, sweep.raw.get("project")), entity or sweep.raw.get("entity")
    identity = wandb.sweep(content, project=project, entity=entity)
    # The agent starts `emo` by its name: the one beside this interpreter.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    wandb.agent(identity, project=project, entity=entity, count=count)


def _require_server(url: str) -> None:
    """W&B's client would try for half a minute and then speak of a busy service."""
    try:
        # nosec: W&B's own address, or the one that the user has set.
        urllib.request.urlopen(url, timeout=_ANSWER_SECONDS).close()
    except urllib.error.HTTPError:
        return  # It answers.
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        msg = f"W&B does not answer at {url} ({reason}); --local runs the same file here, without a server"
        raise SweepError(msg) from None


def trial(words: list[str], start: Callable[[], Any] | None = None) -> int:
    """One run under W&B's agent: `emo run` with the agent's values, then, if it ended well, all its metrics to the agent's run.

    Args:
        words: the experiment, then `--KEY=VALUE`s or one JSON object of them (the agent's `${args}` or `${args_json}`).
        start: opens the W&B run; None is `wandb.init`.

    Returns:
        The exit code of `emo run`; 1 if it wrote no metric.

    Raises:
        SweepError: a word is none of these, or there is no such experiment.
    """
    program, values = parse_trial(words)
    if "WANDB_SWEEP_ID" in os.environ:
        # The agent has started this process, in a group of its own; killed, it passes nothing on.
        die_with_parent(signal.SIGTERM)
    sweep_id = os.environ.get("WANDB_SWEEP_ID", "trial")
    runs, name = Path("runs") / f"sweep-{sweep_id}", os.environ.get("WANDB_RUN_ID") or values_digest(values)
    options = [f"--{key}={as_text(value)}" for key, value in values.items()]
    command = [sys.executable, "-m", "emo_lightning", "run", str(program), "--runs", str(runs), "--name", name, *options]
    if start is None:
        import wandb

        start = wandb.init
    run = start()
    code = 1
    try:
        ended = _run(command)
        # What a training had logged when it failed is no result: the search would take it for one.
        found = {key: value for key, value in run_metrics(runs / name).items() if usable(value)} if ended == 0 else {}
        if ended == 0 and not found:
            say(f"error: {runs / name}: no stage wrote a metric", file=sys.stderr)
            ended = 1
        if found:
            run.log(found)
        code = ended
    finally:
        run.finish(exit_code=code)
    return code


def parse_trial(words: list[str]) -> tuple[Path, TrialValues]:
    """(the experiment, its values) from the words of `emo sweep --trial`."""
    paths = [word for word in words if not word.startswith(("--", "{"))]
    program = locate(paths[0]) if len(paths) == 1 else None
    if program is None:
        msg = f"--trial: expected one experiment that is there, found {' '.join(paths) or 'none'}"
        raise SweepError(msg)
    values: TrialValues = {}
    for word in words:
        if word.startswith("{"):
            values |= object_of(decode_json(word, "--trial", SweepError), "--trial", SweepError)
        elif word.startswith("--"):
            key, equals, text = word[2:].partition("=")
            if not equals:
                msg = f"--trial: {word!r}; expected --KEY=VALUE"
                raise SweepError(msg)
            # The agent writes null as Python does.
            values[key] = None if text == "None" else parse_yaml(text, f"--trial: --{key}", SweepError)
    # They come from a server: its parameters are settings, none of the options that say where and with whose code.
    for key in values:
        if not _SETTING.fullmatch(key):
            msg = f"--trial: {key[:80]!r} is no key of a setting, like vars.seed; a sweep varies settings alone, and no option of `emo run`"
            raise SweepError(msg)
    return program, values


def _run(command: list[str]) -> int:
    """The command's exit code; an agent that stops this process stops the command with it."""
    environment = {key: value for key, value in os.environ.items() if key not in _OF_THE_AGENT} | {
        PARENT_VARIABLE: str(os.getpid())
    }
    child = subprocess.Popen(command, env=environment)
    before = signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGINT))
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
