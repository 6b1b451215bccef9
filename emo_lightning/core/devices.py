"""Where a model runs: names of devices, and which of them this machine has."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING

from emo_lightning.core.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["DeviceError", "check_device_name", "peak_flops", "peak_memory", "usable_device"]

_NAME = re.compile(r"cpu|mps|(?:cuda|xpu)(?::[0-9]{1,4})?", re.ASCII)
_NAMES = "cpu, cuda, cuda:1 (the second GPU), mps, xpu"


_PEAKS = {
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "L4": 121e12,
    "RTX 4090": 165e12,
}
"""Name of a GPU, or what it begins with -> dense bf16 FLOP/s of its tensor cores with float32 sums (NVIDIA's data sheets)."""


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


def peak_memory(device: torch.device) -> int | None:
    """Bytes at most: allocated on a GPU since its count was last set back, else resident of this process; None where no one counts."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def peak_flops(name: str) -> float | None:
    """Dense bf16 operations a second that a device can do at most; None where that is not known.

    Args:
        name: as `torch.cuda.get_device_name` gives it.
    """
    known = [key for key in _PEAKS if re.search(rf"(?<!\w){key}(?!\w)", name)]
    return _PEAKS[max(known, key=len)] if known else None
