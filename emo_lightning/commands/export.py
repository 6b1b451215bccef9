"""`emo export`: a trained model as one folder that needs nothing else; or an adapter merged into a plain model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.commands.arguments import check_output_file, new_parser
from emo_lightning.core.errors import InputError, MissingFileError, UserError
from emo_lightning.core.files import atomic_folder
from emo_lightning.core.options import ALWAYS, Parser, output_path
from emo_lightning.core.terminal import say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emo_lightning.inference.bundle import Bundle
    from emo_lightning.inference.calibration import ProbeCalibration
    from emo_lightning.models.spread import TrainingSpread
    from emo_lightning.report.model_results import ModelResults
    from emo_lightning.report.run_folder import RunFolder, StageFolder

ABOUT = """\
Write a trained model into one folder that needs nothing else: backbone with the adapter merged in, DES head, probe with its temperature
and conformal sets, the spread of the training images, processor, and a model card with the run's own results. It may be moved or
published; EmotionModel, transformers, vLLM and sentence-transformers open it. Of an ADAPTER alone, --merge writes the plain model."""

EXAMPLES = """\
examples:
  emo export runs/demo --out emotion-model
  emo export runs/demo --out emotion-model --unlike photos/
  emo export runs/emoverse --stage model --out emotion-model --licence LICENCE
  emo export runs/emoverse/round2/adapter --merge --out qwen2.5-vl-3b-emoverse"""

_RUN = "a run, or a folder with emo.json"
_ADAPTER = "an adapter (--merge)"
_MODES = {
    ALWAYS: ("out", "dtype"),
    _RUN: ("stage", "name", "keep_adapter", "licence", "unlike"),
    _ADAPTER: ("merge",),
}


def parser() -> Parser:
    """The command's arguments."""
    parser = new_parser("export", ABOUT, EXAMPLES)
    parser.add_argument(
        "source", type=Path, metavar="RUN", help="a run, a folder with emo.json, or with --merge the adapter folder of a run"
    )
    parser.add_argument("--out", type=output_path, required=True, help="folder to write; it must be empty or missing")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of merged weights; auto: as the base model has them (default: auto)",
    )
    run = parser.add_argument_group("of a run")
    run.add_argument("--stage", help="the stage that puts the model together (default: the run's only one)")
    run.add_argument("--name", help="of the model on its card (default: the name of --out)")
    run.add_argument("--keep-adapter", action="store_true", help="keep the adapter beside its base model; do not merge it")
    run.add_argument("--licence", metavar="ID", help="of the weights, on the card, as the hub spells it (default: none)")
    run.add_argument(
        "--unlike",
        nargs="+",
        metavar="PICTURES",
        help="files, folders, globs, tars of pictures unlike those of the training: the card says how well they are told (default: none)",
    )
    parser.add_argument(
        "--merge", action="store_true", help="of an adapter: merge it into its base model, and write no more than that"
    )
    parser.modes(_MODES)
    return parser


def main(argv: list[str]) -> int:
    """Write the folder."""
    args = (options := parser()).parse_args(argv)
    adapter = (args.source / "adapter_config.json").is_file()
    if args.merge and not adapter:
        msg = f"{args.source}: no adapter_config.json there; expected the adapter folder of a run"
        raise MissingFileError(msg)
    if adapter and not args.merge:
        msg = f"{args.source}: is an adapter alone: add --merge for a plain model, or name the run for the whole of it"
        raise InputError(msg)
    options.refuse_unused(argv, _ADAPTER if adapter else _RUN)
    if args.out.is_file() or (args.out.exists() and any(args.out.iterdir())):
        msg = f"--out {args.out} is not an empty folder; choose another"
        raise InputError(msg)
    if not args.out.exists():
        check_output_file(args.out)
    from emo_lightning.experiment.advice import silence_advice

    silence_advice()
    return _plain(args) if adapter else _whole(args)


def _plain(args: argparse.Namespace) -> int:
    from emo_lightning.models.backbone_config import BackboneConfig
    from emo_lightning.models.loading import load_frozen
    from emo_lightning.models.weights import save_model

    backbone = load_frozen(BackboneConfig(str(args.source), tuning="frozen", dtype=args.dtype))
    processor = backbone.processor
    with atomic_folder(args.out) as temporary:
        save_model(backbone.merged(), processor, temporary)
    say(f"merged model: {args.out}")
    return 0


def _whole(args: argparse.Namespace) -> int:
    from emo_lightning.inference.bundle import BUNDLE_FILE, read_bundle
    from emo_lightning.inference.calibration import ProbeCalibration
    from emo_lightning.inference.folder import base_id, write_folder
    from emo_lightning.models import DESHead
    from emo_lightning.report.model_card import model_card
    from emo_lightning.report.model_results import model_results, published_base
    from emo_lightning.report.run_folder import RunFolder

    # The folder of a `model` stage stands in its run, which has its results; any other folder has what it brings.
    of_stage = (args.source / BUNDLE_FILE).is_file()
    if of_stage and not (args.source / "stage.json").is_file():
        if args.stage or args.licence or args.name or args.unlike:
            msg = f"{args.source}: was exported before, and its card is copied: --stage, --name, --licence and --unlike are for a run"
            raise InputError(msg)
        bundle = read_bundle(args.source)
        write_folder(
            bundle,
            args.out,
            merge=not args.keep_adapter,
            dtype=args.dtype,
            calibration=ProbeCalibration.of(args.source, bundle.probe),
            origin=args.source,
        )
        say(f"model: {args.out}")
        return 0
    run = RunFolder(args.source.resolve().parent if of_stage else args.source, {BUNDLE_FILE})
    stage = _stage(run.path, [s for s in run.stages if s.kind == "bundle"], args.source.name if of_stage else args.stage)
    bundle = read_bundle(stage.path)
    results = model_results(run, stage)
    spread = _spread(run, stage, bundle, results, args.unlike)
    base_model = published_base(run, str(stage.settings.get("backbone") or "")) or base_id(bundle.backbone)
    card = model_card(
        args.name or args.out.resolve().name,
        results,
        base_model=base_model,
        merged=not args.keep_adapter,
        des_dim=DESHead.from_pretrained(bundle.head).des_dim,
        licence=args.licence,
    )
    write_folder(
        bundle,
        args.out,
        merge=not args.keep_adapter,
        dtype=args.dtype,
        calibration=_fitted(results) or ProbeCalibration.of(stage.path, bundle.probe),
        spread=spread,
        results=results,
        card=card,
        base_model=base_model,
    )
    for note in results["notes"]:
        say(f"note: {note}")
    say(f"model: {args.out}")
    return 0


def _stage(run: Path, stages: list[StageFolder], name: str | None) -> StageFolder:
    """The stage of that name, or the only one."""
    names = ", ".join(stage.name for stage in stages)
    if not stages:
        msg = f"{run}: no stage that puts a model together (`run: bundle`), and no emo.json; name a run, or such a folder"
        raise InputError(msg)
    if name is None and len(stages) > 1:
        msg = f"{run}: {len(stages)} stages put models together: {names}; choose one with --stage"
        raise InputError(msg)
    found = next((stage for stage in stages if name in (None, stage.name)), None)
    if found is None:
        msg = f"--stage {name}: no such stage that puts a model together; there are: {names}"
        raise InputError(msg)
    return found


def _fitted(results: ModelResults) -> ProbeCalibration | None:
    """What the run's validation images give."""
    from emo_lightning.inference.calibration import ProbeCalibration
    from emo_lightning.metrics.conformal import Conformal

    found = results["calibration"]
    if found is None or (fit := found["fit"]) is None:
        return None
    threshold = float("inf") if fit["threshold"] is None else fit["threshold"]
    return ProbeCalibration(fit["temperature"], Conformal("lac", 0.1, threshold, fit["images"]))


def _spread(
    run: RunFolder, stage: StageFolder, bundle: Bundle, results: ModelResults, pictures: Sequence[str] | None
) -> TrainingSpread | None:
    """The spread of the training pictures, the stage's or fitted on the run's tars; what it is worth goes to `results`."""
    from emo_lightning.analysis.unlike import measure_unlike
    from emo_lightning.inference.fitting import distances, fit
    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.report.model_results import training_tars

    sets = training_tars(run, stage)
    train, val = (sets.pop(name, None) for name in ("train", "val"))
    model = EmotionModel(stage.path) if bundle.spread or (train and val) else None
    scores, why = {}, "the run does not say which tars its head was trained on"
    try:
        if model is not None and model.spread is None and train and val:
            why = "too few validation images"
            if (spread := fit(model, train, val).spread) is not None:
                model.spread = spread.to(model.device)
        if model is not None and model.spread is not None:
            scores = {name: distances(model, tars) for name, tars in sets.items()}
    except (UserError, OSError) as error:
        # Tars may be gone by now; the model is as good as before.
        why = str(error)
        results["notes"].append(f"how many pictures are unlike those of the training: {why}")
    if model is None or model.spread is None:
        if pictures:
            msg = f"--unlike: this model cannot tell which pictures are unlike those of its training: {why}"
            raise InputError(msg)
        results["notes"].append(f"which pictures are unlike those of the training is not known: {why}")
        return None
    results["unlike"] = measure_unlike(model.spread, scores, None if pictures is None else distances(model, pictures))
    return model.spread.cpu()
