"""One folder: whole wherever it lies, and opened by everybody's libraries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from emo_lightning.cli import main
from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import made_of, write_made_of
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.bundle import bundle_fingerprint, read_bundle
from emo_lightning.inference.calibration import ProbeCalibration
from emo_lightning.inference.folder import read_about, write_folder
from emo_lightning.inference.model import EmotionModel
from emo_lightning.metrics.conformal import Conformal

FITTED = ProbeCalibration(1.5, Conformal("lac", 0.1, 0.8, 40))


@pytest.fixture(scope="module")
def pictures(world_tars: Path) -> list[Image.Image]:
    index = TarIndex.open(world_tars)
    return [index.image(row) for row in range(4)]


@pytest.fixture(scope="module")
def folders(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Merged and with its adapter, each moved after it was written, so that nothing leads back."""
    found = {}
    for name, merge in (("merged", True), ("adapter", False)):
        written, moved = tmp_path_factory.mktemp(name) / "written", tmp_path_factory.mktemp(name) / "moved"
        results = {"table6": {"test": {"accuracy": {"value": 50.0, "low": 40.0, "high": 60.0}}}}
        write_folder(read_bundle(bundle), written, merge=merge, calibration=FITTED, results=results, card="# A card\n")
        written.rename(moved)
        found[name] = moved
    return found


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_a_moved_folder_says_what_its_parts_say(
    kind: str, folders: dict[str, Path], bundle: Path, pictures: list[Image.Image]
) -> None:
    whole, parts = EmotionModel.from_pretrained(folders[kind], "cpu"), EmotionModel(bundle, "cpu")
    assert torch.allclose(whole.embed(pictures), parts.embed(pictures), atol=1e-4)
    for one, other in zip(whole.explain(pictures, max_new_tokens=16), parts.explain(pictures, max_new_tokens=16), strict=True):
        assert one.prediction.provenance == other.prediction.provenance
        assert one.probe is not None
        assert one.probe.calibrated
        assert one.probe.coverage == pytest.approx(0.9)


def test_a_folder_embeds_as_what_it_was_exported_from(folders: dict[str, Path], bundle: Path, tmp_path: Path) -> None:
    """Packing is no content: an index of a run's model is asked by what was exported from it, and by what was exported from that."""
    own = bundle_fingerprint(bundle)
    assert {bundle_fingerprint(folders[kind]) for kind in folders} == {own}
    write_folder(read_bundle(folders["adapter"]), tmp_path / "again", origin=folders["adapter"])
    assert bundle_fingerprint(tmp_path / "again") == own
    write_folder(read_bundle(folders["adapter"]), tmp_path / "rounded", dtype="bfloat16")
    assert bundle_fingerprint(tmp_path / "rounded") != own, "other numbers"
    shutil.copytree(folders["merged"], tmp_path / "changed")
    config = tmp_path / "changed" / "head" / "config.json"
    config.write_text(config.read_text().replace('"dropout": 0.1', '"dropout": 0.2'))
    assert bundle_fingerprint(tmp_path / "changed") != own, "no longer what was exported"


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_nothing_in_it_leads_out_of_it_or_could_run(kind: str, folders: dict[str, Path], bundle: Path) -> None:
    folder = folders[kind]
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".jinja", ".txt", ".md", ".py"}
    assert [path.name for path in files if path.suffix == ".py"] == ["sentence_emotion.py"]
    assert not any(path.is_symlink() for path in files)
    temporary = str(bundle.parents[1]).encode()
    assert not [path for path in files if path.suffix != ".safetensors" and temporary in path.read_bytes()]
    said = json.loads((folder / "emo.json").read_text())
    assert (said["backbone"], said["head"], said["probe"]) == ("." if kind == "merged" else "adapter", "head", "probe")
    about = read_about(folder)
    assert isinstance(about["versions"], dict)
    assert {"emo-lightning", "torch", "transformers"} <= about["versions"].keys()
    assert about["results"] == {"table6": {"test": {"accuracy": {"value": 50.0, "low": 40.0, "high": 60.0}}}}


def test_a_folder_made_before_is_read(tmp_path: Path) -> None:
    """It called what was measured `figures`."""
    (tmp_path / "config.json").write_text(json.dumps({"emo_lightning": {"format": 1, "figures": {"notes": []}}}))
    assert read_about(tmp_path) == {"format": 1, "results": {"notes": []}}


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_whoever_may_read_one_of_its_files_may_read_all(kind: str, folders: dict[str, Path]) -> None:
    """safetensors writes for the owner alone: a folder that is published, or read in a container, would lack its weights there."""
    modes = {path.name: oct(path.stat().st_mode) for path in folders[kind].rglob("*") if path.is_file()}
    assert len(set(modes.values())) == 1, modes


def test_a_loaded_model_is_saved_with_all_that_it_brought(
    folders: dict[str, Path], tmp_path: Path, pictures: list[Image.Image]
) -> None:
    model = EmotionModel.from_pretrained(folders["adapter"], "cpu")
    model.save_pretrained(tmp_path / "again")
    again = EmotionModel.from_pretrained(tmp_path / "again", "cpu")
    assert (again.calibration, read_about(tmp_path / "again")["results"]) == (FITTED, read_about(folders["adapter"])["results"])
    assert (tmp_path / "again" / "README.md").read_text() == "# A card\n"
    assert torch.allclose(again.embed(pictures), model.embed(pictures), atol=1e-4)
    with pytest.raises(InputError, match="exists already"):
        model.save_pretrained(tmp_path / "again")
    with pytest.raises(InputError, match="no adapter, so there is nothing to keep apart"):
        again.save_pretrained(tmp_path / "kept", merge=False)
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_a_head_that_was_trained_on_pictures_of_another_size_is_refused(
    bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    write_folder(read_bundle(bundle), folder)
    limits = EmotionModel(folder, "cpu").backbone.pixels
    said = made_of(folder / "head")
    write_made_of(folder / "head", {**said, "pixels": limits})
    EmotionModel(folder, "cpu")
    write_made_of(folder / "head", {**said, "pixels": "784 to 12544"})
    with pytest.raises(
        InputError, match=f"was trained on pictures of 784 to 12544 pixels, and its backbone .* is loaded with {limits}; train"
    ):
        EmotionModel(folder, "cpu")
    Image.new("RGB", (64, 64), "teal").save(picture := tmp_path / "picture.png")
    for command in (["explain", str(picture), "--model", str(folder)], ["serve", str(folder), "--port", "0"]):
        assert main([*command, "--device", "cpu"]) == 2
        told = capsys.readouterr()
        assert "was trained on pictures of 784 to 12544 pixels" in told.err
        assert told.out == "", f"emo {command[0]} answered with a head that was trained on other pictures"


def test_a_part_that_was_changed_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(folders["merged"], tmp_path / "changed")
    config = tmp_path / "changed" / "head" / "config.json"
    config.write_text(config.read_text().replace('"dropout": 0.1', '"dropout": 0.2'))
    with pytest.raises(InputError, match="was made with another head"):
        EmotionModel.from_pretrained(tmp_path / "changed", "cpu")


def test_transformers_finds_a_plain_model(folders: dict[str, Path]) -> None:
    from transformers import AutoModelForImageTextToText

    loaded: Any = AutoModelForImageTextToText.from_pretrained(folders["merged"], output_loading_info=True)
    model, found = loaded
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"


def test_vllm_finds_what_it_reads(folders: dict[str, Path]) -> None:
    """vLLM needs CUDA to be installed. What it reads of a folder, by its source (`vllm/transformers_utils/config.py`, `…/models/qwen2_5_vl.py`):

    the architecture by name, M-RoPE's sections, the processor with its chat template, where generation ends; all weights from the
    `*.safetensors` of the folder itself, by the prefixes of Qwen's checkpoints; and `modules.json`, which makes it a server of embeddings, and
    no longer of answers, where it names a pooling module.
    """
    from safetensors import safe_open
    from transformers import AutoConfig, AutoProcessor, GenerationConfig
    from transformers.models.auto.image_processing_auto import get_image_processor_config

    folder = folders["merged"]
    said = json.loads((folder / "config.json").read_text())
    assert (said["architectures"], said["model_type"]) == (["Qwen2_5_VLForConditionalGeneration"], "qwen2_5_vl")
    assert "auto_map" not in said, "it would ask for trust_remote_code"
    config = AutoConfig.from_pretrained(folder)
    assert config.get_text_config().num_attention_heads == 4
    assert len(config.get_text_config().rope_parameters["mrope_section"]) == 3
    assert AutoProcessor.from_pretrained(folder).chat_template
    assert get_image_processor_config(folder)["patch_size"] == 14
    assert GenerationConfig.from_pretrained(folder).eos_token_id is not None
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            names |= set(opened.keys())
    # As Qwen's own checkpoints have them, or as transformers names them: vLLM maps both.
    kinds = {name.removeprefix("model.language_").partition(".")[0] for name in names}
    assert kinds <= {"model", "visual", "lm_head"}, kinds
    assert {"model", "visual"} <= kinds
    modules = json.loads((folder / "modules.json").read_text())
    assert not any("pooling" in module["type"].lower() for module in modules)


def test_peft_finds_the_adapter(folders: dict[str, Path]) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    base = AutoModelForImageTextToText.from_pretrained(folders["adapter"] / "base")
    adapted = PeftModel.from_pretrained(base, folders["adapter"] / "adapter")
    weights = [parameter for name, parameter in adapted.named_parameters() if "lora_B" in name]
    assert weights
    assert all(bool(weight.any()) for weight in weights)


@pytest.mark.parametrize("kind", ["merged", "adapter"])
def test_sentence_transformers_encodes_as_embed_does(
    kind: str, folders: dict[str, Path], pictures: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers: pip install '.[dev]'")
    # Where transformers keeps the module's file; looked up when it is used.
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        library.SentenceTransformer(str(folders[kind]), device="cpu")
    encoder = library.SentenceTransformer(str(folders[kind]), trust_remote_code=True, device="cpu")
    expected = EmotionModel.from_pretrained(folders[kind], "cpu").embed(pictures).numpy()
    assert np.abs(encoder.encode(pictures) - expected).max() <= 1e-6
    assert encoder.get_embedding_dimension() == expected.shape[1]
    assert encoder.similarity(expected[:1], expected).shape == (1, 4)
