"""The paired differences between the arms of Table 6, as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from emo_lightning.report.page import Cell, Page, PageTable, Spread


def paired_page(paired: Mapping[str, Any]) -> Page:
    """What `paired_tests` found, as tables; a note where there is nothing to compare."""
    page = Page(
        "Table 6: differences between arms",
        "Second arm minus first on the same images, in points. The interval over images holds for these trained networks; the one over seeds "
        "and images says what another training may bring, and few seeds make it too narrow rather than too wide.",
    )
    if "skipped" in paired:
        page.notes.append(f"Table 6: no paired test, as {paired['skipped']}")
        return page
    titles = {"accuracy": "Δ acc.", "f1": "Δ F1"}
    overs = {"images": "over images", "seeds_and_images": "over seeds and images"}
    for name, found in paired["sets"].items():
        pairs = found["pairs"]
        shown = [(m, o) for m in titles for o in overs if any(pair[m][o] for pair in pairs)]
        rows: list[list[Cell]] = []
        for pair in pairs:
            differences = [Spread(pair[m]["difference"], *pair[m][o]) if pair[m][o] else None for m, o in shown]
            tail = [pair["better"], pair["worse"], f"{pair['p']:.4f}", f"{pair['p_holm']:.4f}"]
            rows.append([f"{pair['b']} − {pair['a']}", *differences, *tail])
        exact = all(pair["exact"] for pair in pairs)
        test = "McNemar's exact test" if exact else f"sign-flip permutation over images, {paired['flips']} exchanges"
        page.tables.append(
            PageTable(
                f"Paired differences, {name}, {found['images']} images",
                ["arms", *(f"{titles[m]}, {overs[o]}" for m, o in shown), "better", "worse", "p", "p (Holm)"],
                rows,
                f"{paired['level']} % percentile intervals of {paired['resamples']} bootstrap resamples. p: of the accuracy, {test}; "
                f"Holm over the pairs. Better, worse: images that the second arm's seeds get right more, less often.",
            )
        )
    if not paired["sets"]:
        page.notes.append("Table 6: no paired test, as the arms share no set with emotions")
    return page
