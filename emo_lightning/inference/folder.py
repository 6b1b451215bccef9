"""One folder with all of a model: what `emo export` writes, and `EmotionModel`, transformers, peft and sentence-transformers read.

    config.json, *.safetensors, tokenizer, processor   the backbone, merged: transformers and vLLM open the folder itself
    adapter/, base/                                    instead of them, where the adapter is kept (no base/ for one of the hub)
    head/, affect/, probe/, spread/                    safetensors and their configs; probe/calibration.json
    emo.json                                           which part is where, what each is asked, content hashes
    modules.json, sentence_emotion.py …                for sentence-transformers
    README.md                                          the model card

Every path in it is relative, so it may be moved or published. `config.json` has a key `emo_lightning`: versions and measured results.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emo_lightning.core.errors import InputError
from emo_lightning.core.file_names import CARD_FILE
from emo_lightning.core.files import as_new_files, atomic_folder, read_object, write_json, write_text
from emo_lightning.core.model_folders import deciding_files, locate, made_of, weights_hash, write_made_of
from emo_lightning.inference.bundle import Bundle, check_bundle, fingerprint_of, write_bundle
from emo_lightning.inference.calibration import ProbeCalibration
from emo_lightning.inference.sentence import write_sentence_transformer
from emo_lightning.models.weights import CONFIG_NAME

if TYPE_CHECKING:
    from emo_lightning.models.spread import TrainingSpread

BUNDLE_KEY = "emo_lightning"
"""Of `config.json`: what this project says of the folder."""
_VERSIONS = ("emo-lightning", "torch", "transformers", "peft", "tokenizers", "safetensors")

Dtype = Literal["auto", "float32", "bfloat16"]


def write_folder(
    bundle: Bundle,
    folder: Path,
    *,
    merge: bool = True,
    dtype: Dtype = "auto",
    calibration: ProbeCalibration | None = None,
    spread: TrainingSpread | None = None,
    results: Mapping[str, object] | None = None,
    card: str | None = None,
    origin: Path | None = None,
    base_model: str | None = None,
) -> None:
    """Write it under a temporary name, then rename.

    Args:
        bundle: the parts, wherever they are.
        folder: missing or empty.
        merge: fold the adapter into its base model; else it is kept.
        dtype: of the merged weights; auto: as the base model has them.
        calibration: of the probe, where one was fitted.
        spread: of the training images; None takes the bundle's.
        results: measured, for `config.json`; None takes those of `origin`.
        card: the model card; None takes that of `origin`.
        origin: folder that was loaded.
        base_model: hub id that the backbone was trained from; None takes what the backbone itself or `origin` says.

    Raises:
        InputError: `folder` holds something, or a kept part is not in safetensors.
        BackboneError: the parts do not belong together.
    """
    check_bundle(bundle, origin or "the model")
    known = read_about(origin) if origin is not None else {}
    with atomic_folder(folder) as temporary:
        backbone = _merged(bundle.backbone, temporary, dtype) if merge else _kept(bundle.backbone, temporary)
        as_new_files(temporary.rglob("*.safetensors"))
        about = {
            **known,
            "format": 1,
            "versions": _versions(),
            "base_model": base_model or base_id(bundle.backbone) or known.get("base_model"),
            **({} if results is None else {"results": dict(results)}),
        }
        _say_about(temporary, about)
        placed = _small_parts(bundle, temporary, backbone, calibration, spread)
        # Weights of another type give other embeddings.
        same = fingerprint_of(bundle) if dtype == "auto" or not merge else None
        write_bundle(temporary, replace(placed, made_of=check_bundle(placed, folder), embeds_as=same))
        write_sentence_transformer(temporary)
        old = origin / CARD_FILE if origin is not None else None
        if card is None and old is not None and old.is_file():
            card = old.read_text(encoding="utf-8", errors="replace")
        if card is not None:
            write_text(temporary / CARD_FILE, card)


def read_about(folder: Path) -> dict[str, object]:
    """What `config.json` says under `emo_lightning`; empty in a folder that `emo export` has not written."""
    path = folder / CONFIG_NAME
    found = read_object(path).get(BUNDLE_KEY) if path.is_file() else None
    if not isinstance(found, dict):
        return {}
    about = dict(found)
    if "figures" in about:
        # As folders made before call what was measured.
        about.setdefault("results", about.pop("figures"))
    return about


def base_id(backbone: str) -> str | None:
    """The hub id of what a backbone was trained from, where it is one."""
    base, _ = locate(backbone)
    return base if base.count("/") == 1 and not Path(base).exists() else None


def _merged(backbone: str, folder: Path, dtype: Dtype) -> Path:
    """The backbone as a plain model, in the folder itself."""
    from emo_lightning.models.backbone_config import BackboneConfig
    from emo_lightning.models.loading import load_frozen
    from emo_lightning.models.weights import save_model

    loaded = load_frozen(BackboneConfig(backbone, tuning="frozen", dtype=dtype))
    processor = loaded.processor
    save_model(loaded.merged(), processor, folder)
    return folder


def _kept(backbone: str, folder: Path) -> Path:
    """The adapter, and its base model where that lies on this machine; files are copied as they are."""
    base, adapter = locate(backbone)
    if adapter is None:
        msg = f"{backbone}: no adapter, so there is nothing to keep apart; leave --keep-adapter out"
        raise InputError(msg)
    target = folder / "adapter"
    _copy(adapter, target)
    config = read_object(adapter / "adapter_config.json")
    if Path(base).is_dir():
        _copy(Path(base), folder / "base")
        config["base_model_name_or_path"] = "base"
    write_json(target / "adapter_config.json", config)
    write_made_of(target, made_of(adapter))
    return target


def _copy(source: Path, target: Path) -> None:
    files = deciding_files(source)
    if unsafe := [file.name for file in files if file.suffix == ".bin"]:
        msg = f"{source / unsafe[0]}: not in safetensors, which is all that a folder may hold; merge it instead"
        raise InputError(msg)
    target.mkdir()
    for file in files:
        shutil.copyfile(file, target / file.name)


def _small_parts(
    bundle: Bundle, folder: Path, backbone: Path, calibration: ProbeCalibration | None, spread: TrainingSpread | None
) -> Bundle:
    """Head, affect head, probe and spread, which from now on name the backbone as it lies here."""
    from emo_lightning.models import DESHead, LinearProbes
    from emo_lightning.models.affect import AffectHead
    from emo_lightning.models.spread import TrainingSpread

    now = {"backbone": weights_hash(str(backbone))}
    DESHead.from_pretrained(bundle.head).save_pretrained(folder / "head")
    write_made_of(folder / "head", {"prompt": bundle.features, **made_of(bundle.head), **now})
    affect = None
    if bundle.affect is not None:
        affect = str(AffectHead.from_pretrained(bundle.affect).save_beside(folder / "head"))
    if bundle.probe is not None:
        LinearProbes.from_pretrained(bundle.probe).save_pretrained(folder / "probe")
        now["head"] = weights_hash(str(folder / "head"))
        write_made_of(folder / "probe", {**made_of(bundle.probe), **now})
        if calibration is not None:
            calibration.write(folder / "probe")
    if spread is None and bundle.spread is not None:
        spread = TrainingSpread.from_pretrained(bundle.spread)
    if spread is not None:
        spread.save_as_part(folder / "spread", now["backbone"], bundle.features)
    probe, place = (str(folder / name) if there else None for name, there in (("probe", bundle.probe), ("spread", spread)))
    return Bundle(str(backbone), str(folder / "head"), probe, bundle.features, bundle.questions, spread=place, affect=affect)


def _say_about(folder: Path, about: Mapping[str, object]) -> None:
    path = folder / CONFIG_NAME
    config = read_object(path) if path.is_file() else {}
    # `config.json` is hashed with the weights: written once, before anything names it.
    write_json(path, {**config, BUNDLE_KEY: json.loads(json.dumps(about, allow_nan=False))}, indent=2)


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
