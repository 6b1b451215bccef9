"""The stage `bundle`: a trained model as one folder, for `emo embed`, `emo explain` and `emo predict`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from emo_lightning.core.errors import InputError


def bundle_stage(
    out: Path,
    backbone: str,
    head: Path,
    probe: Path | None = None,
    features: str = "emotion",
    questions: list[str] | None = None,
    train: list[str] | None = None,
    val: list[str] | None = None,
) -> None:
    """Write `OUT/emo.json`, which `emo embed` and `emo explain` take as `--model OUT`.

    Where the head was trained with `va_weight`, the layer beside it is part of the model: it gives valence, arousal and dominance.

    With the tars that the head was trained on, also what is fitted to the model on at most 2,000 of their pictures each: `OUT/spread/` (which
    pictures are unlike those of the training) and `OUT/calibration.json` (temperature and conformal sets of the probe).

    Args:
        out: the stage's directory.
        backbone: adapter or model folder, or hub id.
        head: folder of the DES head that was trained on it.
        probe: folder of a linear probe on that DES, for the emotion distribution.
        features: objective at whose prompt the hidden states were taken.
        questions: objectives that `emo explain` asks.
        train: tars of the training set.
        val: tars of the validation set.

    Raises:
        BackboneError: the parts do not belong together.
        InputError: one of `train` and `val` alone.
    """
    from emo_lightning.inference.bundle import Bundle, check_bundle, write_bundle
    from emo_lightning.inference.calibration import CALIBRATION_FILE
    from emo_lightning.models.affect import affect_folder

    if bool(train) != bool(val):
        msg = f"train is {train}, val is {val}; expected the tars of both, or of neither"
        raise InputError(msg)
    bundle = Bundle(
        backbone,
        str(head),
        str(probe) if probe else None,
        features,
        questions or ["attributes", "emotion"],
        affect=None if (affect := affect_folder(head)) is None else str(affect),
    )
    (out / CALIBRATION_FILE).unlink(missing_ok=True)
    write_bundle(out, replace(bundle, made_of=check_bundle(bundle, out)))
    if train and val and (spread := _fitted(out, train, val)) is not None:
        bundle = replace(bundle, spread=str(spread))
        write_bundle(out, replace(bundle, made_of=check_bundle(bundle, out)))


def _fitted(out: Path, train: list[str], val: list[str]) -> Path | None:
    """Fit to the model that the folder names; returns the folder of the spread."""
    from emo_lightning.core.terminal import say
    from emo_lightning.inference.fitting import fit
    from emo_lightning.inference.model import EmotionModel

    model = EmotionModel(out)
    spread, calibration = fit(model, train, val)
    if calibration is not None:
        calibration.write(out)
        say(f"probe: temperature {calibration.temperature:.2f}, fitted on {calibration.conformal.images} validation images")
    if spread is None:
        return None
    made_of = model.bundle.made_of
    spread.save_as_part(out / "spread", made_of["backbone"], model.bundle.features)
    say(
        f"{spread.train_images} training pictures are known; of images like the {spread.val_images} of validation at most "
        f"{spread.false_alarms:.0%} will be called unlike them"
    )
    return out / "spread"
