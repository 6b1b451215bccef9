"""Model and processor from disk or hub, with what transformers would get wrong in silence checked: family, 4 bits, pixel limits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import nn

from emo_lightning.core.hub import HubError, cache_only
from emo_lightning.models.backbone_config import BackboneConfig, BackboneError
from emo_lightning.models.families import Family, FamilyError, Processor, family_of
from emo_lightning.models.families.base import PixelLimits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
"""Where a processor's pixel limits stand: since transformers 5, and before."""


def load_model(config: BackboneConfig, path: str) -> tuple[PreTrainedModel, Family]:
    """The model of a folder or hub id, and the family that it is of.

    Args:
        config: type of the weights, attention, and whether the language model is quantised.
        path: the base model, as `locate` gives it.

    Raises:
        BackboneError: no such model, of no family that is supported, or 4-bit weights did not get where they belong.
    """
    from transformers import AutoConfig, BitsAndBytesConfig

    try:
        local = cache_only(path)
        family = family_of(AutoConfig.from_pretrained(path, local_files_only=local).model_type)
    except HubError as error:
        msg = f"backbone {error}"
        raise BackboneError(msg) from None
    except FamilyError as error:
        msg = f"backbone {path!r}: {error}"
        raise BackboneError(msg) from None
    except (OSError, ValueError, StrictDataclassError) as error:
        msg = f"backbone {path!r} is neither a model folder nor an id that the hub gives: {first_line(error)}"
        raise BackboneError(msg) from None
    quantization = None
    if config.tuning == "qlora":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
            llm_int8_skip_modules=list(family.unquantised),
        )
    try:
        model = family.model_class().from_pretrained(
            path,
            dtype=config.dtype,
            attn_implementation=config.attention,
            quantization_config=quantization,
            local_files_only=local,
        )
    except (OSError, SafetensorError) as error:
        msg = f"backbone {path!r}: its weights cannot be read: {first_line(error)}"
        raise BackboneError(msg) from error
    except (RuntimeError, ZeroDivisionError) as error:
        # Sizes that make no model, or another one; its report of them has gone to the log. Full memory is something else.
        if isinstance(error, RuntimeError) and "ignore_mismatched_sizes" not in str(error):
            raise
        msg = f"backbone {path!r}: its weights are not of the sizes that its config.json gives"
        raise BackboneError(msg) from error
    except (ImportError, ValueError) as error:
        # Its package is missing, or the model does not have it.
        msg = f"backbone {path!r} cannot be loaded with attention={config.attention!r}: {first_line(error)}"
        raise BackboneError(msg) from error
    if quantization is not None:
        _check_quantization(model, family)
    family.prepare(model, config.attention)
    return model, family


def first_line(error: Exception) -> str:
    """What a library says went wrong, without its advice: the first line, with the second where the first ends with a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(lines[: 2 if lines[0].endswith(":") else 1])


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
    from jinja2 import TemplateError

    question: list[dict[str, object]] = [{"role": "user", "content": [{"type": "text", "text": "?"}]}]
    try:
        processor.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    except (TemplateError, ValueError) as error:
        msg = f"backbone {path!r}: its chat template (chat_template.jinja) cannot be used: {first_line(error)}"
        raise BackboneError(msg) from error


def load_processor(config: BackboneConfig, path: str, family: Family) -> Processor:
    """The processor of a folder or hub id, with the configured pixel limits, tried on two images.

    Raises:
        BackboneError: it cannot be read, has no chat template that works, or the limits contradict each other or do not take effect.
    """
    from PIL import Image
    from transformers import AutoProcessor

    local = cache_only(path)
    try:
        processor: Processor = AutoProcessor.from_pretrained(path, local_files_only=local)
    # Nothing but the files of the folder is an argument here, and where they hold other JSON than expected the library's classes
    # raise what comes: KeyError, TypeError, AttributeError, of tokenizers a plain Exception.
    except Exception as error:
        msg = f"backbone {path!r}: its processor cannot be read: {first_line(error)}"
        raise BackboneError(msg) from error
    _check_chat_template(processor, path)
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
