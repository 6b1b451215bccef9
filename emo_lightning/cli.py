"""`emo` and `lightning run`: picks the command; nothing heavy is imported before one is chosen."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence

from emo_lightning.core.cores import wait_briefly
from emo_lightning.core.errors import DEBUG_HELP, InputError, debug_option, run_guarded
from emo_lightning.core.lifetimes import die_with_named_parent
from emo_lightning.core.terminal import say, speak_to_any_terminal
from emo_lightning.core.text import allowed_names

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("emo_lightning.commands.demo", "everything, end to end, on a small drawn world whose truth is known"),
    "prep": ("data_prep.cli", "images -> annotated, verified records -> WebDataset tars"),
    "run": ("emo_lightning.commands.run", "run an experiment (same as `lightning run`)"),
    "sweep": ("emo_lightning.commands.sweep", "an experiment over many settings, on W&B or on this machine alone"),
    "check": ("emo_lightning.commands.check", "whether tars are whole: manifest, checksums, records, pictures"),
    "overlap": ("emo_lightning.commands.overlap", "which images of a test set also stand in what was trained on"),
    "predict": ("emo_lightning.commands.predict", "what a model, or an endpoint, says of images -> a predictions file"),
    "eval": ("emo_lightning.commands.eval", "score a predictions file (Table 5)"),
    "calibrate": ("emo_lightning.commands.calibrate", "calibration, temperature and conformal sets of predicted probabilities"),
    "cross-dataset": ("emo_lightning.commands.cross_dataset", "several models on several data sets, against the untuned base"),
    "benchmark": (
        "emo_lightning.commands.benchmark",
        "public suites by every published scorer and by ours; a leaderboard page",
    ),
    "faithfulness": ("emo_lightning.commands.faithfulness", "does the emotion depend on the region that its words name"),
    "embed": ("emo_lightning.commands.embed", "images or tars -> emotion embeddings (DES)"),
    "index": ("emo_lightning.commands.index", "a place to search: images by picture, words, wish or path, with filters"),
    "explain": ("emo_lightning.commands.explain", "images -> triplet, boxes, emotion, intensity, and overlays"),
    "serve": ("emo_lightning.commands.serve", "a page and an API (of OpenAI's shapes) for a model, on this machine"),
    "des": ("emo_lightning.commands.des", "what the embedding space can do: retrieval, distance, interpolation, stability"),
    "report": ("emo_lightning.commands.report", "one self-contained HTML page from finished runs"),
    "export": ("emo_lightning.commands.export", "a trained model as one folder that needs nothing else"),
    "export-fiftyone": ("emo_lightning.commands.export_fiftyone", "tars, predictions and embeddings as a data set of FiftyOne"),
    "push": ("emo_lightning.commands.push", "an exported folder to the Hugging Face hub"),
}
"""By name: the module whose `main(argv) -> int` it is, imported when it is chosen; and what it does."""

_HIDDEN = {"_stage": "emo_lightning.commands.stage"}


def usage() -> str:
    """The help page."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: emo COMMAND [ARGUMENTS]",
            "",
            "Interpretable visual emotion analysis.",
            "",
            *lines,
            "",
            "`emo COMMAND --help` shows a command's arguments and an example.",
            f"--debug, anywhere on the line: {DEBUG_HELP}.",
            "Exit status: 0 done, 1 a bug of ours, 2 something that you can mend, 130 interrupted (143 by SIGTERM).",
            "",
            "example: emo demo --fast",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `emo`; returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    speak_to_any_terminal()
    die_with_named_parent()
    with debug_option(words) as rest:
        return run_guarded(lambda: _run(rest), ["emo", *words])


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        say(usage())
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        say(version("emo-lightning"))
        return 0
    name, rest = argv[0], argv[1:]
    module = _HIDDEN.get(name) or COMMANDS.get(name, (None,))[0]
    if module is None:
        msg = f"emo: unknown command {name!r}; {allowed_names(name, COMMANDS)}; see emo --help"
        raise InputError(msg)
    wait_briefly()
    command: Callable[[list[str]], int] = importlib.import_module(module).main
    return command(rest)


def lightning_main() -> int:
    """Entry point of `lightning`: `lightning run X` is `emo run X`, the rest belongs to lightning-sdk."""
    argv = sys.argv[1:]
    if [word for word in argv if word != "--debug"][:1] == ["run"]:
        return main(argv)
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        sdk = next(
            e for e in distribution("lightning-sdk").entry_points if e.name == "lightning" and e.group == "console_scripts"
        )
    except (PackageNotFoundError, StopIteration):
        hint = (
            "lightning run EXPERIMENT.yaml [--key value …] is emo run; every other `lightning` command belongs to Lightning's SDK: "
            "pip install lightning-sdk"
        )
        asked = argv[:1] in ([], ["-h"], ["--help"])
        say(hint if asked else f"error: lightning {argv[0]}: {hint}", file=sys.stderr)
        return 0 if asked else 2
    return int(sdk.load()() or 0)


if __name__ == "__main__":
    sys.exit(main())
