"""A layer with an adapter, its products joined: peft's outputs and gradients."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn

from emo_lightning.models.adapted_linear import _WIDE, AdaptedLinear, _Product, join_products


class Two(nn.Module):
    """An input's gradient passes both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, width), nn.Linear(width, 6, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


def pair(width: int = 20, **options: object) -> tuple[nn.Module, nn.Module]:
    """peft's model, and the same with joined products."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"r": 4, "lora_alpha": 12, "lora_dropout": 0.0, "target_modules": ["first", "second"]} | options
    plain = get_peft_model(Two(width), LoraConfig(**settings))
    for name, parameter in plain.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    joined = copy.deepcopy(plain)
    join_products(joined)
    return plain.train(), joined.train()


def computed(model: nn.Module, *, autocast: bool = False, learns: bool = True) -> dict[str, Tensor]:
    """Output, and the gradients of adapters and input."""
    torch.manual_seed(1)
    x = torch.randn(3, 5, 12, requires_grad=learns)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        out = model(x)
    out.float().square().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None} | {"out": out}
    return found | ({"x": x.grad} if x.grad is not None else {})


def check_equal(plain: nn.Module, joined: nn.Module, tolerance: float = 1e-6, **how: bool) -> None:
    expected, found = computed(plain, **how), computed(joined, **how)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == expected[name].dtype
        assert (tensor - expected[name]).abs().max() <= tolerance * expected[name].abs().max(), name


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("learns", [True, False])
def test_outputs_and_gradients_are_those_of_peft(dropout: float, learns: bool) -> None:
    plain, joined = pair(lora_dropout=dropout)
    check_equal(plain, joined, learns=learns)


def test_of_wide_layers_too() -> None:
    plain, joined = pair(width=_WIDE + 1)
    # Sums of so many products in single precision.
    check_equal(plain, joined, 1e-5)


@pytest.mark.parametrize("base", [torch.float32, torch.bfloat16])
def test_under_autocast(base: torch.dtype) -> None:
    plain, joined = pair()
    for model in (plain, joined):
        for name, parameter in model.named_parameters():
            if "base_layer" in name:
                parameter.data = parameter.data.to(base)
    # Sums of products are rounded once here, and after every product there.
    check_equal(plain, joined, 2e-2, autocast=True)


@pytest.mark.parametrize("how", ["dora", "rslora", "bias", "disabled", "merged", "evaluated", "whole"])
def test_what_is_not_plain_is_computed_by_peft(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_one: dict[str, Any] = {"lora_bias": True, "target_modules": ["first"]}
    options: dict[str, dict[str, Any]] = {"dora": {"use_dora": True}, "rslora": {"use_rslora": True}, "bias": of_one}
    plain, joined = pair(**options.get(how, {}))
    calls: list[int] = []
    apply = _Product.apply

    def counted(*arguments: object) -> object:
        calls.append(1)
        return apply(*arguments)

    monkeypatch.setattr(_Product, "apply", counted)
    for model in (plain, joined):
        for layer in model.modules():
            if not isinstance(layer, Linear):
                continue
            if how == "disabled":
                layer.enable_adapters(False)
            elif how == "merged":
                layer.merge()
            elif how == "whole":
                layer.get_base_layer().requires_grad_(True)
        if how == "evaluated":
            model.eval()
    if how == "disabled":
        assert torch.equal(plain(torch.ones(2, 12)), joined(torch.ones(2, 12)))
    else:
        check_equal(plain, joined)
    assert bool(calls) == (how in ("rslora", "evaluated"))


@pytest.mark.parametrize("autocast", [False, True])
def test_on_weights_in_4_bits(autocast: bool) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(12, 64), bitsandbytes.nn.Linear4bit(64, 128, quant_type="nf4", compute_dtype=torch.float32))
    whole.is_loaded_in_4bit = True  # type: ignore[assignment]  # as transformers says it, and peft asks
    model = get_peft_model(whole.to("cpu"), LoraConfig(r=4, lora_alpha=12, lora_dropout=0.3, target_modules=["0", "1"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter)
    expected = computed(model.train(), autocast=autocast)
    model.zero_grad()
    join_products(model)
    assert [type(layer).__name__ for layer in model.modules() if hasattr(layer, "lora_A")] == ["AdaptedLinear", "Adapted4bit"]
    found = computed(model, autocast=autocast)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert (tensor - expected[name]).abs().max() <= (2e-2 if autocast else 1e-6) * expected[name].abs().max(), name


def test_files_and_merged_weights_stay_those_of_peft() -> None:
    plain, joined = pair()
    assert sum(type(layer) is AdaptedLinear for layer in joined.modules()) == 2
    assert plain.state_dict().keys() == joined.state_dict().keys()
    merged = joined.merge_and_unload()  # type: ignore[operator]  # peft gives it by `__getattr__`
    assert type(merged.first) is nn.Linear
    x = torch.randn(4, 12)
    assert (merged(x) - plain(x)).abs().max() < 1e-5
