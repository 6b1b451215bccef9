"""Tables of the review in a ledger. Rows are only ever added: to undo a decision is a row of its own."""

from __future__ import annotations

REVIEW_TABLES = """
CREATE TABLE IF NOT EXISTS reviews (
    id INTEGER PRIMARY KEY, item_id TEXT NOT NULL, field TEXT NOT NULL, reviewer TEXT NOT NULL, verdict TEXT NOT NULL,
    shown TEXT NOT NULL, value TEXT, time REAL NOT NULL, undoes INTEGER);
CREATE INDEX IF NOT EXISTS reviews_by_item ON reviews (item_id);
CREATE INDEX IF NOT EXISTS reviews_by_reviewer ON reviews (reviewer);
CREATE TABLE IF NOT EXISTS studies (
    name TEXT PRIMARY KEY, config TEXT NOT NULL, items TEXT NOT NULL, created REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS study_answers (
    id INTEGER PRIMARY KEY, study TEXT NOT NULL, participant TEXT NOT NULL, item_id TEXT NOT NULL, grp TEXT NOT NULL,
    question TEXT NOT NULL, answer INTEGER, time REAL NOT NULL, undoes INTEGER);
CREATE INDEX IF NOT EXISTS study_answers_by_participant ON study_answers (study, participant);
"""
"""`shown` and `value` are JSON: what was judged, and what it was mended to. `undoes` names the row that a row takes back."""
