"""Small networks on disk: a folder with `config.json` and `model.safetensors`, read back with nothing missing in silence."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.files import read_object, replacing, write_text

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"

M = TypeVar("M", bound=nn.Module)


def save_network(module: nn.Module, directory: str | Path, config: Mapping[str, object]) -> None:
    """Write `model.safetensors` and then `config.json`, each to a temporary name that is renamed.

    Args:
        module: its state dict is written, from whatever device it is on.
        directory: created if needed.
        config: JSON values; the key `class` is added with the module's class name.
    """
    directory = Path(directory)
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with replacing(directory / WEIGHTS_NAME, writer=os.getpid()) as temporary:
        save_file(tensors, temporary)
    text = json.dumps({"class": type(module).__name__, **config}, indent=2) + "\n"
    write_text(directory / CONFIG_NAME, text, writer=os.getpid())


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
    try:
        _check_claims(kind, config, directory)
        network = kind(**config)
    except InputError as error:
        msg = f"{Path(directory) / CONFIG_NAME}: {error}"
        raise InputError(msg) from None
    load_weights(network, directory)
    return network.eval()


def _check_claims(kind: type[nn.Module], config: Mapping[str, Any], directory: str | Path) -> None:
    """Refuse a config that asks for a network larger than the weights beside it, before it takes memory.

    Raises:
        InputError: says how large.
    """
    path = Path(directory) / WEIGHTS_NAME
    if not path.is_file():
        return  # `load_weights` says so.
    try:
        with torch.device("meta"):
            values = sum(tensor.numel() for tensor in kind(**config).state_dict().values())
    # More elements than a tensor can count.
    except (RuntimeError, OverflowError) as error:
        msg = f"asks for tensors that cannot be: {str(error)[:200]}"
        raise InputError(msg) from None
    # Small ones cost nothing, and `load_weights` says which tensor differs.
    if values > max(10_000_000, size := path.stat().st_size):
        msg = f"asks for {values:,} values; {WEIGHTS_NAME} beside it has {size:,} bytes"
        raise InputError(msg)


def _read_config(directory: str | Path, kind: type[nn.Module]) -> dict[str, Any]:
    """The constructor's arguments of a saved network."""
    path = Path(directory) / CONFIG_NAME
    if not path.is_file():
        msg = f"{directory}: no {CONFIG_NAME}; expected a folder written by {kind.__name__}.save_pretrained"
        raise MissingFileError(msg)
    # What the constructor refuses, it names better.
    config = read_object(path, float)
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


def load_weights(module: nn.Module, directory: str | Path) -> None:
    """Load `model.safetensors` into the module, which takes the file's floating-point dtype.

    Raises:
        MissingFileError: the folder has no `model.safetensors`.
        InputError: the file is damaged, or a tensor is missing, unexpected or of another shape.
    """
    path = Path(directory) / WEIGHTS_NAME
    if not path.is_file():
        msg = f"{directory}: no {WEIGHTS_NAME}"
        raise MissingFileError(msg)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        msg = f"{path}: damaged: {error}"
        raise InputError(msg) from None
    expected = module.state_dict()
    if missing := sorted(expected.keys() - tensors.keys()):
        msg = f"{path}: tensors missing: {missing}"
        raise InputError(msg)
    if unexpected := sorted(tensors.keys() - expected.keys()):
        msg = f"{path}: unexpected tensors: {unexpected}"
        raise InputError(msg)
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            msg = f"{path}: {name} has shape {list(tensor.shape)}; the config asks for {list(expected[name].shape)}"
            raise InputError(msg)
    for name, parameter in module.named_parameters():
        parameter.data = parameter.data.to(tensors[name].dtype)
    module.load_state_dict(tensors)
