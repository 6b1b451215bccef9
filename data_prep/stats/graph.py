"""The triplet graph: which backgrounds, attributes, subjects and emotions occur, and which of them together.

Paper section 3.1.2 (knowledge-graph-inspired triplets) and 3.1.1: search queries and compositional prompts are drawn from it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.files import replacing
from emo_lightning.core.foreign import list_of, text_of
from emo_lightning.core.parquet import parquet_rows
from emo_lightning.core.records import Emotion, Record

if TYPE_CHECKING:
    import networkx

NodeKind = Literal["background", "attribute", "subject", "emotion"]
NODE_KINDS: tuple[NodeKind, ...] = ("background", "attribute", "subject", "emotion")

GRAPHML_FILE = "triplets.graphml"
GRAPH_TABLES = ("triplets.parquet", "nodes.parquet", "edges.parquet")

_ARTICLE = re.compile(r"^(a|an|the) (?=\S)")


class GraphError(InputError):
    """A graph cannot be built or read."""


class Node(NamedTuple):
    """A word of the graph; the same text of another kind is another node."""

    kind: NodeKind
    text: str

    @property
    def id(self) -> str:
        """`kind:text`."""
        return f"{self.kind}:{self.text}"


class Combination(NamedTuple):
    """What one image shows. `emotion` is None for records without one."""

    background: str
    attribute: str
    subject: str
    emotion: Emotion | None

    def nodes(self) -> tuple[Node, ...]:
        """Three or four nodes, in the order of `NODE_KINDS`."""
        return tuple(Node(kind, str(text)) for kind, text in zip(NODE_KINDS, self, strict=True) if text is not None)


def normalise(text: str) -> str:
    """The text of a node: NFKC, lower case, single blanks, no control characters, no leading article, no final full stop."""
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(" " if unicodedata.category(c).startswith("C") else c for c in text)
    return _ARTICLE.sub("", " ".join(text.split()).rstrip(". "))


@dataclass(frozen=True)
class TripletGraph:
    """Combinations with the records that show them; nodes and edges follow from these.

    Equal sets of records give equal graphs, whatever their order.
    """

    combinations: Mapping[Combination, tuple[str, ...]]
    """Ids of the records that show a combination, sorted; in sorted order of combination."""
    skipped: int = 0
    """Records without a whole triplet."""

    @classmethod
    def from_records(cls, records: Iterable[Record]) -> TripletGraph:
        """Count the triplets of records; a record without a whole triplet is counted in `skipped`."""
        found: dict[Combination, list[str]] = {}
        skipped = 0
        for record in records:
            words = [normalise(text or "") for text in (record.background, record.attribute, record.subject)]
            if not all(words):
                skipped += 1
                continue
            found.setdefault(Combination(words[0], words[1], words[2], record.emotion), []).append(record.id)
        return cls._sorted(found, skipped)

    @classmethod
    def _sorted(cls, found: Mapping[Combination, Iterable[str]], skipped: int) -> TripletGraph:
        ordered = sorted(found, key=lambda c: (c.background, c.attribute, c.subject, c.emotion or ""))
        return cls({combination: tuple(sorted(found[combination])) for combination in ordered}, skipped)

    @cached_property
    def nodes(self) -> dict[Node, int]:
        """Images per node, in the order of `NODE_KINDS`, then by text."""
        counts: Counter[Node] = Counter()
        for combination, ids in self.combinations.items():
            counts.update(dict.fromkeys(combination.nodes(), len(ids)))
        return {node: counts[node] for node in sorted(counts, key=_order)}

    @cached_property
    def edges(self) -> dict[tuple[Node, Node], int]:
        """Images that show both nodes; the first node's kind comes before the second's in `NODE_KINDS`."""
        counts: Counter[tuple[Node, Node]] = Counter()
        for combination, ids in self.combinations.items():
            counts.update(dict.fromkeys(combinations(combination.nodes(), 2), len(ids)))
        return {edge: counts[edge] for edge in sorted(counts, key=lambda e: (_order(e[0]), _order(e[1])))}

    def words(self, kind: NodeKind) -> dict[str, int]:
        """Images per text of one kind."""
        return {node.text: count for node, count in self.nodes.items() if node.kind == kind}

    def has_triplet(self, background: str, attribute: str, subject: str) -> bool:
        """Whether any image shows these three together, whatever its emotion."""
        return (normalise(background), normalise(attribute), normalise(subject)) in self._triplets

    @cached_property
    def _triplets(self) -> frozenset[tuple[str, str, str]]:
        return frozenset(c[:3] for c in self.combinations)

    def to_networkx(self) -> networkx.Graph[str]:
        """Undirected graph: nodes `kind:text` with `kind`, `label`, `count`; edges with `kind` and `weight` (images)."""
        import networkx

        graph: networkx.Graph[str] = networkx.Graph()
        for node, count in self.nodes.items():
            graph.add_node(node.id, kind=node.kind, label=node.text, count=count)
        for (first, second), count in self.edges.items():
            graph.add_edge(first.id, second.id, kind=f"{first.kind}-{second.kind}", weight=count)
        return graph

    def write_graphml(self, path: str | Path) -> None:
        """Write the graph for networkx, Gephi or Cytoscape: the same bytes for the same graph."""
        import networkx

        with replacing(path) as temporary:
            # The writer of the standard library: the one over lxml depends on what else is installed.
            networkx.write_graphml_xml(self.to_networkx(), temporary)

    def write_parquet(self, folder: str | Path) -> None:
        """Write three tables.

        `triplets.parquet` has background, attribute, subject, emotion, count and ids; `nodes.parquet` kind, text and count;
        `edges.parquet` kind and text of both nodes, and count.
        """
        folder = Path(folder)
        triplets = [
            {**c._asdict(), "emotion": c.emotion and str(c.emotion), "count": len(ids), "ids": list(ids)}
            for c, ids in self.combinations.items()
        ]
        nodes = [{**node._asdict(), "count": count} for node, count in self.nodes.items()]
        edges = [
            {"kind_1": a.kind, "text_1": a.text, "kind_2": b.kind, "text_2": b.text, "count": count}
            for (a, b), count in self.edges.items()
        ]
        for name, rows in zip(GRAPH_TABLES, (triplets, nodes, edges), strict=True):
            _write_table(folder / name, rows)

    @classmethod
    def read_parquet(cls, folder: str | Path) -> TripletGraph:
        """Read what `write_parquet` wrote (`triplets.parquet`; the other two follow from it).

        Raises:
            GraphError: the table is missing or has other columns.
        """
        path = Path(folder) / GRAPH_TABLES[0]
        columns = [*NODE_KINDS, "ids"]
        found: dict[Combination, list[str]] = {}
        try:
            for number, row in enumerate(parquet_rows(path, GraphError, required=columns, columns=columns, rows=1024), 1):
                shows, ids = _combination(row, f"{path}: row {number}")
                found.setdefault(shows, []).extend(ids)
        except MissingFileError:
            msg = f"{path}: no such file; `emo prep graph STORE --out DIR` writes it"
            raise GraphError(msg) from None
        return cls._sorted(found, 0)


def _combination(row: Mapping[str, object], where: str) -> tuple[Combination, list[str]]:
    """What a row of `triplets.parquet` says, and the ids of its records."""
    background, attribute, subject = (text_of(row[kind], f"{where}: column {kind!r}", GraphError) for kind in NODE_KINDS[:3])
    ids = [
        text_of(one, f"{where}: column 'ids'", GraphError) for one in list_of(row["ids"], f"{where}: column 'ids'", GraphError)
    ]
    try:
        emotion = None if row["emotion"] is None else Emotion.parse(text_of(row["emotion"], f"{where}: column 'emotion'"))
    except InputError as error:
        raise GraphError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
    return Combination(background, attribute, subject, emotion), ids


def _order(node: Node) -> tuple[int, str]:
    return NODE_KINDS.index(node.kind), node.text


def _write_table(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {
        "triplets.parquet": {
            **dict.fromkeys(NODE_KINDS, pyarrow.string()),
            "count": pyarrow.int64(),
            "ids": pyarrow.list_(pyarrow.string()),
        },
        "nodes.parquet": {"kind": pyarrow.string(), "text": pyarrow.string(), "count": pyarrow.int64()},
        "edges.parquet": {
            **dict.fromkeys(("kind_1", "text_1", "kind_2", "text_2"), pyarrow.string()),
            "count": pyarrow.int64(),
        },
    }[path.name]
    # An empty graph has the same columns as a full one.
    table = pyarrow.Table.from_pylist(rows, pyarrow.schema(list(columns.items())))
    with replacing(path) as temporary:
        pyarrow.parquet.write_table(table, temporary)
