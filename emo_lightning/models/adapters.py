"""What trains: freezing by parts, new LoRA adapters, and adapters from disk, of which every key must fit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from emo_lightning.core.model_loading import foreign_files
from emo_lightning.models.adapter_files import (
    ADAPTER_CONFIG_FILE,
    PEFT_PREFIX,
    check_size,
    read_adapter,
    resolved,
    restore_patterns,
)
from emo_lightning.models.backbone_config import BackboneConfig, BackboneError, LoRA
from emo_lightning.models.families import BACKBONE_PARTS, BackbonePart, Family

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
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


@contextmanager
def without_adapters(model: nn.Module) -> Iterator[None]:
    """Have the model be its base: what learns, and whether, stays as it is (peft's own switch would have all adapters learn afterwards).

    Args:
        model: with adapters, or without any.
    """
    layers = [(layer, off) for layer in model.modules() if isinstance(off := getattr(layer, "_disable_adapters", None), bool)]
    try:
        for layer, _ in layers:
            layer._disable_adapters = True  # type: ignore[assignment]  # peft's layers have it
        yield
    finally:
        for layer, off in layers:
            layer._disable_adapters = off  # type: ignore[assignment]


def adapted_parts(model: nn.Module, family: Family) -> set[BackbonePart]:
    """The parts that adapters are on, whether these learn or not."""
    return {family.part_of(name) for name, _ in model.named_parameters() if ".lora_" in name}


def _new_adapter(model: PreTrainedModel, family: Family, config: BackboneConfig, base_path: str) -> PeftModel:
    from peft import LoraConfig

    lora = config.lora or LoRA()
    targets = lora.targets or "|".join(f"({family.lora_targets[part]})" for part in BACKBONE_PARTS if config.trains(part))
    if not targets:
        msg = f"tuning={config.tuning} but no part trains: set train_vision, train_merger or train_language to true"
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
    plain = resolved(peft_config, model, family, "lora.targets")
    _refuse_tied(model, plain, "lora.targets")
    return _wrapped(model, plain, peft_config, config)


def _wrapped(model: PreTrainedModel, plain: LoraConfig, kept: LoraConfig, config: BackboneConfig) -> PeftModel:
    """The model with adapters as `plain` says; what peft keeps, and writes when it is saved, is `kept`."""
    from peft import PeftModel, get_peft_model

    from emo_lightning.models.adapted_linear import join_products

    own, base = {id(parameter) for parameter in model.parameters()}, model.dtype
    # In float32, whatever the base is in.
    wrapped = get_peft_model(model, plain, adapter_name=ADAPTER_NAME)
    # It gives another class for adapters of mixed types alone.
    assert isinstance(wrapped, PeftModel)
    if config.adapter_dtype == "base":
        for parameter in wrapped.parameters():
            if id(parameter) not in own:
                parameter.data = parameter.data.to(base)
    restore_patterns(plain, kept)
    join_products(wrapped)
    return wrapped


def _restore_adapter(model: PreTrainedModel, family: Family, config: BackboneConfig, folder: Path, base_path: str) -> PeftModel:
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    files = read_adapter(folder, family)
    peft_config, where = files.config, str(folder / ADAPTER_CONFIG_FILE)
    peft_config.inference_mode = config.tuning == "frozen"
    # Where the base was found now, for the adapter that is saved after training.
    peft_config.base_model_name_or_path = base_path
    plain = resolved(peft_config, model, family, f"{where}: no adapter of this base model", files.renamed)
    check_size(plain, model, files.weights, where)
    if config.tuning != "frozen":
        _refuse_tied(model, plain, f"adapter {where}")
    # The patterns of an older version would fit no module of today when they are read again.
    kept = replace(plain) if files.renamed else peft_config
    # What adapter_config.json says cannot be built on this base.
    with foreign_files(f"{where}: no adapter of this base model", BackboneError):
        wrapped = _wrapped(model, plain, kept, config)
    # peft loads what fits and goes on: the model would then run untrained.
    expected = get_peft_model_state_dict(wrapped, adapter_name=ADAPTER_NAME, save_embedding_layers=False).keys()
    missing, unexpected = sorted(expected - files.weights.keys()), sorted(files.weights.keys() - expected - _ends(model))
    if missing or unexpected:
        msg = (
            f"adapter {folder}: {len(missing)} keys missing and {len(unexpected)} unexpected for this base model, "
            f"first: {(missing or unexpected)[0]}"
        )
        raise BackboneError(msg)
    try:
        set_peft_model_state_dict(wrapped, files.weights, adapter_name=ADAPTER_NAME)
    except RuntimeError as error:
        wrong = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        if not wrong:
            raise
        msg = (
            f"adapter {folder} does not fit its base model {peft_config.base_model_name_or_path!r}: {len(wrong)} weights differ "
            f"in size, first: {wrong[0]}"
        )
        raise BackboneError(msg) from None
    for name, parameter in wrapped.named_parameters():
        if not config.trains(family.part_of(name)):
            parameter.requires_grad_(False)
    for name, module in wrapped.named_modules():
        # What a frozen vision tower makes of an image is the same at any time, so that it can be kept.
        if isinstance(module, nn.Dropout) and not config.trains(family.part_of(name)):
            module.p = 0.0
    return wrapped


def _ends(model: PreTrainedModel) -> set[str]:
    """Keys of embedding and head, which other programs save with an adapter though they are the base model's."""
    ends = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    return {f"{PEFT_PREFIX}{name}.weight" for name, module in model.named_modules() if any(module is end for end in ends)}


def tied_layers(model: PreTrainedModel) -> set[str]:
    """Names of embedding and head where they are one matrix, which an adapter on one of them would pull apart; else none."""
    ends = [module for module in (model.get_input_embeddings(), model.get_output_embeddings()) if module is not None]
    weights = {id(_unwrapped(module).weight) for module in ends}
    if len(ends) < 2 or len(weights) > 1:
        return set()
    return {name for name, module in model.named_modules() if any(module is end for end in ends)}


def _unwrapped(module: nn.Module) -> nn.Module:
    """The layer below an adapter, or below the copy of it that trains."""
    for name in ("base_layer", "original_module"):
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module):
            return _unwrapped(inner)
    return module


def check_mergeable(model: PreTrainedModel) -> None:
    """Refuse to fold in an adapter on a tied head or embedding: the sum of both would become the embedding, too.

    Args:
        model: with adapters.

    Raises:
        BackboneError: names the layer.
    """
    if on := sorted(
        name for name in tied_layers(model) if _unwrapped(model.get_submodule(name)) is not model.get_submodule(name)
    ):
        msg = (
            f"the adapter is on {on[0]!r}, whose weights are tied to the model's other end: merged, it would change both, and the "
            "result would be another model. Keep the adapter apart (`emo predict ADAPTER`), or train one without this layer"
        )
        raise BackboneError(msg)


def _refuse_tied(model: PreTrainedModel, plain: LoraConfig, where: str) -> None:
    layers = tied_layers(model)
    saved = [name for name in layers if any(f".{name}".endswith(f".{kept}") for kept in plain.modules_to_save or ())]
    if on := sorted({*saved, *(name for name in layers if re.fullmatch(str(plain.target_modules), name))}):
        msg = (
            f"{where}: found {on[0]!r}, whose weights are tied to the model's other end (embedding and head are one matrix), so that no "
            "merged model could be made of the adapter; leave this layer out"
        )
        raise BackboneError(msg)
