"""Table 3 over real HTTP with simulated annotators, and the corruptions it is made of."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_prep.annotate.pipeline import annotate
from data_prep.cli import main
from data_prep.config import PrepConfig
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE, simulated_annotators
from data_prep.export import write_shards
from data_prep.grounding import ground
from data_prep.review.decisions import Review
from data_prep.stats.ablations import final_draft, first_draft
from data_prep.stats.corruptions import MAX_MOVED_IOU, corrupt, generator
from data_prep.stats.references import TABLE3_FIELDS, CriticReference, Values, iou
from data_prep.store.store import Store
from emo_lightning.core.records import Emotion, Record, intensity_level
from tests.data_prep.conftest import item_of, truth

SIZE = (40, 32)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")


def known(seed: int) -> Record:
    record, _ = truth(seed)
    scores = {e: 0.72 if e is record.emotion else 0.04 for e in Emotion}
    return record.model_copy(update={"emotion_scores": scores})


def test_a_corruption_makes_one_field_wrong_and_nothing_else() -> None:
    donors = [known(seed) for seed in range(40)]
    made: Counter[tuple[str, int]] = Counter()
    for record in donors:
        draft, right = final_draft(record, 0.2), Values.of_record(record)
        assert draft is not None
        reference = CriticReference.of_truth(record)
        for field in TABLE3_FIELDS:
            for seed in range(6):
                found = corrupt(field, draft, right.box, SIZE, donors, generator(seed, record.id, field))
                again = corrupt(field, draft, right.box, SIZE, donors, generator(seed, record.id, field))
                assert found == again, "the seed decides alone"
                assert found is not None
                values = Values.of_draft(found.draft, found.box)
                wrong = [f for f in TABLE3_FIELDS if not reference.right(f, getattr(values, f))]
                assert wrong == [field]
                made[field, found.severity] += 1
                if field == "box":
                    assert found.box is not None
                    assert right.box is not None
                    overlap = iou(found.box, right.box)
                    assert overlap < MAX_MOVED_IOU
                    assert (overlap >= 0.1) == (found.severity == 1)
                    assert 0 <= found.box[0] < found.box[2] <= 40
                    assert 0 <= found.box[1] < found.box[3] <= 32
                if field == "triplet":
                    assert values.triplet is not None
                    assert right.triplet is not None
                    assert sum(a != b for a, b in zip(values.triplet, right.triplet, strict=True)) == found.severity
                if field == "emotion":
                    assert max(found.draft.pool.scores, key=found.draft.pool.scores.__getitem__) is found.draft.pool.emotion
                    pleasant = {e in list(Emotion)[:4] for e in (found.draft.pool.emotion, record.emotion)}
                    assert len(pleasant) == found.severity
    assert min(made[field, severity] for field in TABLE3_FIELDS for severity in (1, 2)) > 5


def test_what_cannot_be_corrupted_is_said() -> None:
    record = known(1)
    draft = final_draft(record, 0.2)
    assert draft is not None
    rng = random.Random(0)
    assert corrupt("triplet", draft, None, SIZE, [record], rng) is None
    assert corrupt("box", draft, None, SIZE, [record], rng) is None
    assert corrupt("box", draft, (0.0, 0.0, 40.0, 32.0), SIZE, [record], rng) is not None
    medium = replace(draft, intensity=5)
    made = [corrupt("intensity", medium, None, SIZE, [], random.Random(i)) for i in range(20)]
    levels = {intensity_level(one.draft.intensity) for one in made if one is not None}
    assert all(made)
    assert levels == {"low", "high"}


def test_reviews_know_what_was_looked_at_and_no_more() -> None:
    record = known(3)

    def review(field: str, verdict: str, value: object = None, number: int = 0) -> Review:
        from data_prep.review.decisions import shown_value

        return Review(record.id, field, "ada", verdict, shown_value(record, field), value, float(number), None, number)  # type: ignore[arg-type]

    other = next(e for e in Emotion if e is not record.emotion)
    rows = [
        review("emotion", "mended", str(other), 1),
        review("description", "right", number=2),
        review("background", "right", number=3),
        review("attribute", "right", number=4),
        review("subject", "wrong", number=5),
        review("objects", "right", number=6),
    ]
    reference = CriticReference.of_reviews(record, rows)
    assert reference.right("emotion", str(other)) is True
    assert reference.right("emotion", str(record.emotion)) is False
    assert reference.right("description", str(record.description).upper()) is True
    assert reference.right("description", "another wording") is None
    assert reference.right("triplet", Values.of_record(record).triplet) is False
    assert reference.right("triplet", ("a", "b", "c")) is None
    assert reference.right("intensity", "low") is None
    assert reference.right("box", (4.0, 4.0, 20.0, 24.0)) is True
    assert reference.right("box", (30.0, 4.0, 39.0, 24.0)) is False
    assert CriticReference.of_truth(record).right("description", "another wording") is False


def annotated(root: Path, toys: list, config: PrepConfig, url: str) -> None:
    with Store(root, write=True) as store:
        store.import_items([item_of(record, data) for record, data in toys])
        asyncio.run(annotate(store, config.at(url, KEY_VARIABLE)))
        ground(store, config.grounding)


def perfect(config: dict) -> None:
    config["simulation"]["models"]["sim-critic"] |= {
        "recall": dict.fromkeys(TABLE3_FIELDS, 1.0),
        "false_alarm": {},
        "emotion_error": 0.0,
        "invalid_json": 0.0,
        "discard": 0.0,
    }


def test_the_table_is_paid_once_and_a_perfect_critic_is_perfect(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_config(perfect)
    config = DemoConfig.load(path)
    write_shards([(record, data, "png") for record, data in toys], tmp_path / "truth", "toy")
    arguments = ["table3", str(tmp_path / "s"), "--config", str(path), "--samples", "0", "--reference", str(tmp_path / "truth")]
    with simulated_annotators([record for record, _ in toys], path) as server:
        annotated(tmp_path / "s", toys, config, server.base_url)
        arguments += ["--base-url", server.base_url, "--json", "--out", str(tmp_path / "out")]
        assert main(arguments) == 0
        table = json.loads(capsys.readouterr().out)
        bill = server.bill()
        assert main(arguments) == 0
        again = json.loads(capsys.readouterr().out)
        assert server.bill() == bill, "the second time asks nothing"
    assert again["requests"] == 0 < table["requests"]
    assert again["rows"] == table["rows"]
    with Store(tmp_path / "s", write=False) as store:
        assert store.ledger.total_cost() == sum(row["nano_dollars"] for row in bill.values())
        outcomes = list(store.ledger.outcomes())
    known_right = {record.id: record for record, _ in toys}
    for row in TABLE3_FIELDS:
        rates = table["rows"][row]
        assert rates["recall"]["percent"] == rates["preserve"]["percent"] == 100, row
        assert rates["recall"]["n"] == rates["recall_1"]["n"] + rates["recall_2"]["n"] > 10
    # A perfect critic lets nothing wrong pass; without it the first draft goes out as it is.
    assert {table["rows"][row]["full"]["percent"] for row in TABLE3_FIELDS} == {100}
    right: Counter[str] = Counter()
    for item, outcome in outcomes:
        draft = first_draft(Record.from_json(outcome.record, item.id), config)
        assert draft is not None
        right["emotion"] += draft.pool.emotion is known_right[item.id].emotion
        right["intensity"] += intensity_level(draft.intensity) == known_right[item.id].intensity_level
    for row in ("emotion", "intensity"):
        assert table["rows"][row]["no_critic"] | {"low": 0, "high": 0, "percent": 0} == {
            "n": 24,
            "hits": right[row],
            "low": 0,
            "high": 0,
            "percent": 0,
        }
    assert min(right.values()) < 24, "this test wants drafts that are wrong"
    assert table["rows"]["box"]["no_cross_verification"]["n"] == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "table3.json",
        "table3.md",
        *(f"{name}{suffix}" for name in ("table3", "table3-severity") for suffix in (".tex", ".csv")),
    }
    assert "| Bounding box | " in (tmp_path / "out/table3.md").read_text()
    assert json.loads((tmp_path / "out/table3.json").read_text())["rows"] == table["rows"]


def test_a_blind_critic_notices_nothing_and_recall_needs_no_reference(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def blind(config: dict[str, Any]) -> None:
        perfect(config)
        config["simulation"]["models"]["sim-critic"]["recall"] = {}

    path = write_config(blind)
    config = DemoConfig.load(path)
    with simulated_annotators([record for record, _ in toys], path) as server:
        annotated(tmp_path / "s", toys[:12], config, server.base_url)
        base = ["table3", str(tmp_path / "s"), "--config", str(path), "--base-url", server.base_url]
        assert main([*base, "--samples", "7", "--reference", "none", "--json"]) == 0
        table = json.loads(capsys.readouterr().out)
        assert table["images"] == 7
        assert all(table["rows"][row]["full"]["n"] == 0 for row in TABLE3_FIELDS)
        # An emotion that the votes leave open is settled by the critic's own opinion, whatever it flags.
        assert {table["rows"][row]["recall"]["hits"] for row in TABLE3_FIELDS if row != "emotion"} == {0}
        assert min(table["rows"][row]["recall"]["n"] for row in TABLE3_FIELDS) >= 5
        bill = server.bill()
        assert main([*base, "--samples", "0", "--reference", "none", "--budget", "0.000001", "--json"]) == 3
        assert json.loads(capsys.readouterr().out)["unanswered"] == {"budget": 12 - 7}
        assert server.bill() == bill
        assert main([*base, "--reference", "reviews"]) == 2
        assert "nothing is known to be right" in capsys.readouterr().err

        def otherwise(config: dict[str, Any]) -> None:
            blind(config)
            config["margin"] = 0.1

        other = write_config(otherwise)
        assert main(["table3", str(tmp_path / "s"), "--config", str(other), "--reference", "none"]) == 2
        assert "none of its 12 outcomes was made with this configuration" in capsys.readouterr().err
