"""What `faithfulness` measured, as a table and notes."""

from __future__ import annotations

from emo_lightning.core.tables.table import Cell, Result, Spread, Table, columns
from emo_lightning.metrics.bootstrap import MIN_IMAGES_FOR_SOUND_INTERVAL
from emo_lightning.report.page import Page


def faithfulness_page(result: Result) -> Page:
    """What `faithfulness` returned, as a table for the terminal and the report."""
    rows: list[list[Cell]] = []
    for name, s in {"all": result["summary"], **result["emotions"]}.items():
        surplus = s["surplus"]
        p = None if surplus["p"] is None else f"{surplus['p']:.2g}"
        rows.append([name, s["images"], s["grounded"], s["random"], Spread.of(surplus), p, s["larger"]])
    shown = columns(
        ("emotion", "emotion seen"),
        "images",
        ("grounded", "fall, grounded box"),
        ("random", "fall, random boxes"),
        ("surplus", "surplus ↑"),
        "p",
        ("larger", "grounded counts more (%)"),
    )
    how = {"mean": "painted in the image's mean colour", "blur": "blurred"}[result["mask"]]
    note = (
        f"Fall of the probability of the emotion that the model sees in the whole image, in points, when a box is {how}. Random: mean "
        f"over {result['draws']} boxes of the same width and height, overlapping the grounded one by at most "
        f"{result['max_overlap']:g} (IoU). Paired; 95 % bootstrap interval over images, p of Wilcoxon's signed-rank test."
    )
    notes = [f"{count} images {reason} are left out" for reason, count in result["skipped"].items()]
    if result["summary"]["images"] == 1:
        notes.append("one image, so there is no interval and no p")
    few = [
        name
        for name, s in {"all": result["summary"], **result["emotions"]}.items()
        if 1 < s["images"] < MIN_IMAGES_FOR_SOUND_INTERVAL
    ]
    if few:
        notes.append(
            f"{', '.join(few)}: fewer than {MIN_IMAGES_FOR_SOUND_INTERVAL} images, for which the intervals of the bootstrap are too narrow"
        )
    text = f"Does the emotion depend on the region that its words name? Boxes: {result['boxes']}."
    table = Table("faithfulness", "Masked regions", shown, rows, note)
    return Page("Word-to-region faithfulness", text, [table], notes=notes)
