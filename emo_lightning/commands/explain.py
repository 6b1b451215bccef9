"""`emo explain IMAGE`: what the model sees, feels and points at."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.commands.arguments import DEFAULT_MODEL, check_output_file, new_parser
from emo_lightning.core.options import Whole
from emo_lightning.core.terminal import json_text, say

ABOUT = """\
Show what a model sees in one image: what it describes, the triplet (background, attribute, subject) with boxes, the emotion, the
probabilities of all emotions and the intensity. Prints JSON and writes a picture with the boxes drawn in."""


def main(argv: list[str]) -> int:
    """Print JSON and write the overlay."""
    example = "example: emo explain photo.jpg --model runs/demo/model --out photo.explained.png"
    parser = new_parser("explain", ABOUT, example)
    parser.add_argument("image", type=Path, metavar="IMAGE", help="image file")
    parser.add_argument(
        "--model", type=Path, default=Path(DEFAULT_MODEL), help=f"folder with emo.json (default: {DEFAULT_MODEL})"
    )
    parser.add_argument("--out", type=Path, help="picture to write, PNG (default: IMAGE.explained.png in the current folder)")
    parser.add_argument("--device", help="torch device (default: a GPU where there is one)")
    parser.add_argument("--max-new-tokens", type=Whole(1), default=256, help="tokens that one answer may have (default: 256)")
    args = parser.parse_args(argv)
    from emo_lightning.data.images import open_image

    image = open_image(args.image)
    out = args.out or Path(f"{args.image.stem}.explained.png")
    check_output_file(out)
    from emo_lightning.experiment.advice import silence_advice
    from emo_lightning.inference.model import EmotionModel
    from emo_lightning.inference.overlay import save_overlay

    silence_advice()
    explanation = EmotionModel(args.model, args.device).explain(image, args.image.stem, args.max_new_tokens)
    save_overlay(image, explanation, out)
    # One key a line: an embedding of 1,024 numbers would fill the screen.
    said = explanation.as_json() | {"overlay": str(out)}
    rows = [f"{json_text(key)}: {json_text(value)}" for key, value in said.items()]
    say("{" + ",\n ".join(rows) + "}")
    return 0
