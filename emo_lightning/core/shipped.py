"""Where `configs/` and `experiments/` stand: the checkout, or what a wheel brings."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = next((place for place in (_PACKAGE.parent, _PACKAGE / "shipped") if (place / "configs").is_dir()), _PACKAGE.parent)
"""Of both folders."""
ANCHORS = ROOT / "configs" / "anchors"
"""One file a published set of valence and arousal of the eight emotions."""


def anchors_file(name: str) -> Path:
    """The file that names anchors of emotions: a path that is there, else `configs/anchors/NAME.yaml`, whether or not there is one."""
    return Path(name) if Path(name).exists() else ANCHORS / f"{name}.yaml"
