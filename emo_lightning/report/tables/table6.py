"""Table 6: a linear probe on frozen embeddings, arms down; and the differences between the arms on the same images."""

from __future__ import annotations

from emo_lightning.analysis.table6 import TABLE6_METRICS, TABLE6_SETS
from emo_lightning.core.intervals import confidence_level
from emo_lightning.core.tables.table import Cell, Result, Spread, Table, best_of, columns, mean_over_seeds, p_value
from emo_lightning.report.page import Page

SET_TITLES = {"test": "combinations seen in training", "heldout": "combinations never trained on"}


def table6_tables(result: Result) -> list[Table]:
    """One table per set that was measured: arms down, metrics across, mean ± standard deviation over seeds."""
    tables = []
    for name in TABLE6_SETS:
        arms = {arm: sets[name] for arm, sets in result["arms"].items() if name in sets}
        if not arms:
            continue
        rows: list[list[Cell]] = [
            [arm, *(mean_over_seeds(metrics[key]) for key in TABLE6_METRICS), result["seeds"][arm]]
            for arm, metrics in arms.items()
        ]
        tables.append(
            Table(
                f"table6-{name}",
                f"Table 6, {name}",
                columns(("arm", "Training setting"), *TABLE6_METRICS.items(), ("seeds", "Seeds")),
                rows,
                f"{SET_TITLES[name].capitalize()}. Percent, macro-averaged, mean ± standard deviation over seeds.",
                best={(n, m) for m in range(1, 1 + len(TABLE6_METRICS)) for n in best_of([row[m] for row in rows])},
                name=name,
            )
        )
    return tables


def paired_page(paired: Result) -> Page:
    """What `paired_tests` found, as tables; a note where there is nothing to compare."""
    page = Page(
        "Table 6: differences between arms",
        "Second arm minus first on the same images, in points. The interval over images holds for these trained networks; the one over seeds "
        "and images says what another training may bring, and few seeds make it too narrow rather than too wide. Images are taken one by one: "
        "where many show the same thing, as those of one held-out combination do, other such things would differ by more.",
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
            tail = [pair["better"], pair["worse"], p_value(pair["p"]), p_value(pair["p_holm"])]
            rows.append([f"{pair['b']} − {pair['a']}", *differences, *tail])
        exact = all(pair["exact"] for pair in pairs)
        test = "McNemar's exact test" if exact else f"sign-flip permutation over images, {paired['flips']} exchanges"
        page.tables.append(
            Table(
                f"table6-paired/{name}",
                f"Paired differences, {name}, {found['images']} images",
                columns(
                    "arms",
                    *((f"{m}-{o}", f"{titles[m]}, {overs[o]}") for m, o in shown),
                    *("better", "worse", "p"),
                    ("p_holm", "p (Holm)"),
                ),
                rows,
                f"{100 * confidence_level(paired):g} % percentile intervals of {paired['resamples']} bootstrap resamples. p: of the "
                f"accuracy, {test}; Holm over the pairs. Better, worse: images that the second arm's seeds get right more, less often.",
            )
        )
    if not paired["sets"]:
        page.notes.append("Table 6: no paired test, as the arms share no set with emotions")
    return page
