"""Counters beside the ledger's tables, kept by triggers: `emo prep status` reads a handful of rows, however large the tables are.

A trigger runs in the transaction of the statement that fires it, so a counter is never older or newer than what it counts.
"""

from __future__ import annotations

import sqlite3

_COLUMNS = (("upper_nano", "INTEGER"), ("batch", "INTEGER"))
"""Columns of `calls` that older ledgers lack."""

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

COUNTERS = f"""
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


def prepare(connection: sqlite3.Connection, schema: str) -> None:
    """Bring a ledger to this program's tables: what is missing is added, and counted once; nothing is changed otherwise.

    Args:
        connection: in autocommit mode.
        schema: `CREATE … IF NOT EXISTS` statements of all tables.
    """
    # REPLACE deletes the old row; without this its delete trigger would not fire and the counters would drift.
    connection.execute("PRAGMA recursive_triggers = ON")
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'call_counts'").fetchone():
        # Statements that find what they create are done without a write lock.
        connection.executescript(schema)
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statement in _statements(schema):
            connection.execute(statement)
        there = {row[1] for row in connection.execute("PRAGMA table_info(calls)")}
        for name, kind in _COLUMNS:
            if name not in there:
                connection.execute(f"ALTER TABLE calls ADD COLUMN {name} {kind}")
        # Another process may have done all this while we waited for the lock.
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'call_counts'").fetchone():
            for statement in (*_statements(COUNTERS), *_statements(_COUNT)):
                connection.execute(statement)
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
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
