"""Chains of look-alikes: nobody is left out for an image that it is not near, whatever the order; what is split off is told."""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.cli import main
from data_prep.dedup.groups import Candidate, DedupDecision, Likeness, Thresholds, between, decide
from data_prep.dedup.pairs import Edges, components
from data_prep.dedup.phash import WINDOWS
from data_prep.dedup.run import DedupError, DedupSettings
from data_prep.store.store import Store
from tests.data_prep.dedup.test_dedup import detailed, encoded, item, scene, store_of, views

NONE: Edges = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
THRESHOLDS = Thresholds((6, 10), (0.9, 0.8), (1, 1))


def world(seed: int) -> tuple[list[Candidate], Likeness]:
    """Images in random walks of a few bits a step, some with a border, some plain, some pairs registered, some of equal bytes."""
    rng = np.random.default_rng(seed)
    prints: list[np.ndarray] = []
    for _ in range(rng.integers(3, 9)):
        value = int(rng.integers(0, 2**63))
        for _ in range(rng.integers(1, 9)):
            for bit in rng.integers(0, 64, rng.integers(0, 6)):
                value ^= 1 << int(bit)
            hashes = np.full(len(WINDOWS), value, np.uint64)
            prints.append(np.append(hashes, rng.integers(0, 2**63, dtype=np.uint64)) if rng.random() < 0.2 else hashes)
    prints += [np.empty(0, np.uint64)] * 2
    count = len(prints)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    bits = [between(prints[i], prints[j]) for i, j in pairs]
    near = [(i, j, d) for (i, j), d in zip(pairs, bits, strict=True) if d <= 10]
    fitted = [(*pairs[k], float(rng.random() / 4)) for k in rng.choice(len(pairs), min(len(pairs), 6), replace=False)]
    items = [
        Candidate(f"i{n:03}", str(rng.choice(["web", "art"])), int(rng.integers(0, count)), int(rng.integers(1, 4)), None)
        for n in range(count + 6)
    ]
    return items, Likeness(prints, edges(near), edges(fitted), NONE, None)


def edges(rows: Sequence[tuple[int, int, float]]) -> Edges:
    first, second, distance = zip(*rows, strict=True) if rows else ((), (), ())
    return np.array(first, np.int64), np.array(second, np.int64), np.array(distance, float)


def renumbered(items: list[Candidate], likeness: Likeness, seed: int) -> tuple[list[Candidate], Likeness]:
    """The same in another order: items, images, and edges."""
    rng = np.random.default_rng(seed)
    to = rng.permutation(len(likeness.prints))
    prints = [likeness.prints[i] for i in np.argsort(to)]

    def moved(found: Edges) -> Edges:
        order = rng.permutation(len(found[0]))
        a, b, d = to[found[0]][order], to[found[1]][order], found[2][order]
        return np.minimum(a, b), np.maximum(a, b), d

    mixed = [Candidate(i.id, i.source, int(to[i.image]), i.pixels, i.group) for i in items]
    return [mixed[k] for k in rng.permutation(len(mixed))], Likeness(
        prints, moved(likeness.hash_edges), moved(likeness.pixel_edges), NONE, None
    )


def left_out(decision: DedupDecision) -> dict[str, str]:
    return {d.item_id: d.kept_id for d in decision.dropped}


@pytest.mark.parametrize("seed", range(60))
def test_who_is_left_out_is_near_the_one_that_is_kept(seed: int) -> None:
    items, likeness = world(seed)
    fitted = {(i, j): d for i, j, d in zip(*likeness.pixel_edges, strict=True)}
    image = {i.id: i.image for i in items}
    decision = decide(items, likeness, THRESHOLDS, ("art",))
    kept = set(image) - left_out(decision).keys()
    for dropped in decision.dropped:
        a, b = image[dropped.item_id], image[dropped.kept_id]
        assert dropped.kept_id in kept
        bits = between(likeness.prints[a], likeness.prints[b])
        limits = {
            "sha256": a == b,
            "phash": bits == dropped.distance <= 6,
            "pixels": fitted.get((min(a, b), max(a, b)), 2) <= 0.1,
            "chain": bits == dropped.distance <= 10,
        }
        assert limits[dropped.how]
    # Of each group all that are kept beside the foremost are told as split off, each of them far from it.
    same = components(
        len(likeness.prints),
        *(
            (e[0][e[2] <= most], e[1][e[2] <= most], e[2][e[2] <= most])
            for e, most in ((likeness.hash_edges, 6), (likeness.pixel_edges, 0.1))
        ),
    )
    groups = {same[image[i]] for i in image}
    split = [member for chain in decision.chains for member in chain.split_off]
    assert len(kept) == len(groups) + len(split)
    assert {member.item_id for member in split} < kept
    for chain in decision.chains:
        first = chain.members[0]
        assert (first.how, first.distance) == (None, 0.0)
        assert len({same[image[member.item_id]] for member in chain.members}) == 1
        for member in chain.split_off:
            assert (
                member.distance == between(likeness.prints[image[member.item_id]], likeness.prints[image[first.item_id]]) > 10
            )
    # All that are kept stay in one split with what they hang together with.
    together = decision.groups
    assert all(together[m.item_id] == together[chain.members[0].item_id] for chain in decision.chains for m in chain.members)


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_items_and_images_decides_nothing(seed: int) -> None:
    items, likeness = world(seed)
    decision = decide(items, likeness, THRESHOLDS, ("web",))
    again = decide(*renumbered(items, likeness, seed), THRESHOLDS, ("web",))
    assert (again.dropped, again.groups, again.chains) == (decision.dropped, decision.groups, decision.chains)
    assert (again.sizes, again.near_sizes) == (decision.sizes, decision.near_sizes)


def test_these_worlds_hold_chains_and_splits() -> None:
    decisions = [decide(*world(seed), THRESHOLDS, ("art",)) for seed in range(60)]
    assert sum(len(chain.split_off) for d in decisions for chain in d.chains) > 50
    assert {dropped.how for d in decisions for dropped in d.dropped} == {"sha256", "phash", "pixels", "chain"}


def frames(count: int) -> list[bytes]:
    """One scene that turns into another, as in a film."""
    first, last = scene(1), scene(2)
    return [encoded(Image.blend(first, last, n / (count - 1))) for n in range(count)]


def test_the_command_shows_chains_and_splits_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = frames(30)
    path = store_of(tmp_path, *(item(f"toy-{n:02}", data) for n, data in enumerate(shown)))
    hashes = {f"toy-{n:02}": views(data) for n, data in enumerate(shown)}
    steps = [between(hashes[f"toy-{n:02}"], hashes[f"toy-{n + 1:02}"]) for n in range(len(shown) - 1)]
    assert max(steps) <= 6, "each frame is like the next"
    assert between(hashes["toy-00"], hashes["toy-29"]) > 20, "and the last one is not like the first"

    assert main(["dedup", str(path), "--no-crops", "--chain", "64", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert (one["kept"], one["split_off"], len(one["chains"])) == (1, 0, 1)
    assert max(member["distance"] for member in one["chains"][0]) > 20, "as it was before"

    assert main(["dedup", str(path), "--no-crops", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["split_off"] == report["kept"] - 1 >= 2
    assert report["kept"] + len(report["duplicates"]) == 30
    for dropped in report["duplicates"]:
        assert between(hashes[dropped["item"]], hashes[dropped["kept"]]) == dropped["distance"] <= 10
    (chain,) = report["chains"]
    assert len(chain) == 30
    with Store(path, write=False) as store:
        assert len({i.group for i in store.ledger.items()}) == 1, "all of them stay in one split"

    assert main(["dedup", str(path), "--no-crops"]) == 0
    out = capsys.readouterr().out
    assert f"{report['split_off']} too far from it are split off and kept (--chain)" in out
    assert "toy-00  kept" in out
    assert "left out for toy-00: phash" in out
    assert "more of this chain" in out


def test_decisions_of_an_older_program_are_read(tmp_path: Path) -> None:
    """Which left out whatever hung together: they stand until dedup runs again."""
    path = store_of(tmp_path, item("toy-a", encoded(scene(1))), item("toy-b", encoded(scene(2))))
    with sqlite3.connect(path / "ledger.sqlite") as ledger:
        ledger.execute("INSERT INTO duplicates VALUES ('toy-b', 'toy-a', 'chain', 27)")
    with Store(path, write=False) as store:
        assert store.ledger.duplicates() == {"toy-b": "toy-a"}
    assert main(["status", str(path)]) == 0
    assert main(["dedup", str(path)]) == 0
    with Store(path, write=False) as store:
        assert store.ledger.duplicates() == {}


def test_a_chain_below_the_threshold_makes_no_sense() -> None:
    for chain in (5, 65):
        with pytest.raises(DedupError, match=f"threshold 6, chain {chain}: expected"):
            DedupSettings(chain=chain)


def test_a_crop_at_the_end_of_a_chain_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It hangs together with the whole through hashes, so its pixels were not asked; they say that it is a part of it."""
    whole = detailed(3)
    width, height = whole.size
    crops = [
        whole.crop((0, 0, round(width * (1 - cut)), round(height * (1 - cut)))) for cut in (0.0, 0.01, 0.02, 0.03, 0.045, 0.06)
    ]
    data = [encoded(image) for image in crops]
    steps = [between(views(a), views(b)) for a, b in itertools.pairwise(data)]
    far = between(views(data[0]), views(data[-1]))
    assert max(steps) <= far - 1, "else this is no chain"
    path = store_of(tmp_path, *(item(f"toy-{n}", one) for n, one in enumerate(data)))
    bits = str(max(steps))
    found = {}
    for crops_too in (["--no-crops"], []):
        assert main(["dedup", str(path), "--threshold", bits, "--chain", bits, "--json", *crops_too]) == 0
        found[not crops_too] = json.loads(capsys.readouterr().out)
    assert found[False]["split_off"] > 0
    assert (found[True]["split_off"], found[True]["kept"]) == (0, 1)
    assert "pixels" in found[True]["left_out"]
