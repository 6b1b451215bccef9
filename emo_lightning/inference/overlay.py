"""One image with what the model says of it, as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emo_lightning.core.records import EMOTIONS


def save_overlay(image: Any, said: dict[str, Any], path: Path) -> None:
    """Draw boxes on the image and, beside it, triplet, emotion distribution and intensity.

    Args:
        image: RGB picture in its original size.
        said: `Explanation.as_json()`.
        path: of the PNG.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from emo_lightning.report.svg import EMOTION_COLOURS

    scores = said["emotion_scores"]
    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    left.imshow(image)
    left.set_axis_off()
    for item in said["objects"]:
        x1, y1, x2, y2 = item["bbox"]
        left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="white", linewidth=4))
        left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor="#d62728", linewidth=2))
        left.text(
            x1,
            y1,
            f" {item['phrase'] or ''} ",
            color="white",
            backgroundcolor="#d62728",
            fontsize=9,
            va="bottom",
            parse_math=False,
        )
    triplet = " – ".join(str(said[key] or "?") for key in ("background", "attribute", "subject"))
    # What a model says is no formula, whatever dollar signs are in it.
    left.set_title(triplet, fontsize=11, parse_math=False)
    if scores:
        names = [str(e) for e in EMOTIONS][::-1]
        right.barh(names, [scores[n] for n in names], color=[EMOTION_COLOURS[n] for n in names])
        right.set_xlim(0, 1)
        right.set_xlabel("probability (linear probe on DES)")
    else:
        right.set_axis_off()
    intensity = "?" if said["intensity"] is None else f"{said['intensity']:g}"
    right.set_title(f"emotion: {said['emotion'] or '?'}   intensity: {intensity}/10", fontsize=11, parse_math=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=110)
