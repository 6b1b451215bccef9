"""Readers of foreign input against mutated input: `python -m tests.fuzz` prints a table, `test_fuzz.py` runs a short seeded part in CI."""
