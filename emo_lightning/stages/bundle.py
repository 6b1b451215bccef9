"""The stage `bundle`: a trained model as one folder, for `emo embed`, `emo explain` and `emo predict`."""

from __future__ import annotations

from pathlib import Path


def bundle_stage(
    out: Path,
    backbone: str,
    head: Path,
    probe: Path | None = None,
    features: str = "emotion",
    questions: list[str] | None = None,
) -> None:
    """Write `OUT/emo.json`, which `emo embed` and `emo explain` take as `--model OUT`.

    Args:
        out: the stage's directory.
        backbone: adapter or model folder, or hub id.
        head: folder of the DES head that was trained on it.
        probe: folder of a linear probe on that DES, for the emotion distribution.
        features: objective at whose prompt the hidden states were taken.
        questions: objectives that `emo explain` asks.

    Raises:
        BackboneError: the parts do not belong together.
    """
    from dataclasses import replace

    from emo_lightning.inference.bundle import Bundle, check_bundle, write_bundle

    asked = questions or ["attributes", "emotion"]
    bundle = Bundle(backbone, str(head), str(probe) if probe else None, features, asked)
    write_bundle(out, replace(bundle, made_of=check_bundle(bundle, out)))
