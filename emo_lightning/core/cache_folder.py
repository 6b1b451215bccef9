"""Where things are kept that can be made again, for all runs of a user."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$EMO_CACHE`, else `emo-lightning` in the user's cache folder (`$XDG_CACHE_HOME`, `~/.cache`). It may not be there yet."""
    if own := os.environ.get("EMO_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emo-lightning"
