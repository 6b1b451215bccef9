"""`emo embed`, `emo explain` and `emo export` on a bundle of tiny random networks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
import webdataset
from PIL import Image

from emo_lightning.cli import main
from emo_lightning.core.records import EMOTIONS
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.des import DESHead
from tests.pixels import for_transformers


@pytest.fixture
def pictures(tmp_path: Path, world_tars: Path) -> list[Path]:
    """Three images of unequal sizes."""
    index = TarIndex.open(str(world_tars / "*-test-*.tar"))
    paths = []
    for row, size in enumerate(((112, 112), (60, 90), (200, 80))):
        paths.append(tmp_path / f"picture{row}.png")
        index.image(row).resize(size).save(paths[-1])
    return paths


def embedded(paths: list[Path], bundle: Path, out: Path, batch_size: int = 16) -> dict[str, np.ndarray]:
    """id -> DES, as `emo embed` writes them."""
    assert main(["embed", *map(str, paths), "--model", str(bundle), "--out", str(out), "--batch-size", str(batch_size)]) == 0
    table = parquet.read_table(out).to_pydict()
    return {name: np.array(des, dtype=np.float32) for name, des in zip(table["id"], table["des"], strict=True)}


def test_images_to_parquet_do_not_depend_on_the_batch(pictures: list[Path], bundle: Path, tmp_path: Path) -> None:
    whole = embedded(pictures, bundle, tmp_path / "a.parquet")
    single = embedded(pictures, bundle, tmp_path / "b.parquet", batch_size=1)
    assert list(whole) == [str(p) for p in pictures]
    for name, des in whole.items():
        assert des.shape == (32,)
        assert np.isfinite(des).all()
        assert np.allclose(des, single[name], atol=1e-5)
    values = list(whole.values())
    assert not np.allclose(values[0], values[1], atol=1e-3)


def tars(folder: Path) -> dict[str, bytes]:
    """Name -> bytes."""
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.tar"))}


def test_tars_resume_and_are_shared_among_ranks(
    world_tars: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = [str(p) for p in sorted(world_tars.glob("*.tar"))]
    command = ["embed", *shards, "--model", str(bundle), "--batch-size", "5"]
    one = tmp_path / "one"
    assert main([*command, "--out", str(one)]) == 0

    # Read by webdataset alone, and by our own index with the new manifest verified.
    source, index = TarIndex.open(world_tars), TarIndex.open(one, verify=True)
    assert len(index) == len(source) == 40
    for row in range(0, 40, 7):
        assert index.record(row) == source.record(row)
        assert index.image_bytes(row) == source.image_bytes(row)
        des = index.des(row)
        assert des is not None
        assert des.shape == (32,)
    samples = list(webdataset.WebDataset([str(p) for p in sorted(one.glob("*.tar"))], shardshuffle=False).decode())
    assert len(samples) == 40
    for row, sample in enumerate(samples):
        assert sample["__key__"] == index.key(row)
        assert np.array_equal(sample["des.npy"], np.asarray(index.des(row)))
    before, after = (json.loads((f / "manifest.json").read_text()) for f in (world_tars, one))
    assert after["counts"] == before["counts"]
    assert after["label_counts"] == before["label_counts"]

    # A shard that is lost is made again, to the same bytes; the others are left alone.
    whole = tars(one)
    lost = sorted(whole)[1]
    (one / lost).unlink()
    kept = {p.name: p.stat().st_mtime_ns for p in one.glob("*.tar")}
    assert main([*command, "--out", str(one)]) == 0
    assert tars(one) == whole
    assert all((one / name).stat().st_mtime_ns == moment for name, moment in kept.items())

    two = tmp_path / "two"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        assert not (two / "manifest.json").exists()
        assert main([*command, "--out", str(two)]) == 0
    assert tars(two) == whole
    assert (two / "manifest.json").read_bytes() == (one / "manifest.json").read_bytes()


def test_embeddings_of_two_models_are_never_mixed(
    world_tars: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = str(sorted(world_tars.glob("*-test-*.tar"))[0])
    out, other = tmp_path / "out", tmp_path / "bundle"
    assert main(["embed", shard, "--model", str(bundle), "--out", str(out)]) == 0
    whole = tars(out)
    config = json.loads((bundle / "emo.json").read_text())
    paths = {name: (bundle / path).resolve() for name, path in config.items() if name in ("backbone", "head", "probe") and path}
    other.mkdir()
    shutil.copytree(paths["head"], other / "head")
    head = DESHead.from_pretrained(other / "head")
    torch.nn.init.constant_(head.project_out.bias, 1.0)
    head.save_pretrained(other / "head")
    changed = config | {name: str(path) for name, path in paths.items()} | {"head": str(other / "head")}
    (other / "emo.json").write_text(json.dumps(changed))
    assert main(["embed", shard, "--model", str(other), "--out", str(out)]) == 2
    assert f"{out} holds embeddings of another model" in capsys.readouterr().err
    assert tars(out) == whole


def test_des_of_a_tar_is_that_of_its_image(world_tars: Path, bundle: Path, tmp_path: Path) -> None:
    shard = sorted(world_tars.glob("*-test-*.tar"))[0]
    assert main(["embed", str(shard), "--model", str(bundle), "--out", str(tmp_path / "out")]) == 0
    index = TarIndex.open(tmp_path / "out" / shard.name)
    path = tmp_path / "one.png"
    index.image(2).save(path)
    (des,) = embedded([path], bundle, tmp_path / "one.parquet").values()
    assert np.allclose(des, np.asarray(index.des(2)), atol=1e-5)


@pytest.mark.parametrize("where", ["same folder", "same name"])
def test_tars_are_never_overwritten(
    where: str, world_tars: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = sorted(world_tars.glob("*.tar"))[0]
    (tmp_path / "copy").mkdir()
    copy = Path(shutil.copy(shard, tmp_path / "copy"))
    inputs, out = ([str(copy)], copy.parent) if where == "same folder" else ([str(copy), str(shard)], tmp_path / "out")
    assert main(["embed", *inputs, "--model", str(bundle), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert ("is the folder of the tars" if where == "same folder" else "must be unique") in error
    assert copy.read_bytes() == shard.read_bytes()


def test_explain_writes_json_and_overlay(
    pictures: list[Path], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "overlay.png"
    command = ["explain", str(pictures[2]), "--model", str(bundle), "--out", str(out), "--max-new-tokens", "6"]
    assert main(command) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["id"] == "picture2"
    assert (said["width"], said["height"]) == (200, 80)
    probe = said["probe"]
    assert list(probe["distribution"]) == [str(e) for e in EMOTIONS]
    assert abs(sum(probe["distribution"].values()) - 1) < 1e-4
    assert probe["confidence"] == max(probe["distribution"].values()) == probe["distribution"][probe["emotion"]]
    assert (probe["calibrated"], probe["conformal_set"]) == (False, None)
    assert (said["said"]["emotion"], said["agreement"]) == (said["emotion"], "no emotion said")
    assert len(said["des"]) == 32
    assert len(said["provenance"]["replies"]) == 2
    with Image.open(out) as overlay:
        assert overlay.size[0] > 500


def test_explain_draws_where_it_is_asked_to_and_nowhere_else(
    pictures: list[Path], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, drawn = tmp_path / "own", tmp_path / "drawn"
    folder.mkdir()
    photos = [str(shutil.copy(one, folder)) for one in pictures[:2]]
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())

    def explain(*words: str) -> str:
        assert main(["explain", *words, "--model", str(bundle), "--max-new-tokens", "2"]) == 0
        return capsys.readouterr().out

    assert json.loads(explain(photos[0]))["overlay"] is None
    assert "drawn in" not in explain(photos[0], "--text")
    explain(*photos, "--text")
    explain(*photos, "--out", str(tmp_path / "said.jsonl"))
    assert sorted(path.name for path in folder.iterdir()) == before
    assert {path.name for path in tmp_path.iterdir()} == {"own", "said.jsonl", *(one.name for one in pictures)}, (
        "nothing is drawn"
    )
    told = explain(photos[0], "--text", "--overlays", str(drawn))
    (one,) = drawn.iterdir()
    assert f"drawn in  {one}" in told
    explain(*photos, "--out", str(tmp_path / "again.jsonl"), "--overlays", str(tmp_path / "all"))
    assert len(list((tmp_path / "all").iterdir())) == 2
    assert sorted(path.name for path in folder.iterdir()) == before


def test_merged_export_says_what_the_adapter_says(adapter: Path, tiny_qwen: Path, world_tars: Path, tmp_path: Path) -> None:
    from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

    from emo_lightning.data.collate import Collator, ImageQuestion
    from emo_lightning.models.backbone_config import BackboneConfig
    from emo_lightning.models.loading import load_backbone

    out = tmp_path / "merged"
    command = ["export", str(adapter), "--merge", "--out", str(out)]
    assert main(command) == 0
    assert not list(tmp_path.glob("*.tmp"))
    plain = Qwen2_5_VLForConditionalGeneration.from_pretrained(out).eval()
    assert (
        AutoProcessor.from_pretrained(out).image_processor.size == AutoProcessor.from_pretrained(tiny_qwen).image_processor.size
    )
    adapted = load_backbone(BackboneConfig(str(adapter), tuning="frozen")).eval()
    index = TarIndex.open(world_tars)
    batch = Collator(adapted.processor, adapted.model_type, False)(
        [ImageQuestion(str(i), index.image(i), ("emotion",)) for i in range(3)]
    )
    inputs = for_transformers(adapted.family.model_inputs(batch), adapted.processor)
    with torch.no_grad():
        found = plain(**inputs).logits
        expected = adapted.base(**adapted.family.model_inputs(batch)).logits
        base = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_qwen)(**inputs).logits
    assert torch.allclose(found, expected, atol=1e-4)
    assert not torch.allclose(found, base, atol=1e-2)
    # An export is never overwritten.
    assert main(command) == 2


@pytest.mark.parametrize("command", ["embed", "explain"])
@pytest.mark.parametrize("model", ["nowhere", "no keys", "no backbone"])
def test_wrong_models(
    command: str, model: str, pictures: list[Path], bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    if model != "nowhere":
        folder.mkdir()
        content = json.loads((bundle / "emo.json").read_text())
        content = (
            {"backbone": "x"} if model == "no keys" else content | {"backbone": "./gone", "head": str(bundle.parent / "head")}
        )
        (folder / "emo.json").write_text(json.dumps(content))
    assert main([command, str(pictures[0]), "--model", str(folder), "--out", str(tmp_path / "o.parquet")]) == 2
    error = capsys.readouterr().err
    expected = {
        "nowhere": "no such folder; expected the folder of an emotion model",
        "no keys": "keys backbone; expected backbone, features",
        "no backbone": "./gone",
    }
    assert expected[model] in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["embed", "explain"])
def test_where_nothing_can_be_written_is_said_before_the_model_is_loaded(
    command: str, pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for out, reason in (
        (tmp_path / "file" / "o.parquet", "nothing can be written in"),
        (tmp_path / "d.parquet", "is a folder"),
    ):
        if reason == "is a folder":
            out.mkdir()
        # The model is not even there.
        assert main([command, str(pictures[0]), "--model", str(tmp_path / "nowhere"), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert f"--out {out}: {reason}" in error
        assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["embed", "explain"])
def test_a_broken_image_is_named(command: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "broken.jpg"
    Image.effect_noise((64, 64), 50).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:300])
    assert main([command, str(path), "--model", str(bundle), "--out", str(tmp_path / "o.parquet")]) == 2
    error = capsys.readouterr().err
    assert f"{path}: does not decode" in error
    assert not (tmp_path / "o.parquet").exists()
