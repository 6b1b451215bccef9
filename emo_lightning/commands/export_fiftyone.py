"""`emo export-fiftyone`: tars, predictions and embeddings as a data set of FiftyOne."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.commands.arguments import new_parser
from emo_lightning.core.options import named_places, output_path
from emo_lightning.core.terminal import say

ABOUT = """\
Write tars as a folder that FiftyOne opens, to look, search and brush there: images, emotions, intensities, words, boxes, masks and embeddings,
and beside them what models say. FiftyOne itself is not needed to write it."""

EXAMPLES = """\
examples:
  emo export-fiftyone data --out for-fiftyone
  emo export-fiftyone 'data/*-test-*.tar' --out for-fiftyone --embeddings des.parquet --predictions ours=ours.jsonl
then, in Python:
  fiftyone.Dataset.from_dir("for-fiftyone", fiftyone.types.FiftyOneDataset)"""


def main(argv: list[str]) -> int:
    """Write the folder."""
    parser = new_parser("export-fiftyone", ABOUT, EXAMPLES)
    parser.add_argument("tars", nargs="+", metavar="TARS", help="tars: files, folders, globs, URLs")
    parser.add_argument(
        "--out", type=output_path, required=True, metavar="FOLDER", help="folder to write; it must be empty or missing"
    )
    parser.add_argument(
        "--embeddings",
        type=Path,
        metavar="FILE",
        help="a .parquet of emo embed, or tars with .des.npy (default: those of TARS)",
    )
    parser.add_argument(
        "--predictions",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="answers of a model (.jsonl, .parquet, tars), as fields NAME_…; repeat the option for more models",
    )
    parser.add_argument("--name", default="emotions", help="of the data set (default: %(default)s)")
    args = parser.parse_args(argv)
    predictions = {name: Path(file) for name, file in named_places("--predictions", args.predictions).items()}
    from emo_lightning.analysis.fiftyone import write_fiftyone

    counts = write_fiftyone(args.tars, args.out, predictions=predictions, embeddings=args.embeddings, name=args.name)
    say(f"{args.out}: " + ", ".join(f"{n} {what}" for what, n in counts.items()))
    say(f'open it with fiftyone.Dataset.from_dir("{args.out}", fiftyone.types.FiftyOneDataset)')
    return 0
