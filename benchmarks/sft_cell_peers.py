"""The peers of `sft_3b.py`: TRL's `SFTTrainer`, and transformers in a plain loop, on the same model and samples as ours."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import torch
from PIL import Image
from torch import Tensor

from benchmarks import sft_given as given
from benchmarks.command import find_peers
from benchmarks.sft_cell import LR, Cell, Measured, Place, padding_of, settle
from benchmarks.sft_counts import count
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import IGNORE_INDEX
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.families import Processor
from emo_lightning.models.families.qwen2_5_vl import QWEN2_5_VL
from emo_lightning.tasks.throughput import Passed

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class _Seen:
    """What a peer was given after its warm-up, and how long it took."""

    def __init__(self, cell: Cell) -> None:
        self.cell = cell
        self.batches: list[dict[str, Tensor]] = []
        self.losses: list[Tensor] = []
        self.seconds = self.waited = self._began = 0.0

    def start(self) -> None:
        """The warm-up is over."""
        settle(self.cell.device)
        if self.cell.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.batches.clear()
        self.losses.clear()
        self.waited, self._began = 0.0, time.perf_counter()

    def stop(self) -> None:
        """All steps are done."""
        settle(self.cell.device)
        self.seconds = time.perf_counter() - self._began

    def step(self, inputs: dict[str, Any], loss: Tensor) -> None:
        """A step; nothing waits for the device."""
        self.batches.append(dict(inputs))
        self.losses.append(loss.detach())

    def timed(self, loader: Iterable[Any]) -> Iterator[Any]:
        """A loader, with the time in which its batches are waited for."""
        batches = iter(loader)
        while True:
            began = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - began
            if batch is None:
                return
            yield batch

    def measured(self, model: PreTrainedModel | PeftModel, processor: Processor) -> Measured:
        """By the same formulas as ours."""
        tuning: Any = self.cell.tuning
        config = BackboneConfig("", tuning=tuning, train_vision=self.cell.train_vision)
        backbone = Backbone(model, QWEN2_5_VL, processor, config)
        passed = Passed(self.seconds, self.waited)
        for inputs in self.batches:
            batch: dict[str, Any] = {name: value.cpu() for name, value in inputs.items() if isinstance(value, Tensor)}
            batch["filler"] = torch.zeros(len(batch["image_grid_thw"]), dtype=torch.bool)
            passed.see(backbone, cast(ChatBatch, batch))
        rates = passed.rates(torch.device(self.cell.device))
        last = self.batches[-1]
        inputs = QWEN2_5_VL.model_inputs(last)
        with torch.autocast(self.cell.device, torch.bfloat16, enabled=self.cell.device == "cuda"):
            counts = count(backbone, lambda: backbone.base(**inputs, use_cache=False))
        return Measured(rates, statistics.fmean(float(loss) for loss in self.losses), padding_of(last), counts)


def _load(cell: Cell, place: Place) -> tuple[PreTrainedModel, Processor]:
    """As transformers' documentation does it."""
    from transformers import AutoProcessor, BitsAndBytesConfig, Qwen2_5_VLForConditionalGeneration

    quantization = None
    if cell.tuning == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if cell.device == "cuda" else torch.float32,
            llm_int8_skip_modules=list(QWEN2_5_VL.unquantised),
        )
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        place.model, dtype=cell.dtype, attn_implementation="sdpa", quantization_config=quantization
    )
    if cell.tuning == "full":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(cell.train_vision or QWEN2_5_VL.part_of(name) != "vision")
    return model, cast(Processor, AutoProcessor.from_pretrained(place.model))


def _lora(cell: Cell) -> Any:  # noqa: ANN401 - peft's own, which is imported late
    from peft import LoraConfig

    return LoraConfig(
        r=cell.rank, lora_alpha=2 * cell.rank, lora_dropout=cell.dropout, target_modules=given.lora_targets(cell.train_vision)
    )


def transformers(cell: Cell, place: Place, _out: str) -> Measured:
    """A plain loop: the processor pads, `model(labels=…)` computes the loss, AdamW steps."""
    from peft import get_peft_model

    plain, processor = _load(cell, place)
    cast(Any, plain).to(cell.device)
    if cell.checkpointing:
        plain.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        plain.enable_input_require_grads()
    model: PreTrainedModel | PeftModel = (
        plain if cell.tuning == "full" else cast("PeftModel", get_peft_model(plain, _lora(cell)))
    )
    model.train()
    if cell.compile:
        plain.compile(dynamic=True)
    whole = cast(Any, processor)

    def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        pictures = [Image.open(io.BytesIO(row["images"][0]["bytes"])).convert("RGB") for row in rows]
        asked, texts = [], []
        for row in rows:
            user = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row["prompt"][0]["content"]}]}
            asked.append(whole.apply_chat_template([user], tokenize=False, add_generation_prompt=True))
            texts.append(asked[-1] + row["completion"][0]["content"] + QWEN2_5_VL.end_of_turn)
        batch = dict(whole(text=texts, images=pictures, padding=True, padding_side="right", return_tensors="pt"))
        prompts = whole(text=asked, images=pictures, padding=True, padding_side="right", return_tensors="pt")[
            "attention_mask"
        ].sum(1)
        place = torch.arange(batch["input_ids"].shape[1])
        batch["labels"] = batch["input_ids"].masked_fill(
            (batch["attention_mask"] == 0) | (place < prompts[:, None]), IGNORE_INDEX
        )
        return batch

    size = max(1, round(cell.tokens / place.mean))
    loader = torch.utils.data.DataLoader(
        cast(Any, given.chats(place.tars)), size, shuffle=True, collate_fn=collate, num_workers=cell.workers, drop_last=True
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=LR, fused=True)
    seen = _Seen(cell)
    steps = 0
    while steps < cell.warmup + cell.steps:
        for batch in seen.timed(loader):
            moved = {name: value.to(cell.device, non_blocking=True) for name, value in batch.items()}
            with torch.autocast(cell.device, torch.bfloat16, enabled=cell.device == "cuda"):
                loss = model(**moved, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            seen.step(moved, loss)
            steps += 1
            if steps == cell.warmup:
                seen.start()
            if steps == cell.warmup + cell.steps:
                break
    seen.stop()
    return seen.measured(model, processor)


def trl(cell: Cell, place: Place, out: str) -> Measured:
    """TRL's `SFTTrainer`, which refuses to pack pictures."""
    find_peers("trl")
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    seen = _Seen(cell)

    class Watched(SFTTrainer):
        def compute_loss(self, model: object, inputs: dict[str, Any], *rest: object, **options: object) -> Any:  # noqa: ANN401
            kept = dict(inputs)
            found = super().compute_loss(model, inputs, *rest, **options)
            seen.step(kept, found[0] if isinstance(found, tuple) else found)
            return found

        def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            began = time.perf_counter()
            found = super().get_batch_samples(*arguments, **options)
            seen.waited += time.perf_counter() - began
            return found

    class Clock(TrainerCallback):
        def on_step_end(self, args: object, state: Any, control: object, **kwargs: object) -> None:  # noqa: ANN401
            if state.global_step == cell.warmup:
                seen.start()

        def on_train_end(self, *_: object, **__: object) -> None:
            seen.stop()

    model, processor = _load(cell, place)
    config = SFTConfig(
        out,
        per_device_train_batch_size=max(1, round(cell.tokens / place.mean)),
        max_steps=cell.warmup + cell.steps,
        learning_rate=LR,
        gradient_checkpointing=bool(cell.checkpointing),
        gradient_checkpointing_kwargs={"use_reentrant": False},
        torch_compile=cell.compile,
        use_cpu=cell.device == "cpu",
        bf16=cell.device == "cuda",
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        max_length=None,
        dataloader_num_workers=cell.workers,
        dataloader_pin_memory=cell.device == "cuda",
        dataloader_drop_last=True,
    )
    trainer = Watched(
        model,
        config,
        train_dataset=given.dataset(place.tars),
        processing_class=cast(Any, processor),
        callbacks=[Clock()],
        peft_config=None if cell.tuning == "full" else _lora(cell),
    )
    trainer.train()
    return seen.measured(cast("PreTrainedModel", trainer.model), processor)
