"""`emo prep …`: build a data set. Nothing heavy is imported before a command is chosen."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from emo_lightning.core.errors import DEBUG_HELP, InputError, debug_option, run_guarded
from emo_lightning.core.terminal import say, speak_to_any_terminal
from emo_lightning.core.text import allowed_names

COMMANDS: dict[str, tuple[str, str]] = {
    "import": ("import_images", "take images into a store"),
    "expand": ("expand", "search queries and generated images from the triplets of a store"),
    "dedup": ("dedup", "find images that show the same, and keep one of each"),
    "annotate": ("annotate", "annotate, cross-verify, criticise and ground what has no outcome yet"),
    "review": ("review", "a page for human inspection, the user study, agreement; Label Studio export and import"),
    "vote": ("vote", "let the local annotators (EmoViT) vote on all images"),
    "ground": ("ground", "boxes and masks for the subjects of all valid records"),
    "emovit-convert": ("emovit_convert", "turn EmoViT's checkpoint into a folder that a local annotator loads"),
    "export": ("export", "write WebDataset tars, a dataset card and a manifest"),
    "graph": ("graph", "write the graph of triplets as GraphML and Parquet"),
    "stats": ("stats", "balance, agreement, revisions and cost of stores or tars: Table 1 and Figure 5"),
    "table3": ("table3", "what cross-verification and critic are worth, and what the critic notices (Table 3)"),
    "status": ("status", "what is in a store: outcomes, calls, cost"),
    "backup": ("backup", "copy a store, also while a pass writes to it"),
    "world": ("world", "write reference tars of the demo world, with its known truth"),
    "simulate": ("simulate", "serve simulated annotators for a store of the demo world, until interrupted"),
}
"""By name: the module of `data_prep.commands`, and what it does."""


def usage() -> str:
    """The help page."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: emo prep COMMAND [ARGUMENTS]",
            "",
            "Build a data set: import → annotate (cross-verify, criticise, ground) → export.",
            "",
            *lines,
            "",
            "`emo prep COMMAND --help` shows a command's arguments and an example.",
            f"--debug, anywhere on the line: {DEBUG_HELP}.",
            "Exit status: 0 done, 1 a bug of ours, 2 something that you can mend, 130 interrupted; some commands have more.",
            "",
            "example:",
            "  emo prep import folder photos/ --into store",
            "  emo prep annotate store",
            "  emo prep export store tars --name mine",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status (2: the message on standard error says what is wrong, 130: interrupted)."""
    words = list(sys.argv[1:] if argv is None else argv)
    speak_to_any_terminal()
    with debug_option(words) as rest:
        return run_guarded(lambda: _run(rest), ["emo", "prep", *words])


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        say(usage())
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        msg = f"emo prep: unknown command {name!r}; {allowed_names(name, COMMANDS)}; see emo prep --help"
        raise InputError(msg)
    command: Callable[[list[str]], int] = importlib.import_module(f"data_prep.commands.{COMMANDS[name][0]}").main
    return command(rest)
