"""A device that cannot be used is refused by one line that says which can."""

from __future__ import annotations

import pytest
import torch

from emo_lightning.core.devices import DeviceError, check_device_name, peak_flops, usable_device


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        "foo",
        "gpu",
        "CPU",
        " cpu",
        "cpu:3",
        "meta",
        "vulkan",
        "hpu",
        "cuda:",
        "cuda:x",
        "cuda:-1",
        "cuda:\u0661",
        "cpu\n",
    ],
)
def test_no_name_of_a_device(name: str) -> None:
    for check in (check_device_name, usable_device):
        with pytest.raises(DeviceError, match=r"allowed are cpu, cuda, cuda:1 .*, mps") as error:
            check(name)
        assert repr(name) in str(error.value)


@pytest.mark.parametrize("name", ["cuda:9999", "mps", "xpu:77"])
def test_a_device_of_another_machine(name: str) -> None:
    assert check_device_name(name) == name
    if name == "mps" and torch.backends.mps.is_available():
        return
    with pytest.raises(DeviceError, match=rf"device '{name}' cannot be used: .*; this machine has cpu"):
        usable_device(name)


def test_the_default_is_there() -> None:
    assert usable_device("cpu") == "cpu"
    assert usable_device().split(":")[0] == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", 181e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA RTX A1000", None),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_peaks_go_by_whole_names(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
