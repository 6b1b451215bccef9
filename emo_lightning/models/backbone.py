"""Qwen2.5-VL as this project uses it: loaded, adapted, frozen by parts, and read at its last layers.

A `Backbone` is a plain module that knows no Lightning. Every way in which transformers or peft would go on in silence with an
untrained, unquantised or mis-sized model is checked at loading and raises `BackboneError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from emo_lightning.data.boxes import resized_size
from emo_lightning.data.collate import model_inputs
from emo_lightning.models.hub import HubError, cache_only

Part = Literal["vision", "merger", "language"]
PARTS: tuple[Part, ...] = ("vision", "merger", "language")

ADAPTER_NAME = "default"

_LORA_TARGETS: dict[Part, str] = {
    "vision": r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)",
    "merger": r".*visual\.merger\.mlp\.(0|2)",
    "language": r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
}


class BackboneError(ValueError):
    """The backbone cannot be used as configured; the message names the path or key and what is allowed."""


@dataclass
class LoRA:
    """Low-rank adaptation (peft).

    Args:
        rank: of the update.
        alpha: scale; the update is multiplied by alpha / rank.
        dropout: on the adapter's input, active in training only.
        targets: regular expression on module names; None takes all linear layers of the parts that train.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    targets: str | None = None


@dataclass
class BackboneConfig:
    """Which model, and which of its parts learn.

    Args:
        path: Hugging Face id, model folder, or adapter folder (its base model is read from `adapter_config.json`).
        tuning: `full` trains the parts' own weights, `lora` adapters on them, `qlora` adapters on a 4-bit NF4 language model,
            `frozen` nothing.
        train_vision: the vision tower learns.
        train_merger: the merger between vision tower and language model learns.
        train_language: the language model learns.
        lora: for `lora` and `qlora`; ignored where `path` is an adapter, which brings its own.
        min_pixels: an image with fewer is enlarged; None keeps the processor's limit.
        max_pixels: an image with more is reduced; None keeps the processor's limit.
        dtype: of the weights; `auto` takes the checkpoint's.
        attention: transformers' attention implementation.
        gradient_checkpointing: recompute activations in the backward pass (non-reentrant).
    """

    path: str
    tuning: Literal["full", "lora", "qlora", "frozen"] = "lora"
    train_vision: bool = False
    train_merger: bool = True
    train_language: bool = True
    lora: LoRA | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False

    def trains(self, part: Part) -> bool:
        """Whether this part learns."""
        return self.tuning != "frozen" and bool(getattr(self, f"train_{part}"))


def part_of(parameter_name: str) -> Part:
    """The part of the model that a parameter belongs to, by its name."""
    if ".visual.merger." in f".{parameter_name}":
        return "merger"
    return "vision" if ".visual." in f".{parameter_name}" else "language"


class Backbone(nn.Module):
    """A loaded Qwen2.5-VL with its processor.

    Args:
        model: `Qwen2_5_VLForConditionalGeneration`, or a `PeftModel` around it.
        processor: its processor, pixel limits set.
        config: as loaded.
    """

    def __init__(self, model: nn.Module, processor: Any, config: BackboneConfig) -> None:
        super().__init__()
        self.model: Any = model
        self.processor = processor
        self.config = config

    @property
    def base(self) -> Any:
        """The `Qwen2_5_VLForConditionalGeneration`, adapters injected."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def model_type(self) -> str:
        """Family name in the model's config, which decides the coordinates of boxes."""
        return str(self.base.config.model_type)

    @property
    def hidden_size(self) -> int:
        """H of the paper: width of the language model."""
        return int(self.base.config.text_config.hidden_size)

    def last_hidden_state(self, batch: dict[str, Any]) -> Tensor:
        """Hidden states after the final norm, (B, T, H); the language-model head is not run."""
        return self.base.model(**model_inputs(batch), use_cache=False).last_hidden_state

    def hidden_states(self, batch: dict[str, Any], num_layers: int = 4) -> Tensor:
        """The last layers' hidden states, (num_layers, B, T, H), shallow to deep; no other layer is kept (section 3.3).

        Equal to `hidden_states[-num_layers:]` of transformers: the last one is after the final norm.

        Raises:
            BackboneError: the model has fewer layers.
        """
        layers = self.base.model.language_model.layers
        if not 1 <= num_layers <= len(layers):
            raise BackboneError(f"num_layers={num_layers}: this backbone has {len(layers)} layers, allowed: 1 to {len(layers)}")
        kept: list[Tensor] = []
        hooks = [
            layer.register_forward_hook(lambda _m, _i, out: kept.append(out[0] if isinstance(out, tuple) else out))
            for layer in layers[len(layers) - num_layers : -1]
        ]
        try:
            last = self.last_hidden_state(batch)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.stack([*kept, last])

    @torch.no_grad()
    def generate(self, batch: dict[str, Any], max_new_tokens: int) -> list[str]:
        """Greedy replies, one a row; the batch must be padded on the left and end at the generation prompt."""
        inputs = model_inputs(batch)
        out = self.base.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True)
        return self.processor.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    def parameter_groups(self) -> Iterator[tuple[Part, str, nn.Parameter]]:
        """(part, name, parameter) of everything that trains."""
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                yield part_of(name), name, parameter

    def counts(self) -> dict[str, int]:
        """Number of parameters: all, those that train, and both by part."""
        counts = {"total": 0, "trainable": 0} | {f"trainable/{part}": 0 for part in PARTS} | dict.fromkeys(PARTS, 0)
        for name, parameter in self.model.named_parameters():
            part = part_of(name)
            counts["total"] += parameter.numel()
            counts[part] += parameter.numel()
            if parameter.requires_grad:
                counts["trainable"] += parameter.numel()
                counts[f"trainable/{part}"] += parameter.numel()
        return counts

    def save(self, folder: Path) -> Path:
        """Write `adapter/` (peft) or, for full tuning, `model/` below `folder`; returns what was written."""
        if hasattr(self.model, "peft_config"):
            target = folder / "adapter"
            self.model.save_pretrained(target)
        else:
            target = folder / "model"
            self.model.save_pretrained(target)
        self.processor.save_pretrained(target)
        return target

    def merged(self) -> Any:
        """The plain transformers model with the adapter folded into its weights (in place)."""
        return self.model.merge_and_unload() if hasattr(self.model, "peft_config") else self.model


def load_backbone(config: BackboneConfig) -> Backbone:
    """Load model and processor, attach or restore the adapter, freeze what does not learn, and check all of it.

    Raises:
        BackboneError: unknown id or path, not of the family, adapter that does not match, quantisation or pixel limits that did
            not take effect, nothing to train.
    """
    base_path, adapter = _locate(config.path)
    model = _load_model(config, base_path)
    processor = _load_processor(
        config, config.path if adapter and (adapter / "preprocessor_config.json").exists() else base_path
    )
    model = attach(model, config, adapter, base_path)
    backbone = Backbone(model, processor, config)
    if config.gradient_checkpointing:
        # Reentrant checkpointing gives LoRA behind frozen inputs no gradient, in silence.
        backbone.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return backbone


def attach(model: nn.Module, config: BackboneConfig, adapter: Path | None, base_path: str) -> nn.Module:
    """Freeze by part and put adapters on a loaded (or meta-device) model; returns it, wrapped by peft where adapters are used."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(config.tuning == "full" and config.trains(part_of(name)) and parameter.is_floating_point())
    if adapter is not None:
        model = _restore_adapter(model, config, adapter)
    elif config.tuning in ("lora", "qlora"):
        model = _new_adapter(model, config, base_path)
    if config.tuning != "frozen" and not any(p.requires_grad for p in model.parameters()):
        raise BackboneError(
            f"tuning={config.tuning} but nothing trains: set one of train_vision, train_merger, train_language to true"
        )
    return model


def _locate(path: str) -> tuple[str, Path | None]:
    """(base model, adapter folder or None)."""
    path = str(Path(path).expanduser()) if path.startswith("~") else path
    adapter_config = Path(path) / "adapter_config.json"
    if adapter_config.exists():
        base = json.loads(adapter_config.read_text()).get("base_model_name_or_path")
        if not base:
            raise BackboneError(f"{adapter_config}: key 'base_model_name_or_path' is empty; it must name the base model")
        return str(base), Path(path)
    looks_local = path.startswith((".", "/")) or path.count("/") > 1
    if looks_local and not (Path(path) / "config.json").exists():
        raise BackboneError(f"backbone path {path!r}: no folder with config.json or adapter_config.json there")
    return path, None


def _load_model(config: BackboneConfig, path: str) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageTextToText, BitsAndBytesConfig

    try:
        local = cache_only(path)
        kind = AutoConfig.from_pretrained(path, local_files_only=local).model_type
    except HubError as error:
        raise BackboneError(f"backbone {error}") from None
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BackboneError(f"backbone {path!r} is neither a model folder nor an id that the hub gives: {reason}") from None
    if kind != "qwen2_5_vl":
        raise BackboneError(f"backbone {path!r} is a {kind!r} model; allowed: the qwen2_5_vl family")
    quantization = None
    if config.tuning == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
            llm_int8_skip_modules=["model.visual", "lm_head"],
        )  # fmt: skip
    model = AutoModelForImageTextToText.from_pretrained(
        path, dtype=config.dtype, attn_implementation=config.attention, quantization_config=quantization, local_files_only=local
    )
    if quantization is not None:
        _check_quantization(model)
    return model


def _check_quantization(model: nn.Module) -> None:
    from bitsandbytes.nn import Linear4bit

    wrong = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name != "lm_head"
        and isinstance(module, Linear4bit) != (part_of(f"{name}.weight") == "language")
    ]
    if wrong:
        raise BackboneError(
            f"qlora: {len(wrong)} linear layers are not quantised as intended (4-bit language model, plain vision), first: {wrong[0]}"
        )


def _load_processor(config: BackboneConfig, path: str) -> Any:
    from PIL import Image
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(path, local_files_only=cache_only(path))
    images = processor.image_processor
    size = dict(images.size)
    # Limits given at call time are ignored by current processors: they have to be set on it.
    size["shortest_edge"] = config.min_pixels or size["shortest_edge"]
    size["longest_edge"] = config.max_pixels or size["longest_edge"]
    if size["shortest_edge"] > size["longest_edge"]:
        raise BackboneError(f"min_pixels={size['shortest_edge']} is above max_pixels={size['longest_edge']}")
    images.size = type(images.size)(**size) if not isinstance(images.size, dict) else size
    for probe in ((16, 12), (1234, 777)):
        grid = images([Image.new("RGB", probe)], return_tensors="pt")["image_grid_thw"][0]
        seen = (int(grid[2]) * images.patch_size, int(grid[1]) * images.patch_size)
        expected = resized_size(
            *probe,
            factor=images.patch_size * images.merge_size,
            min_pixels=size["shortest_edge"],
            max_pixels=size["longest_edge"],
        )
        if seen != expected:
            raise BackboneError(
                f"pixel limits are ignored: an image of {probe[0]}x{probe[1]} becomes {seen[0]}x{seen[1]}, "
                f"expected {expected[0]}x{expected[1]} for min_pixels={size['shortest_edge']}, max_pixels={size['longest_edge']}"
            )
    return processor


def _new_adapter(model: nn.Module, config: BackboneConfig, base_path: str) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    lora = config.lora or LoRA()
    targets = lora.targets or "|".join(f"({_LORA_TARGETS[part]})" for part in PARTS if config.trains(part))
    if not targets:
        raise BackboneError(
            f"tuning={config.tuning} but no part trains: set train_vision, train_merger or train_language to true"
        )
    if not any(re.fullmatch(targets, name) for name, _ in model.named_modules()):
        raise BackboneError(f"lora.targets={targets!r} matches no module of the backbone")
    peft_config = LoraConfig(
        r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout, target_modules=targets, bias="none",
        base_model_name_or_path=base_path, task_type="CAUSAL_LM",
    )  # fmt: skip
    return get_peft_model(model, peft_config, adapter_name=ADAPTER_NAME)


def _restore_adapter(model: nn.Module, config: BackboneConfig, folder: Path) -> nn.Module:
    from peft import LoraConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    peft_config = LoraConfig.from_pretrained(str(folder))
    peft_config.inference_mode = config.tuning == "frozen"
    wrapped = get_peft_model(model, peft_config, adapter_name=ADAPTER_NAME)
    result: Any  # peft's annotation is not a type.
    try:
        result = set_peft_model_state_dict(wrapped, load_peft_weights(str(folder), device="cpu"), adapter_name=ADAPTER_NAME)
    except RuntimeError as error:
        wrong = [line.strip() for line in str(error).splitlines() if "size mismatch" in line] or [str(error)]
        raise BackboneError(
            f"adapter {folder} does not fit its base model {peft_config.base_model_name_or_path!r}: {len(wrong)} weights differ "
            f"in size, first: {wrong[0]}"
        ) from None
    # peft loads what fits and goes on: the model would then run untrained.
    missing = [key for key in result.missing_keys if "lora_" in key]
    if missing or result.unexpected_keys:
        first = (missing or result.unexpected_keys)[0]
        raise BackboneError(
            f"adapter {folder}: {len(missing)} keys missing and {len(result.unexpected_keys)} unexpected for this base model, "
            f"first: {first}"
        )
    if config.tuning == "frozen":
        wrapped.requires_grad_(False)
    return wrapped
