"""What a run has measured of the model that one of its `bundle` stages puts together, for `config.json` and the model card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TypedDict

from emo_lightning.analysis.calibration import ArmCalibration, measure_calibration
from emo_lightning.analysis.probe_predictions import read_arm
from emo_lightning.analysis.references import References, by_id
from emo_lightning.analysis.table5_rows import SCORING_MODES
from emo_lightning.analysis.table6_intervals import table6_estimates
from emo_lightning.analysis.unlike import UnlikeRates
from emo_lightning.core.errors import UserError
from emo_lightning.core.file_names import PREDICTIONS_FILE
from emo_lightning.core.model_folders import SHIPPED
from emo_lightning.core.records import Prediction, Reference, SchemaError
from emo_lightning.core.stores import is_remote
from emo_lightning.metrics.bootstrap import Estimate
from emo_lightning.report.forms import CrossDatasetForm, ManifestForm, Table5Form, check_form
from emo_lightning.report.run_folder import RunFolder, StageFolder, StageObject, listed

_ARM = "model"


class TrainingData(TypedDict):
    """One data set that the backbone was fine-tuned on."""

    name: str
    counts: dict[str, int]
    """Images by split."""
    sources: dict[str, int]
    licences: dict[str, int]


class ModelResults(TypedDict):
    """JSON-ready; what the run has not measured is empty."""

    table5: dict[str, dict[str, Estimate]]
    """Mode -> row -> value x100."""
    table5_images: int
    table5_split: str
    """Splits of its references, joined by commas."""
    table6: dict[str, dict[str, Estimate]]
    """Set -> metric -> percent."""
    table6_images: dict[str, int]
    calibration: ArmCalibration | None
    """Of the probe: fitted on its validation images, measured on the others."""
    collapse: dict[str, object] | None
    """Mean gain over the base out of the domain, in points."""
    unlike: UnlikeRates | None
    """How well images that are unlike the training's are told; None where the folder cannot tell them."""
    data: list[TrainingData]
    notes: list[str]
    """What could not be read."""


def model_results(run: RunFolder, bundle: StageFolder) -> ModelResults:
    """Everything that the run says of one of its models, but for `unlike`; what is missing is noted.

    Args:
        run: as `RunFolder` reads it.
        bundle: its stage that puts the model together.
    """
    probe = run.owner(str(bundle.settings.get("probe") or ""))
    backbone = str(bundle.settings.get("backbone") or "")
    table5, images5, split5 = _table5(run, backbone)
    table6, images6 = _table6(run, probe)
    return {
        "table5": table5,
        "table5_images": images5,
        "table5_split": split5,
        "table6": table6,
        "table6_images": images6,
        "calibration": None if probe is None else _calibration(run, probe),
        "collapse": _collapse(run, backbone),
        "unlike": None,
        "data": list(_data(run, backbone)),
        "notes": list(run.notes),
    }


def training_tars(run: RunFolder, bundle: StageFolder) -> dict[str, list[str]]:
    """Set -> tars that the model's DES head was trained on (`train`, `val`), and that its probe was tested on (`test` first)."""
    head, probe = (run.owner(str(bundle.settings.get(part) or "")) for part in ("head", "probe"))
    trained = {} if head is None else head.table("data")
    tested = {} if probe is None else probe.table("data")
    found: dict[str, list[str]] = {}
    if head is not None and head.kind == "des_online":
        found = {name: [str(run.located(str(tar))) for tar in listed(trained.get(name))] for name in ("train", "val")}
    named = {"test": tested.get("test"), **({} if probe is None else _extra(probe))}
    caches = {**({} if found else {name: trained.get(name) for name in ("train", "val")}), **named}
    for name, cache in caches.items():
        tars = _tars_of(run, cache)
        if tars is not None:
            found[name] = tars
    return {name: tars for name, tars in found.items() if tars}


def _extra(probe: StageFolder) -> dict[str, object]:
    """Further sets that a probe is tested on."""
    return {str(name): cache for name, cache in probe.table("data", "extra").items()}


def _tars_of(run: RunFolder, cache: object) -> list[str] | None:
    """Tars that a feature cache is of, by the settings of its stage."""
    features = None if cache is None else run.owner(str(cache))
    tars = None if features is None else features.setting("data", "sets", Path(str(cache)).name)
    return None if tars is None else [str(run.located(str(tar))) for tar in listed(tars)]


def _arm_of(run: RunFolder, predictions: object, backbone: str) -> str | None:
    """The arm whose predictions came from this backbone."""
    for arm, path in (predictions if isinstance(predictions, Mapping) else {}).items():
        stage = run.owner(str(path))
        if stage is not None and stage.setting("model", "backbone", "path") == backbone:
            return str(arm)
    return None


def _table5(run: RunFolder, backbone: str) -> tuple[dict[str, dict[str, Estimate]], int, str]:
    for stage in (stage for stage in run.stages if stage.kind == "table5"):
        arm = _arm_of(run, stage.settings.get("predictions"), backbone)
        path = stage.path / "table5.json"
        found = None if arm is None else run.attempt(path, partial(run.read_object, path, Table5Form))
        if arm is not None and found is not None and arm in found["arms"]:
            column = found["arms"][arm]
            ends = column.get("intervals") or {}
            rows: dict[str, dict[str, Estimate]] = {mode: _rows(column[mode], ends.get(mode) or {}) for mode in SCORING_MODES}
            return rows, int(found["references"]), str(found["split"])
    return {}, 0, ""


def _rows(values: Mapping[str, float | None], ends: Mapping[str, list[float] | None]) -> dict[str, Estimate]:
    rows: dict[str, Estimate] = {}
    for row, value in values.items():
        if value is not None:
            low, high = ends.get(row) or (None, None)
            rows[row] = {"value": value, "low": low, "high": high}
    return rows


def _table6(run: RunFolder, probe: StageFolder | None) -> tuple[dict[str, dict[str, Estimate]], dict[str, int]]:
    found = None if probe is None else run.attempt(probe.path / PREDICTIONS_FILE, lambda: read_arm([probe.path]))
    sets = {name: arm for name, arm in (found or {}).items() if len(arm.ids)}
    return {name: table6_estimates(arm) for name, arm in sets.items()}, {name: len(arm.ids) for name, arm in sets.items()}


def _calibration(run: RunFolder, probe: StageFolder) -> ArmCalibration | None:
    """Temperature and conformal sets of the probe, from its predictions and the records that they are of."""
    sets: dict[str, list[Reference]] = {}
    data = probe.table("data")
    for name, cache in {"val": data.get("val"), "test": data.get("test"), **_extra(probe)}.items():
        tars = _tars_of(run, cache)
        if tars is None:
            continue
        try:
            sets[name] = References.load(tars).records
        except (UserError, OSError) as error:
            run.note(f"the probe's set {name!r} cannot be read, so nothing is fitted or measured on it: {error}")
    if "val" not in sets or len(sets) < 2:
        return None
    said: dict[str, Prediction] | None = run.attempt(
        probe.path / PREDICTIONS_FILE, lambda: by_id(probe.path / PREDICTIONS_FILE)
    )
    try:
        return None if said is None else measure_calibration({_ARM: said}, sets)["arms"][_ARM]
    except SchemaError as error:
        run.note(f"{run.shown(probe.path)}: not calibrated: {error}")
        return None


def _collapse(run: RunFolder, backbone: str) -> dict[str, object] | None:
    for stage in (stage for stage in run.stages if stage.kind == "cross_dataset"):
        arm = _arm_of(run, stage.settings.get("predictions"), backbone)
        path = stage.path / "cross_dataset.json"
        found = None if arm is None else run.attempt(path, partial(run.read_object, path, CrossDatasetForm))
        if arm is not None and found is not None and arm in found["collapse"]:
            sets = [name for name in found["sets"] if name != found["in_domain"]]
            return {**found["collapse"][arm], "base": found["base"], "sets": sets}
    return None


def _data(run: RunFolder, backbone: str) -> Iterator[TrainingData]:
    """The exports that the backbone, and what it was started from, were fine-tuned on."""
    seen: set[str] = set()
    for stage in _trainings(run, backbone):
        for pattern in map(str, listed(stage.setting("data", "train"))):
            tars = pattern if is_remote(pattern) else str(run.located(pattern))
            # Data sets lie outside of a run.
            for where, found in run.attempt(Path(tars), partial(_manifests, tars)) or ():
                if where in seen:
                    continue
                seen.add(where)
                if found is None:
                    run.note(f"{where}: not there, so the card does not say what is in {pattern}")
                elif run.attempt(Path(where), partial(_checked, found, where)):
                    yield _of_manifest(found, where)


def _manifests(tars: str) -> list[tuple[str, StageObject | None]]:
    # Loaded when used: what only reads a run needs no store.
    from emo_lightning.data.shard_list import manifests_of

    return list(manifests_of(tars))


def _checked(found: StageObject, where: str) -> StageObject:
    check_form(found, ManifestForm, Path(where))
    return found


def _of_manifest(found: StageObject, where: str) -> TrainingData:
    contents = found.get("contents") or {}
    return {
        "name": str(found.get("name", Path(where).parent.name)),
        "counts": dict(found.get("counts") or {}),
        "sources": dict(contents.get("source") or {}),
        "licences": dict(contents.get("licence") or {}),
    }


def published_base(run: RunFolder, backbone: str) -> str | None:
    """The id of what the first training of a backbone in this run began with, where that is a model of the hub or comes with this package."""
    trainings = list(_trainings(run, backbone))
    if not trainings:
        return None
    inputs = trainings[-1].info.get("inputs")
    held = inputs.get("model.backbone.path") if isinstance(inputs, Mapping) else None
    named = _begun_with(trainings[-1])
    return named if named in SHIPPED or str(held).startswith(f"hub {named}") else None


def _trainings(run: RunFolder, backbone: str) -> Iterator[StageFolder]:
    """The stages that trained a backbone, the last one first."""
    stage, passed = run.owner(backbone), set()
    while stage is not None and stage.name not in passed:
        passed.add(stage.name)
        yield stage
        stage = run.owner(_begun_with(stage))


def _begun_with(stage: StageFolder) -> str:
    return str(stage.setting("model", "backbone", "path") or "")
