"""The same scene, calmer: what wishes mean, and that what is found keeps the scene and goes the right way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS, Emotion
from emo_lightning.search import Filters, SearchIndex
from emo_lightning.search.like import like, start_of
from emo_lightning.search.wishes import ADJECTIVES, Wish
from tests.search.planted import SCENES, planted, write


@pytest.mark.parametrize("background", ["words", "embedding alone"])
@pytest.mark.parametrize("name", ["i6", "i12", "i31", "i100"])
def test_the_same_scene_but_calmer(index: SearchIndex, name: str, background: str) -> None:
    start = start_of(index, name)
    scene = start.background
    if background != "words":
        start = replace(start, background=None)
    answer = like(index, start, ["calmer"], 8)
    assert background in answer.scene
    assert [hit.emotion for hit in answer.hits] == ["contentment"] * 8
    assert {hit.record["background"] for hit in answer.hits} == {scene}
    assert name not in [hit.id for hit in answer.hits]


@pytest.mark.parametrize(
    ("wishes", "allowed"),
    [
        (["more:awe"], {"awe"}),
        (["emotion:fear"], {"fear"}),
        (["emotion:calm"], {"contentment"}),
        (["sadder"], {"sadness"}),
        (["gloomier"], {"sadness", "fear"}),
        (["happier"], {"amusement", "contentment", "excitement"}),
        (["less:anger"], set(EMOTIONS) - {"anger"}),
    ],
)
def test_where_wishes_go(index: SearchIndex, wishes: list[str], allowed: set[str]) -> None:
    hits = like(index, start_of(index, "i12"), wishes, 8).hits
    assert index.get("i12").emotion == "anger"
    assert len(hits) == 8
    assert {hit.emotion for hit in hits} <= allowed
    assert {hit.record["background"] for hit in hits} == {"dark room"}


def test_more_of_what_it_is_already(index: SearchIndex) -> None:
    """Away from all others: what is found is of the same emotion, and further from the others than the start."""
    start = start_of(index, "i1")
    hits = like(index, start, ["more:awe"], 4).hits
    way = index.centroids.direction(Wish.parse("more:awe"), Emotion.AWE)
    assert [hit.emotion for hit in hits] == ["awe"] * 4
    assert min(float(index.vector(hit.id) @ way) for hit in hits) > float(start.vector @ way)


def test_intensity_goes_up_and_down(index: SearchIndex) -> None:
    start = start_of(index, "i206")
    own = index.get("i206").intensity
    assert own == 6
    up, down = (np.mean([h.intensity for h in like(index, start, [wish], 5).hits]) for wish in ("stronger", "weaker"))
    assert down < own < up


def test_conditions_hold_and_strength_counts(index: SearchIndex) -> None:
    start = start_of(index, "i6")
    hits = like(index, start, ["calmer"], 5, Filters(where=["split=test"])).hits
    assert {hit.record["split"] for hit in hits} == {"test"}
    near, far = (like(index, start, ["calmer"], 1, strength=s).hits[0].cosine for s in (0.3, 1.0))
    assert near < far


def test_every_word_has_a_meaning() -> None:
    for adjective, (comparative, emotions) in ADJECTIVES.items():
        assert Wish.parse(comparative).emotions == Wish.parse(f"more:{adjective}").emotions == emotions
    assert Wish.parse(" Less:Fear ").kind == "away"
    assert Wish.parse("emotion:calm").only


@pytest.mark.parametrize(
    "text", ["calm", "fear", "more", "more:", "more:joy", "much:awe", "", "emotion:calmer", "stronger:awe"]
)
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(
        InputError, match=r"allowed: calmer, happier, .*stronger, weaker, more:WORD, less:WORD.*amusement, .*calm"
    ):
        Wish.parse(text)


def test_what_an_index_cannot_fulfil(tmp_path: Path) -> None:
    rows = [row for row in planted(160) if int(row.id[1:]) % 8 == 1]
    write(tmp_path, rows)
    index = SearchIndex.open(tmp_path)
    start = start_of(index, rows[0].id)
    with pytest.raises(InputError, match="wish 'calmer' needs images of contentment; the index has awe"):
        like(index, start, ["calmer"])
    with pytest.raises(InputError, match="wish 'more:awe' needs images of another emotion too; the index has awe alone"):
        like(index, start, ["more:awe"])
    with pytest.raises(InputError, match="wish 'stronger' needs images of low and of high intensity"):
        like(index, start, ["stronger"])


def test_a_scene_is_found_by_its_words_in_any_form(index: SearchIndex) -> None:
    from emo_lightning.search.scenes import same_backgrounds

    assert same_backgrounds(index.images, "Crowded cities' streets")[0] == SCENES[3]
    assert same_backgrounds(index.images, "beaches") == [SCENES[4]]
    assert same_backgrounds(index.images, "volcano") == []
    found = like(index, replace(start_of(index, "i6"), background="volcano"), ["calmer"], 3)
    assert "embedding alone" in found.scene
