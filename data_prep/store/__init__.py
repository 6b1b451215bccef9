"""A store: a folder with images and a ledger, which holds everything that was ever asked, answered, paid and decided.

- `store.Store` opens it, takes its lock, keeps image files under their sha256 and imports what a source yields (`items`).
- `ledger.Ledger` reads and writes the SQLite file; `rows` are its items and outcomes as values.
- `tables` has the definition of every table, of all rooms, and brings an older ledger up to date.
- `group_commit` is the one writer thread: callers of the same moment share a flush to disk.
- `backup` copies a store while others write to it; `lock` and `private` are its lock and its rights.
- `disk_space` waits for room before money is spent.

A room that keeps a table of its own reads it with `Ledger.read` and writes it with `Ledger.write`; the table stands in `tables`.
"""
