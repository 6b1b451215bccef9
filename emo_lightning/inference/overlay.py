"""One image with what the model says of it, as a PNG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.boxes import inside
from emo_lightning.core.colours import EMOTION_COLOURS
from emo_lightning.core.files import replacing
from emo_lightning.core.records import EMOTIONS
from emo_lightning.inference.text import comparison, kind

if TYPE_CHECKING:
    from PIL.Image import Image

    from emo_lightning.inference.results import Explanation

_BOX = "#d62728"
_BESIDE_BOX = "white"


def save_overlay(image: Image, explanation: Explanation, path: Path) -> None:
    """Draw boxes on the image and, beside it, triplet, emotion distribution and intensity; above, whether it is unlike all that is known.

    Args:
        image: picture in its original size, as `explain` was given it.
        explanation: of `EmotionModel.explain`.
        path: of the PNG.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    from emo_lightning.data.images import as_seen

    said, scores = explanation.said, explanation.distribution
    figure = Figure(figsize=(10, 5), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    seen = as_seen(image)
    left.imshow(seen)
    left.set_axis_off()
    for region in said.regions:
        # A label far outside would shrink the picture to nothing.
        if (shown := inside(region.box, seen.size)) is None:
            continue
        x1, y1, x2, y2 = region.box
        for colour, width in ((_BESIDE_BOX, 4), (_BOX, 2)):
            left.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linewidth=width))
        left.text(
            shown[0],
            shown[1],
            f" {region.phrase or ''} ",
            color=_BESIDE_BOX,
            backgroundcolor=_BOX,
            fontsize=9,
            va="bottom",
            parse_math=False,
        )
    triplet = " – ".join(str(part or "?") for part in (said.background, said.attribute, said.subject))
    # What a model says is no formula, whatever dollar signs are in it.
    left.set_title(triplet, fontsize=11, parse_math=False)
    if scores:
        names = [str(e) for e in EMOTIONS][::-1]
        right.barh(names, [scores[n] for n in names], color=[EMOTION_COLOURS[n] for n in names])
        right.set_xlim(0, 1)
        fitted = explanation.probe is not None and explanation.probe.calibrated
        right.set_xlabel(f"probability (linear probe on DES, {'' if fitted else 'not '}calibrated)")
    else:
        right.set_axis_off()
    intensity = "?" if said.intensity is None else f"{said.intensity:g}"
    # Two sources: the bars are not the probability of the word above them.
    about = f"says: {said.emotion or '?'}   intensity: {intensity}/10\n{comparison(explanation)}"
    right.set_title(about, fontsize=10, parse_math=False)
    if explanation.unlike is not None and explanation.unlike.is_unlike:
        figure.suptitle(kind(explanation), fontsize=11, color=_BOX, parse_math=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
