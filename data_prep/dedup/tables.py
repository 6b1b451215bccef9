"""Tables of dedup in a ledger."""

from __future__ import annotations

DEDUP_TABLES = """
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
