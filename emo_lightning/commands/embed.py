"""`emo embed`: images -> a table of DES, or tars -> the same tars with `{key}.des.npy` added."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.commands.arguments import DEFAULT_MODEL, check_output_file, new_parser
from emo_lightning.core.errors import InputError
from emo_lightning.core.options import Whole

EXAMPLE = """examples:
  emo embed *.jpg --out des.parquet
  torchrun --nproc-per-node 8 -m emo_lightning embed data/*.tar --out data-des    (the ranks share the tars)
"""


ABOUT = """\
Compute the emotion embedding (DES) of images. Image files go into one .parquet table. Tars are copied with a member {key}.des.npy
for every image; tars that are finished are not made again."""


def main(argv: list[str]) -> int:
    """Embed images into parquet, or tars into tars."""
    parser = new_parser("embed", ABOUT, EXAMPLE)
    parser.add_argument("inputs", nargs="+", help="image files, or tars (files, folders, globs); not both")
    parser.add_argument(
        "--model", type=Path, default=Path(DEFAULT_MODEL), help=f"folder with emo.json (default: {DEFAULT_MODEL})"
    )
    parser.add_argument("--out", type=Path, required=True, help="a .parquet file for images, a folder for tars")
    parser.add_argument("--batch-size", type=Whole(1), default=16, help="images at a time (default: 16)")
    parser.add_argument("--device", help="torch device (default: a GPU where there is one)")
    args = parser.parse_args(argv)
    tars = [i for i in args.inputs if i.endswith(".tar") or Path(i).is_dir()]
    if tars and len(tars) != len(args.inputs):
        msg = f"inputs hold {len(tars)} tars and {len(args.inputs) - len(tars)} other files; give one kind"
        raise InputError(msg)
    if not tars and args.out.suffix != ".parquet":
        msg = f"--out {args.out}: images go to a .parquet file"
        raise InputError(msg)
    if not tars:
        check_output_file(args.out)
    if tars and args.out.is_file():
        msg = f"--out {args.out}: is a file; tars go to a folder"
        raise InputError(msg)
    from emo_lightning.experiment.advice import silence_advice
    from emo_lightning.inference.embed import embed_images, embed_tars

    silence_advice()
    if tars:
        embed_tars(tars, args.out, args.model, args.batch_size, args.device)
    else:
        embed_images(args.inputs, args.out, args.model, args.batch_size, args.device)
    return 0
