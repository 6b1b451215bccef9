"""Grounding in the regions that a source ships: a phrase is matched by its words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_prep.grounding.base import MIN_STORED_SCORE, PhraseQuery, rank
from emo_lightning.core.records import GroundedObject

_IGNORED = {"a", "an", "the", "of", "in", "on", "at", "with", "and"}


class RegionGrounder:
    """Matches phrases with the phrases of known regions; images are not looked at.

    Args:
        threshold: candidates below are dropped.
    """

    def __init__(self, threshold: float = MIN_STORED_SCORE) -> None:
        self.threshold = threshold

    def ground(self, queries: Sequence[PhraseQuery]) -> list[list[GroundedObject]]:
        """Regions whose phrase shares words with the query's; the score is the region's own times the share of words found."""
        return [self._find(query) for query in queries]

    def _find(self, query: PhraseQuery) -> list[GroundedObject]:
        wanted = _words(query.phrase)
        found = []
        for region in query.regions:
            share = len(wanted & _words(region.phrase)) / len(wanted) if wanted else 0.0
            if (score := share * region.score) >= self.threshold and share > 0:
                found.append(region.model_copy(update={"phrase": query.phrase, "score": score}))
        return rank(found)


def _words(phrase: str) -> set[str]:
    words = re.findall(r"[^\W_]+", phrase.lower())
    # A plural must find its singular; "ss" ends words such as "glass".
    return {w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words} - _IGNORED
