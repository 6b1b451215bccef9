"""How long a test waits for something else before it calls it hung."""

from __future__ import annotations

PATIENCE = 900.0
"""Seconds; reached only where something is broken, however busy the machine. No test passes or fails by a shorter clock."""
