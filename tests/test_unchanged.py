"""What must not change when code moves: ten losses of every training, the demo's tables, and the bytes of an export.

All of it is made by `emo` in fresh processes with one thread each, and read from the files that it writes; nothing of the packages
is imported here. The values are stored in `tests/unchanged/`:

    losses.json   ten optimiser steps of `tests/unchanged/steps.yaml`: fine-tuning of all weights and of adapters, and the DES head
    tables.json   `emo demo --fast` with one seed and few images: Tables 5 and 6, MDS, probes, every training's losses, all answers
    export.json   tars, dataset cards and manifests of the demo's store and of a folder of images; graph and statistics of the store

Beside each stands what its values depend on: for the floating-point ones the CPU and the versions of what computes, for the export the
encoders of images. Where that is the same here, all values must be equal to the last bit. Elsewhere losses must be close, tables must
have the same rows and columns, and exports the same counts; a warning says that no more was compared. To compare to the bit on another
machine, store its values at the older commit first.

After a change of behaviour that is meant, store the new values, look at their difference, and commit them with the change:

    python -m tests.test_unchanged --renew                # all three
    python -m tests.test_unchanged --renew export         # one of losses, tables, export
    EMO_RENEW_UNCHANGED=1 python -m pytest tests/test_unchanged.py
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
STORED = Path(__file__).parent / "unchanged"
RENEW = "EMO_RENEW_UNCHANGED"

CLOSE = 1e-3
"""Relative difference that a loss may have on another CPU."""

FEW = {
    "train": 96,
    "val": 24,
    "test": 24,
    "heldout": 16,
    "clip_steps": 10,
    "attribute_epochs": 2,
    "emotion_epochs": 3,
    "des_epochs": 3,
}
"""Of the demo: enough that answers can be read, boxes overlap and arms differ."""


# `emo`, as a user starts it


def emo(work: Path, *words: str | Path) -> str:
    """Standard output of `emo WORDS` in a fresh process that computes with one thread, on the CPU and without a network."""
    work.mkdir(parents=True, exist_ok=True)
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    alone = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "PYTHONPATH": path}
    code = "import sys; from emo_lightning.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *map(str, words)]
    done = subprocess.run(
        command, cwd=work, env=os.environ | threads | alone, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, f"emo {' '.join(command[3:])}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def demo_words(work: Path) -> list[str | Path]:
    """Of the demo in a folder, as `emo` is given them."""
    changes = [word for name, value in FEW.items() for word in (f"--vars.{name}", str(value))]
    run: list[str | Path] = ["demo", "--fast", "--runs", work / "runs", "--name", "demo"]
    # Neutral captions are none of the demo, and are exported like it.
    changes += ["--vars.shown", "1", "--world.pretrain", "160"]
    return [*run, *changes, "--trainer.log_every_n_steps", "1"]


def demo(work: Path, *options: str) -> Path:
    """Folder of the demo's run; what it has finished already is not done again."""
    run = work / "runs" / "demo"
    if not (run / "report.html").exists():
        emo(work, *demo_words(work), *options)
    return run


# What is compared


def find_losses(work: Path) -> dict[str, Any]:
    """By stage of `steps.yaml` and by column of its log: the values in the order of the steps."""
    emo(work, "run", STORED / "steps.yaml", "--runs", work / "runs", "--name", "steps")
    return logged(work / "runs" / "steps")


def find_tables(work: Path) -> dict[str, Any]:
    """By file of the demo's run: everything in it that is a result."""
    run = demo(work)
    found = {str(path.relative_to(run)): json.loads(path.read_text()) for path in _results(run)}
    for name, content in found.items():
        if name.endswith("training.json"):
            content.pop("perf", None)
    found["answers"] = {
        str(path.relative_to(run)): sha256(path.read_bytes()) for path in sorted(run.glob("*/predictions.jsonl"))
    }
    found["report_tables"] = {path.name: sha256(_figures(path)) for path in _tables_of_the_report(run)}
    return found | {"logs": logged(run, without="probe-")}


def _results(run: Path) -> Iterator[Path]:
    for pattern in ("table5/table5.json", "table6/table6.json", "table6/page.json", "mds/mds.json"):
        yield run / pattern
    yield from sorted(run.glob("probe-*/metrics.json"))
    yield from sorted(run.glob("*/training.json"))


def _tables_of_the_report(run: Path) -> list[Path]:
    return sorted(path for name in ("table5", "table6", "mds") for path in run.glob(f"report_tables/{name}-*.csv"))


def _figures(table: Path) -> bytes:
    """A table without its sources: they are command, commit, clock time and folder of this run."""
    with open(table, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return json.dumps([{name: cell for name, cell in row.items() if name != "sources"} for row in rows]).encode()


def find_export(work: Path) -> dict[str, Any]:
    """Hashes of all files of five exports, and what was counted on the way."""
    run = demo(work, "--only", "world")
    store = run / "world" / "store"
    emo(work, "prep", "export", store, work / "again", "--name", "unchanged", "--samples-per-shard", "32")
    photographs = unpack(run / "world" / "reference", work / "photographs")
    emo(work, "prep", "import", "fi", photographs, "--into", work / "own", "--licence", "CC0-1.0")
    emo(work, "prep", "export", work / "own", work / "splits", "--name", "own", "--labels", "source")
    emo(work, "prep", "graph", store, "--out", work / "graph")
    folders = {name: run / "world" / name for name in ("tars", "reference", "neutral")} | {
        name: work / name for name in ("again", "splits")
    }
    files = {f"{name}/{p.name}": sha256(p.read_bytes()) for name, folder in folders.items() for p in sorted(folder.iterdir())}
    graph = {f"graph/{path.name}": sha256(path.read_bytes()) for path in sorted((work / "graph").glob("*.graphml"))}
    preparation = json.loads((run / "world" / "prep.json").read_text())
    # Clock times, and folders of this run.
    for name in ("seconds", "annotate_seconds", "paths"):
        del preparation[name]
    return {
        "files": files | graph,
        "manifests": {name: json.loads((folder / "manifest.json").read_text()) for name, folder in folders.items()},
        "preparation": preparation,
        "statistics": json.loads(emo(work, "prep", "stats", store, "--json")),
    }


def unpack(tars: Path, out: Path) -> Path:
    """The images of tars in a folder per emotion, as FI comes: a source with labels and without splits."""
    for path in sorted(tars.glob("*.tar")):
        with tarfile.open(path) as tar:
            content = {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]
        for name, data in content.items():
            key, _, extension = name.rpartition(".")
            if extension != "json":
                folder = out / "emotion_dataset" / json.loads(content[f"{key}.json"])["emotion"]
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
    return out


def sha256(data: bytes) -> str:
    """In hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def logged(run: Path, *, without: str | None = None) -> dict[str, dict[str, list[float]]]:
    """By stage, and by column of its CSV log but epoch, step and speed: the values in their order. CSV keeps every bit of a float."""
    found: dict[str, dict[str, list[float]]] = {}
    for path in sorted(run.glob("*/logs/version_0/metrics.csv")):
        stage = path.relative_to(run).parts[0]
        if without and stage.startswith(without):
            continue
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        columns = sorted(name for name in set(rows[0]) - {"epoch", "step"} if not name.startswith("perf/"))
        found[stage] = {column: [float(row[column]) for row in rows if row[column]] for column in columns}
    return found


# What the values depend on


@cache
def _versions(*packages: str) -> dict[str, str]:
    return {package: version(package) for package in packages}


def fingerprint_of_floats() -> dict[str, Any]:
    """With another CPU or version, sums are added up in another order. One thread, so the number of cores is not among them."""
    import torch

    packages = (
        "torch",
        "torchvision",
        "lightning",
        "transformers",
        "tokenizers",
        "peft",
        "numpy",
        "scipy",
        "scikit-learn",
        "pillow",
    )
    return {
        "machine": platform.machine(),
        "cpu": _cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": 1,
        "versions": _versions(*packages),
    }


def _cpu() -> str:
    """Vendor, family and model: by these the libraries choose their kernels."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    found = [re.search(rf"^{name}\s*:\s*(.+)$", text, re.MULTILINE) for name in ("vendor_id", "cpu family", "model")]
    return " ".join(match[1] for match in found if match) or platform.processor()


def fingerprint_of_images() -> dict[str, Any]:
    """An export is integers and text, but for its images: another encoder writes other bytes of the same drawing."""
    from PIL import features

    encoders = {name: features.version(name) for name in ("jpg", "libjpeg_turbo", "webp", "zlib", "zlib_ng")}
    return {"machine": platform.machine(), "encoders": encoders, "versions": _versions("pillow", "numpy")}


# Comparison


def differences(stored: object, found: object, path: str = "", close: float = 0.0) -> Iterator[str]:
    """One line per value that differs; floats may differ by a share of `close`, and nothing else may."""
    if isinstance(stored, dict) and isinstance(found, dict):
        for key in [*stored, *(key for key in found if key not in stored)]:
            here = f"{path}/{key}"
            if key not in found or key not in stored:
                yield f"{here}: {'is gone' if key in stored else 'is new'}"
            else:
                yield from differences(stored[key], found[key], here, close)
    elif isinstance(stored, list) and isinstance(found, list):
        if len(stored) != len(found):
            yield f"{path}: {len(stored)} values stored, {len(found)} found"
        for n, (one, other) in enumerate(zip(stored, found, strict=False)):
            yield from differences(one, other, f"{path}[{n}]", close)
    elif repr(stored) != repr(found) and not (
        close and isinstance(stored, float) and isinstance(found, float) and math.isclose(stored, found, rel_tol=close)
    ):
        yield f"{path}: {stored!r} stored, {found!r} found"


def only_losses(tree: dict[str, Any]) -> dict[str, Any]:
    """Without what counts right answers: one more image makes a jump."""
    return {stage: {name: values for name, values in columns.items() if "loss" in name} for stage, columns in tree.items()}


def only_shape(tree: Mapping[str, object]) -> dict[str, Any]:
    """Keys and nothing else."""
    return {key: only_shape(value) if isinstance(value, dict) else None for key, value in tree.items()}


def only_counts(tree: dict[str, Any]) -> dict[str, Any]:
    """Of exports whose images were not annotated: what another encoder leaves as it is."""
    names = ("counts", "label_counts", "contents", "excluded", "schema_version", "name")
    return {part: {name: tree["manifests"][part][name] for name in names} for part in ("reference", "neutral")}


Tree = dict[str, Any]
PARTS: dict[str, tuple[Callable[[Path], Tree], Callable[[], Tree], Callable[[Tree], Tree], float]] = {
    "losses": (find_losses, fingerprint_of_floats, only_losses, CLOSE),
    "export": (find_export, fingerprint_of_images, only_counts, 0.0),
    "tables": (find_tables, fingerprint_of_floats, only_shape, 0.0),
}
"""By file: how its values are found, what they depend on, which of them are compared where that differs, and how closely."""


def renew(part: str, found: Tree) -> None:
    """Store what was found."""
    stored = {"depends_on": PARTS[part][1](), "values": found}
    text = json.dumps(stored, indent=1, ensure_ascii=False)
    # Rows of numbers on one line each: a screen shows more of them.
    text = re.sub(r"\[[^\[\]{}]*\]", lambda match: re.sub(r"\s*\n\s*", " ", match[0]), text)
    (STORED / f"{part}.json").write_text(text + "\n", encoding="utf-8")


def check(part: str, found: Tree) -> None:
    """Compare with what is stored, or store it where the environment asks for that."""
    if os.environ.get(RENEW):
        renew(part, found)
        return
    _, fingerprint, portable, close = PARTS[part]
    stored = json.loads((STORED / f"{part}.json").read_text(encoding="utf-8"))
    # As it looks when it has been stored.
    values, found = stored["values"], json.loads(json.dumps(found))
    other = list(differences(stored["depends_on"], json.loads(json.dumps(fingerprint()))))
    if other:
        warnings.warn(f"{part} not compared to the bit: {'; '.join(other)}", stacklevel=2)
        values, found = portable(values), portable(found)
    lines = list(differences(values, found, close=close if other else 0.0))
    more = f"\n… and {len(lines) - 30} more" if len(lines) > 30 else ""
    if lines:
        pytest.fail(f"{len(lines)} values of {part} differ:\n" + "\n".join(lines[:30]) + more, pytrace=False)


@pytest.mark.slow
def test_losses_of_ten_steps(tmp_path: Path) -> None:
    found = find_losses(tmp_path)
    assert {stage: len(columns["train/loss"]) for stage, columns in found.items()} == dict.fromkeys(
        ("full", "adapters", "des", "online"), 10
    )
    check("losses", found)


@pytest.mark.slow
@pytest.mark.parametrize("part", ["export", "tables"])
def test_bytes_of_an_export_and_tables_of_the_demo(part: str, demo_folder: Path) -> None:
    check(part, PARTS[part][0](demo_folder))


def main(argv: list[str]) -> int:
    """`python -m tests.test_unchanged --renew [PART …]`."""
    parts = argv[1:] or list(PARTS)
    if argv[:1] != ["--renew"] or not set(parts) <= set(PARTS):
        print(f"usage: python -m tests.test_unchanged --renew [{'|'.join(PARTS)} …]", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        for part in parts:
            renew(part, PARTS[part][0](Path(folder)))
            print(f"stored {STORED / f'{part}.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
