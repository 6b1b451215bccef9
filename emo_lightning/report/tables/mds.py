"""How faithful the MDS maps of Figure 6 are, and how far the emotions keep apart in them."""

from __future__ import annotations

from emo_lightning.core.tables.table import Cell, Result, Table, best_of, columns

_MERITS = ("stress", "silhouette_des", "silhouette_2d", "knn_purity_des", "knn_purity_2d")


def mds_tables(result: Result) -> list[Table]:
    """The merits of every arm's map, as `mds.json` has them: arms down."""
    rows: list[list[Cell]] = []
    for arm, found in result["arms"].items():
        splits = ", ".join(f"{name} {count}" for name, count in found["splits"].items())
        rows.append([arm, f"{found['points']} of {found['available']}", splits, *(found[key] for key in _MERITS)])
    k = next((found["k"] for found in result["arms"].values()), "k")
    titles = ("Stress-1 ↓", "Silhouette, DES ↑", "Silhouette, 2-D ↑", f"{k}-NN purity, DES ↑", f"{k}-NN purity, 2-D ↑")
    shown = columns(("arm", "Training setting"), ("images", "Images"), ("splits", "Splits"), *zip(_MERITS, titles, strict=True))
    best = {(n, m) for m in range(3, 8) for n in best_of([row[m] for row in rows], m == 3)}
    note = (
        "Stress 0 is a faithful picture of the distances. Silhouette (−1 to 1): how far emotions keep apart. Purity: the share of the nearest "
        "neighbours with a point's own emotion. Both in the embedding (DES) and in the picture (2-D)."
    )
    return [Table("mds-merits", "Figure 6 in numbers", shown, rows, note, digits=3, best=best, folded=True, name="merits")]
