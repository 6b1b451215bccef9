"""`emo` and `lightning run`: picks the command; nothing heavy is imported before one is chosen."""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
import traceback

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("emo_lightning.commands.demo", "the whole road on a small drawn world whose truth is known"),
    "prep": ("data_prep.cli", "images -> annotated, verified records -> WebDataset tars"),
    "run": ("emo_lightning.commands.run", "run an experiment (same as `lightning run`)"),
    "sweep": ("emo_lightning.commands.sweep", "an experiment over many settings, on W&B or on this machine alone"),
    "predict": ("emo_lightning.commands.predict", "what a model, or an endpoint, says of images -> a predictions file"),
    "eval": ("emo_lightning.commands.eval", "score a predictions file (Table 5)"),
    "calibrate": ("emo_lightning.commands.calibrate", "calibration, temperature and conformal sets of predicted probabilities"),
    "cross-dataset": ("emo_lightning.commands.cross_dataset", "several models on several data sets, against the untuned base"),
    "faithfulness": ("emo_lightning.commands.faithfulness", "does the emotion hang on the region that its words point at"),
    "embed": ("emo_lightning.commands.embed", "images or tars -> emotion embeddings (DES)"),
    "explain": ("emo_lightning.commands.explain", "one image -> triplet, boxes, emotion, intensity, and an overlay"),
    "des": ("emo_lightning.commands.des", "what the embedding space can do: retrieval, distance, interpolation, stability"),
    "report": ("emo_lightning.commands.report", "one self-contained HTML page from finished runs"),
    "export": ("emo_lightning.commands.export", "merge an adapter into a plain transformers model"),
}

_HIDDEN = {"_stage": "emo_lightning.commands.stage"}
_NAMED_ERRORS = {
    "StageFailed": "",
    # Of Lightning: the Trainer was asked for what this machine or strategy cannot do.
    "MisconfigurationException": "",
    # Of wandb: no key; no network; a key that is refused.
    "UsageError": "",
    "CommError": "W&B does not answer (WANDB_MODE=offline keeps the run on disk, for `wandb sync`): ",
    "AuthenticationError": "",
}
"""Errors known by name, as their packages are not imported here, with what to put before their message."""
_USER_ERRORS = (ValueError, FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)


def usage() -> str:
    """The help page."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: emo COMMAND [ARGUMENTS]", "", "Interpretable visual emotion analysis.", "", *lines, "",
         "`emo COMMAND --help` shows a command's arguments and an example.", "example: emo demo --fast"]
    )  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Entry point of `emo`; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        from importlib.metadata import version

        print(version("emo-lightning"))
        return 0
    name, rest = argv[0], argv[1:]
    module = _HIDDEN.get(name) or COMMANDS.get(name, (None,))[0]
    if module is None:
        print(f"emo: unknown command {name!r}; allowed: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    # Before torch is loaded. By default OpenMP's threads spin while they wait: with one other busy process on two cores a training
    # step took nine times as long (experiments/LOG.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return int(importlib.import_module(module).main(rest) or 0)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from what is finished", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of our output has gone (`emo … | head`): no error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return explain_error(error)


def explain_error(error: BaseException, prefix: str = "") -> int:
    """Print what the user can act on as one line, anything else with its traceback; returns the exit code."""
    kind = type(error).__name__
    full = _no_room(error)
    known = isinstance(error, _USER_ERRORS) or kind in _NAMED_ERRORS or full is not None
    if not known or os.environ.get("EMO_TRACEBACK"):
        traceback.print_exception(error)
    message = str(error)
    if isinstance(error, FileNotFoundError) and error.filename and error.strerror:
        message = f"{error.filename}: no such file"
    if full is not None:
        message = f"cannot write: {full}; make room, then run the same command again"
    elif known and message.startswith("Caught ") and "in DataLoader worker process" in message:
        # PyTorch sends the worker's whole traceback as the message; its last line is "module.Error: what our error said".
        message = message.strip().splitlines()[-1].partition(": ")[2]
    message = _NAMED_ERRORS.get(kind, "") + " ".join(message.split())
    print(f"error: {prefix}{message}", file=sys.stderr)
    return 2 if known else 1


def _no_room(error: BaseException | None) -> str | None:
    """What the system says where a file could not be written for want of room (or permission to grow), else None."""
    while error is not None:
        number = error.errno if isinstance(error, OSError) else None
        # safetensors reports the system's number in its text alone.
        if number is None and (match := re.search(r"\(os error (\d+)\)", str(error))):
            number = int(match[1])
        if number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
            where = getattr(error, "filename", None)
            return os.strerror(number) + (f" ({where})" if where else "")
        error = error.__cause__ or error.__context__
    return None


def lightning_main() -> int:
    """Entry point of `lightning`: `lightning run X` is `emo run X`, the rest belongs to lightning-sdk."""
    argv = sys.argv[1:]
    if argv[:1] == ["run"]:
        return main(argv)
    try:
        from importlib.metadata import distribution

        sdk = next(
            e for e in distribution("lightning-sdk").entry_points if e.name == "lightning" and e.group == "console_scripts"
        )
    except Exception:
        print(
            "usage: lightning run EXPERIMENT.yaml [--key value …]   (see: lightning run --help)\n"
            "Every other `lightning` command belongs to Lightning's SDK: pip install lightning-sdk",
            file=sys.stderr,
        )
        return 0 if argv[:1] in ([], ["-h"], ["--help"]) else 2
    return int(sdk.load()() or 0)


if __name__ == "__main__":
    sys.exit(main())
