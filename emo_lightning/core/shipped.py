"""Where `configs/` and `experiments/` stand: the checkout, or what a wheel brings."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = next((place for place in (_PACKAGE.parent, _PACKAGE / "shipped") if (place / "configs").is_dir()), _PACKAGE.parent)
"""Of both folders."""
