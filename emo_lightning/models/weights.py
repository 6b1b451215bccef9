"""Small networks on disk: a folder with `config.json` and `model.safetensors`, read back with nothing missing in silence."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.files import as_new_files, read_object, replacing, write_text
from emo_lightning.core.weight_files import TensorHeader, tensor_headers

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
MAX_OWN_CONFIG_BYTES = 1 << 16
"""Bytes of `config.json`; that of a probe with a grid of one has some hundred."""
_FLOATS, _WHOLE = ("F32", "BF16", "F16", "F64"), ("I64",)
"""Types that a file of weights may have, as its header names them: of numbers that are learned, and of counts."""
_SHOWN = 8
"""Tensors named in a message."""

M = TypeVar("M", bound=nn.Module)


class SavedProcessor(Protocol):
    """The processor of a model."""

    def save_pretrained(self, save_directory: str, /) -> object:
        """Write it into the folder."""
        ...


def save_network(module: nn.Module, directory: str | Path, config: Mapping[str, object]) -> None:
    """Write `model.safetensors` and then `config.json`, each to a temporary name that is renamed.

    Args:
        module: its state dict is written, from whatever device it is on.
        directory: created if needed.
        config: JSON values; the key `class` is added with the module's class name.
    """
    directory = Path(directory)
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with replacing(directory / WEIGHTS_NAME, shared=True) as temporary:
        save_file(tensors, temporary)
        as_new_files([temporary])
    text = json.dumps({"class": type(module).__name__, **config}, indent=2) + "\n"
    write_text(directory / CONFIG_NAME, text, shared=True)


def save_model(
    model: PreTrainedModel | PeftModel,
    processor: SavedProcessor,
    directory: str | Path,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write a model of transformers or peft and its processor, for whoever may read the folder.

    Args:
        model: written in safetensors.
        processor: of it.
        directory: created if needed.
        weights: whole tensors by name, where the model's own are shards; None takes its own.
    """
    model.save_pretrained(str(directory), state_dict=weights)
    as_new_files(Path(directory).glob("*.safetensors"))
    processor.save_pretrained(str(directory))


def load_network(kind: type[M], directory: str | Path) -> M:
    """The network of a folder that `save_network` wrote, in eval mode.

    Args:
        kind: its class, whose constructor's annotations say what the config may hold.
        directory: the folder.

    Raises:
        MissingFileError: a file is missing.
        InputError: a file is damaged, the config is of another class or has keys or values that its constructor does not take, or
            tensors are missing, unexpected or of another shape; names the file.
    """
    config = _read_config(directory, kind)
    headers = _headers(directory)
    # First without memory: a config may ask for any size.
    with torch.device("meta"):
        _check_tensors(_made(kind, config, directory), headers, directory)
    network = _made(kind, config, directory)
    _load_weights(network, directory)
    return network.eval()


def _made(kind: type[M], config: Mapping[str, Any], directory: str | Path) -> M:
    where = Path(directory) / CONFIG_NAME
    try:
        return kind(**config)
    except InputError as error:
        msg = f"{where}: {error}"
        raise InputError(msg) from None
    except RuntimeError as error:
        # torch counts no further than 64 bits.
        if "overflow" not in str(error) and "Storage size" not in str(error):
            raise
        msg = f"{where}: asks for larger tensors than there can be"
        raise InputError(msg) from None


def _headers(directory: str | Path) -> dict[str, TensorHeader]:
    path = Path(directory) / WEIGHTS_NAME
    if not path.is_file():
        msg = f"{directory}: no {WEIGHTS_NAME}"
        raise MissingFileError(msg)
    return tensor_headers(path)


def _check_tensors(module: nn.Module, headers: Mapping[str, TensorHeader], directory: str | Path) -> None:
    """Refuse a file that does not hold exactly the module's tensors."""
    path = Path(directory) / WEIGHTS_NAME
    expected = module.state_dict()
    if missing := sorted(expected.keys() - headers.keys()):
        msg = f"{path}: tensors missing: {_some(missing)}"
        raise InputError(msg)
    if unexpected := sorted(headers.keys() - expected.keys()):
        msg = f"{path}: unexpected tensors: {_some(unexpected)}"
        raise InputError(msg)
    for name, header in headers.items():
        if header.shape != tuple(expected[name].shape):
            msg = f"{path}: {name} has shape {list(header.shape)}; the config asks for {list(expected[name].shape)}"
            raise InputError(msg)
        allowed = _FLOATS if expected[name].is_floating_point() else _WHOLE
        if header.dtype not in allowed:
            msg = f"{path}: {name} is of type {header.dtype}; allowed: {', '.join(allowed)}"
            raise InputError(msg)
    if len(types := {headers[name].dtype for name, _ in module.named_parameters()}) > 1:
        msg = f"{path}: its weights are of several types ({', '.join(sorted(types))}); expected one"
        raise InputError(msg)


def _some(names: list[str]) -> str:
    return f"{names[:_SHOWN]}" + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else "")


def _read_config(directory: str | Path, kind: type[nn.Module]) -> dict[str, Any]:
    """The constructor's arguments of a saved network."""
    path = Path(directory) / CONFIG_NAME
    if not path.is_file():
        msg = f"{directory}: no {CONFIG_NAME}; expected a folder written by {kind.__name__}.save_pretrained"
        raise MissingFileError(msg)
    config = read_object(path, max_bytes=MAX_OWN_CONFIG_BYTES)
    if config.get("class") != kind.__name__:
        msg = f"{path}: key 'class' is {config.get('class')!r}; expected {kind.__name__!r}"
        raise InputError(msg)
    del config["class"]
    parameters, types = inspect.signature(kind).parameters, get_type_hints(kind.__init__)
    if unknown := sorted(set(config) - set(parameters)):
        msg = f"{path}: unknown keys {unknown}; allowed: {sorted(parameters)}"
        raise InputError(msg)
    for name, parameter in parameters.items():
        if name in config:
            try:
                # As JSON, in which a tuple is a list; strict, so that neither true nor "4" is a number.
                TypeAdapter(types[name]).validate_json(json.dumps(config[name]), strict=True)
            except ValidationError as error:
                msg = f"{path}: key {name!r}: found {config[name]!r}; {error.errors()[0]['msg'].lower()}"
                raise InputError(msg) from None
        elif parameter.default is inspect.Parameter.empty:
            msg = f"{path}: key {name!r} is missing"
            raise InputError(msg)
    return config


def _load_weights(module: nn.Module, directory: str | Path) -> None:
    """Load `model.safetensors`, whose header has been checked, into the module, which takes the file's floating-point dtype.

    Raises:
        MissingFileError: the folder has no `model.safetensors`.
        InputError: the file is damaged, or holds NaN or infinity.
    """
    path = Path(directory) / WEIGHTS_NAME
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        msg = f"{path}: damaged: {error}"
        raise InputError(msg) from None
    if strange := next(
        (name for name, tensor in tensors.items() if tensor.is_floating_point() and not tensor.isfinite().all()), None
    ):
        msg = f"{path}: {strange} holds NaN or infinity"
        raise InputError(msg)
    for name, parameter in module.named_parameters():
        parameter.data = parameter.data.to(tensors[name].dtype)
    module.load_state_dict(tensors)
