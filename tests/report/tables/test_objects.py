from __future__ import annotations

from emo_lightning.report.tables.objects import object_tables


def test_any_object_becomes_tables() -> None:
    found = {
        "images": 24,
        "share": 0.123456789,
        "bill": {"a": {"replies": 1}, "b": {"cost": 2}},
        "none": {},
        "kept": {"yes": True},
    }
    flat, bill, kept = object_tables("world", found)
    assert flat.rows == [["images", 24], ["share", "0.123457"]]
    assert (bill.headings, bill.rows) == (["", "replies", "cost"], [["a", 1, None], ["b", None, 2]])
    assert kept.rows == [["yes", "yes"]]
    assert kept.title == "Kept"


def test_money_is_shown_in_dollars() -> None:
    found = {"cost_usd": 13.0, "cost_nano": 13_000_000_000, "bill": {"gpt": {"nano_dollars": 4_408_670_000}}}
    flat, bill = object_tables("world", found)
    assert flat.rows == [["cost usd", "13"]]
    assert (bill.headings, bill.rows) == (["", "US dollars"], [["gpt", "4.4087"]])
