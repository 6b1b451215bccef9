from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import pytest

from data_prep.expand.compose import Composition, TripletTexts, compose, quotas, rarity_weights
from data_prep.expand.config import ExpandConfig, image_price
from data_prep.expand.queries import choose, template_query
from data_prep.provider.prices import load_prices
from data_prep.settings import ConfigError
from data_prep.stats.graph import Combination, TripletGraph
from emo_lightning.core.records import TRIPLET_PARTS, Emotion
from tests.data_prep.conftest import ROOT, truth

CONFIGS = sorted((ROOT / "configs/prep").glob("expand*.yaml"))


def draw(
    graph: TripletGraph,
    count: int,
    seed: int = 0,
    *,
    taken: Collection[TripletTexts] = (),
    temperature: float = 1.0,
    two_elements: float = 0.5,
    edges: Literal["any", "seen"] = "any",
) -> list[Composition]:
    rng = random.Random(seed)
    return compose(graph, graph, count, rng=rng, taken=taken, temperature=temperature, two_elements=two_elements, edges=edges)


@pytest.fixture(scope="module")
def graph() -> TripletGraph:
    return TripletGraph.from_records(truth(seed)[0] for seed in range(14))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_configuration_loads_and_has_prices(path: Path) -> None:
    config = ExpandConfig.load(path)
    assert image_price(config.prices, config.images.model).per_image > 0
    assert config.queries is not None
    assert config.queries.model in load_prices(config.prices)
    assert config.queries.max_output_tokens, "else --budget cannot hold"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prompt: '{attribute} {subject}'", "needed: background"),
        ("prompt: '{attribute} {subject} {background} {mood}'", "mood"),
        ("temperature: 0", "temperature"),
        ("edgy: any", "edgy"),
    ],
)
def test_a_wrong_key_is_one_clear_error(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("images: {name: i, model: m, base_url: 'http://u', api_key_env: K}\n" + text)
    with pytest.raises(ConfigError, match=message) as error:
        ExpandConfig.load(path)
    assert str(path) in str(error.value)


def test_image_prices_are_whole_nano_dollars(tmp_path: Path) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text("images: {flat: 0.03, tokens: {most: 0.25, input: 5, output: 40}, fine: 0.0000000001, wrong: {most: 1}}")
    assert image_price(path, "flat").charge(1, None) == 30_000_000
    assert image_price(path, "flat").charge(0, None) == 0, "no image, no cost"
    tokens = image_price(path, "tokens")
    assert tokens.charge(1, (20, 1056)) == 20 * 5_000 + 1056 * 40_000
    assert tokens.charge(1, None) == 250_000_000, "no usage: the bound"
    for name, message in (("fine", "whole in nano"), ("wrong", "most, input, output"), ("none", "there is: fine, flat")):
        with pytest.raises(ConfigError, match=message):
            image_price(path, name)


def test_rare_emotions_weigh_more() -> None:
    counts = {Emotion.AWE: 100, Emotion.FEAR: 10, Emotion.ANGER: 0}
    weights = rarity_weights(counts, 1.0)
    assert weights[Emotion.FEAR] == pytest.approx(10 * weights[Emotion.AWE])
    assert Emotion.ANGER not in weights, "nothing to start from"
    even = rarity_weights(counts, 1e9)
    assert even[Emotion.FEAR] == pytest.approx(0.5)
    assert quotas(weights, 11) == {Emotion.AWE: 1, Emotion.FEAR: 10}
    assert sum(quotas(rarity_weights({e: i + 1 for i, e in enumerate(Emotion)}, 1.0), 101).values()) == 101


def test_compositions_are_new_and_replace_one_or_two_elements(graph: TripletGraph) -> None:
    found = draw(graph, 10)
    assert len(found) == 10
    assert len({c.triple for c in found}) == 10
    for composition in found:
        assert not graph.has_triplet(*composition.triple)
        assert composition.parent in graph.combinations
        assert composition.parent.emotion is composition.combination.emotion
        changed = [p for p in TRIPLET_PARTS if getattr(composition.parent, p) != getattr(composition.combination, p)]
        assert tuple(changed) == composition.replaced
        assert len(changed) in (1, 2)
    assert {len(c.replaced) for c in found} == {1, 2}
    assert {len(c.replaced) for c in draw(graph, 8, two_elements=0.0)} == {1}
    assert draw(graph, 10) == found
    assert draw(graph, 10, seed=1) != found


def test_what_was_planned_is_not_planned_again_and_words_run_out(graph: TripletGraph) -> None:
    first = draw(graph, 6)
    second = draw(graph, 1000, taken={c.triple for c in first})
    known = {c[:3] for c in graph.combinations}
    together = {c.triple for c in first} | {c.triple for c in second}
    assert len(together) == len(first) + len(second)
    assert not together & known
    assert len(together | known) == 27, "three words of each kind: every one of the 27 triplets, and no other"


def test_seen_edges_keep_new_pairs_out(graph: TripletGraph) -> None:
    assert any(c.novel_edges for c in draw(graph, 1000))
    assert not any(c.novel_edges for c in draw(graph, 1000, edges="seen"))
    # `a` and `x` were seen, but never together.
    records = [
        truth(0)[0].model_copy(update=dict(zip(TRIPLET_PARTS, words, strict=True)))
        for words in (("a", "b", "c"), ("x", "b", "d"))
    ]
    pair = TripletGraph.from_records(records)
    new = {c.triple: c.novel_edges for c in draw(pair, 2)}
    assert new == {("a", "b", "d"): ("background-subject",), ("x", "b", "c"): ("background-subject",)}


def test_queries_choose_each_combination_once_rare_emotions_first() -> None:
    base = truth(0)[0]
    records = [base.model_copy(update={"background": f"b{i}", "emotion": Emotion.AWE}) for i in range(90)]
    records += [base.model_copy(update={"background": f"c{i}", "emotion": Emotion.FEAR}) for i in range(10)]
    graph = TripletGraph.from_records(records)
    chosen = choose(graph, 10, seed=0, temperature=1.0)
    assert Counter(c.emotion for c in chosen) == {Emotion.FEAR: 9, Emotion.AWE: 1}
    everything = choose(graph, 1000, seed=0, temperature=1.0)
    assert len(everything) == len(set(everything)) == 100
    assert choose(graph, 10, seed=0, temperature=1.0) == chosen
    assert choose(graph, 10, seed=1, temperature=1.0) != chosen


def test_template() -> None:
    assert template_query(Combination("music festival", "joyful", "crowd", None)) == "joyful crowd at music festival"
    assert template_query(Combination("under a bridge", "wet", "cat", None)) == "wet cat under a bridge"
