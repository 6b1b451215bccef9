"""Small networks on disk: a folder with `config.json` and `model.safetensors`, read back with nothing missing in silence."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.files import read_object, replacing, write_text

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"


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


def read_config(directory: str | Path, class_name: str, allowed: Collection[str]) -> dict[str, Any]:
    """The config of a saved network, without its `class` key.

    Raises:
        MissingFileError: the folder has no `config.json`.
        InputError: not JSON, another class, or a key that is not in `allowed`.
    """
    path = Path(directory) / CONFIG_NAME
    if not path.is_file():
        msg = f"{directory}: no {CONFIG_NAME}; expected a folder written by {class_name}.save_pretrained"
        raise MissingFileError(msg)
    config = read_object(path)
    if config.get("class") != class_name:
        msg = f"{path}: key 'class' is {config.get('class')!r}; expected {class_name!r}"
        raise InputError(msg)
    del config["class"]
    if unknown := sorted(set(config) - set(allowed)):
        msg = f"{path}: unknown keys {unknown}; allowed: {sorted(allowed)}"
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
