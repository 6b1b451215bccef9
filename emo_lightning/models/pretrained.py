"""Model and processor from disk or hub, with what transformers would get wrong in silence checked: family, 4 bits, pixel limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from emo_lightning.core.hub import HubError, cache_only
from emo_lightning.core.model_folders import hub_snapshot
from emo_lightning.core.model_loading import foreign_files, load_whole, quiet_library, read_model_config
from emo_lightning.core.weight_files import check_weight_files
from emo_lightning.models.backbone_config import BackboneConfig, BackboneError
from emo_lightning.models.families import Family, FamilyError, Processor, family_of
from emo_lightning.models.families.base import PixelLimits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""Where a processor's pixel limits stand: since transformers 5, and before."""


def load_model(config: BackboneConfig, path: str) -> tuple[PreTrainedModel, Family]:
    """The model of a folder or hub id, whole, and the family that it is of.

    No code that stands in a folder is run, and nobody is asked whether it may: a family's class is our own choice.

    Args:
        config: type of the weights, attention, and whether the language model is quantised.
        path: the base model, as `locate` gives it.

    Raises:
        BackboneError: no such model, of no family that is supported, a file is cut off, missing or claims more than it holds, weights
            are missing, unknown or of another shape, or 4-bit weights did not get where they belong.
    """
    from transformers import BitsAndBytesConfig

    what = f"backbone {path!r}"
    local, settings = _settings(path)
    try:
        family = family_of(str(settings.get("model_type")))
    except FamilyError as error:
        msg = f"{what}: {error}"
        raise BackboneError(msg) from None
    kind = family.model_class()
    quantization = None
    if config.tuning == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
            llm_int8_skip_modules=list(family.unquantised),
        )
    model = load_whole(
        kind.from_pretrained,
        path,
        what,
        BackboneError,
        kind=kind,
        dtype=config.dtype,
        attn_implementation=config.attention,
        quantization_config=quantization,
        local_files_only=local,
    )
    if quantization is not None:
        _check_quantization(model, family)
    family.prepare(model, config.attention)
    return model, family


def _settings(path: str) -> tuple[bool, dict[str, object]]:
    """(whether what is on disk is all there is, what `config.json` says)."""
    from transformers import PreTrainedConfig

    if Path(path).is_dir():
        check_weight_files(Path(path), BackboneError)
        return True, read_model_config(Path(path), BackboneError)
    try:
        local = cache_only(path)
    except HubError as error:
        msg = f"backbone {error}"
        raise BackboneError(msg) from None
    if (snapshot := hub_snapshot(path)) is not None:
        check_weight_files(snapshot, BackboneError)
    with foreign_files(f"backbone {path!r} is neither a model folder nor an id that the hub gives", BackboneError):
        settings, _ = PreTrainedConfig.get_config_dict(path, local_files_only=local)
    return local, settings


def _check_quantization(model: nn.Module, family: Family) -> None:
    from bitsandbytes.nn.modules import Linear4bit

    wrong = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and name != family.lm_head
        and isinstance(module, Linear4bit) != (family.part_of(name) == "language")
    ]
    if wrong:
        msg = f"qlora: {len(wrong)} linear layers are not quantised as intended (4-bit language model, plain vision), first: {wrong[0]}"
        raise BackboneError(msg)


def _check_chat_template(processor: Processor, path: str) -> None:
    question: list[dict[str, object]] = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    with foreign_files(f"backbone {path!r}: its chat template (chat_template.jinja) cannot be used", BackboneError):
        processor.apply_chat_template(question, tokenize=False, add_generation_prompt=True)


def load_processor(config: BackboneConfig, path: str, family: Family, commit: str | None = None) -> Processor:
    """The processor of a folder or hub id, with the configured pixel limits, tried on two images.

    Args:
        config: pixel limits.
        path: a folder or hub id.
        family: of the model.
        commit: of the hub's repository, from which the model came; None for a folder.

    Raises:
        BackboneError: it cannot be read, has no chat template that works, or the limits contradict each other or do not take effect.
    """
    from PIL import Image
    from transformers import AutoProcessor

    if Path(path).is_dir():
        check_weight_files(Path(path), BackboneError)
    local = cache_only(path)
    with quiet_library(), foreign_files(f"backbone {path!r}: its processor cannot be read", BackboneError):
        processor: Processor = AutoProcessor.from_pretrained(
            path, local_files_only=local, trust_remote_code=False, revision=commit or "main"
        )
    _check_chat_template(processor, path)
    with foreign_files(f"backbone {path!r}: its processor is none of {family.title}", BackboneError):
        lowest, highest = family.pixel_limits(processor)
    limits = PixelLimits(config.min_pixels or lowest, config.max_pixels or highest)
    if limits.lowest > limits.highest:
        msg = f"min_pixels={limits.lowest} is above max_pixels={limits.highest}"
        raise BackboneError(msg)
    family.set_pixel_limits(processor, limits)
    probes = ((16, 12), (1234, 777))
    for probe, expected in [(probe, family.resized_size(processor, probe)) for probe in probes]:
        (seen,) = family.vision_inputs(processor, [Image.new("RGB", probe)]).sizes
        if seen != expected:
            msg = (
                f"pixel limits are ignored: an image of {probe[0]}x{probe[1]} becomes {seen[0]}x{seen[1]}, "
                f"expected {expected[0]}x{expected[1]} for min_pixels={limits.lowest}, max_pixels={limits.highest}"
            )
            raise BackboneError(msg)
    return processor


def keep_trainable(model: PreTrainedModel) -> None:
    """Have layers in 4 bits stay in the form that has gradients.

    On some CPUs bitsandbytes packs them anew in the first pass without gradients in eval mode, for a kernel that has no backward pass: after
    a validation, or after replies were drawn, nothing could be learnt.

    Args:
        model: changed in place.
    """
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False  # type: ignore[assignment]  # bitsandbytes' layers have it
