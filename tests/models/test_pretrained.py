"""A base model is what its files hold, or it is refused: no weight is made up, left out or asked for without being there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from emo_lightning.models.backbone_config import BackboneConfig, BackboneError
from emo_lightning.models.loading import load_frozen
from emo_lightning.models.pretrained import PROCESSOR_FILES, load_model, load_processor


def with_weights(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return spoil


def with_config(**changes: object) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        file = folder / "config.json"
        config = json.loads(file.read_text())
        for key, value in changes.items():
            config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
        file.write_text(json.dumps(config))

    return spoil


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a layer is missing": (with_weights(lambda w: {k: v for k, v in w.items() if "layers.2." not in k}), "12 missing"),
    "one weight is missing": (
        with_weights(lambda w: {k: v for k, v in w.items() if "visual.patch_embed" not in k}),
        "1 missing",
    ),
    "no embedding": (with_weights(lambda w: {k: v for k, v in w.items() if "embed_tokens" not in k}), "2 missing"),
    "a layer more": (
        with_weights(lambda w: w | {k.replace("layers.3.", "layers.4."): v.clone() for k, v in w.items() if "layers.3." in k}),
        "12 that the model does not have",
    ),
    "fewer layers in the config": (with_config(text_config={"num_hidden_layers": 3, "layer_types": None}), "12 that the model"),
    "a head of its own": (with_config(tie_word_embeddings=False), r"1 missing \(lm_head.weight\)"),
    "another shape": (
        with_weights(lambda w: {k: v[:-1].clone() if "layers.2.mlp.up" in k else v for k, v in w.items()}),
        "are not of the sizes",
    ),
    "no numbers": (
        with_weights(lambda w: {k: v * float("nan") if "layers.2.mlp.up" in k else v for k, v in w.items()}),
        r"layers\.2\.mlp\.up_proj\.weight holds NaN or infinity",
    ),
    "whole numbers": (with_weights(lambda w: {k: v.to(torch.int32) for k, v in w.items()}), "is of type I32"),
    "a million layers": (with_config(text_config={"num_hidden_layers": 1_000_000}), "'num_hidden_layers': found 1,000,000"),
    "a deep tower": (with_config(vision_config={"depth": 1_000_000_000}), "'depth': found 1,000,000,000"),
    "a wide model": (with_config(text_config={"hidden_size": 1 << 20}), "asks for a model of"),
    "many words": (with_config(text_config={"vocab_size": 1 << 34}), "asks for a model of"),
    "code of its own": (
        with_config(model_type="their_own", auto_map={"AutoConfig": "code.C", "AutoModel": "code.M"}),
        "'their_own' is not supported",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "no weights"),
    "a long config": (lambda folder: (folder / "config.json").write_text(" " * (1 << 21)), "longer than"),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_a_folder_that_is_no_whole_model(tiny_qwen: Path, tmp_path: Path, fault: str) -> None:
    spoil, message = SPOILT[fault]
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen, folder)
    spoil(folder)
    with pytest.raises(BackboneError, match=message) as caught:
        load_frozen(BackboneConfig(str(folder), tuning="frozen"))
    assert str(folder) in str(caught.value)


def test_code_beside_a_processor_is_not_run_and_nobody_is_asked(
    tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(tiny_qwen, folder)
    (folder / "code.py").write_text(f"open({str(mark)!r}, 'w').write('x')\nclass P: pass\n")
    config = json.loads((folder / "processor_config.json").read_text())
    theirs = {"auto_map": {"AutoProcessor": "code.P"}, "processor_class": "TheirProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(config | theirs))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    with pytest.raises(BackboneError, match="its processor cannot be read"):
        load_frozen(BackboneConfig(str(folder), tuning="frozen"))
    assert not mark.exists()


def test_what_older_versions_wrote_is_whole(tiny_qwen: Path, tmp_path: Path) -> None:
    """Names before transformers 4.52, constants among the weights, a pickle of plain tensors: the same model."""
    expected = load_frozen(BackboneConfig(str(tiny_qwen), tuning="frozen")).base.state_dict()
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen, folder)
    renamed = {"model.visual.": "visual.", "model.language_model.": "model."}
    weights = {}
    for name, value in load_file(folder / "model.safetensors").items():
        # transformers writes one or the other, by its version.
        today = next((start for start in renamed if name.startswith(start)), None)
        weights[name if today is None else renamed[today] + name.removeprefix(today)] = value
    assert any(name.startswith("visual.") for name in weights)
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    found = load_frozen(BackboneConfig(str(folder), tuning="frozen")).base.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_half_filled_cache_of_the_hub(tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "models--Me--Mine" / "snapshots" / ("a" * 40)
    shutil.copytree(tiny_qwen, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    # While the model is loaded, another commit may come in: its processor is not that of the model.
    _, family = load_model(config := BackboneConfig("Me/Mine", tuning="frozen"), "Me/Mine")
    later = snapshot.with_name("b" * 40)
    shutil.copytree(tiny_qwen, later)
    for name in PROCESSOR_FILES:
        (later / name).unlink(missing_ok=True)
    (snapshot.parents[1] / "refs" / "main").write_text("b" * 40)
    with pytest.raises(BackboneError, match="its processor cannot be read"):
        load_processor(config, "Me/Mine", family)
    load_processor(config, "Me/Mine", family, snapshot.name)
    (snapshot.parents[1] / "refs" / "main").write_text("a" * 40)
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(BackboneError, match="backbone 'Me/Mine': no weights"):
        load_frozen(BackboneConfig("Me/Mine", tuning="frozen"))
