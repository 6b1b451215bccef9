from __future__ import annotations

from data_prep.stats.summary import Spending, Statistics, summarise
from data_prep.stats.summary_tables import summary_notes, summary_tables
from emo_lightning.core.tables.latex import latex
from emo_lightning.core.tables.table import Table
from tests.data_prep.conftest import truth

SPENT: Spending = {
    "outcomes": {"human": 1, "valid": 2, "pending": 0},
    "calls": {"gpt": {"calls": 4, "nano_dollars": 2_300_000, "reply": 4}},
    "nano_dollars": 2_300_000,
    "nano_dollars_per_valid_record": 1_150_000,
}


def statistics() -> Statistics:
    """Four records of two sources, three voted on by two annotators, and a store."""
    votes = (("awe", "awe"), ("awe", "fear"), ("fear", "fear"))
    records = [truth(seed)[0].model_copy(update={"emotion": "awe", "source": "a" if seed < 3 else "b"}) for seed in range(4)]
    for n, (gpt, gemini) in enumerate(votes):
        said = [
            {"annotator": name, "model": name, "round": 0, "reply": {"emotion": emotion, "confidence": 0.5}}
            for name, emotion in (("gpt", gpt), ("gemini", gemini))
        ]
        records[n] = records[n].model_copy(update={"provenance": {"said": said}})
    return {**summarise(records), "stores": {"s": SPENT}}


def tables() -> dict[str, Table]:
    return {table.key: table for table in summary_tables("my_set", statistics())}


def test_every_number_is_found_by_keys() -> None:
    found = tables()
    assert found["table1"].cell("my_set", "images") == 4
    balance = found["figure5"]
    assert [balance.cell("source a", key) for key in ("awe", "fear", "images", "delta")] == [100.0, 0.0, 3, 100.0]
    assert balance.cell("all", "images") == 4
    pair = found["agreement"]
    # Alike on two of three; by chance 2/3 · 1/3 + 1/3 · 2/3 = 4/9, so κ is (2/3 − 4/9) / (5/9).
    assert [pair.cell("gemini – gpt", key) for key in ("n", "agree", "kappa")] == [3, 0.6667, 0.4]
    assert found["agreement-final"].cell("gpt", "agree") == 0.6667
    assert [found["records"].cell(f"source/{name}", "records") for name in "ab"] == [3, 1]
    assert [found["cost"].cell("s/gpt", key) for key in ("calls", "dollars")] == [4, 0.0023]


def test_the_notes_say_what_no_table_does() -> None:
    assert summary_notes(statistics()) == [
        "Fleiss' κ over 3 records: 0.333",
        "independent of every voter's training: 100.0 % of 4 records (0 have a vote of EmoViT on EmoSet, which it was trained on)",
        "s: paid $0.002300, $0.001150 for each valid record; outcomes: human 1, valid 2, pending 0",
    ]
    assert summary_notes(summarise([])) == ["no record has the votes of two annotators"]


def test_latex_has_a_letter_for_every_sign() -> None:
    for table in tables().values():
        assert latex(table).isascii(), table.key
