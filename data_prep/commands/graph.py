"""`emo prep graph`: write the triplet graph as GraphML and Parquet."""

from __future__ import annotations

from data_prep.commands.console import new_parser
from emo_lightning.core.options import output_path
from emo_lightning.core.terminal import say


def main(argv: list[str]) -> int:
    """Write the triplet graph as GraphML and Parquet."""
    parser = new_parser(
        "graph",
        "Write the graph of backgrounds, attributes, subjects and emotions. A node has the number of images that show it, an edge the "
        "number that show both of its nodes. Four files: triplets.graphml (for networkx, Gephi, Cytoscape), and nodes.parquet, "
        "edges.parquet and triplets.parquet (with the ids of the images).",
        "emo prep graph store --out graph",
    )
    parser.add_argument("records", nargs="+", metavar="STORE|TARS", help="stores, tars, or folders of tars")
    parser.add_argument("--out", type=output_path, required=True, metavar="DIR", help="directory of the four files")
    args = parser.parse_args(argv)

    from data_prep.export.read import read_records
    from data_prep.stats.graph import GRAPHML_FILE, NODE_KINDS, GraphError, TripletGraph

    graph = TripletGraph.from_records(read_records(args.records))
    if not graph.combinations:
        msg = f"{', '.join(args.records)}: no record has a whole triplet ({graph.skipped} without one)"
        raise GraphError(msg)
    out = args.out
    graph.write_parquet(out)
    graph.write_graphml(out / GRAPHML_FILE)
    kinds = ", ".join(f"{len(graph.words(kind))} × {kind}" for kind in NODE_KINDS)
    say(f"{out}: {len(graph.nodes)} nodes ({kinds}), {len(graph.edges)} edges, {len(graph.combinations)} triplets with emotion")
    if graph.skipped:
        say(f"records without a whole triplet: {graph.skipped}")
    return 0
