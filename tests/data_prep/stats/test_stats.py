from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from sklearn.metrics import cohen_kappa_score

from data_prep.cli import main
from data_prep.export import write_shards
from data_prep.stats.agreement import Agreement, not_independent
from data_prep.stats.distribution import Distribution, draw
from data_prep.stats.summary import summarise
from data_prep.stats.table1 import Table1, table1_table
from data_prep.store.store import Store
from emo_lightning.core.records import EMOTIONS, Record
from tests.data_prep.conftest import item_of, truth


def voted(seed: int, votes: dict[str, str], source: str = "toy", **provenance: object) -> Record:
    said = [
        {"annotator": name, "model": f"m-{name}", "round": 0, "reply": {"emotion": e, "confidence": 0.5}}
        for name, e in votes.items()
    ]
    said.append({"annotator": "gpt", "model": "m-gpt", "round": 1, "reply": {"emotion": "awe", "confidence": 1.0}})
    return truth(seed)[0].model_copy(update={"source": source, "provenance": {"said": said, **provenance}})


def test_delta_is_in_points_and_sigma_is_the_variance() -> None:
    even = Distribution.of(dict.fromkeys(EMOTIONS, 5))
    assert (even.delta, even.sigma) == (0, 0)
    two = Distribution.of({"awe": 3, "fear": 1})
    assert two.delta == 75
    # Shares 75, 25 and six times 0; mean 12.5.
    assert two.sigma == pytest.approx((62.5**2 + 12.5**2 + 6 * 12.5**2) / 8)
    assert Distribution.of({}).delta == 0


def test_the_figure_is_the_same_every_time_and_names_nothing_of_the_moment(tmp_path: Path) -> None:
    rows = [("all", Distribution.of({"awe": 30, "fear": 10})), ("split val", Distribution.of({"awe": 3}))]
    first = [path.read_bytes() for path in draw(rows, tmp_path / "a")]
    assert [path.read_bytes() for path in draw(rows, tmp_path / "b")] == first
    with Image.open(tmp_path / "a/figure5.png") as image:
        assert image.width > 800
    assert first[1].startswith(b"%PDF")
    assert b"CreationDate" not in first[1]


def test_table1_says_what_the_records_have() -> None:
    table = Table1()
    for seed in range(4):
        record = truth(seed)[0]
        table.add(record.model_copy(update={"source": "emoart", "objects": [] if seed else record.objects}))
    row = table.row()
    assert row == {
        "images": 4,
        "label_source": "–",
        "tasks": "G&R",
        "image_type": "Artistic",
        "category": "CES(Mikels'-8)",
        "description": 100,
        "word_level": 100,
        "category_confidence": 0,
        "subject_level": 25,
    }
    table.add(voted(9, {"gpt": "awe"}, "emoset", source_labels={"emotion": "awe"}).model_copy(update={"des": [0.0, 1.0]}))
    assert (table.row()["label_source"], table.row()["image_type"]) == ("Human&LLM", "Social&Artistic")
    assert table.row()["category"] == "CES(Mikels'-8)&DES"
    printed = table1_table("x", table.row())
    assert [printed.cell("x", key) for key in ("images", "tasks", "description", "subject_level")] == [
        5,
        "G&R",
        "✓ (100.0 %)",
        "× (40.0 %)",
    ]


def test_agreement_is_of_the_first_round_and_knows_who_is_no_witness() -> None:
    a = [str(EMOTIONS[i % 3]) for i in range(30)]
    b = [str(EMOTIONS[(i + (i % 5 == 0)) % 3]) for i in range(30)]
    agreement = Agreement()
    for i in range(30):
        agreement.add(voted(i, {"gpt": a[i], "emovit": b[i]}, "emoset" if i < 12 else "flickr30k"))
    found = agreement.as_json()
    pair = found["all"]["pairs"]["emovit – gpt"]
    assert pair == {"n": 30, "agreement": 80.0, "kappa": round(cohen_kappa_score(a, b), 4)}
    assert (found["independent_share"], found["not_independent"], found["independent"]["records"]) == (60.0, 12, 18)
    assert not_independent(voted(1, {"emovit": "awe"}, "emoset-118k"))
    assert not not_independent(voted(1, {"gpt": "awe"}, "emoset"))


def test_the_command_counts_stores_and_tars_alike(tmp_path: Path, toys: list, capsys: pytest.CaptureFixture[str]) -> None:
    with Store(tmp_path / "s", write=True) as store:
        store.import_items([item_of(record, data) for record, data in toys])
        for number, item in enumerate(store.ledger.items()):
            record = voted(number, {"gpt": "awe", "gemini": "fear"}, revisions=number % 2).model_copy(update={"id": item.id})
            state = "valid" if number else "human"
            row = (item.id, state, "test", number % 2, record.to_json().decode())
            store.ledger.write_now(("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)", row))
        paid = ("c", "i", "p", "gpt", "m", "reply", 2_300_000, 0.0)
        columns = "cache_key, image_sha256, prompt_sha256, annotator, model, state, cost_nano, started"
        store.ledger.write_now((f"INSERT INTO calls ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", paid))
    out = tmp_path / "out"
    assert main(["stats", str(tmp_path / "s"), "--json", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    tables = ("table1", "figure5", "agreement", "agreement-final", "records", "cost")
    assert {p.name for p in out.iterdir()} == {"stats.json", "stats.md", "figure5.png", "figure5.pdf"} | {
        f"{name}{suffix}" for name in tables for suffix in (".tex", ".csv")
    }
    assert found["table1"]["images"] == 23
    assert found["revisions"] == {"0": 11, "1": 12}
    spent = found["stores"]["s"]
    assert spent["nano_dollars_per_valid_record"] == 100_000
    assert spent["outcomes"] == {"human": 1, "valid": 23, "pending": 0}
    write_shards([(record, data, "png") for record, data in toys], tmp_path / "tars", "toy")
    assert main(["stats", str(tmp_path / "tars"), "--name", "Toys"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"│ Toys +│ +24 │", text)
    assert "split train" in text
    assert "no record has the votes of two annotators" in text
    assert "Cohen" not in text, "a table without rows is not shown"
    assert summarise([])["table1"]["images"] == 0
    assert main(["stats", str(tmp_path / "nothing")]) == 2
