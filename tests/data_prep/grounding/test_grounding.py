from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pycocotools import mask as coco

import data_prep.grounding as grounding
from data_prep.config import GroundingConfig
from data_prep.demo.config import DemoConfig
from data_prep.grounding import PhraseQuery, RegionGrounder, cut, ground, query_text, rank
from data_prep.grounding.masks import decode_mask, encode_mask
from data_prep.settings import ConfigError
from data_prep.store.store import Store
from emo_lightning.core.records import GroundedObject, Mask, Record, SchemaError


def region(phrase: str, x: float = 0, size: float = 10, score: float = 1.0) -> GroundedObject:
    return GroundedObject(phrase=phrase, bbox=(x, 0, x + size, size), score=score)


def find(regions: Sequence[GroundedObject], phrase: str) -> list[GroundedObject]:
    return RegionGrounder().ground([PhraseQuery(None, phrase, regions)])[0]


def test_regions_are_found_by_their_words() -> None:
    regions = [region("a smiling dog"), region("tree", 20), region("Dogs", 40, size=5), region("glass", 50)]
    found = find(regions, "the dog")
    assert [(o.bbox[0], o.primary, o.phrase) for o in found] == [(0, True, "the dog"), (40, False, "the dog")]
    assert find(regions, "cat") == []
    assert find(regions, "") == []
    assert [o.score for o in find(regions, "sad tree")] == [0.5]
    assert find(regions, "b c d e tree") == [], "a fifth of the words is below the threshold"


@pytest.mark.parametrize(
    ("phrase", "text"),
    [
        ("Dog", "dog."),
        (" An  old Tree. ", "an old tree."),
        ("St. Bernard?", "st bernard."),
        ("?!", "!."),
        (" . ", ""),
        ("", ""),
    ],
)
def test_a_query_is_one_lower_case_phrase_with_a_full_stop(phrase: str, text: str) -> None:
    assert query_text(phrase) == text


def test_the_cut_keeps_the_primary_one_if_it_keeps_any() -> None:
    ranked = rank([region("a", score=0.3), region("a", score=0.5), region("a", score=0.35)])
    assert [o.score for o in cut(ranked, 0.35)] == [0.5, 0.35]
    assert [o.primary for o in cut(ranked, 0.35)] == [True, False]
    assert cut(ranked, 0.6) == []


def test_a_cut_below_what_is_stored_is_refused(write_config: Callable[..., Path]) -> None:
    path = write_config(lambda config: config["grounding"].update(threshold=0.3, cut=0.2))
    with pytest.raises(ConfigError, match=r"cut 0\.2 is below threshold 0\.3"):
        DemoConfig.load(path)


@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.booleans()))
def test_run_lengths_bring_back_every_mask(mask: np.ndarray) -> None:
    code = encode_mask(mask)
    assert code.size == mask.shape
    assert np.array_equal(decode_mask(code), mask)
    # COCO's own reader sees the same.
    assert coco.area({"size": list(code.size), "counts": code.counts.encode()}) == mask.sum()


class Counting:
    """A grounder that finds three candidates everywhere and counts its queries."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.batches: list[int] = []

    def ground(self, queries: Sequence[PhraseQuery]) -> list[list[GroundedObject]]:
        self.batches.append(len(queries))
        self.asked += [q.phrase for q in queries]
        assert all(q.image is not None and q.image.mode == "RGB" for q in queries)
        return [rank([region(q.phrase, x, score=s) for x, s in ((0, 0.9), (5, 0.4), (8, 0.3))]) for q in queries]


def records(store: Store) -> list[Record]:
    return [Record.from_json(outcome.record, item.id) for item, outcome in store.ledger.outcomes()]


def test_candidates_are_stored_once_and_cut_later(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grounder = Counting()
    monkeypatch.setattr(grounding, "make_grounder", lambda config: grounder)
    for name in ("dino", "sam"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(name.encode())
    config = GroundingConfig(
        backend="transformers", detector=str(tmp_path / "dino"), segmenter=str(tmp_path / "sam"), batch_size=10
    )
    calls: list[None] = []
    counts = ground(store, config, lambda: calls.append(None))
    assert counts == {"computed": 24, "grounded": 24}
    assert (grounder.batches, len(calls)) == ([10, 10, 4], 24)
    assert {tuple(o.score for o in r.objects) for r in records(store)} == {(0.9, 0.4)}, "0.35 is the cut"
    stored = store.ledger.read("SELECT objects FROM groundings")
    assert {len(json.loads(row[0])) for row in stored} == {3}, "everything from the threshold on is kept"

    for threshold, kept in ((0.5, 1), (0.25, 3), (0.95, 0)):
        counts = ground(store, config.model_copy(update={"cut": threshold}))
        assert counts["computed"] == 0
        assert {len(r.objects) for r in records(store)} == {kept}
    assert counts["not_found"] == 24

    # Other weights under the same path are another model.
    (tmp_path / "sam" / "model.safetensors").write_bytes(b"other")
    assert ground(store, config)["computed"] == 24


def test_regions_of_the_source_need_no_image(store: Store, toys: list) -> None:
    config = GroundingConfig(backend="regions", cut=0.25)
    counts = ground(store, config)
    assert counts["computed"] == counts["grounded"] == 24
    for record, (truth, _) in zip(records(store), toys, strict=True):
        assert [(o.bbox, o.primary) for o in record.objects] == [(truth.objects[0].bbox, True)]
    assert ground(store, config)["computed"] == 0


@pytest.mark.parametrize(
    "counts",
    [
        "",
        "o",
        "0o",
        "00000001",
        "PPPPPPPPPPPP0",
        "e9",
        "0T1",
        "S1K5",
        "é",
        "z",
        " ",
        "oooooooooooooooooooooo0",
        "0" * 10_000,
        "0S10oooooo3",
    ],
)
def test_a_mask_whose_runs_are_not_of_its_picture_is_refused(counts: str) -> None:
    """COCO's own reader writes them behind the end of its memory."""
    with pytest.raises(SchemaError, match=r"^mask of 6x5: .* is no run-length code of so many pixels"):
        decode_mask(Mask(size=(6, 5), counts=counts))
