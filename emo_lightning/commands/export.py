"""`emo export --merge`: an adapter folded into its base model, as a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.commands.arguments import check_output_file, new_parser
from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.files import atomic_folder
from emo_lightning.core.terminal import say


def main(argv: list[str]) -> int:
    """Merge and save."""
    about = "Merge a LoRA adapter into its base model and write the result as a folder that transformers and vLLM load."
    example = "example: emo export runs/emoverse/round2/adapter --merge --out qwen2.5-vl-3b-emoverse"
    parser = new_parser("export", about, example)
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="adapter folder of a run")
    parser.add_argument("--merge", action="store_true", required=True, help="merge the adapter into the weights (required)")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; it must be empty or missing")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="of the weights that are written; auto: as the base model has them (default: auto)",
    )
    args = parser.parse_args(argv)
    if not (args.adapter / "adapter_config.json").is_file():
        msg = f"{args.adapter}: no adapter_config.json there; expected the adapter folder of a run"
        raise MissingFileError(msg)
    if args.out.is_file() or (args.out.exists() and any(args.out.iterdir())):
        msg = f"--out {args.out} is not an empty folder; choose another"
        raise InputError(msg)
    if not args.out.exists():
        check_output_file(args.out)
    from emo_lightning.experiment.advice import silence_advice
    from emo_lightning.models.backbone import BackboneConfig, load_frozen

    silence_advice()
    backbone = load_frozen(BackboneConfig(str(args.adapter), tuning="frozen", dtype=args.dtype))
    processor = backbone.processor
    with atomic_folder(args.out) as temporary:
        backbone.merged().save_pretrained(temporary)
        processor.save_pretrained(temporary)
    say(f"merged model: {args.out}")
    return 0
