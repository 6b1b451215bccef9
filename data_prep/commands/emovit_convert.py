"""`emo prep emovit-convert`: EmoViT's checkpoint → a folder that a local annotator loads."""

from __future__ import annotations

from data_prep.commands.console import new_parser
from emo_lightning.core.options import output_path
from emo_lightning.core.terminal import say


def main(argv: list[str]) -> int:
    """EmoViT's checkpoint → a folder that a local annotator loads."""
    parser = new_parser(
        "emovit-convert",
        "Make of EmoViT's checkpoint a folder that a local annotator loads (see `emo prep vote`). The weights, which have the names of "
        "LAVIS, are put into the base model, InstructBLIP; it is an error if a key of the file has no place there.",
        "emo prep emovit-convert model_weights1.pth --base Salesforce/instructblip-vicuna-7b --out emovit",
    )
    parser.add_argument("checkpoint", help="EmoViT's weights, .pth or .safetensors")
    parser.add_argument(
        "--base", required=True, help="the InstructBLIP that it was tuned from: hub name, name@revision or folder"
    )
    parser.add_argument("--out", type=output_path, required=True, help="folder to write; it must not exist yet")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="number format of the weights (default: that of the base model)",
    )
    args = parser.parse_args(argv)
    from data_prep.emovit.convert import convert

    report = convert(args.checkpoint, args.base, args.out, dtype=args.dtype)
    base = ", ".join(part.rstrip(".") for part in report["from_base"]) or "nothing"
    say(f"{args.out}: {report['keys']} weights of the checkpoint landed; from the base: {base}")
    say(f"use it: annotators: - {{name: emovit, role: emotion, backend: local, path: {args.out}, weight: 0.4}}")
    return 0
