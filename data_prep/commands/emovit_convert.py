"""`emo prep emovit-convert`: EmoViT's checkpoint → a folder that a local annotator loads."""

from __future__ import annotations

from data_prep.commands.console import new_parser


def main(argv: list[str]) -> int:
    """EmoViT's checkpoint → a folder that a local annotator loads."""
    parser = new_parser(
        "emovit-convert",
        "Put EmoViT's weights (LAVIS names) into its base model, InstructBLIP. Every key of the file must land.",
        "emo prep emovit-convert model_weights1.pth --base Salesforce/instructblip-vicuna-7b --out emovit",
    )
    parser.add_argument("checkpoint", help=".pth or .safetensors")
    parser.add_argument("--base", required=True, help="InstructBLIP that it was tuned from: hub name, name@revision or folder")
    parser.add_argument("--out", required=True, help="folder to write; it must not exist")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "float32", "bfloat16", "float16"),
        help="of the weights (default: the base's)",
    )
    args = parser.parse_args(argv)
    from data_prep.emovit.convert import convert

    report = convert(args.checkpoint, args.base, args.out, dtype=args.dtype)
    base = ", ".join(part.rstrip(".") for part in report["from_base"]) or "nothing"
    print(f"{args.out}: {report['keys']} weights of the checkpoint landed; from the base: {base}")
    print(f"use it: annotators: - {{name: emovit, role: emotion, backend: local, path: {args.out}, weight: 0.4}}")
    return 0
