"""A bundle of tiny random networks: what `emo embed` and `emo explain` take as --model."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def adapter(tiny_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter that changes what the model says: its B matrices are random instead of zero."""
    import torch

    from emo_lightning.models.backbone import BackboneConfig, LoRA, load_backbone

    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="lora", lora=LoRA(rank=4)))
    torch.manual_seed(3)
    with torch.no_grad():
        for _, name, parameter in backbone.parameter_groups():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return backbone.save(tmp_path_factory.mktemp("adapter"))


@pytest.fixture(scope="session")
def bundle(adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Backbone, DES head and probe, all random."""
    import torch

    from emo_lightning.evaluation.bundle import bundle_stage
    from emo_lightning.models import DESHead, LinearProbes

    folder = tmp_path_factory.mktemp("bundle")
    torch.manual_seed(4)
    DESHead(64).save_pretrained(folder / "head")
    probe = LinearProbes(32, 8, [(1e-3, 0.0)])
    probe.fit_statistics([torch.randn(40, 32)])
    with torch.no_grad():
        for parameter in probe.probes.parameters():
            parameter.normal_()
    probe.save_pretrained(folder / "probe")
    (folder / "model").mkdir()
    bundle_stage(folder / "model", str(adapter), folder / "head", folder / "probe")
    return folder / "model"
