"""Fine-tuning Qwen2.5-VL-3B in its true shapes, in rows of tokens, beside TRL and plain transformers: speed, memory and waits.

Every cell of the table is a fit of some steps in a fresh process: ours by `SFTTask` and `ConversationDataModule`, as a user has them,
from tars of drawn pictures with answers of 60 to 180 words; the peers on the same model and samples, as many a step as fill a row on
average. Random weights. What is printed are our own `perf/…` figures, by one formula for all sides; first steps do not count.

    python benchmarks/sft_3b.py                       # one cell (LoRA, 8,192 tokens, 448 pixels) and the peers beside it
    python benchmarks/sft_3b.py --matrix --json FILE  # 8k, 16k, 32k tokens x LoRA, QLoRA, full x live, cached x 448, 896 pixels
    python benchmarks/sft_3b.py --quick               # a tiny model and short rows on a CPU: that every option runs, not how fast

MFU is model FLOPs (what the step needs; what checkpointing computes again does not count) per second as a share of the GPU's dense bf16
peak. "calls" are those of attention a layer of either tower, "waits" those for the device in a forward pass (on a CPU: operations that
would be). A cell that fails says why and the next one runs. Peers: see `sft_peers.py`.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import multiprocessing.connection
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

from emo_lightning.core.cores import wait_briefly

wait_briefly()  # as `emo` does; read when torch is imported

import torch

from benchmarks import sft_given as given
from benchmarks.command import command_line, find_peers, write_json
from benchmarks.sft_cell import Cell, Place, measure
from emo_lightning.models.preload import preload

Side = Literal["ours", "trl", "transformers"]
NAMES: dict[Side, str] = {"trl": "TRL's SFTTrainer", "transformers": "transformers in a plain loop"}
MATRIX: dict[str, list[Any]] = {
    "tokens": [8192, 16384, 32768],
    "tuning": ["lora", "qlora", "full"],
    "vision": ["live", "cached"],
    "pixels": [448, 896],
}
QUICK: dict[str, list[Any]] = {
    "tokens": [640],
    "tuning": ["lora", "qlora", "full"],
    "vision": ["live", "cached"],
    "pixels": [56, 112],
}


def in_a_process(work: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """What `work` gives in a fork of this process, which never computes: a fresh one but for its imports.

    Returns:
        Its result, or `error`: the last line of what it raised, or the signal that killed it.
    """
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(send, work, arguments))
    process.start()
    send.close()
    try:
        found: dict[str, Any] = receive.recv()
    except EOFError:
        found = {}
    process.join()
    return found or {"error": f"process ended with {process.exitcode}"}


def _child(
    send: multiprocessing.connection.Connection, work: Callable[..., dict[str, Any]], arguments: tuple[object, ...]
) -> None:
    # A fork leaves torch's thread pool without its threads.
    torch.set_num_threads(torch.get_num_threads())
    if not os.environ.get("EMO_BENCHMARK_LOG"):
        # Progress bars and remarks of libraries, in the middle of the table.
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
    warnings.simplefilter("ignore")
    try:
        send.send(work(*arguments))
    # Every failure is named in the table: out of memory, a package that lacks, an option that a side refuses.
    except Exception as error:
        said = str(error).strip().splitlines()
        send.send({"error": f"{type(error).__name__}: {said[0][:160] if said else ''}"})


def prepare(folder: Path, quick: bool, pixels: list[int], samples: int, device: str) -> dict[str, Any]:
    """Tars of each size of pictures and one model; `places` by that size, and the name of the device."""
    places = {}
    model = folder / "model"
    for side in pixels:
        where = folder / f"tars-{side}"
        tars = given.Pictures(samples, (side, side), (8, 40) if quick else (60, 180)).write(where)
        if not model.exists():
            largest = max(pixels) ** 2
            given.build_tiny(model, tars, largest) if quick else given.build_3b(model, tars, largest, device)
        mean = float(given.token_lengths(tars, model).mean())
        places[side] = Place(model, tars, folder / f"cache-{side}", mean)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {"places": places, "device": name}


def cells(asked: argparse.Namespace) -> list[Cell]:
    """Every combination: the peers, which have no cache, and ours beside them."""
    fixed = {name: getattr(asked, name) for name in ("compile", "train_vision", "dtype", "rank", "dropout", "workers", "steps")}
    found: list[Cell] = []
    for tokens, pixels, tuning, checkpointing in itertools.product(
        asked.tokens, asked.pixels, asked.tuning, asked.checkpointing
    ):
        shape = {"tokens": tokens, "pixels": pixels, "tuning": tuning, "checkpointing": checkpointing, **fixed}
        found += [Cell(peer, **shape) for peer in asked.peers]
        found += [Cell("ours", vision=vision, **shape) for vision in asked.vision]
    return found


COLUMNS = (
    "side | tuning | vision | pixels | tokens | checkpointing | tokens/s | images/s | MFU | GiB | wait | fill | padding | calls | waits | "
    "loss | × TRL"
)


def line(cell: Cell, row: dict[str, Any], beside: dict[str, Any] | None) -> str:
    """A row of the Markdown table."""
    what = f"| {cell.side} | {cell.tuning} | {cell.vision} | {cell.pixels} | {cell.tokens} | {cell.checkpointing} |"
    if "error" in row:
        return f"{what} {row['error']} |" + " |" * 10
    calls = " + ".join(f"{row['counts']['calls'][tower]:g}" for tower in ("vision", "language"))
    mfu = f"{row['mfu']:.1%}" if "mfu" in row else "–"
    times = f"{row['tokens_per_s'] / beside['tokens_per_s']:.2f}" if beside and "error" not in beside else "–"
    return (
        f"{what} {row['tokens_per_s']:,.0f} | {row['images_per_s']:.2f} | {mfu} | {row['memory']:.2f} | {row['data_wait']:.1%} | "
        f"{row['fill']:.1%} | {row['padding']:.1%} | {calls} | {row['counts']['waits']} | {row['loss']:.3f} | {times} |"
    )


def ratio_of(rows: dict[Cell, dict[str, Any]], side: Side = "trl") -> float | None:
    """Geometric mean of our tokens/s over a peer's, over all live cells in which both ran."""
    found = []
    for cell, row in rows.items():
        peer = rows.get(replace(cell, side=side), {})
        if cell.side == "ours" and cell.vision == "live" and "tokens_per_s" in row and "tokens_per_s" in peer:
            found.append(math.log(row["tokens_per_s"] / peer["tokens_per_s"]))
    return math.exp(sum(found) / len(found)) if found else None


def options() -> argparse.Namespace:
    """The command line; all that a cell has is a flag, several values stand with commas between."""
    parser = command_line(__doc__, "tiny model, short rows, on the CPU")
    parser.add_argument(
        "--matrix", action="store_true", help="every value of the issue's table, where a flag does not say another"
    )
    parser.add_argument("--tokens", type=_many(int), help="of a row")
    parser.add_argument("--tuning", type=_many(str, "lora", "qlora", "full"))
    parser.add_argument("--vision", type=_many(str, "live", "cached"), help="the frozen tower: run in each step, or read")
    parser.add_argument("--pixels", type=_many(int), help="sides of the square pictures")
    parser.add_argument("--checkpointing", type=_many(_switch), default=[True], help="true, false, every_2 … every_4")
    parser.add_argument("--peers", type=_many(str, "trl", "transformers"), default=["trl", "transformers"], help="'' for none")
    parser.add_argument("--compile", action="store_true", help="compile blocks; peers compile the model")
    parser.add_argument("--train-vision", action="store_true", help="the vision tower learns too")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), help="of the weights; --quick has float32")
    parser.add_argument("--rank", type=int, default=64, help="of the adapters")
    parser.add_argument("--dropout", type=float, default=0.05, help="of the adapters")
    parser.add_argument("--workers", type=int, help="processes that read ahead, on all sides")
    parser.add_argument("--steps", type=int, help="that count")
    parser.add_argument("--folder", type=Path, help="where model and tars are written for the run; 8 GB for the 3B")
    asked = parser.parse_args()
    if not asked.quick and not torch.backends.cuda.is_built():
        parser.error("this torch has no CUDA: only --quick runs here")
    usual = QUICK if asked.quick else MATRIX if asked.matrix else {name: values[:1] for name, values in MATRIX.items()}
    for name, values in usual.items():
        if getattr(asked, name) is None:
            setattr(asked, name, values)
    asked.steps = asked.steps or (2 if asked.quick else 6)
    asked.dtype = asked.dtype or ("float32" if asked.quick else "bfloat16")
    asked.workers = asked.workers if asked.workers is not None else 0 if asked.quick else 4
    return asked


def _many(kind: Callable[[str], Any], *allowed: str) -> Callable[[str], list[Any]]:
    """Values with commas between."""

    def read(text: str) -> list[Any]:
        words = [word.strip() for word in text.split(",") if word.strip()]
        if allowed and (wrong := [word for word in words if word not in allowed]):
            msg = f"found {', '.join(wrong)}; allowed: {', '.join(allowed)}"
            raise argparse.ArgumentTypeError(msg)
        return [kind(word) for word in words]

    return read


def _switch(text: str) -> bool | str:
    known: dict[str, bool | str] = {"true": True, "false": False} | {f"every_{n}": f"every_{n}" for n in (2, 3, 4)}
    if text not in known:
        msg = f"found {text}; allowed: {', '.join(known)}"
        raise argparse.ArgumentTypeError(msg)
    return known[text]


def main() -> None:
    """Every cell in turn, and the table."""
    asked = options()
    # Before anything is built: a peer that is not there is no cell that fails.
    find_peers(*(["trl", "accelerate", "datasets"] if "trl" in asked.peers else []))
    preload()
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        samples = 24 if asked.quick else max(64, (asked.steps + 2) * max(asked.tokens) // 500)
        device = "cpu" if asked.quick else "cuda"
        made = in_a_process(prepare, Path(folder), asked.quick, asked.pixels, samples, device)
        if "error" in made:
            sys.exit(f"preparing failed: {made['error']}")
        print(f"{made['device']}, torch {torch.__version__}, {'tiny model' if asked.quick else '3B, random weights'}\n")
        print(f"| {COLUMNS} |\n|" + "---|" * len(COLUMNS.split("|")), flush=True)
        rows: dict[Cell, dict[str, Any]] = {}
        for cell in cells(asked):
            rows[cell] = in_a_process(measure, cell, made["places"][cell.pixels])
            print(line(cell, rows[cell], rows.get(replace(cell, side="trl", vision="live"))), flush=True)
    table = {"device": made["device"], "quick": asked.quick, "cells": [{**asdict(cell), **row} for cell, row in rows.items()]}
    if not asked.peers:
        write_json(asked.json, "nothing: --peers ''", None, table)
        return
    # TRL where it is among them.
    side: Side = "trl" if "trl" in asked.peers else "transformers"
    ratio = ratio_of(rows, side)
    write_json(asked.json, NAMES[side], ratio, table)
    if ratio is None:
        sys.exit(f"error: {NAMES[side]} ran beside none of ours: there is no ratio")
    print(f"\nours over {NAMES[side]}, tokens/s, geometric mean over live cells: {ratio:.2f}")


if __name__ == "__main__":
    main()
