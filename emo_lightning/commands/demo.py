"""`emo demo`: everything, end to end, on a small drawn world whose truth is known."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.commands import run
from emo_lightning.core.errors import DEBUG_HELP
from emo_lightning.core.terminal import say
from emo_lightning.experiment.files import ROOT

HELP = f"""usage: emo demo [--fast] [--KEY VALUE …]

Shows the whole of this package on a small drawn world whose truth is known: draws it, has simulated annotators label it over HTTP,
trains a tiny Qwen2.5-VL in two rounds, the DES head and linear probes, and ends with Tables 5 and 6 and the page runs/demo/report.html.
Interrupt it at any time; the same command goes on.

  --fast            two minutes instead of ten, with poorer results (runs/demo-fast)
  --vars.seed N     another world; all options of `emo run` work here
  --debug           {DEBUG_HELP}

example: emo demo --fast"""

NEXT = """
A picture of this world, with what the model says of it:  emo explain {run}/panel/panel/00.jpg --text --model {run}/model
Of a photograph it says that it is unlike what it was trained on. All of it as one folder:  emo export {run} --out emotion-model
"""


def main(argv: list[str]) -> int:
    """Run experiments/demo.yaml, or demo_fast.yaml."""
    if argv and argv[0] in ("-h", "--help"):
        say(HELP)
        return 0
    name = "demo_fast" if "--fast" in argv else "demo"
    words = [str(ROOT / "experiments" / f"{name}.yaml"), *(word for word in argv if word != "--fast")]
    status = run.main(words)
    given = run.parse(words)
    if status == 0 and not given.print_config and given.only is None:
        say(NEXT.format(run=Path(given.runs) / (given.name or name.replace("_", "-"))), end="")
    return status
