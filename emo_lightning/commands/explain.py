"""`emo explain IMAGE`: what the model sees, feels and points at."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

DEFAULT_MODEL = "runs/demo/model"


def main(argv: list[str]) -> int:
    """Print JSON and write the overlay."""
    parser = argparse.ArgumentParser(
        prog="emo explain", description="Triplet, boxes, emotion distribution and intensity of one image: JSON and an overlay picture.",
        epilog="example: emo explain photo.jpg --model runs/demo/model --out photo.explained.png",
    )  # fmt: skip
    parser.add_argument("image", type=Path)
    parser.add_argument(
        "--model", type=Path, default=Path(DEFAULT_MODEL), help=f"folder with emo.json (default: {DEFAULT_MODEL})"
    )
    parser.add_argument("--out", type=Path, help="overlay PNG (default: IMAGE.explained.png in the current folder)")
    parser.add_argument("--device", help="torch device (default: a GPU where there is one)")
    parser.add_argument("--max-new-tokens", type=int, default=256, help="of one reply (default: 256)")
    args = parser.parse_args(argv)
    from emo_lightning.data.images import open_image

    image = open_image(args.image)
    from emo_lightning.evaluation.bundle import EmotionModel
    from emo_lightning.evaluation.overlay import save_overlay

    said = EmotionModel(args.model, args.device).explain(image, args.image.stem, args.max_new_tokens).as_json()
    out = args.out or Path(f"{args.image.stem}.explained.png")
    save_overlay(image, said, out)
    print(json.dumps(said | {"overlay": str(out)}, indent=1, ensure_ascii=False))
    return 0
