"""What trains: freezing by parts, new LoRA adapters, and adapters from disk, of which every key must fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

from safetensors import SafetensorError

from emo_lightning.models.backbone_config import BackboneConfig, BackboneError, LoRA
from emo_lightning.models.families import PARTS, Family

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from torch.nn.modules.module import _IncompatibleKeys
    from transformers import PreTrainedModel

ADAPTER_NAME = "default"


def attach(
    model: PreTrainedModel, family: Family, config: BackboneConfig, adapter: Path | None, base_path: str
) -> PreTrainedModel | PeftModel:
    """Freeze by part and put adapters on a loaded (or meta-device) model.

    Args:
        model: as transformers loads it; changed in place.
        family: that it is of.
        config: what learns.
        adapter: folder of an adapter to go on from.
        base_path: where the model was found, for the adapter's own config.

    Returns:
        The model, wrapped by peft where adapters are used.

    Raises:
        BackboneError: the adapter does not fit, or nothing trains.
    """
    if adapter is not None and config.tuning == "full":
        # peft would freeze the base and train the adapter alone, in silence.
        msg = (
            f"tuning=full cannot start from the adapter {adapter}; allowed: lora, qlora, frozen. To tune all weights, fold it in "
            f"first (emo export {adapter} --merge --out FOLDER) and start from that folder"
        )
        raise BackboneError(msg)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(
            config.tuning == "full" and config.trains(family.part_of(name)) and parameter.is_floating_point()
        )
    adapted: PreTrainedModel | PeftModel = model
    if adapter is not None:
        adapted = _restore_adapter(model, family, config, adapter, base_path)
    elif config.tuning in ("lora", "qlora"):
        adapted = _new_adapter(model, family, config, base_path)
    if config.tuning != "frozen" and not any(p.requires_grad for p in adapted.parameters()):
        msg = f"tuning={config.tuning} but nothing trains: set one of train_vision, train_merger, train_language to true"
        raise BackboneError(msg)
    return adapted


def _new_adapter(model: PreTrainedModel, family: Family, config: BackboneConfig, base_path: str) -> PeftModel:
    from peft import LoraConfig

    lora = config.lora or LoRA()
    targets = lora.targets or "|".join(f"({family.lora_targets[part]})" for part in PARTS if config.trains(part))
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
    return _wrapped(model, peft_config)


def _wrapped(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    from peft import PeftModel, get_peft_model

    wrapped = get_peft_model(model, config, adapter_name=ADAPTER_NAME)
    # It gives another class for adapters of mixed types alone.
    assert isinstance(wrapped, PeftModel)
    return wrapped


def _restore_adapter(model: PreTrainedModel, family: Family, config: BackboneConfig, folder: Path, base_path: str) -> PeftModel:
    from peft import LoraConfig, load_peft_weights, set_peft_model_state_dict

    try:
        peft_config = LoraConfig.from_pretrained(str(folder))
        weights = load_peft_weights(str(folder), device="cpu")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        msg = f"adapter {folder} cannot be read: {(str(error).splitlines() or [type(error).__name__])[0]}"
        raise BackboneError(msg) from error
    peft_config.inference_mode = config.tuning == "frozen"
    # Where the base was found now, for the adapter that is saved after training.
    peft_config.base_model_name_or_path = base_path
    try:
        wrapped = _wrapped(model, peft_config)
    # What adapter_config.json says cannot be built on this base: a rank of 0, a pattern that is none or fits no module.
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, re.error) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        msg = f"{folder / 'adapter_config.json'}: no adapter of this base model: {said}"
        raise BackboneError(msg) from error
    try:
        loaded = set_peft_model_state_dict(wrapped, weights, adapter_name=ADAPTER_NAME)
    except RuntimeError as error:
        wrong = [line.strip() for line in str(error).splitlines() if "size mismatch" in line] or [str(error)]
        msg = (
            f"adapter {folder} does not fit its base model {peft_config.base_model_name_or_path!r}: {len(wrong)} weights differ "
            f"in size, first: {wrong[0]}"
        )
        raise BackboneError(msg) from None
    # peft loads what fits and goes on: the model would then run untrained.
    result = cast("_IncompatibleKeys", loaded)  # peft's annotation is not a type
    missing = [key for key in result.missing_keys if "lora_" in key]
    if missing or result.unexpected_keys:
        first = (missing or result.unexpected_keys)[0]
        msg = (
            f"adapter {folder}: {len(missing)} keys missing and {len(result.unexpected_keys)} unexpected for this base model, "
            f"first: {first}"
        )
        raise BackboneError(msg)
    for name, parameter in wrapped.named_parameters():
        if not config.trains(family.part_of(name)):
            parameter.requires_grad_(False)
    return wrapped
