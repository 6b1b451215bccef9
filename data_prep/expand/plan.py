"""The plan of an expansion: which compositions are to become images.

It is written down before the first request, so that a run that was interrupted goes on with the same images, whatever the data set
has become meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypedDict

from data_prep.expand.compose import Composition, TripletTexts, compose
from data_prep.expand.config import ExpandConfig
from data_prep.stats.graph import TripletGraph
from data_prep.store.group_commit import SqlValue
from data_prep.store.ledger import Ledger
from emo_lightning.core.records import EMOTIONS, TRIPLET_PARTS, Emotion, Record

_PARENTS = 8
"""Parents named in the lineage of an image, the anchor first; all are counted."""


class Replacement(TypedDict("_Words", {"from": str, "to": str})):
    """A word of the parent, and what stands in its place."""


class Lineage(TypedDict):
    """Where a composition comes from, as it stands in the label `lineage` of its image."""

    parents: list[str]
    """Ids of records that show the parent triplet, the anchor first; at most `_PARENTS`."""
    parents_total: int
    parent_triplet: dict[str, str]
    replaced: dict[str, Replacement]
    """By kind of word."""
    novel_edges: list[str]
    seed: int


@dataclass(frozen=True)
class Planned:
    """A row of `generations`: one image to be made."""

    id: int
    seed: int
    background: str
    attribute: str
    subject: str
    emotion: str
    anchor: str
    """The item whose split the image shares: the first that shows the parent triplet."""
    lineage: Lineage
    prompt: str
    image_seed: int
    call_key: str | None = None
    """Under which the ledger has the request, once it was about to be sent."""
    state: str | None = None
    """imported, refused, invalid (what came is no image), lost (the address of the image no longer answers), or None: open."""
    item_id: str | None = None
    error: str | None = None

    def row(self) -> tuple[SqlValue, ...]:
        """Values in the order of the table."""
        return tuple(json.dumps(v, sort_keys=True) if isinstance(v, dict) else v for v in vars(self).values())

    @classmethod
    def from_row(cls, row: Sequence[Any]) -> Planned:
        """The inverse of `row`."""
        values = dict(zip((f.name for f in fields(cls)), row, strict=True))
        return cls(**{**values, "lineage": json.loads(values["lineage"])})


@dataclass
class Plan:
    """What is planned for one seed, and what the data set holds."""

    rows: list[Planned]
    """Of this seed, in order; the last `new` of them are not written down yet."""
    new: int
    wanted: int
    before: dict[Emotion, int]
    """Valid images now, those generated before included."""
    imported: Counter[Emotion] = field(default_factory=Counter)
    """Of the rows, those whose image is in the store already (annotated or not)."""

    @property
    def added(self) -> Counter[Emotion]:
        """Rows whose image may still come, by intended emotion."""
        return Counter(Emotion(r.emotion) for r in self.rows if r.state is None)


def valid_records(ledger: Ledger) -> Iterator[Record]:
    """Records whose outcome is valid, without what a graph does not need."""
    rest: dict[str, object] = {"provenance": {}, "objects": [], "description": None, "emotion_scores": None, "des": None}
    for item, outcome in ledger.outcomes():
        if outcome.state == "valid":
            yield Record.from_json(outcome.record, f"outcome of {item.id}").model_copy(update=rest)


def valid_counts(ledger: Ledger) -> dict[Emotion, int]:
    """Valid images of each of the eight."""
    rows = ledger.read("SELECT json_extract(record, '$.emotion'), count(*) FROM outcomes WHERE state = 'valid' GROUP BY 1")
    found = dict(rows)
    return {emotion: found.get(str(emotion), 0) for emotion in EMOTIONS}


def read_plan(ledger: Ledger, seed: int | None = None) -> list[Planned]:
    """Rows of one seed, or of all, in order."""
    where, values = ("", ()) if seed is None else (" WHERE seed = ?", (seed,))
    return [Planned.from_row(row) for row in ledger.read(f"SELECT * FROM generations{where} ORDER BY id", values)]


def make_plan(ledger: Ledger, config: ExpandConfig, count: int, seed: int) -> Plan:
    """`count` images for a seed: those planned before, and as many new ones as are missing; nothing is written.

    Generated images are not parents, so that what is drawn stays one step from what was photographed; their triplets are not
    repeated either.
    """
    everything = read_plan(ledger)
    rows = [row for row in everything if row.seed == seed]
    imported = Counter(Emotion(row.emotion) for row in rows if row.state == "imported")
    missing = max(0, count - len(rows))
    if missing == 0:
        return Plan(rows[:count], 0, count, valid_counts(ledger), imported)
    records = list(valid_records(ledger))
    known = TripletGraph.from_records(records)
    seeds = TripletGraph.from_records(r for r in records if r.source != config.source)
    compositions = compose(
        seeds,
        known,
        missing,
        taken={(r.background, r.attribute, r.subject) for r in everything},
        rng=random.Random(f"expand/{seed}/{len(rows)}"),
        temperature=config.temperature,
        two_elements=config.two_elements,
        edges=config.edges,
    )
    parents = _parents(seeds)
    first = 1 + max((row.id for row in everything), default=0)
    new = [
        _planned(first + i, seed, composition, parents[composition.parent[:3]], config)
        for i, composition in enumerate(compositions)
    ]
    return Plan(rows + new, len(new), count, valid_counts(ledger), imported)


def save_plan(ledger: Ledger, plan: Plan) -> None:
    """Write the new rows down, all or none."""
    if plan.new:
        marks = ",".join("?" * len(fields(Planned)))
        ledger.write_now(*((f"INSERT INTO generations VALUES ({marks})", row.row()) for row in plan.rows[-plan.new :]))


def _parents(seeds: TripletGraph) -> dict[TripletTexts, list[str]]:
    """Records of each triplet, whatever their emotion, sorted.

    The first is the anchor of all images made from the triplet, so that these stay in one split.
    """
    parents: dict[TripletTexts, list[str]] = {}
    for combination, ids in seeds.combinations.items():
        parents.setdefault(combination[:3], []).extend(ids)
    return {triple: sorted(ids) for triple, ids in parents.items()}


def _planned(id_: int, seed: int, composition: Composition, parents: list[str], config: ExpandConfig) -> Planned:
    target, parent = composition.combination, composition.parent
    words = {part: getattr(target, part) for part in TRIPLET_PARTS}
    lineage: Lineage = {
        "parents": parents[:_PARENTS],
        "parents_total": len(parents),
        "parent_triplet": {part: getattr(parent, part) for part in TRIPLET_PARTS},
        "replaced": {part: {"from": getattr(parent, part), "to": words[part]} for part in composition.replaced},
        "novel_edges": list(composition.novel_edges),
        "seed": seed,
    }
    digest = hashlib.sha256(f"{seed}\0{target}".encode()).digest()
    return Planned(
        id=id_,
        seed=seed,
        **words,
        emotion=str(target.emotion),
        anchor=parents[0],
        lineage=lineage,
        prompt=config.prompt.format(**words, emotion=target.emotion),
        # Providers that take a seed take at most 31 bits.
        image_seed=int.from_bytes(digest[:4], "big") >> 1,
    )


def plan_table(plan: Plan) -> list[tuple[str, int, int, int, float, float]]:
    """The plan by emotion.

    Returns:
        (emotion, valid images, images of this plan imported before, images to come, share now, share if every image that comes is
        valid and evokes what was intended); shares in percent.
    """
    added = plan.added
    total = sum(plan.before.values())
    after = total + sum(added.values())
    return [
        (
            *(str(e), plan.before[e], plan.imported[e], added[e]),
            100 * plan.before[e] / max(1, total),
            100 * (plan.before[e] + added[e]) / max(1, after),
        )
        for e in EMOTIONS
    ]
