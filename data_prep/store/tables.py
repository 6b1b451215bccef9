"""All tables of a ledger, and how a ledger of an older program comes to have them.

Rooms read and write the tables that are theirs (`review` its reviews, `dedup` its hashes …); what the tables are stands here alone.

Counters stand beside the tables, kept by triggers: `emo prep status` reads a handful of rows, however large the tables are.
A trigger runs in the transaction of the statement that fires it, so a counter is never older or newer than what it counts.
"""

from __future__ import annotations

import sqlite3

LEDGER_VERSION = 1
"""`user_version` of the file; one that this program does not know is not opened."""

_PASS = """
CREATE TABLE IF NOT EXISTS items (
    id TEXT PRIMARY KEY, source TEXT NOT NULL, key TEXT NOT NULL, sha256 TEXT NOT NULL, extension TEXT NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, split TEXT, grp TEXT, labels TEXT NOT NULL, regions TEXT NOT NULL,
    licence TEXT, origin TEXT, UNIQUE (source, key));
CREATE TABLE IF NOT EXISTS prompts (sha256 TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS calls (
    id INTEGER PRIMARY KEY, cache_key TEXT NOT NULL, image_sha256 TEXT NOT NULL, prompt_sha256 TEXT NOT NULL,
    annotator TEXT NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL, status INTEGER, raw BLOB, error TEXT,
    prompt_tokens INTEGER, output_tokens INTEGER, cost_nano INTEGER, started REAL NOT NULL, ended REAL,
    upper_nano INTEGER, batch INTEGER, party TEXT, answered_model TEXT);
CREATE INDEX IF NOT EXISTS calls_by_key ON calls (cache_key);
CREATE TABLE IF NOT EXISTS outcomes (
    item_id TEXT PRIMARY KEY, state TEXT NOT NULL, config TEXT NOT NULL, revisions INTEGER NOT NULL, record TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS groundings (
    image_sha256 TEXT NOT NULL, phrase TEXT NOT NULL, backend TEXT NOT NULL, objects TEXT NOT NULL,
    PRIMARY KEY (image_sha256, phrase, backend)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, endpoint TEXT NOT NULL, base_url TEXT NOT NULL, model TEXT NOT NULL,
    state TEXT NOT NULL, requests INTEGER NOT NULL, file_id TEXT, remote_id TEXT, remote_status TEXT, started REAL NOT NULL,
    ended REAL, error TEXT);
"""
"""Items, and the pass over them."""

_REVIEW = """
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
"""Of `review`. Rows are only ever added: to undo a decision is a row of its own.

`shown` and `value` are JSON: what was judged, and what it was mended to. `undoes` names the row that a row takes back.
"""

_GENERATIONS = """
CREATE TABLE IF NOT EXISTS generations (
    id INTEGER PRIMARY KEY, seed INTEGER NOT NULL, background TEXT NOT NULL, attribute TEXT NOT NULL, subject TEXT NOT NULL,
    emotion TEXT NOT NULL, anchor TEXT NOT NULL, lineage TEXT NOT NULL, prompt TEXT NOT NULL, image_seed INTEGER NOT NULL,
    call_key TEXT, state TEXT, item_id TEXT, error TEXT, UNIQUE (background, attribute, subject));
"""
"""Planned images of `expand`. What was sent, answered and paid stands in `calls`, under `call_key`."""

_LOCAL_VOTES = (
    "CREATE TABLE IF NOT EXISTS local_votes (image_sha256 TEXT NOT NULL, model TEXT NOT NULL, prompt_sha256 TEXT NOT NULL, "
    "distribution TEXT NOT NULL, PRIMARY KEY (image_sha256, model, prompt_sha256)) WITHOUT ROWID;\n"
)
_SPLITS = "CREATE TABLE IF NOT EXISTS splits (item_id TEXT PRIMARY KEY, split TEXT NOT NULL) WITHOUT ROWID;\n"

_DEDUP = """
CREATE TABLE IF NOT EXISTS duplicates (
    item_id TEXT PRIMARY KEY, kept_id TEXT NOT NULL, how TEXT NOT NULL, distance REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image_hashes (
    image_sha256 TEXT NOT NULL, method TEXT NOT NULL, views BLOB NOT NULL, PRIMARY KEY (image_sha256, method)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS image_embeddings (
    image_sha256 TEXT NOT NULL, model TEXT NOT NULL, vector BLOB NOT NULL, PRIMARY KEY (image_sha256, model));
CREATE TABLE IF NOT EXISTS source_groups (item_id TEXT PRIMARY KEY, grp TEXT) WITHOUT ROWID;
"""
"""`duplicates`: items to leave out. `image_hashes.views`: what the method gives, 64-bit hashes (big-endian, one after
the other) or the pixels of a thumbnail. `image_embeddings.vector`:
float16, of length 1. `source_groups`: what `items.grp` was before dedup wrote its own group there."""

CREATE_TABLES = _PASS + _REVIEW + _GENERATIONS + _LOCAL_VOTES + _SPLITS + _DEDUP
"""Of all rooms; `prepare` adds the counters."""

_COLUMNS = (("upper_nano", "INTEGER"), ("batch", "INTEGER"), ("party", "TEXT"), ("answered_model", "TEXT"))
"""Columns of `calls` that older ledgers lack. `party`: who was asked (`provider.party`); `answered_model`: the model that the reply names."""

_CALL = "{0}.annotator, {0}.model, {0}.state"
_AMOUNTS = (
    "1, coalesce({0}.cost_nano, 0), ({0}.state = 'reply' AND {0}.prompt_tokens IS NULL), coalesce({0}.upper_nano, 0), "
    "({0}.upper_nano IS NULL)"
)
_ADD_CALL = (
    f"INSERT INTO call_counts VALUES ({_CALL}, {_AMOUNTS}) ON CONFLICT DO UPDATE SET calls = calls + 1, "
    "cost_nano = cost_nano + excluded.cost_nano, estimated = estimated + excluded.estimated, "
    "upper_nano = upper_nano + excluded.upper_nano, unbounded = unbounded + excluded.unbounded"
).format("new")
_TAKE_CALL = (
    "UPDATE call_counts SET calls = calls - 1, cost_nano = cost_nano - coalesce({0}.cost_nano, 0), "
    "estimated = estimated - ({0}.state = 'reply' AND {0}.prompt_tokens IS NULL), "
    "upper_nano = upper_nano - coalesce({0}.upper_nano, 0), unbounded = unbounded - ({0}.upper_nano IS NULL) "
    "WHERE annotator = {0}.annotator AND model = {0}.model AND state = {0}.state"
).format("old")
_ADD_ROW = "INSERT INTO row_counts VALUES ('{0}', {1}, 1) ON CONFLICT DO UPDATE SET n = n + 1"
_TAKE_ROW = "UPDATE row_counts SET n = n - 1 WHERE name = '{0}' AND key = {1}"

CREATE_COUNTERS = f"""
CREATE TABLE IF NOT EXISTS call_counts (
    annotator TEXT NOT NULL, model TEXT NOT NULL, state TEXT NOT NULL, calls INTEGER NOT NULL, cost_nano INTEGER NOT NULL,
    estimated INTEGER NOT NULL, upper_nano INTEGER NOT NULL, unbounded INTEGER NOT NULL,
    PRIMARY KEY (annotator, model, state)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS row_counts (name TEXT NOT NULL, key TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (name, key))
    WITHOUT ROWID;
DROP INDEX IF EXISTS calls_by_state;
CREATE INDEX IF NOT EXISTS calls_open ON calls (state) WHERE state IN ('intent', 'batched', 'unknown');
CREATE INDEX IF NOT EXISTS calls_of_batch ON calls (batch, cache_key) WHERE batch IS NOT NULL;
CREATE TRIGGER IF NOT EXISTS calls_added AFTER INSERT ON calls BEGIN {_ADD_CALL}; END;
CREATE TRIGGER IF NOT EXISTS calls_changed AFTER UPDATE ON calls BEGIN {_TAKE_CALL}; {_ADD_CALL}; END;
CREATE TRIGGER IF NOT EXISTS calls_removed AFTER DELETE ON calls BEGIN {_TAKE_CALL}; END;
CREATE TRIGGER IF NOT EXISTS items_added AFTER INSERT ON items BEGIN {_ADD_ROW.format("items", "''")}; END;
CREATE TRIGGER IF NOT EXISTS items_removed AFTER DELETE ON items BEGIN {_TAKE_ROW.format("items", "''")}; END;
CREATE TRIGGER IF NOT EXISTS outcomes_added AFTER INSERT ON outcomes
    BEGIN {_ADD_ROW.format("outcomes", "new.state")}; END;
CREATE TRIGGER IF NOT EXISTS outcomes_changed AFTER UPDATE OF state ON outcomes
    BEGIN {_TAKE_ROW.format("outcomes", "old.state")}; {_ADD_ROW.format("outcomes", "new.state")}; END;
CREATE TRIGGER IF NOT EXISTS outcomes_removed AFTER DELETE ON outcomes
    BEGIN {_TAKE_ROW.format("outcomes", "old.state")}; END;
"""

COUNT_DUPLICATES = (
    "INSERT OR REPLACE INTO row_counts SELECT 'duplicates', '', count(*) FROM duplicates "
    "WHERE item_id NOT IN (SELECT item_id FROM outcomes)"
)
"""Images that dedup leaves out and that have no outcome: they get none until dedup runs again, so dedup alone counts them."""

_COUNT = f"""
INSERT INTO call_counts SELECT annotator, model, state, count(*), coalesce(sum(cost_nano), 0),
    sum(state = 'reply' AND prompt_tokens IS NULL), coalesce(sum(upper_nano), 0), sum(upper_nano IS NULL)
    FROM calls GROUP BY annotator, model, state;
INSERT INTO row_counts SELECT 'items', '', count(*) FROM items;
INSERT INTO row_counts SELECT 'outcomes', state, count(*) FROM outcomes GROUP BY state;
{COUNT_DUPLICATES};
"""


def prepare(connection: sqlite3.Connection) -> None:
    """Bring a ledger to this program's tables: what is missing is added, and counted once; nothing is changed otherwise.

    Args:
        connection: in autocommit mode.
    """
    # REPLACE deletes the old row; without this its delete trigger would not fire and the counters would drift.
    connection.execute("PRAGMA recursive_triggers = ON")
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'call_counts'").fetchone():
        # Statements that find what they create are done without a write lock.
        connection.executescript(CREATE_TABLES)
        _add_columns(connection)
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _statements(CREATE_TABLES):
            connection.execute(statement)
        _add_columns(connection)
        # Another process may have done all this while we waited for the lock.
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'call_counts'").fetchone():
            for statement in (*_statements(CREATE_COUNTERS), *_statements(_COUNT)):
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _add_columns(connection: sqlite3.Connection) -> None:
    """Add the columns of `calls` that an older program did not know."""
    there = {row[1] for row in connection.execute("PRAGMA table_info(calls)")}
    for name, kind in _COLUMNS:
        if name in there:
            continue
        try:
            connection.execute(f"ALTER TABLE calls ADD COLUMN {name} {kind}")
        except sqlite3.OperationalError as error:
            # Another process may have added it since we looked; and an archive, which nothing is added to, is read without it.
            if "duplicate column" not in str(error) and "readonly" not in str(error):
                raise


def _statements(script: str) -> list[str]:
    """A script as single statements (a trigger holds semicolons of its own)."""
    found: list[str] = []
    current = ""
    for part in script.split(";"):
        current += part + ";"
        if sqlite3.complete_statement(current) and current.strip(" ;\n"):
            found.append(current)
            current = ""
    return found
