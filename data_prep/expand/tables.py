"""The table of planned images. What was sent, answered and paid stands in the ledger's `calls`, under `call_key`."""

GENERATION_TABLES = """
CREATE TABLE IF NOT EXISTS generations (
    id INTEGER PRIMARY KEY, seed INTEGER NOT NULL, background TEXT NOT NULL, attribute TEXT NOT NULL, subject TEXT NOT NULL,
    emotion TEXT NOT NULL, anchor TEXT NOT NULL, lineage TEXT NOT NULL, prompt TEXT NOT NULL, image_seed INTEGER NOT NULL,
    call_key TEXT, state TEXT, item_id TEXT, error TEXT, UNIQUE (background, attribute, subject));
"""
