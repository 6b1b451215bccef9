"""`emo demo`: everything, end to end, on a small drawn world whose truth is known."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from emo_lightning.commands import run
from emo_lightning.core.errors import DEBUG_HELP
from emo_lightning.core.terminal import say
from emo_lightning.experiment.files import ROOT

HELP = f"""usage: emo demo [--fast] [--from-scratch] [--KEY VALUE …]

Shows the whole of this package on a small drawn world whose truth is known: draws it, has simulated annotators label it over HTTP,
fine-tunes a tiny Qwen2.5-VL in two rounds, trains the DES head and linear probes, and ends with Tables 5 and 6 and the page
runs/demo/report.html. Interrupt it at any time; the same command goes on.

  --fast            about a minute instead of five, with poorer results (runs/demo-fast)
  --from-scratch    train the tiny Qwen2.5-VL from nothing first, instead of taking the one that comes with the package: about an
                    hour more (experiments/tiny_base.yaml)
  --vars.seed N     another world; all options of `emo run` work here
  --debug           {DEBUG_HELP}

example: emo demo --fast"""

_FLAGS = ("--fast", "--from-scratch")
RUN_NAMES = {"demo": "demo", "demo_fast": "demo-fast"}
"""Experiment -> name of its run."""


def main(argv: list[str]) -> int:
    """Run experiments/demo.yaml, or demo_fast.yaml, and say what to do next."""
    if argv and argv[0] in ("-h", "--help"):
        say(HELP)
        return 0
    fast, scratch = "--fast" in argv, "--from-scratch" in argv
    experiment = "demo_fast" if fast else "demo"
    words = [str(ROOT / "experiments" / f"{experiment}.yaml"), *(word for word in argv if word not in _FLAGS)]
    given = run.parse(words)
    whole = not given.print_config and given.only is None
    if scratch:
        # What only looks, or runs one stage, does not train for an hour first.
        status = 0 if not whole else run.main([str(ROOT / "experiments/tiny_base.yaml"), "--runs", str(given.runs)])
        if status != 0:
            return status
        words += ["--vars.base", str(Path(given.runs) / "tiny-base/card/model")]
    status = run.main(words)
    folder = Path(given.runs) / (given.name or RUN_NAMES[experiment])
    if status == 0 and whole:
        say("\n".join(["", "What next:", *next_steps(folder, fast=fast)]))
    return status


def next_steps(folder: Path, *, fast: bool) -> list[str]:
    """Four lines, each with a command that works as it stands once the demo is done.

    Args:
        folder: of the run.
        fast: whether it was the fast demo, so that what trains again is as fast.
    """
    emo = "emo" if shutil.which("emo") else sys.argv[0]
    model, pictures, world = folder / "model", folder / "panel" / "panel", folder / "world"
    own = ["--runs", folder.parent, "--name", "mine", "--vars.tars", world / "tars", "--vars.reference", world / "reference"]
    commands = {
        "ask it in the browser": ["serve", model],
        "a picture of its world": ["explain", pictures / "00.jpg", "--text", "--model", model],
        "a folder of images": ["prep", "import", "folder", pictures, "--into", folder / "own", "--licence", "CC0-1.0"],
        "tars of your own": ["demo", *(["--fast"] if fast else []), *own],
    }
    return [f"  {what + ':':<23} {shlex.join([emo, *map(str, words)])}" for what, words in commands.items()]
