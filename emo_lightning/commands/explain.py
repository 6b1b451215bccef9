"""`emo explain IMAGES`: what the model sees, feels and points at."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.commands.arguments import add_images_and_model, check_output_file, new_parser
from emo_lightning.core.errors import InputError
from emo_lightning.core.options import Whole, output_path
from emo_lightning.core.terminal import json_text, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emo_lightning.inference.inputs import InputImage
    from emo_lightning.inference.model import Masks
    from emo_lightning.inference.results import Explanation

ABOUT = """\
Show what a model sees in images: what it describes, the triplet (background, attribute, subject) with boxes, the emotion and intensity
that it says, and beside them the emotions that the probe reads off the embedding (and valence, arousal and dominance, of a model that was
trained for them); and whether the image is unlike all that the model was trained on. Of one image it prints JSON, or with --text a block for
people; --out PICTURE.png also draws the boxes into it. Of many (files, folders, globs, addresses, tars, Parquet files of paths) it writes JSON
lines or Parquet; images that cannot be opened are named and left out. What is done is not done again: after an interrupt run the same
command."""

EXAMPLES = """\
examples:
  emo explain photo.jpg --text
  emo explain photo.jpg --model runs/demo/model --out photo.explained.png
  emo explain photos/ --out explained.jsonl --overlays pictures
  emo explain 'data/*-test-*.tar' --out explained.parquet --model emotion-model"""

_PICTURE = ".png"


def main(argv: list[str]) -> int:
    """Explain one image on the terminal, or many into a file."""
    parser = new_parser("explain", ABOUT, EXAMPLES)
    add_images_and_model(parser)
    parser.add_argument(
        "--out",
        type=output_path,
        help="of one image: a picture with the boxes drawn in, PNG (default: none); else a .jsonl or .parquet file",
    )
    parser.add_argument("--text", action="store_true", help="print a block for people instead of JSON")
    parser.add_argument(
        "--overlays", type=output_path, metavar="DIR", help="also write a picture of every image to this folder"
    )
    parser.add_argument(
        "--masks", metavar="SAM", help="also give the pixels of every box, by this SAM (folder or hub id; default: no masks)"
    )
    parser.add_argument(
        "--label-scoring",
        choices=("plain", "gated"),
        default="plain",
        help="gated: ask for the polarity besides, and take the emotion that is most probable given it (default: plain, the word said)",
    )
    parser.add_argument("--batch-size", type=Whole(1), default=16, help="images at a time (default: 16)")
    parser.add_argument("--device", help="torch device (default: a GPU where there is one)")
    parser.add_argument("--max-new-tokens", type=Whole(1), default=256, help="tokens that one answer may have (default: 256)")
    args = parser.parse_args(argv)
    from emo_lightning.inference.inputs import entries
    from emo_lightning.inference.tables import TABLE_SUFFIXES

    found = entries(args.inputs)
    to_file = args.out is not None and args.out.suffix in TABLE_SUFFIXES
    if not to_file and len(found) > 1 and not args.text:
        msg = f"{len(found)} images: add --out FILE{' or FILE'.join(TABLE_SUFFIXES)}, or --text to read them here"
        raise InputError(msg)
    if not to_file and args.out is not None and (args.out.suffix not in ("", _PICTURE) or len(found) > 1):
        msg = f"--out {args.out}: expected FILE{' or FILE'.join(TABLE_SUFFIXES)}, or of one image FILE{_PICTURE}"
        raise InputError(msg)
    if to_file and args.text:
        msg = f"--text is for the terminal; {args.out} is written for programs"
        raise InputError(msg)
    if args.overlays is not None and args.overlays.is_file():
        msg = f"--overlays {args.overlays}: is a file; expected a folder"
        raise InputError(msg)
    return _many(args, found) if to_file else _shown(args, found)


def _shown(args: argparse.Namespace, found: Sequence[InputImage]) -> int:
    """On the terminal."""
    alone = len(found) == 1
    # Before the minutes that a model takes: one image that is missing or broken ends the command; of many it is left out.
    first = [found[0].open()] if alone else []
    own = args.out if alone else None
    if (out := own or (None if args.overlays is None else overlay_path(args.overlays, found[0].id))) is not None:
        check_output_file(out)
    from emo_lightning.experiment.advice import silence_advice
    from emo_lightning.inference.many import OpenedBatch, name_failures, opened_batches
    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.inference.overlay import save_overlay
    from emo_lightning.inference.pictures import name_of

    silence_advice()
    model = EmotionModel.from_pretrained(args.model, args.device)
    masks = _masks(args.masks, str(model.device))
    failures: dict[str, str] = {}
    shown = 0
    for batch in [OpenedBatch(list(found), first, {})] if alone else opened_batches(found, args.batch_size):
        failures |= batch.failures
        ids = [name_of(entry.id, 0) if alone else entry.id for entry in batch.entries]
        for one, picture in zip(
            model.explain(
                batch.pictures, ids, max_new_tokens=args.max_new_tokens, masks=masks, label_scoring=args.label_scoring
            ),
            batch.pictures,
            strict=True,
        ):
            path = own or (None if args.overlays is None else overlay_path(args.overlays, one.id))
            if path is not None:
                save_overlay(picture, one, path)
            _print(one, path, text=args.text, number=shown)
            shown += 1
    name_failures(failures)
    return 0 if shown else 2


def _print(one: Explanation, path: Path | None, *, text: bool, number: int) -> None:
    from emo_lightning.inference.text import as_text

    if text:
        # Into a file or a pipe lines go whole.
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        say(("\n" if number else "") + as_text(one, width))
        if path is not None:
            say(f"  {'drawn in':<9} {path}")
        return
    # One key a line: an embedding of 1,024 numbers would fill the screen.
    said = one.as_json() | {"overlay": None if path is None else str(path)}
    rows = [f"{json_text(key)}: {json_text(value)}" for key, value in said.items()]
    say("{" + ",\n ".join(rows) + "}")


def _many(args: argparse.Namespace, found: Sequence[InputImage]) -> int:
    """Into a file."""
    check_output_file(args.out)
    if args.overlays is not None:
        args.overlays.mkdir(parents=True, exist_ok=True)
    from emo_lightning.core.model_folders import weights_hash
    from emo_lightning.experiment.advice import silence_advice
    from emo_lightning.inference.bundle import bundle_fingerprint, bundle_folder, read_bundle
    from emo_lightning.inference.calibration import ProbeCalibration
    from emo_lightning.inference.many import ImageResultFunction, explain_work, look_at_all, write_failures
    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.inference.parts import OutputParts
    from emo_lightning.inference.tables import write_results

    silence_advice()
    folder = bundle_folder(args.model)
    bundle = read_bundle(folder)
    about = {
        "weights": bundle_fingerprint(folder),
        **{part: weights_hash(place) for part, place in bundle.parts.items() if part in ("probe", "spread", "affect")},
        "calibration": None if (fitted := ProbeCalibration.of(folder, bundle.probe)) is None else repr(fitted),
        "questions": bundle.questions,
        "max_new_tokens": args.max_new_tokens,
        "overlays": None if args.overlays is None else str(args.overlays),
        "masks": args.masks,
        **({"label_scoring": args.label_scoring} if args.label_scoring != "plain" else {}),
    }
    overlay = None if args.overlays is None else lambda name: overlay_path(args.overlays, name)
    parts = OutputParts(args.out, about)

    def work() -> ImageResultFunction:
        model = EmotionModel(folder, args.device)
        return explain_work(model, args.max_new_tokens, overlay, _masks(args.masks, str(model.device)), args.label_scoring)

    looked = look_at_all(found, parts, work, args.batch_size, "explain")
    count = write_results(args.out, [entry.id for entry in found], parts)
    write_failures(args.out, looked.failures)
    parts.remove()
    say(f"{count} explanations: {args.out}{looked.rate and f' ({looked.rate})'}")
    return 0


def _masks(name: str | None, device: str) -> Masks | None:
    """Masks by a SAM, where one is named."""
    if name is None:
        return None
    from data_prep.grounding.transformers_backend import load_segmenter

    return load_segmenter(name, device).masks_of


def overlay_path(folder: Path, name: str) -> Path:
    """Where the picture of an image goes.

    Args:
        folder: of all pictures.
        name: id of the image: a path, an address or a key; two of them never share a picture.
    """
    import hashlib

    from emo_lightning.inference.inputs import OVERLAY_SUFFIX

    stem = Path(name).stem[:80]
    apart = "" if name == stem else "." + hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return folder / f"{stem}{apart}{OVERLAY_SUFFIX}"
