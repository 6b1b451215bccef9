"""Adapters of others: what their two files say is not believed, and what older versions wrote is read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from emo_lightning.core.model_folders import made_of, weights_hash
from emo_lightning.models.adapter_files import Patterns
from emo_lightning.models.backbone_config import BackboneConfig, BackboneError, LoRA
from emo_lightning.models.loading import load_backbone, load_frozen

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
NESTED = r"(\w|\w|.)+(\w|\w|.)+(\w|\w|.)+[^\w.]"
"""Takes hours on a name that does not fit."""
WEIGHTS = "adapter_model.safetensors"


def changed(adapter: Path, out: Path, **settings: object) -> Path:
    shutil.copytree(adapter, out)
    config = out / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | settings))
    return out


def rewrite(weights: dict[str, torch.Tensor], path: Path) -> None:
    """In the place of the file that they were read from, which they may still be mapped to."""
    new = path.with_name("new")
    save_file(weights, new)
    new.replace(path)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    backbone = load_frozen(BackboneConfig(str(folder), tuning="frozen"))
    return {name: p for name, p in backbone.model.named_parameters() if "lora_" in name}


@pytest.mark.parametrize(
    "targets",
    [None, r"^model\.layers\.\d+\.(self_attn|mlp)\..*_proj|visual\.merger\.mlp\.(0|2)", ["q_proj", "o_proj"]],
    ids=["patterns of today", "patterns of then", "a list"],
)
def test_an_adapter_with_the_names_of_older_versions(adapter: Path, tmp_path: Path, targets: str | list[str] | None) -> None:
    """Before transformers 4.52: `model.layers…` and `visual…`."""
    old = changed(adapter, tmp_path / "old", **({} if targets is None else {"target_modules": targets}))
    weights = load_file(old / WEIGHTS)
    if isinstance(targets, list):
        weights = {key: weight for key, weight in weights.items() if any(f".{name}." in key for name in targets)}
    by_today = {
        key.replace("model.language_model.", "model.").replace("model.model.visual.", "model.visual."): key for key in weights
    }
    rewrite({old_key: weights[key] for old_key, key in by_today.items()}, old / WEIGHTS)
    assert not any("language_model" in key for key in load_file(old / WEIGHTS))
    found = weights_of(old)
    assert len(found) == len(weights)
    for name, value in found.items():
        assert torch.equal(value, weights[name.replace(".default", "")]), name
    # What training goes on from there writes, has the names of today and is read again.
    again = load_backbone(BackboneConfig(str(old))).save(tmp_path / "again")
    assert load_file(again / WEIGHTS).keys() == weights.keys()
    assert weights_of(again).keys() == found.keys()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": NESTED}, "takes longer than"),
        ({"exclude_modules": NESTED}, "takes longer than"),
        ({"rank_pattern": {NESTED: 4}}, "takes longer than"),
        ({"alpha_pattern": {NESTED: 4}}, "takes longer than"),
        ({"target_modules": "(("}, "is no regular expression"),
        ({"modules_to_save": [NESTED]}, "'modules_to_save'.* is no name of a module"),
        ({"target_modules": ["q_proj"], "layers_to_transform": [0], "layers_pattern": NESTED}, "'layers_pattern'"),
        ({"r": 1_000_000_000}, r"asks for [\d,]+ numbers \(r=1,000,000,000\)"),
        ({"rank_pattern": {"q_proj": 1_000_000_000}}, r"asks for [\d,]+ numbers"),
        ({"layer_replication": [[0, 1_000_000]]}, "key 'layer_replication'"),
        ({"init_lora_weights": "pissa"}, "key 'init_lora_weights'.*'pissa'"),
        ({"peft_type": "IA3"}, "key 'peft_type': found 'IA3'"),
        ({"note": "x" * (1 << 18)}, "bytes; at most"),
        ({"modules_to_save": ["merger"]}, "keys missing"),
        ({"use_dora": True}, "keys missing"),
    ],
)
def test_a_config_that_claims_or_costs_too_much(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], message: str
) -> None:
    monkeypatch.setattr("emo_lightning.models.adapter_files.PATTERN_SECONDS", 0.2)
    folder = changed(adapter, tmp_path / "adapter", **settings)
    with pytest.raises(BackboneError, match=message) as caught:
        load_frozen(BackboneConfig(str(folder), tuning="frozen"))
    assert str(folder) in str(caught.value)


def with_weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], object]:
    def spoil(path: Path) -> None:
        rewrite({name: change(weight) for name, weight in load_file(path).items()}, path)

    return spoil


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_text(LFS), "Git LFS pointer"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), "cut off"),
        (Path.unlink, "has no adapter_model.safetensors"),
        (with_weights(lambda w: w * torch.nan), "holds NaN or infinity"),
        (with_weights(lambda w: w.to(torch.int32)), r"is of type torch\.int32"),
    ],
)
def test_weights_that_are_not_whole(adapter: Path, tmp_path: Path, spoil: Callable[[Path], object], message: str) -> None:
    folder = changed(adapter, tmp_path / "adapter")
    spoil(folder / WEIGHTS)
    with pytest.raises(BackboneError, match=message) as caught:
        load_frozen(BackboneConfig(str(folder), tuning="frozen"))
    assert str(folder) in str(caught.value)


def test_patterns_of_the_user_are_limited_too(tiny_qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo_lightning.models.adapter_files.PATTERN_SECONDS", 0.2)
    with pytest.raises(BackboneError, match=r"lora.targets: matching .* takes longer"):
        load_backbone(BackboneConfig(str(tiny_qwen), lora=LoRA(targets=NESTED)))
    assert Patterns("here").matches(r".*\.(q|k)_proj", "layers.0.k_proj")
    assert not Patterns("here").matches("k_proj", "layers.0.k_proj")


@pytest.mark.parametrize("layers", [[1, 3], 2])
def test_some_layers_alone_as_peft_means_it(tiny_qwen: Path, tmp_path: Path, layers: list[int] | int) -> None:
    """Other programs write `layers_to_transform`, `exclude_modules` and patterns of ranks; peft itself makes the file."""
    from peft import LoraConfig, get_peft_model

    base = load_frozen(BackboneConfig(str(tiny_qwen), tuning="frozen")).base
    config = LoraConfig(
        r=2,
        target_modules=["q_proj", "down_proj"],
        layers_to_transform=layers,
        exclude_modules=["language_model.layers.3.mlp.down_proj"],
        rank_pattern={r"layers\.3\.self_attn\.q_proj": 3, "q_proj": 5},
        base_model_name_or_path=str(tiny_qwen),
    )
    theirs = get_peft_model(base, config)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    expected = load_file(tmp_path / "theirs" / WEIGHTS)
    found = weights_of(tmp_path / "theirs")
    assert {name.replace(".default", ""): value.shape for name, value in found.items()} == {
        k: v.shape for k, v in expected.items()
    }
    # Saved again, its patterns are the same.
    again = load_backbone(BackboneConfig(str(tmp_path / "theirs"))).save(tmp_path / "again")
    ours, read = (json.loads((folder / "adapter_config.json").read_text()) for folder in (again, tmp_path / "theirs"))
    for key in ("layers_to_transform", "exclude_modules", "rank_pattern"):
        assert ours[key] == read[key]
    assert sorted(ours["target_modules"]) == sorted(read["target_modules"])


def test_no_adapter_is_trained_on_a_tied_head(tiny_qwen: Path) -> None:
    for targets in (r".*(q_proj|lm_head)", r".*embed_tokens"):
        with pytest.raises(BackboneError, match=r"lora.targets: found .* tied"):
            load_backbone(BackboneConfig(str(tiny_qwen), lora=LoRA(targets=targets)))


def test_an_adapter_on_a_tied_head_is_read_and_not_merged(tiny_qwen: Path, tmp_path: Path) -> None:
    """Version 0.2 trained them: they mean what they meant, but no merged model is the same."""
    from peft import LoraConfig, get_peft_model

    base = load_frozen(BackboneConfig(str(tiny_qwen), tuning="frozen")).base
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], base_model_name_or_path=str(tiny_qwen))
    get_peft_model(base, config).save_pretrained(str(tmp_path / "tied"), save_embedding_layers=False)
    frozen = load_frozen(BackboneConfig(str(tmp_path / "tied"), tuning="frozen"))
    with pytest.raises(BackboneError, match="the adapter is on 'lm_head', whose weights are tied"):
        frozen.merged()
    with pytest.raises(BackboneError, match=r"adapter_config\.json: found 'lm_head'.* tied"):
        load_backbone(BackboneConfig(str(tmp_path / "tied")))


def test_an_adapter_names_its_base_by_content(adapter: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    assert made_of(adapter) == {"base": weights_hash(str(tiny_qwen))}
    second = load_backbone(BackboneConfig(str(adapter))).save(tmp_path)
    assert made_of(second) == {"base": weights_hash(str(tiny_qwen)), "started_from": weights_hash(str(adapter))}
