"""The four measurements as tables, for the terminal and the report."""

from __future__ import annotations

from collections.abc import Mapping

from emo_lightning.analysis.des_space.inputs import DesSet, notes_of
from emo_lightning.core.tables.table import Cell, ResultsByArm, Spread, Table, columns
from emo_lightning.report.page import Page, PageFigure


def retrieval_page(result: ResultsByArm, arms: Mapping[str, DesSet]) -> Page:
    """One table per measure; what no query could be made of is noted."""
    first = next(iter(result.values()))
    page = Page(
        "Retrieval by DES",
        f"For each image its nearest others by {first['metric']} distance, among {first['images']} images. Chance: others drawn at random.",
        figures=[PageFigure("recall@k", "retrieval.svg", "Bars: 95 % over queries; for print: retrieval.pdf.")],
        notes=notes_of(arms, "retrieval"),
    )
    for kind, meaning in (
        ("recall", "share of queries with at least one relevant image among the k nearest"),
        ("precision", "mean share of relevant images among the k nearest"),
    ):
        rows: list[list[Cell]] = []
        for target, found in first["targets"].items():
            for k in map(str, first["ks"]) if found["queries"] else ():
                values = [_percent(arm["targets"][target][kind][k]) for arm in result.values()]
                rows.append([f"{target} @{k}", *values, 100 * found[kind][k]["chance"], found["queries"]])
        page.tables.append(
            Table(
                f"retrieval-{kind}",
                f"{kind}@k, percent",
                columns("same", *result, "chance", "queries"),
                rows,
                f"{meaning}; 95 % bootstrap interval over queries.",
                digits=1,
            )
        )
    for target, found in first["targets"].items():
        if found["without_relevant"] or found["without_label"]:
            counts = f"{found['without_relevant']} images without another of the same, {found['without_label']} without a label"
            page.notes.append(f"retrieval by {target}: {found['queries']} queries; {counts}")
    page.tables += _by_emotion(result)
    return page


def _by_emotion(result: ResultsByArm) -> list[Table]:
    first = next(iter(result.values()))
    split = first["targets"].get("emotion", {}).get("by_emotion")
    if not split:
        return []
    k = str(first["ks"][0])
    rows: list[list[Cell]] = [
        [emotion, *(100 * arm["targets"]["emotion"]["by_emotion"][emotion][k] for arm in result.values())] for emotion in split
    ]
    title = f"recall@{k} by emotion, percent"
    return [Table(f"retrieval-recall-by-emotion/{k}", title, columns("emotion", *result), rows, digits=1)]


def distance_page(result: ResultsByArm, arms: Mapping[str, DesSet], drawn: bool) -> Page:
    """Rank correlations, and why there is none where there is none."""
    page = Page(
        "Affective distance in DES",
        "Spearman's ρ over pairs of images: distance of the embeddings against distance of what was felt. ρ = 1: the same order.",
        notes=notes_of(arms, "affective distance"),
    )
    titles = {"distribution": "Jensen–Shannon distance of the emotion distributions", "intensity": "difference of intensity"}
    for part, title in titles.items():
        rows: list[list[Cell]] = []
        for arm, whole in result.items():
            found = whole[part]
            if "reason" in found:
                page.notes.append(f"affective distance, {part}, {arm}: not computed, {found['reason']}")
                continue
            rho = Spread(found["rho"], found["low"], found["high"])
            rows.append([arm, found["images"], rho, f"{found['p']:.3f}", found["within_emotion_rho"], found["category_rho"]])
            if found.get("one_hot", 0) > 0.5:
                page.notes.append(
                    f"affective distance, {arm}: {100 * found['one_hot']:.0f} % of the distributions are one category alone; between those "
                    "the distance is 0 or 1"
                )
        if rows:
            page.tables.append(
                Table(
                    f"affective-distance-{part}",
                    title,
                    columns(
                        *("arm", "images"),
                        ("rho", "ρ"),
                        "p",
                        ("within_emotion_rho", "ρ within an emotion"),
                        ("category_rho", "ρ of the category alone"),
                    ),
                    rows,
                    "95 % bootstrap interval over images; p: Mantel's permutation test, two-sided. The last column has no embedding in it: "
                    "it is what knowing whether two images have the same emotion gives.",
                    3,
                )
            )
    sources = sorted({record.source or "unknown" for found in arms.values() for record in found.records})
    page.text += f" Distributions and intensities as annotated in: {', '.join(sources[:8])}{' …' if len(sources) > 8 else ''}."
    if drawn:
        page.figures.append(
            PageFigure("Embedding distance by affective distance", "distance.svg", "Deciles of pairs; for print: distance.pdf.")
        )
    return page


def interpolation_page(result: ResultsByArm, arms: Mapping[str, DesSet], drawn: bool, strips: list[str]) -> Page:
    """The three measures beside chance."""
    page = Page(
        "Interpolation in DES",
        "Straight paths between two images of different emotions, read by the real images near each point. Monotonicity: net change of mood "
        "over all change, 1 = never backward. Progress: 1 = all the way from one mood to the other. Largest step: 1 = a single jump.",
        notes=notes_of(arms, "interpolation"),
    )
    rows: list[list[Cell]] = []
    for arm, found in result.items():
        if "reason" in found:
            page.notes.append(f"interpolation, {arm}: not computed, {found['reason']}")
            continue
        cells: list[Cell] = [arm, found["paths"]]
        for name in ("monotonicity", "progress", "largest_step"):
            one = found[name]
            cells += [None if one["value"] is None else Spread.of(one), one["chance"]]
        rows.append(cells)
        if found["unmoved"]:
            page.notes.append(
                f"interpolation, {arm}: on {found['unmoved']} of {found['paths']} paths the mood never changes; no monotonicity"
            )
        if found["too_alike"]:
            page.notes.append(
                f"interpolation, {arm}: {found['too_alike']} pairs of ends left out, as their moods hardly differ"
            )
    if rows:
        measures = {"monotonicity": "monotonicity", "progress": "progress", "largest_step": "largest step"}
        shown = columns("arm", "paths", *(x for m, title in measures.items() for x in ((m, title), (f"{m}-chance", "chance"))))
        note = "95 % bootstrap interval over paths. Chance: the same paths with moods dealt to the images at random."
        page.tables.append(Table("interpolation", "Paths between emotions", shown, rows, note))
    if drawn:
        page.figures.append(
            PageFigure("Mean way, and monotonicity by pair", "interpolation.svg", "For print: interpolation.pdf.")
        )
    if strips:
        note = "Ends with bold frames. Between them the real image nearest to the path; below it the strongest emotion of its neighbourhood."
        page.figures.append(PageFigure(f"Paths as images ({strips[0]})", "strips.png", note))
    return page


def stability_page(result: ResultsByArm) -> Page:
    """One table per arm."""
    first = next(iter(result.values()))
    page = Page(
        "Stability of DES",
        "What changes of no feeling do to the embedding. Place: 1 = did not move, 0 = as far as another image.",
        figures=[PageFigure("Stability", "stability.svg", "For print: stability.pdf.")],
    )
    for arm, found in result.items():
        rows: list[list[Cell]] = [
            [
                row["change"],
                Spread.of(row["cosine"]),
                row["cosine_p5"],
                row["place"],
                Spread.of(row["overlap"]),
                None if row["same_emotion"] is None else Spread.of(row["same_emotion"]),
            ]
            for row in found["changes"]
        ]
        page.tables.append(
            Table(
                f"stability/{arm}",
                f"Stability, {arm}",
                columns(
                    *("change", "cosine"),
                    ("cosine_p5", "5th percentile"),
                    "place",
                    ("overlap", f"same {found['k']} neighbours"),
                    ("same_emotion", "same emotion"),
                ),
                rows,
                f"{first['images']} images; cosine between different images {found['other_cosine']:.3f}; neighbours shared by chance "
                f"{found['overlap_chance']:.3f}; 95 % bootstrap intervals over images. Emotion: of the probe.",
                3,
            )
        )
    return page


def _percent(share: Mapping[str, float]) -> Spread:
    return Spread(100 * share["value"], 100 * share["low"], 100 * share["high"])
