"""Fine-tuning and features of Qwen2.5-VL-3B in its true shapes with random weights, on one GPU: time, memory, and the peers beside it.

One fit of `SFTTask` per configuration, by the Lightning Trainer, on one batch of images with answers of unequal lengths. Steps alternate:
ours (logits at the answers' positions alone, all windows of the vision tower at once, a frozen tower left alone) and the peer, the same step
as transformers has it: `model(labels=…)`, logits of all positions, attention window by window, inputs that require gradients where
checkpointing is on. Features: `Backbone.hidden_states` (last four layers, no head) and the peer, transformers' own
`model(output_hidden_states=True)`. All ratios are of medians within one fit.

    python benchmarks/sft_3b.py [--batch 8] [--steps 6] [--only "lora;qlora;features"] [--json FILE]
    python benchmarks/sft_3b.py --tiny        # a small model on any machine: that it runs, not how fast

MFU is model FLOPs (what the step needs; recomputation of checkpointing does not count) per second as a share of the device's dense bf16
peak: 2 per weight and token forward, as much for gradients of activations where something before trains, and again where the weights
themselves train; attention's products beside them.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from PIL import Image
from torch import Tensor
from transformers import Qwen2_5_VLConfig

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import IGNORE
from emo_lightning.models.backbone import Backbone, BackboneConfig, LoRA, load_backbone
from emo_lightning.models.families.qwen2_5_vl import QWEN2_5_VL
from emo_lightning.models.tiny import TinyQwen, build_processor, build_qwen, build_tokenizer
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sft import SFTTask
from emo_lightning.tasks.throughput import PEAKS

PROMPT, ANSWER = 100, (60, 180)
"""Tokens of a question beside its image, and the shortest and longest answer."""

WARMUP = 2
"""Steps of each kind that are not counted."""

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "lora": {"tuning": "lora", "gradient_checkpointing": True},
    "lora, no checkpointing": {"tuning": "lora"},
    "lora + vision": {"tuning": "lora", "train_vision": True, "gradient_checkpointing": True},
    "qlora": {"tuning": "qlora", "gradient_checkpointing": True},
    "full": {"tuning": "full", "gradient_checkpointing": True},
    "full, no checkpointing": {"tuning": "full"},
    "full, float32 weights": {"tuning": "full", "gradient_checkpointing": True, "dtype": "float32"},
    "full + vision": {"tuning": "full", "train_vision": True, "gradient_checkpointing": True},
}
"""By default the vision tower is frozen, merger and language model train, weights are bfloat16. experiments/authors.yaml is the one with
float32 weights, round1.yaml the first."""


def published_3b() -> Qwen2_5_VLConfig:
    """The configuration of Qwen/Qwen2.5-VL-3B-Instruct (its config.json)."""
    return Qwen2_5_VLConfig(
        text_config={
            "hidden_size": 2048,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "intermediate_size": 11008,
            "vocab_size": 151936,
            "max_position_embeddings": 128000,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 32,
            "hidden_size": 1280,
            "num_heads": 16,
            "intermediate_size": 3420,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
            "out_hidden_size": 2048,
        },
        tie_word_embeddings=True,
    )


def build(folder: Path, tiny: bool, device: str) -> Path:
    """A model folder with random weights, as a download would be: `load_backbone` reads it like any other."""
    if tiny:
        sizes = TinyQwen(hidden_size=64, layers=4, heads=4, vision_hidden=32, vision_layers=2, vocabulary=900)
        return build_qwen(folder / "model", ["dog"], sizes, max_pixels=112 * 112)
    from transformers import Qwen2_5_VLForConditionalGeneration

    config = published_3b()
    tokenizer = build_tokenizer(["dog"], vocabulary=900, max_number=168)
    names = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"}
    names |= {f"vision_{end}_token_id": f"<|vision_{end}|>" for end in ("start", "end")}
    assert set(names.values()) <= set(QWEN2_5_VL.special_tokens)
    for key, token in names.items():
        setattr(config, key, tokenizer.convert_tokens_to_ids(token))
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder / "model")
    build_processor(tokenizer, {"shortest_edge": 3136, "longest_edge": 200704}, 14).save_pretrained(folder / "model")
    return folder / "model"


def synthetic(backbone: Backbone, batch: int, side: int) -> dict[str, Any]:
    """What the collator would give: square images of `side` pixels, a prompt, an answer of random length, padded on the right."""
    generator = torch.Generator().manual_seed(0)
    processor = backbone.processor
    noise = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8, generator=generator).numpy()
    vision = processor.image_processor([Image.fromarray(picture) for picture in noise], return_tensors="pt")
    tokens = int(vision["image_grid_thw"][0].prod()) // processor.image_processor.merge_size**2
    lengths = torch.randint(ANSWER[0], ANSWER[1] + 1, (batch,), generator=generator)
    lengths[0] = ANSWER[1]
    width = PROMPT + tokens + ANSWER[1]
    # Past the special tokens, so that none of them appears by chance.
    ids = torch.randint(len(QWEN2_5_VL.special_tokens), len(processor.tokenizer), (batch, width), generator=generator)
    half = PROMPT // 2
    image, start = QWEN2_5_VL.image_token_id(processor), processor.tokenizer.convert_tokens_to_ids("<|vision_start|>")
    assert isinstance(start, int)
    ids[:, half : half + tokens] = image
    ids[:, half - 1] = start
    place = torch.arange(width).expand(batch, -1)
    real = place < PROMPT + tokens + lengths[:, None]
    return {
        "input_ids": ids,
        "attention_mask": real.long(),
        "mm_token_type_ids": (ids == image).long(),
        "filler": torch.zeros(batch, dtype=torch.bool),
        "pixel_values": vision["pixel_values"],
        "image_grid_thw": vision["image_grid_thw"],
        "labels": ids.masked_fill(~real | (place < PROMPT + tokens), IGNORE),
    }


class OneBatch(pl.LightningDataModule):
    """The same batch again and again."""

    def __init__(self, batch: dict[str, Any], steps: int) -> None:
        super().__init__()
        self.batch, self.steps = batch, steps

    def train_batches(self, world_size: int) -> int:
        """For the schedule."""
        return self.steps

    def train_dataloader(self) -> Iterable[object]:
        """No workers: the batch is made."""
        return torch.utils.data.DataLoader([self.batch] * self.steps, batch_size=None)  # type: ignore[arg-type]


class Alternating(SFTTask):
    """Every second step computes its loss as the peer does; measures each step."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone.config, OptimConfig(lr=1e-6))
        self.backbone = backbone
        self.steps: dict[str, list[tuple[float, float]]] = {"ours": [], "peer": []}

    def _step(self, batch: ChatBatch, stage: str) -> tuple[Tensor, Tensor]:
        return super()._step(batch, stage) if self.kind == "ours" else peer_loss(self.net, batch)

    @property
    def kind(self) -> str:
        """Whose turn it is."""
        return "ours" if len(self.steps["ours"]) == len(self.steps["peer"]) else "peer"

    def on_train_batch_start(self, batch: ChatBatch, batch_idx: int) -> None:
        """Start the clock."""
        super().on_train_batch_start(batch, batch_idx)
        self._manner = as_transformers(self.net) if self.kind == "peer" else nullcontext()
        self._manner.__enter__()
        forget_peak(self.device)
        self._began = now(self.device)

    def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
        """Stop it, after the optimiser has stepped."""
        kind = self.kind
        self.steps[kind].append((now(self.device) - self._began, peak(self.device)))
        self._manner.__exit__(None, None, None)

    def on_fit_end(self) -> None:
        """Nothing is kept."""


@contextmanager
def as_transformers(backbone: Backbone) -> Iterator[None]:
    """The model as `from_pretrained` and `gradient_checkpointing_enable` leave it: windows one by one, inputs that require gradients.

    To be left after the backward pass, which computes checkpointed layers again.
    """
    towers = [part.config for part in backbone.base.model.visual.modules() if hasattr(part, "config")]
    ours = [config._attn_implementation for config in towers]
    for config in towers:
        config._attn_implementation = "sdpa"
    if backbone.config.gradient_checkpointing:
        backbone.base.enable_input_require_grads()
    yield
    backbone.base.disable_input_require_grads()
    for config, name in zip(towers, ours, strict=True):
        config._attn_implementation = name


def peer_loss(backbone: Backbone, batch: ChatBatch) -> tuple[Tensor, Tensor]:
    """transformers' own loss over full logits, as a sum."""
    count = (batch["labels"][:, 1:] != IGNORE).sum()
    return backbone.base(**backbone.family.model_inputs(batch), labels=batch["labels"], use_cache=False).loss * count, count


def peer_features(backbone: Backbone, inputs: dict[str, Any]) -> Tensor:
    """transformers' own hidden states, the last four of all."""
    with as_transformers(backbone):
        return torch.stack(backbone.base(**inputs, use_cache=False, output_hidden_states=True).hidden_states[-4:])


def now(device: torch.device) -> float:
    """Seconds, when the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def forget_peak(device: torch.device) -> None:
    """Begin to watch memory anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> float:
    """GiB at most since `forget_peak`; 0 on a CPU, which does not say."""
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0


def model_flops(backbone: Backbone, batch: dict[str, Any], train: bool = True) -> float:
    """FLOPs that one step (or one forward pass to the last hidden states) needs; see the module's docstring."""
    config, trainable = backbone.base.config, backbone.counts()
    text, vision = config.text_config, config.vision_config
    layer = text.hidden_size * text.intermediate_size * 3 + 2 * text.hidden_size**2
    layer += 2 * text.hidden_size**2 * text.num_key_value_heads // text.num_attention_heads
    block = 4 * vision.hidden_size**2 + 3 * vision.hidden_size * vision.intermediate_size
    merged = vision.hidden_size * vision.spatial_merge_size**2
    lengths = batch["attention_mask"].sum(1).double()
    patches, answers = len(batch["pixel_values"]), int((batch["labels"] != IGNORE).sum())
    per_image = patches / len(lengths)
    window = (vision.window_size // vision.patch_size) ** 2
    seen = [per_image if i in vision.fullatt_block_indexes else min(window, per_image) for i in range(vision.depth)]
    # Part -> (weights x tokens, attended pairs x width x 2 products), forward.
    products = {
        "vision": (vision.depth * block * patches, 2 * sum(seen) * patches * vision.hidden_size),
        "merger": (merged * (merged + text.hidden_size) * patches / vision.spatial_merge_size**2, 0.0),
        # Causal: half of the pairs.
        "language": (
            text.num_hidden_layers * layer * float(lengths.sum())
            + (text.vocab_size * text.hidden_size * answers if train else 0),
            text.num_hidden_layers * text.hidden_size * float((lengths**2).sum()),
        ),
    }
    total, before = 0.0, False
    for part, (weights, attention) in products.items():
        learns = train and trainable[f"trainable/{part}"] > 0
        before = before or learns
        whole = learns and backbone.config.tuning == "full"
        total += 2 * weights * (1 + before + whole) + 2 * attention * (1 + 2 * before)
    return total


@contextmanager
def loaded(path: Path, device: str, tiny: bool, **options: object) -> Iterator[Backbone]:
    """A backbone, read from disk as a user's, and gone afterwards."""
    defaults: dict[str, Any] = {"dtype": "float32" if tiny else "bfloat16", "lora": LoRA(rank=64, alpha=128, dropout=0.05)}
    backbone = load_backbone(BackboneConfig(str(path), **(defaults | options)))
    try:
        yield backbone.to(device)
    finally:
        del backbone.model


def measure_training(
    name: str, backbone: Backbone, batch: dict[str, Any], out: Path, steps: int, device: str
) -> dict[str, Any]:
    """One fit, steps of both kinds in turn."""
    task = Alternating(backbone)
    backbone.train()
    moved = cast(ChatBatch, {k: v.to(device) for k, v in batch.items()})
    sums = []
    for loss in (backbone.answer_loss, lambda inputs: peer_loss(backbone, inputs)):
        torch.manual_seed(0)  # of dropout
        with torch.no_grad(), torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            sums.append(float(loss(moved)[0]))
    rounds = 2 * (WARMUP + steps)
    trainer = pl.Trainer(
        accelerator=device,
        devices=1,
        precision="bf16-mixed" if device == "cuda" else "32-true",
        max_steps=rounds,
        logger=False,
        gradient_clip_val=1.0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=out,
        use_distributed_sampler=False,
    )
    trainer.fit(task, datamodule=OneBatch(batch, rounds))
    (ours, peer), (memory, peer_memory) = (
        [statistics.median(step[i] for step in task.steps[kind][WARMUP:]) for kind in ("ours", "peer")] for i in (0, 1)
    )
    flops = model_flops(backbone, batch)
    return {
        "configuration": name,
        "trainable": backbone.counts()["trainable"],
        "step_s": ours,
        "samples_s": len(batch["labels"]) / ours,
        "tokens_s": int(batch["attention_mask"].sum()) / ours,
        "peak_gib": memory,
        "tflops": flops / ours / 1e12,
        "mfu": share_of_peak(flops / ours, device),
        "peer_step_s": peer,
        "peer_peak_gib": peer_memory,
        "time_ratio": peer / ours,
        "memory_saved_gib": peer_memory - memory,
        "loss_difference": abs(sums[0] - sums[1]) / sums[1],
    }


def share_of_peak(flops_per_second: float, device: str) -> float | None:
    """None where the peak is not known."""
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return next((flops_per_second / value for key, value in PEAKS.items() if key in name), None)


@torch.no_grad()
def measure_features(backbone: Backbone, batch: dict[str, Any], rounds: int, device: str) -> dict[str, Any]:
    """Forward passes of both kinds in turn."""
    backbone.eval()
    inputs = {k: v.to(device) for k, v in backbone.family.model_inputs(batch).items()}
    where = torch.device(device)
    kinds: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: backbone.hidden_states(inputs),
        "peer": lambda: peer_features(backbone, inputs),
    }
    real = inputs["attention_mask"].bool()
    found, expected = (make()[:, real].float() for make in kinds.values())
    seen: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for _ in range(WARMUP + rounds):
        for kind, make in kinds.items():
            forget_peak(where)
            began = now(where)
            make()
            seen[kind].append((now(where) - began, peak(where)))
    times = {kind: statistics.median(t for t, _ in rows[WARMUP:]) for kind, rows in seen.items()}
    memory = {kind: statistics.median(m for _, m in rows[WARMUP:]) for kind, rows in seen.items()}
    images, flops = len(real), model_flops(backbone, batch, train=False)
    return {
        "configuration": "features",
        "images_s": images / times["ours"],
        "peak_gib": memory["ours"],
        "peer_images_s": images / times["peer"],
        "peer_peak_gib": memory["peer"],
        "time_ratio": times["peer"] / times["ours"],
        "mfu": share_of_peak(flops / times["ours"], device),
        "difference": float((found - expected).abs().max() / expected.abs().max()),
    }


def line(row: dict[str, Any]) -> str:
    """A result for people."""
    mfu = "" if row["mfu"] is None else f", MFU {row['mfu']:.1%}"
    if row["configuration"] == "features":
        return (
            f"features: {row['images_s']:.1f} images/s, {row['peak_gib']:.1f} GiB{mfu} | transformers with all hidden states and logits "
            f"{row['peer_images_s']:.1f} images/s, {row['peer_peak_gib']:.1f} GiB | {row['time_ratio']:.2f} times as fast, "
            f"largest difference {row['difference']:.1e}"
        )
    return (
        f"{row['configuration']}: {row['trainable'] / 1e6:.1f} M train, step {row['step_s']:.3f} s, {row['samples_s']:.2f} samples/s, "
        f"{row['tokens_s']:.0f} tokens/s, {row['peak_gib']:.1f} GiB, {row['tflops']:.1f} TFLOP/s{mfu} | as transformers "
        f"{row['peer_step_s']:.3f} s, {row['peer_peak_gib']:.1f} GiB | {row['time_ratio']:.2f} times as fast, "
        f"{row['memory_saved_gib']:.1f} GiB saved, losses differ by {row['loss_difference']:.1e}"
    )


def main() -> None:
    """Every configuration in turn; one that does not fit says so, and the next one runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="samples a step")
    parser.add_argument("--steps", type=int, default=6, help="steps of each kind that count")
    parser.add_argument(
        "--only", default="", help="configurations, with a semicolon between: " + "; ".join([*CONFIGURATIONS, "features"])
    )
    parser.add_argument("--tiny", action="store_true", help="a small model, on a CPU where there is no GPU")
    parser.add_argument("--json", type=Path, help="also write the results there")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.tiny:
        parser.error("no CUDA device: only --tiny runs here")
    if device == "cpu":
        torch.set_num_threads(1)  # small tensors: more threads only wait for each other
    chosen = [name.strip() for name in arguments.only.split(";") if name.strip()]
    names = chosen or [*CONFIGURATIONS, "features"]
    if unknown := [name for name in names if name not in (*CONFIGURATIONS, "features")]:
        parser.error(f"--only: unknown {unknown}; allowed: {'; '.join([*CONFIGURATIONS, 'features'])}")
    print(
        f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, torch {torch.__version__}, batch {arguments.batch}",
        flush=True,
    )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = build(Path(folder), arguments.tiny, device)
        for name in names:
            rows.append(one(name, path, arguments, device))
            print(line(rows[-1]) if "error" not in rows[-1] else f"{name}: {rows[-1]['error']}", flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1))


def one(name: str, path: Path, arguments: argparse.Namespace, device: str) -> dict[str, Any]:
    """One configuration's results, or why there are none."""
    options = CONFIGURATIONS.get(name, {"tuning": "frozen"})
    # What the last one left: its Trainer refers to itself.
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    try:
        with loaded(path, device, arguments.tiny, **options) as backbone:
            batch = synthetic(backbone, arguments.batch, 112 if arguments.tiny else 448)
            if name == "features":
                return measure_features(backbone, batch, arguments.steps, device)
            return measure_training(name, backbone, batch, path.parent, arguments.steps, device)
    except (ImportError, torch.OutOfMemoryError) as error:
        return {"configuration": name, "error": f"not measured: {type(error).__name__}: {str(error).splitlines()[0]}"}


if __name__ == "__main__":
    main()
