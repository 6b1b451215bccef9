"""The DES head against an independent NumPy evaluation of equations 2–4, and what an embedding may depend on."""

import json
import math
from math import erf
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from emo_lightning.core.errors import InputError
from emo_lightning.models.des import DESHead, Pooling, SavedFusion

Floats = NDArray[np.float64]

LAYERS, HIDDEN = 4, 24
FUSIONS = ("both", "self", "queries", "none", "cross")


def head_of(dtype: torch.dtype = torch.float64, **arguments: object) -> DESHead:
    torch.manual_seed(3)
    given: dict[str, Any] = dict(arguments)
    head = DESHead(HIDDEN, LAYERS, **given).to(dtype).eval()
    with torch.no_grad():
        head.layer_logits.normal_()  # equal weights would hide a wrong order of layers
    return head


def inputs(lengths: tuple[int, ...] = (5, 9, 1), dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    hidden = torch.randn(LAYERS, len(lengths), max(lengths), HIDDEN, generator=generator, dtype=torch.float64)
    hidden *= torch.tensor([1.0, 30.0, 0.2, 5.0])[:, None, None, None]  # layers differ in scale, as before the final norm
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return hidden.to(dtype), mask


def reference(head: DESHead, hidden: torch.Tensor, tokens: int, row: int) -> Floats:
    """Equations 2–4 for one image without padding, loops over heads, NumPy only."""
    p = {name: value.detach().numpy() for name, value in head.state_dict().items()}
    h = hidden[:, row, :tokens].numpy()

    def softmax(x: Floats) -> Floats:
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def attention(name: str, source: Floats, memory: Floats) -> Floats:
        q, k, v = source @ p[f"{name}.query.weight"].T, memory @ p[f"{name}.key.weight"].T, memory @ p[f"{name}.value.weight"].T
        d = q.shape[1] // head.num_heads
        parts = [slice(i * d, (i + 1) * d) for i in range(head.num_heads)]
        return np.concatenate([softmax(q[:, s] @ k[:, s].T / np.sqrt(d)) @ v[:, s] for s in parts], axis=1)

    alpha = softmax(p["layer_logits"])
    summed = sum(a * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) for a, x in zip(alpha, h, strict=True))
    inner = summed @ p["project_in.weight"].T + p["project_in.bias"]
    inner = inner * 0.5 * (1 + np.vectorize(erf)(inner / np.sqrt(2)))
    f = inner @ p["project_out.weight"].T + p["project_out.bias"]
    fused = attention("self_attention", f, f) if head.fusion in ("both", "self") else f
    fused = p["queries"] if head.fusion == "queries" else fused
    fused = attention("cross_attention", fused, f) if head.fusion in ("both", "queries", "cross") else fused
    number = len(fused)
    weights = softmax((fused @ p["pool_score.weight"].T)[:, 0]) if head.pooling == "weighted" else np.full(number, 1 / number)
    return weights @ fused


@pytest.mark.parametrize("num_heads", [1, 4])
@pytest.mark.parametrize("pooling", ["weighted", "mean"])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_equals_equations_2_to_4(num_heads: int, pooling: Pooling, fusion: SavedFusion) -> None:
    head = head_of(num_heads=num_heads, fusion=fusion, pooling=pooling)
    lengths = (5, 9, 1)
    hidden, mask = inputs(lengths)
    des = head(hidden, mask).detach().numpy()
    assert des.shape == (3, HIDDEN // 2)
    for row, tokens in enumerate(lengths):
        np.testing.assert_allclose(des[row], reference(head, hidden, tokens, row), atol=1e-6, rtol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("left", [False, True])
def test_embedding_does_not_depend_on_batch_or_padding(fusion: SavedFusion, left: bool) -> None:
    head = head_of(torch.float32, fusion=fusion)
    hidden, mask = inputs((5, 9, 1), torch.float32)
    if left:
        hidden, mask = hidden.flip(2), mask.flip(1)
    # Whatever a backbone leaves at padding.
    hidden = hidden.masked_fill(~mask[None, :, :, None], float("nan"))
    together = head(hidden, mask)
    wider = torch.cat([hidden, torch.full((LAYERS, 3, 6, HIDDEN), float("inf"))], 2), torch.cat([mask, mask.new_zeros(3, 6)], 1)
    for row in range(3):
        alone = head(hidden[:, row : row + 1, mask[row]], torch.ones(1, int(mask[row].sum()), dtype=torch.int64))
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=0)
    torch.testing.assert_close(together, head(*wider), atol=1e-5, rtol=0)


def test_scale_of_a_layer_does_not_matter_and_last_index_is_last_layer() -> None:
    head = head_of()
    hidden, mask = inputs()
    scaled = hidden * torch.tensor([1e3, 1e2, 5e2, 1e4])[:, None, None, None]
    torch.testing.assert_close(head(hidden, mask), head(scaled, mask), atol=1e-4, rtol=0)
    with torch.no_grad():
        head.layer_logits.copy_(torch.tensor([-1e9, -1e9, -1e9, 0.0]))
    changed = hidden.clone()
    changed[:-1] = torch.randn_like(changed[:-1])
    torch.testing.assert_close(head(hidden, mask), head(changed, mask))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("pooling", ["weighted", "mean"])
def test_every_parameter_gets_a_gradient(fusion: SavedFusion, pooling: Pooling) -> None:
    head = head_of(fusion=fusion, pooling=pooling).train()
    hidden, mask = inputs()
    head(hidden, mask).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


def test_cross_is_self_under_another_name_and_queries_are_not() -> None:
    """Heads of older runs have `cross`: they load, and give what they gave."""
    cross, of_self = head_of(fusion="cross"), head_of(fusion="self")
    renamed = {name.replace("cross_attention", "self_attention"): value for name, value in cross.state_dict().items()}
    of_self.load_state_dict(renamed)
    hidden, mask = inputs()
    assert torch.equal(cross(hidden, mask), of_self(hidden, mask))
    queries = head_of(fusion="queries")
    queries.load_state_dict({**cross.state_dict(), "queries": queries.state_dict()["queries"]})
    assert not torch.allclose(queries(hidden, mask)[:2], cross(hidden, mask)[:2])


def test_low_precision_input_is_computed_in_the_parameters_dtype() -> None:
    head = head_of(torch.float32)
    hidden, mask = inputs(dtype=torch.float32)
    des = head(hidden.bfloat16(), mask)
    assert des.dtype == torch.float32
    torch.testing.assert_close(des, head(hidden.bfloat16().float(), mask))


def test_defaults_are_the_papers() -> None:
    head = DESHead(2048)
    assert head.des_dim == 1024
    assert head.config == {
        "hidden_size": 2048,
        "num_layers": 4,
        "des_dim": 1024,
        "num_heads": 1,
        "dropout": 0.1,
        "fusion": "both",
        "pooling": "weighted",
    }
    assert torch.equal(head.layer_logits.softmax(0), torch.full((4,), 0.25))


def test_bad_input_is_named() -> None:
    head = head_of()
    hidden, mask = inputs()
    mask[1] = False
    with pytest.raises(ValueError, match=r"no real token in rows \[1\]"):
        head(hidden, mask)
    with pytest.raises(ValueError, match=r"hidden_states has shape \[3, "):
        head(hidden[:3], inputs()[1])
    with pytest.raises(ValueError, match="num_heads is 5"):
        DESHead(HIDDEN, num_heads=5)
    with pytest.raises(ValueError, match="fusion is 'all'"):
        DESHead(HIDDEN, fusion=cast(Any, "all"))


def test_saved_and_read_back(tmp_path: Path) -> None:
    head = head_of(torch.float32, num_heads=2, fusion="self", pooling="mean", dropout=0.3)
    head.save_pretrained(tmp_path)
    read = DESHead.from_pretrained(tmp_path)
    assert read.config == head.config
    assert not read.training
    hidden, mask = inputs(dtype=torch.float32)
    assert torch.equal(read(hidden, mask), head(hidden, mask))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    head.double().save_pretrained(tmp_path)
    assert DESHead.from_pretrained(tmp_path).project_in.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("hidden_size", "96", "key 'hidden_size': found '96'; input should be a valid integer"),
        ("hidden_size", True, "key 'hidden_size': found True; input should be a valid integer"),
        ("hidden_size", None, "key 'hidden_size': found None; input should be a valid integer"),
        ("num_layers", 2.5, "key 'num_layers': found 2.5"),
        ("num_layers", -1, "num_layers is -1; expected at least 1"),
        ("des_dim", [], r"key 'des_dim': found \[\]"),
        ("dropout", math.nan, "NaN is no number of JSON"),
        ("dropout", 2, "dropout is 2; expected a probability"),
        ("dropout", "x", "key 'dropout': found 'x'"),
        ("fusion", "all", "key 'fusion': found 'all'"),
    ],
)
def test_a_config_with_wrong_values_is_named(tmp_path: Path, key: str, value: object, expected: str) -> None:
    head_of().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {key: value}))
    with pytest.raises(InputError, match=rf"config\.json: {expected}"):
        DESHead.from_pretrained(tmp_path)


def test_a_config_without_its_size_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"class": "DESHead"}')
    with pytest.raises(InputError, match=r"config\.json: key 'hidden_size' is missing"):
        DESHead.from_pretrained(tmp_path)


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    head_of().save_pretrained(tmp_path)
    weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
    # Copies: what is read from a file may be mapped from it, and the file is written over.
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    values = json.loads(config.read_text())

    save_file({k: v for k, v in tensors.items() if k != "project_in.bias"}, weights)
    with pytest.raises(ValueError, match=r"tensors missing: \['project_in.bias'\]"):
        DESHead.from_pretrained(tmp_path)
    save_file({**tensors, "extra": torch.zeros(1)}, weights)
    with pytest.raises(ValueError, match=r"unexpected tensors: \['extra'\]"):
        DESHead.from_pretrained(tmp_path)
    weights.write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match="damaged"):
        DESHead.from_pretrained(tmp_path)
    save_file(tensors, weights)
    config.write_text(json.dumps({**values, "heads": 2}))
    with pytest.raises(ValueError, match=r"unknown keys \['heads'\]"):
        DESHead.from_pretrained(tmp_path)
    config.write_text(json.dumps({**values, "hidden_size": 48}))
    with pytest.raises(ValueError, match="the config asks for"):
        DESHead.from_pretrained(tmp_path)
    config.write_text(json.dumps({**values, "class": "Other"}))
    with pytest.raises(ValueError, match="expected 'DESHead'"):
        DESHead.from_pretrained(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        DESHead.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hidden_size": 1_000_000}, "the config asks for"),
        ({"hidden_size": 1 << 62}, "(the config asks for|larger tensors than there can be)"),
        ({"num_layers": 1_000_000_000_000}, "the config asks for"),
        ({"des_dim": 1_000_000, "num_heads": 1_000_000}, "the config asks for"),
        ({"note": "x" * (1 << 16)}, "longer than 65,536 bytes"),
    ],
)
def test_a_config_takes_no_memory_that_its_weights_do_not_fill(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    head_of().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(InputError, match=said) as caught:
        DESHead.from_pretrained(tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float8_e4m3fn])
def test_weights_of_other_types_are_refused(tmp_path: Path, dtype: torch.dtype) -> None:
    head_of().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, weights)
    with pytest.raises(InputError, match=r"model\.safetensors: .* is of type .*; allowed: F32, BF16, F16, F64"):
        DESHead.from_pretrained(tmp_path)
    save_file({**tensors, "project_in.bias": tensors["project_in.bias"].half()}, weights)
    with pytest.raises(InputError, match=r"its weights are of several types \(F16, F64\)"):
        DESHead.from_pretrained(tmp_path)


def test_weights_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    head = head_of()
    head.project_in.bias.data[3] = torch.nan
    head.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"model\.safetensors: project_in\.bias holds NaN or infinity"):
        DESHead.from_pretrained(tmp_path)
