"""`emo embed`: images -> a table of DES, or tars -> the same tars with `{key}.des.npy` added."""

from __future__ import annotations

from emo_lightning.commands.arguments import add_images_and_model, check_output_file, new_parser
from emo_lightning.core.errors import InputError
from emo_lightning.core.options import Whole, output_path

EXAMPLES = """examples:
  emo embed *.jpg --out des.parquet
  emo embed photos/ more.parquet --out des.jsonl --model emotion-model
  torchrun --nproc-per-node 8 -m emo_lightning embed data/*.tar --out data-des    (the ranks share the tars)
"""


ABOUT = """\
Compute the emotion embedding (DES) of images: files, folders, globs, addresses, tars, or Parquet files of paths. They go into one table;
images that cannot be opened are named and left out. With a folder as --out, tars are copied with a member {key}.des.npy for every image.
What is done is not done again: after an interrupt run the same command. To search by embeddings, give them, or the images themselves, to
emo index build."""


def main(argv: list[str]) -> int:
    """Embed images into a table, or tars into tars."""
    parser = new_parser("embed", ABOUT, EXAMPLES)
    add_images_and_model(parser)
    parser.add_argument("--out", type=output_path, required=True, help="a .parquet or .jsonl file; or a folder, for tars alone")
    parser.add_argument("--batch-size", type=Whole(1), default=16, help="images at a time (default: 16)")
    parser.add_argument("--device", help="torch device (default: a GPU where there is one)")
    args = parser.parse_args(argv)
    from emo_lightning.inference.inputs import are_tars
    from emo_lightning.inference.tables import TABLE_SUFFIXES

    to_table = args.out.suffix in TABLE_SUFFIXES
    others = [given for given in args.inputs if not are_tars(given)]
    if not to_table and others:
        msg = f"--out {args.out}: images such as {others[0]} go to a {' or '.join(TABLE_SUFFIXES)} file; tars alone may go to a folder"
        raise InputError(msg)
    if to_table:
        check_output_file(args.out)
    elif args.out.is_file():
        msg = f"--out {args.out}: is a file; tars go to a folder"
        raise InputError(msg)
    from emo_lightning.experiment.advice import silence_advice
    from emo_lightning.inference.embed import embed_images, embed_tars

    silence_advice()
    if to_table:
        embed_images(args.inputs, args.out, args.model, args.batch_size, args.device)
    else:
        embed_tars(args.inputs, args.out, args.model, args.batch_size, args.device)
    return 0
