"""What trains: freezing by parts, new LoRA adapters, and adapters from disk, of which every key must fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import nn

from emo_lightning.models.backbone_config import PARTS, BackboneConfig, BackboneError, LoRA, Part, part_of

ADAPTER_NAME = "default"

_LORA_TARGETS: dict[Part, str] = {
    "vision": r".*visual\.blocks\.\d+\.(attn\.(qkv|proj)|mlp\.(gate|up|down)_proj)",
    "merger": r".*visual\.merger\.mlp\.(0|2)",
    "language": r".*language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)",
}


def attach(model: nn.Module, config: BackboneConfig, adapter: Path | None, base_path: str) -> nn.Module:
    """Freeze by part and put adapters on a loaded (or meta-device) model; returns it, wrapped by peft where adapters are used."""
    if adapter is not None and config.tuning == "full":
        # peft would freeze the base and train the adapter alone, in silence.
        msg = (
            f"tuning=full cannot start from the adapter {adapter}; allowed: lora, qlora, frozen. To tune all weights, fold it in "
            f"first (emo export {adapter} --merge --out FOLDER) and start from that folder"
        )
        raise BackboneError(msg)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(config.tuning == "full" and config.trains(part_of(name)) and parameter.is_floating_point())
    if adapter is not None:
        model = _restore_adapter(model, config, adapter, base_path)
    elif config.tuning in ("lora", "qlora"):
        model = _new_adapter(model, config, base_path)
    if config.tuning != "frozen" and not any(p.requires_grad for p in model.parameters()):
        msg = f"tuning={config.tuning} but nothing trains: set one of train_vision, train_merger, train_language to true"
        raise BackboneError(msg)
    return model


def _new_adapter(model: nn.Module, config: BackboneConfig, base_path: str) -> nn.Module:
    from peft import LoraConfig, get_peft_model

    lora = config.lora or LoRA()
    targets = lora.targets or "|".join(f"({_LORA_TARGETS[part]})" for part in PARTS if config.trains(part))
    if not targets:
        msg = f"tuning={config.tuning} but no part trains: set train_vision, train_merger or train_language to true"
        raise BackboneError(msg)
    if not any(re.fullmatch(targets, name) for name, _ in model.named_modules()):
        msg = f"lora.targets={targets!r} matches no module of the backbone"
        raise BackboneError(msg)
    peft_config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        bias="none",
        base_model_name_or_path=base_path,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, peft_config, adapter_name=ADAPTER_NAME)


def _restore_adapter(model: nn.Module, config: BackboneConfig, folder: Path, base_path: str) -> nn.Module:
    from peft import LoraConfig, get_peft_model, load_peft_weights, set_peft_model_state_dict

    peft_config = LoraConfig.from_pretrained(str(folder))
    peft_config.inference_mode = config.tuning == "frozen"
    # Where the base was found now, for the adapter that is saved after training.
    peft_config.base_model_name_or_path = base_path
    wrapped = get_peft_model(model, peft_config, adapter_name=ADAPTER_NAME)
    result: Any  # peft's annotation is not a type.
    try:
        result = set_peft_model_state_dict(wrapped, load_peft_weights(str(folder), device="cpu"), adapter_name=ADAPTER_NAME)
    except RuntimeError as error:
        wrong = [line.strip() for line in str(error).splitlines() if "size mismatch" in line] or [str(error)]
        msg = (
            f"adapter {folder} does not fit its base model {peft_config.base_model_name_or_path!r}: {len(wrong)} weights differ "
            f"in size, first: {wrong[0]}"
        )
        raise BackboneError(msg) from None
    # peft loads what fits and goes on: the model would then run untrained.
    missing = [key for key in result.missing_keys if "lora_" in key]
    if missing or result.unexpected_keys:
        first = (missing or result.unexpected_keys)[0]
        msg = (
            f"adapter {folder}: {len(missing)} keys missing and {len(result.unexpected_keys)} unexpected for this base model, "
            f"first: {first}"
        )
        raise BackboneError(msg)
    for name, parameter in wrapped.named_parameters():
        if not config.trains(part_of(name)):
            parameter.requires_grad_(False)
    return wrapped
