"""Caches, heads, probes and bundles name what they were made from, and refuse another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import check_made_of, made_of, warn_once, weights_hash, write_made_of
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.data.feature_parts import FeatureError
from emo_lightning.data.features import FeatureWriter
from emo_lightning.data.supervision import Supervision
from emo_lightning.inference.bundle import Bundle, check_bundle, read_bundle
from emo_lightning.models.des import DESHead
from emo_lightning.models.probe import LinearProbes
from emo_lightning.stages.bundle import bundle_stage
from emo_lightning.tasks.des import DESHeadArgs, DESTask
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.probe import ProbeTask

OF_ONE = {"backbone": "a" * 64, "pixels": "1 to 2", "prompt": "emotion", "source": "prompt"}
OF_ANOTHER = OF_ONE | {"backbone": "b" * 64}


@pytest.fixture(autouse=True)
def _each_test_warns_anew() -> None:
    warn_once.cache_clear()


def cache(folder: Path, made: dict[str, str] | None) -> str:
    """Features of three sets below a folder."""
    for name in ("train", "val", "test"):
        generator = torch.Generator().manual_seed(0)
        with FeatureWriter(folder / name, 4, 16, torch.float32, "toy", made_of=made) as writer:
            for row in range(8):
                target = [0.0] * 8
                target[row] = 1.0
                writer.append(f"{name}{row}", torch.randn(4, 3, 16, generator=generator), Supervision(target, row))
    return str(folder)


def trainer(folder: Path) -> Trainer:
    return Trainer(
        default_root_dir=folder,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
    )


def head_on(folder: Path, features: str) -> Path:
    data = FeatureDataModule(f"{features}/train", f"{features}/val", batch_size=8)
    trainer(folder).fit(DESTask(DESHeadArgs(), OptimConfig(lr=1e-3)), datamodule=data)
    return folder / "head"


def probe_on(folder: Path, head: Path, features: str) -> Path:
    run = trainer(folder)
    data = FeatureDataModule(f"{features}/train", f"{features}/val", f"{features}/test", batch_size=8)
    task = ProbeTask(str(head), [0.1], [1e-3])
    run.fit(task, datamodule=data)
    run.test(task, datamodule=data, verbose=False)
    return folder / "probe"


def test_caches_that_were_computed_otherwise_do_not_go_together(tmp_path: Path) -> None:
    for name, precision in (("train", "32-true"), ("val", "bf16-mixed")):
        with FeatureWriter(tmp_path / name, 4, 16, torch.float32, "toy", computed={"precision": precision}) as writer:
            writer.append(name, torch.randn(4, 3, 16), Supervision())
    said = "the feature cache .*/val: was computed with precision 'bf16-mixed'; here it is '32-true'"
    with pytest.raises(FeatureError, match=said):
        FeatureDataModule(f"{tmp_path}/train", f"{tmp_path}/val", batch_size=8).setup("fit")


def test_the_chain_from_cache_to_probe(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    features = cache(tmp_path / "one", OF_ONE)
    head = head_on(tmp_path / "des", features)
    assert made_of(head) == OF_ONE
    probe = probe_on(tmp_path / "probe", head, features)
    assert made_of(probe) == {**OF_ONE, "head": weights_hash(str(head))}
    assert "warning: " not in capfd.readouterr().err
    # Caches of two backbones in one training, and a head on the features of another.
    data = FeatureDataModule(f"{features}/train", cache(tmp_path / "another", OF_ANOTHER) + "/val", batch_size=8)
    with pytest.raises(InputError, match=r"feature cache .*another/val was made with another backbone: b+; here it is a+"):
        trainer(tmp_path / "mixed").fit(DESTask(DESHeadArgs()), datamodule=data)
    with pytest.raises(InputError, match=r"DES head .* was made with another backbone"):
        probe_on(tmp_path / "foreign", head, str(tmp_path / "another"))


def test_what_version_0_2_made_is_taken_with_one_warning(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    features = cache(tmp_path / "old", None)
    head = head_on(tmp_path / "des", features)
    (head / "made_of.json").unlink(missing_ok=True)
    warn_once.cache_clear()
    capfd.readouterr()
    probe_on(tmp_path / "probe", head, features)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(said) == 2
    assert "feature caches" in said[0]
    assert f"DES head {head}" in said[1]


@pytest.mark.parametrize("limit", [0, 1, 0.5])
def test_a_test_of_a_part_is_refused(limit: float, tmp_path: Path) -> None:
    features = cache(tmp_path / "one", OF_ONE)
    head = head_on(tmp_path / "des", features)
    data = FeatureDataModule(f"{features}/train", f"{features}/val", f"{features}/test", batch_size=8)
    few = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, limit_test_batches=limit)
    with pytest.raises(InputError, match=r"trainer\.limit_test_batches .* would leave images out of the result"):
        few.test(ProbeTask(str(head), [0.1], [1e-3]), datamodule=data, verbose=False)


def test_a_part_that_is_not_named_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    check_made_of("the probe", {"prompt": "emotion", "more": "x"}, {"head": "a" * 64, "prompt": "emotion"})
    assert "warning: the probe does not name its head by content; taken as it is" in capfd.readouterr().err


def parts(folder: Path, backbone: Path) -> Bundle:
    torch.manual_seed(0)
    DESHead(64).save_pretrained(folder / "head")
    write_made_of(folder / "head", OF_ONE | {"backbone": weights_hash(str(backbone))})
    probe = LinearProbes(32, 8, [(1e-3, 0.0)])
    probe.fit_statistics([torch.randn(40, 32)])
    probe.save_pretrained(folder / "probe")
    write_made_of(folder / "probe", {"head": weights_hash(str(folder / "head"))})
    return Bundle(str(backbone), str(folder / "head"), str(folder / "probe"), "emotion", ["emotion"])


def test_a_bundle_is_of_parts_that_belong_together(tmp_path: Path, tiny_qwen: Path, adapter: Path) -> None:
    ours, theirs = parts(tmp_path / "ours", tiny_qwen), parts(tmp_path / "theirs", adapter)
    bundle_stage(tmp_path / "model", ours.backbone, Path(ours.head), Path(str(ours.probe)))
    read = read_bundle(tmp_path / "model")
    assert (
        read.made_of
        == check_bundle(read, "model")
        == {
            "backbone": weights_hash(str(tiny_qwen)),
            "head": weights_hash(ours.head),
            "probe": weights_hash(str(ours.probe)),
        }
    )
    for foreign, message in (
        (replace(ours, backbone=theirs.backbone), "DES head .*ours/head was made with another backbone"),
        (replace(ours, features="attributes"), "DES head .* was made with another prompt: emotion; here it is attributes"),
    ):
        with pytest.raises(InputError, match=message):
            check_bundle(foreign, "model")
    DESHead(64).save_pretrained(ours.head)
    with pytest.raises(InputError, match=r"probe .*ours/probe was made with another head"):
        check_bundle(ours, "model")
    with pytest.raises(InputError, match="model was made with another head"):
        check_bundle(read, "model")


def test_a_bundle_of_version_0_2_is_read(tmp_path: Path, tiny_qwen: Path) -> None:
    bundle = parts(tmp_path, tiny_qwen)
    bundle_stage(tmp_path / "model", bundle.backbone, Path(bundle.head))
    file = tmp_path / "model" / "emo.json"
    old = json.loads(file.read_text())
    del old["made_of"]
    file.write_text(json.dumps(old))
    assert read_bundle(tmp_path / "model").made_of == {}
    file.write_text(json.dumps(old | {"made_of": {"head": 3}}))
    with pytest.raises(InputError, match="'made_of': head: found 3; expected a text"):
        read_bundle(tmp_path / "model")
