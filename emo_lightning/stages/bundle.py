"""The stage `bundle`: a trained model as one folder, for `emo embed`, `emo explain` and `emo predict`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from emo_lightning.inference.bundle import Bundle


def bundle_stage(
    out: Path,
    backbone: str,
    head: Path,
    probe: Path | None = None,
    features: str = "emotion",
    questions: list[str] | None = None,
    train: Path | None = None,
    val: Path | None = None,
) -> None:
    """Write `OUT/emo.json`, which `emo embed` and `emo explain` take as `--model OUT`.

    With the feature stores that the head was trained on, also what is fitted on them: `OUT/spread/` (which images are unlike those of the
    training) and `OUT/calibration.json` (temperature and conformal sets of the probe).

    Args:
        out: the stage's directory.
        backbone: adapter or model folder, or hub id.
        head: folder of the DES head that was trained on it.
        probe: folder of a linear probe on that DES, for the emotion distribution.
        features: objective at whose prompt the hidden states were taken.
        questions: objectives that `emo explain` asks.
        train: feature store of the training images.
        val: feature store of the validation images.

    Raises:
        BackboneError: the parts do not belong together.
        InputError: one of `train` and `val` alone.
        FeatureError: a store is not whole, or was made of something else.
    """
    from dataclasses import replace

    from emo_lightning.inference.bundle import Bundle, check_bundle, write_bundle

    if (train is None) != (val is None):
        msg = f"train is {train}, val is {val}; expected the feature stores of both, or of neither"
        raise InputError(msg)
    asked = questions or ["attributes", "emotion"]
    bundle = Bundle(backbone, str(head), str(probe) if probe else None, features, asked)
    made_of = check_bundle(bundle, out)
    if train is not None and val is not None:
        bundle = _fitted(out, bundle, train, val, made_of)
    write_bundle(out, replace(bundle, made_of=check_bundle(bundle, out)))


def _fitted(out: Path, bundle: Bundle, train: Path, val: Path, made_of: Mapping[str, str]) -> Bundle:
    """The bundle with what its feature stores say."""
    from dataclasses import replace

    from emo_lightning.core.terminal import say
    from emo_lightning.inference.fitting import fit_calibration, fit_spread, write_spread
    from emo_lightning.models import DESHead, LinearProbes
    from emo_lightning.models.spread import TooFewImagesError

    of_backbone = {"backbone": made_of["backbone"], "prompt": bundle.features}
    head = DESHead.from_pretrained(bundle.head)
    if bundle.probe is not None:
        fitted = fit_calibration(head, LinearProbes.from_pretrained(bundle.probe), val, of_backbone)
        if fitted is not None:
            fitted.write(out)
            say(f"probe: temperature {fitted.temperature:.2f} of {fitted.conformal.images} validation images")
    try:
        spread = fit_spread(train, val, head.num_layers, of_backbone)
    except TooFewImagesError as error:
        say(f"which images are unlike the training's will not be known: {error}")
        return bundle
    write_spread(out / "spread", spread, **of_backbone)
    say(
        f"spread of {spread.train_images} training images; of images like the {spread.val_images} of validation, {spread.false_alarms:.0%} "
        "will be called unlike them"
    )
    return replace(bundle, spread=str(out / "spread"))
