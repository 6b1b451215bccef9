from __future__ import annotations

import copy
import json
from pathlib import Path

from emo_lightning.analysis.baselines import TRIPLET_ONLY
from emo_lightning.core.tables.table import Table, columns
from emo_lightning.report.cautions import equal_arms, few_images, few_steps, of_table6
from emo_lightning.report.facts import facts_of
from emo_lightning.report.sections import RunSections


def test_small_runs_are_warned_of() -> None:
    (note,) = few_steps({"base": 60, "round1": 20, "des": 400})
    assert "fewer than 100 optimiser steps in 2 of 3 trainings (base 60, round1 20)" in note
    assert list(few_steps({"round1": 100})) == []
    (note,) = few_steps({f"stage{n}": 10 for n in range(60)})
    assert note.endswith("stage5 10, …). They have hardly begun, and their numbers say little of what is compared")
    (note,) = few_images("table5", 40)
    assert "40 images were scored: a share of them is known to about ±15 points" in note
    assert list(few_images("table5", 100)) == list(few_images("table5", 1)) == []


def test_few_images_of_table_6_are_warned_of() -> None:
    arms = {"a": {"test": 1}, "b": {"test": 2}}
    (note,) = of_table6("table6", {"arms": arms, "paired": {"sets": {"test": {"images": 8}, "heldout": {"images": 240}}}})
    assert note.startswith("stage 'table6', set 'test': 8 images were scored")
    assert of_table6("table6", {"arms": arms}) == []


def test_arms_that_do_the_same_are_named() -> None:
    (note,) = equal_arms("table5", {"a": {"x": 1.0}, "b": {"x": 1.0}})
    assert "all 2 arms have the same numbers" in note
    (first, second) = equal_arms("table5", {"a": 1, "b": 2, "c": 1, "d": 2, "e": 3})
    assert "arms a, c have the same numbers" in first
    assert "arms b, d have" in second
    assert list(equal_arms("table5", {"a": 1, "b": 2})) == list(equal_arms("table5", {"a": 1})) == []


def test_the_tile_says_that_no_arm_is_ahead(run: Path) -> None:
    path = run / "table5" / "table5.json"
    found = json.loads(path.read_text())
    found["ahead"]["strict"]["emotion_acc"] = "ours"
    path.write_text(json.dumps(found))
    sections = RunSections(run)
    tile = next(fact for fact in facts_of(sections.tables, sections.run.stages) if fact.title == "Emotion accuracy")
    assert tile.about.startswith("ahead: ours")
    assert "without looking: " in tile.about
    found["ahead"]["strict"]["emotion_acc"] = None
    path.write_text(json.dumps(found))
    sections = RunSections(run)
    tile = next(fact for fact in facts_of(sections.tables, sections.run.stages) if fact.title == "Emotion accuracy")
    assert tile.about.startswith("no arm is ahead; best: ours")
    assert any("24 images were scored" in note for note in sections.notes)


def test_the_tiles_are_of_arms_and_name_the_ceiling_beside(run: Path) -> None:
    path = run / "table5" / "table5.json"
    found = json.loads(path.read_text())
    ceiling = copy.deepcopy(found["arms"]["ours"])
    ceiling["strict"]["emotion_acc"] = 99.5
    found["baselines"][TRIPLET_ONLY] = ceiling
    path.write_text(json.dumps(found))
    sections = RunSections(run)
    tile = next(fact for fact in facts_of(sections.tables, sections.run.stages) if fact.title == "Emotion accuracy")
    assert tile.value == f"{found['arms']['ours']['strict']['emotion_acc']:.1f} %"
    assert "ours" in tile.about
    assert tile.about.endswith("; from the true triplet: 99.5")


def test_the_tiles_say_every_set_and_its_ceiling(run: Path) -> None:
    path = run / "table5" / "table5.json"
    found = json.loads(path.read_text())
    halves = {
        name: copy.deepcopy({key: found[key] for key in ("references", "arms", "baselines")}) for name in ("heldout", "test")
    }
    for name, value in (("heldout", 61.0), ("test", 83.0)):
        halves[name]["arms"]["ours"]["strict"]["emotion_acc"] = value
        halves[name]["baselines"][TRIPLET_ONLY] = copy.deepcopy(found["arms"]["ours"])
        halves[name]["baselines"][TRIPLET_ONLY]["strict"]["emotion_acc"] = value + 10
    path.write_text(json.dumps(found | {"by_split": halves}))
    sections = RunSections(run)
    tiles = {fact.title: fact for fact in facts_of(sections.tables, sections.run.stages)}
    assert "; heldout: 61.0; test: 83.0" in tiles["Emotion accuracy"].about
    assert "heldout" not in tiles["Box IoU"].about
    assert tiles["Linear probe, accuracy on test"].about.endswith("; from the true triplet: 93.0")


def test_arms_are_explained_in_a_line_each(run: Path) -> None:
    path = run / "table5" / "table5.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "about": {"ours": "taught in <two> rounds"}}))
    sections = RunSections(run)
    overview = sections.section("overview")
    assert overview
    assert getattr(overview.details["arms"], "lines", None) == {"ours": "taught in <two> rounds"}


def test_the_largest_loss_is_read_from_a_number() -> None:
    """And not from the text of a cell, which a new wording would change."""
    shown = columns("arm", ("worst", "worst set"), ("worst-gain", "gained there"))
    table = Table("cross-dataset-accuracy", "A", shown, [["base", None, None], ["a", "art 1", -15.04], ["b", "art 2", 3.0]])
    (fact,) = facts_of([table], [])
    assert tuple(fact) == (
        "Largest loss out of the domain",
        "−15.0 points",
        "a on art 1, against the untuned base",
    )
    older = Table("cross-dataset-accuracy", "A", columns("arm", ("worst", "worst set")), [["a", "art 1 -15.0"]])
    assert facts_of([older], []) == []
