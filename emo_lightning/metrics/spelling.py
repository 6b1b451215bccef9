"""Whether two texts that name a thing are the same, or are spelt alike. No model, no torch: Python's own `difflib`."""

from __future__ import annotations

from difflib import SequenceMatcher
from functools import lru_cache

PARTS = ("background", "attribute", "subject")
"""Of a triplet, in its order; keys of records, and of the rows of Table 5."""

WHOLE = "triplet"
"""All three parts of an image."""

SIMILAR = 0.8
"""Ratcliff and Obershelp's similarity (twice the matching characters over all characters) from which on two texts are spelt alike: it forgives
an article or an ending (`an old man`, `old man`: 0.82), and not another noun (`sleeping cat`, `sleeping dog`: 0.75)."""

MOST = 200
"""Characters of a text that are compared: what takes longer is no name of a thing."""


def plain(text: str | None) -> str:
    """In small letters, single blanks between the words and none around them; empty where there is no text."""
    return " ".join((text or "").casefold().split())


@lru_cache(maxsize=1 << 16)
def spelt_alike(said: str, true: str) -> bool:
    """Whether two texts (as `plain` gives them) have a similarity of at least `SIMILAR` in their first `MOST` characters."""
    if said == true:
        return True
    matcher = SequenceMatcher(None, said[:MOST], true[:MOST], autojunk=False)
    # The two bounds from above are cheap.
    return matcher.real_quick_ratio() >= SIMILAR and matcher.quick_ratio() >= SIMILAR and matcher.ratio() >= SIMILAR
