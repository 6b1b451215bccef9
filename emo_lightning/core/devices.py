"""Where a model runs: names of devices, and which of them this machine has."""

from __future__ import annotations

import os
import re

from emo_lightning.core.errors import InputError

__all__ = ["DeviceError", "check_device_name", "usable_device"]

_NAME = re.compile(r"cpu|mps|(?:cuda|xpu)(?::[0-9]{1,4})?", re.ASCII)
_NAMES = "cpu, cuda, cuda:1 (the second GPU), mps, xpu"


class DeviceError(InputError):
    """A device that torch cannot use on this machine."""


def check_device_name(name: str) -> str:
    """The name itself.

    Raises:
        DeviceError: no device is called so, on any machine.
    """
    if not _NAME.fullmatch(name):
        msg = f"device {name!r} cannot be used: allowed are {_NAMES}"
        raise DeviceError(msg)
    return name


def usable_device(name: str | None = None) -> str:
    """The device itself, with its index where it has one.

    Args:
        name: of torch; None is the GPU of this rank where there is one, else the CPU.

    Raises:
        DeviceError: it is none, or torch cannot put a tensor on it.
    """
    import torch

    if name is None:
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.empty(0, device=check_device_name(name)).device)
    # torch without CUDA raises AssertionError, without MPS NotImplementedError.
    except (RuntimeError, AssertionError) as error:
        here = ["cpu", *(f"cuda:{n}" for n in range(torch.cuda.device_count()))]
        msg = f"device {name!r} cannot be used: {str(error).splitlines()[0][:200]}; this machine has {', '.join(here)}"
        raise DeviceError(msg) from None
