"""Fine-tuning a small Qwen2.5-VL on tars, on this machine: `SFTTask` in rows of tokens against TRL's `SFTTrainer`.

Both get the same model, pictures (112 to 336 pixels a side), questions, answers (20 to 160 words), LoRA and number of samples; neither
checkpoints activations. The peer takes batches of eight, padded, as it refuses to pack pictures; our rows have as many tokens as eight
samples have on average. Rounds alternate, each of one epoch from the same weights, after one that counts nowhere; seconds are those of the
training loop without set-up, and the ratio is that of the medians. Each side has a process of its own for all rounds: in one process who
runs after another pays for what that left (in bfloat16 one second of four, as oneDNN keeps the kernels of the last shapes alone). Both
print their losses. With `--cache` ours runs once more with the frozen tower's features read from a cache that its first epoch wrote.
OpenMP threads wait as under `emo` (`wait_briefly`), on both sides.

The model has the proportions of the 3B where they decide what such a comparison says. As operations of a forward pass (`sft_given.shares`,
printed at the start), with the decoder's layers as 1: tower and merger are 0.77 in the 3B on pictures of 448 to 896 pixels with 130 tokens
of text (0.62 at 448, 0.85 at 896), and 0.76 here; the head, at every token, is 0.11 in both. Here pictures have fewer tokens, so the tower
is as wide as the decoder. A decoder layer is an eighth as wide, with the same ratio of attention to MLP and of heads to key-value heads;
adapters have rank 8, as 64 on 2,048. What does not scale down are layers: 6 in place of 36. The last one is computed by us only where the
loss reads it, which saves a larger share here: about 0.06 of the decoder's work in place of 0.02. `--model demo` takes a model of the sizes
of the demo's in its place (decoder 128 wide, 5 layers; tower 96 wide, 3 blocks), where work beside the products weighs more.

    uv pip install --target benchmarks/.peers --no-deps -r benchmarks/requirements-peers.txt
    python benchmarks/sft_peers.py [--quick] [--model 3b|demo] [--tuning lora,full] [--cache] [--half] [--samples 128] [--rounds 3]
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).parents[1]))

from emo_lightning.core.cores import wait_briefly

wait_briefly()  # as `emo` does; read when torch is imported

import lightning.pytorch as pl
import torch

from benchmarks import sft_given as given
from benchmarks.command import command_line, find_peers, write_json
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.families.qwen2_5_vl import QWEN2_5_VL
from emo_lightning.models.tiny import TinyQwen
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sft import SFTTask

BATCH = 8
RANK = 8
"""Of the adapters: 64 / 2,048 of the width, as in `configs/model/qwen2_5_vl_3b.yaml`."""
SIDES = (112, 336)
"""Pixels of a picture's side."""
PEERS_USED = ("trl", "accelerate", "datasets")
"""Packages that their side imports."""
TEXT = 130
"""Tokens of question and answer, on average."""


@dataclass(frozen=True)
class Setting:
    """What both sides share."""

    tars: str
    model: str
    tuning: Literal["lora", "full"]
    row: int
    """Tokens of eight samples on average."""
    half: bool
    """Weights in bfloat16, and bf16-mixed."""


@dataclass
class Took:
    """A round's training loop."""

    seconds: float = 0.0
    cpu: float = 0.0

    def start(self) -> None:
        self.seconds, self.cpu = -time.perf_counter(), -time.process_time()

    def stop(self) -> None:
        self.seconds += time.perf_counter()
        self.cpu += time.process_time()


class Clock(pl.Callback):
    """Seconds of the training loop."""

    def __init__(self) -> None:
        self.took = Took()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.took.start()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.took.stop()


def ours(setting: Setting, folder: str, cache: str | None = None) -> Took:
    """An epoch."""
    torch.manual_seed(0)
    cached: dict[str, Any] = {} if cache is None else {"vision_cache": cache}
    lora = None if setting.tuning == "full" else LoRA(rank=RANK, alpha=2 * RANK, dropout=0.0)
    backbone = BackboneConfig(
        setting.model, tuning=setting.tuning, lora=lora, dtype="bfloat16" if setting.half else "float32", **cached
    )
    data = ConversationDataModule([setting.tars], [setting.tars], {"caption": 1.0}, max_tokens=setting.row, allow_leaks=True)
    clock = Clock()
    off: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False
    )
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=1,
        limit_val_batches=0,
        callbacks=[clock],
        default_root_dir=folder,
        gradient_clip_val=1.0,
        precision="bf16-mixed" if setting.half else "32-true",
        **off,
    )
    trainer.fit(SFTTask(backbone, OptimConfig(lr=1e-4, warmup=0.0)), datamodule=data)
    loss = float(trainer.callback_metrics["train/loss"])
    print(
        f"ours{', cached' if cache else ''}: loss of the last row {loss:.3f}, {trainer.global_step} steps, {clock.took.cpu:.1f} s of CPU"
    )
    return clock.took


def theirs(setting: Setting, folder: str) -> Took:
    """The same by TRL."""
    from peft import LoraConfig
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    torch.manual_seed(0)
    took = Took()

    class Timed(TrainerCallback):
        def on_train_begin(self, *_: object, **__: object) -> None:
            took.start()

        def on_train_end(self, *_: object, **__: object) -> None:
            took.stop()

    config = SFTConfig(
        folder,
        per_device_train_batch_size=BATCH,
        num_train_epochs=1,
        learning_rate=1e-4,
        gradient_checkpointing=False,
        use_cpu=True,
        bf16=setting.half,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        max_length=None,
        dataloader_pin_memory=False,
    )
    adapter = LoraConfig(r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules=given.lora_targets())
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(setting.model, dtype="bfloat16" if setting.half else "float32")
    if setting.tuning == "full":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(QWEN2_5_VL.part_of(name) != "vision")
    trainer = SFTTrainer(
        model,
        config,
        train_dataset=given.dataset(setting.tars),
        processing_class=AutoProcessor.from_pretrained(setting.model),
        callbacks=[Timed()],
        peft_config=None if setting.tuning == "full" else adapter,
    )
    loss = trainer.train().training_loss
    print(f"TRL: mean loss {loss:.3f}, {trainer.state.global_step} steps, {took.cpu:.1f} s of CPU")
    return took


def own_process() -> ProcessPoolExecutor:
    """One new interpreter, which runs what it is given."""
    spawned = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, spawned, initializer=find_peers, initargs=PEERS_USED)


def compare(setting: Setting, count: int, rounds: int, folder: str, *, cache: bool) -> dict[str, Any]:
    """Rounds in turn; rates and ratios of the medians."""
    sides: dict[str, Any] = {"ours": ours, "trl": theirs}
    if cache:
        sides["cached"] = partial(ours, cache=f"{folder}/cache-{setting.tuning}")
    took: dict[str, list[Took]] = {name: [] for name in sides}
    with ExitStack() as stack:
        runs = {name: stack.enter_context(own_process()) for name in sides}

        def run(name: str, number: int) -> Took:
            found: Took = runs[name].submit(sides[name], setting, f"{folder}/{name}-{setting.tuning}-{number}").result()
            return found

        for name in sides:
            # Counts nowhere: it fills the cache, and loads what is loaded once.
            run(name, 0)
        for number in range(1, rounds + 1):
            for name, found in took.items():
                found.append(run(name, number))
            print("  ".join(f"{name} {count / one[-1].seconds:.2f} samples/s" for name, one in took.items()), flush=True)
    rate = {name: count / statistics.median(one.seconds for one in found) for name, found in took.items()}
    cpu = {name: statistics.median(one.cpu for one in found) for name, found in took.items()}
    found: dict[str, Any] = {
        "tuning": setting.tuning,
        "samples_per_s": rate,
        "cpu_seconds": cpu,
        "ratio": rate["ours"] / rate["trl"],
    }
    found["cpu_ratio"] = cpu["trl"] / cpu["ours"]
    said = f"{setting.tuning}: ours {rate['ours']:.2f} samples/s, TRL {rate['trl']:.2f}, ratio {found['ratio']:.2f}"
    said += f", in CPU time {found['cpu_ratio']:.2f}"
    if cache:
        found["cache_ratio"], found["cache_cpu_ratio"] = rate["cached"] / rate["ours"], cpu["ours"] / cpu["cached"]
        said += (
            f"; cached {rate['cached']:.2f}, over live {found['cache_ratio']:.2f}, in CPU time {found['cache_cpu_ratio']:.2f}"
        )
    print(said, flush=True)
    return found


def main() -> None:
    """Every way of tuning in turn."""
    parser = command_line(__doc__, "few samples, one round: that it runs, not how fast")
    parser.add_argument("--model", default="3b", choices=("3b", "demo"), help="whose proportions the small model has")
    parser.add_argument("--tuning", default="lora", help="lora, full (all weights but the vision tower's), or lora,full")
    parser.add_argument("--cache", action="store_true", help="also with the frozen tower's features from a cache")
    parser.add_argument("--half", action="store_true", help="both in bfloat16 (weights, and bf16-mixed), as the 3B is trained")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    tunings: list[Any] = asked.tuning.split(",")
    if unknown := set(tunings) - {"lora", "full"}:
        parser.error(f"--tuning: found {', '.join(unknown)}; allowed: lora, full")
    count, rounds = (16, 1) if asked.quick else (asked.samples, asked.rounds)
    # Before ours has trained for a round.
    find_peers(*PEERS_USED)
    for name, config, sides in (("3B", given.published_3b(), (448, 896)), ("the small 3B", given.small_3b(), SIDES)):
        share = given.shares(config, sides, TEXT)
        print(f"{name}, {sides[0]}-{sides[1]} pixels: vision {share.tower:.2f} and head {share.head:.2f} of the decoder's work")
    with tempfile.TemporaryDirectory() as folder:
        tars = given.Pictures(count, SIDES, (20, 160)).write(Path(folder) / "tars")
        build = given.build_small if asked.model == "3b" else partial(given.build_tiny, sizes=TinyQwen())
        model = build(Path(folder) / "model", tars, SIDES[1] ** 2)
        lengths = given.token_lengths(tars, model)
        row = int(BATCH * lengths.mean()) + int(lengths.max()) // 2
        print(f"{count} samples of {lengths.min()} to {lengths.max()} tokens, {lengths.mean():.0f} on average; rows of {row}")
        found = [
            compare(Setting(tars, str(model), tuning, row, asked.half), count, rounds, folder, cache=asked.cache)
            for tuning in tunings
        ]
    write_json(
        asked.json,
        "TRL's SFTTrainer",
        found[0]["ratio"],
        {"model": asked.model, "half": asked.half, "samples": count, "tunings": found},
    )


if __name__ == "__main__":
    main()
