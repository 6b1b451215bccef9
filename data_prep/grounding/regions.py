"""Grounding in the regions that a source ships: a phrase is matched by its words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from data_prep.grounding.base import STORED_FROM, rank
from emo_lightning.schema import GroundedObject

if TYPE_CHECKING:
    from PIL import Image

_IGNORED = {"a", "an", "the", "of", "in", "on", "at", "with", "and"}


class RegionGrounder:
    """Matches phrases with the phrases of known regions.

    Args:
        regions: of one image.
        threshold: candidates below are dropped.
    """

    def __init__(self, regions: Sequence[GroundedObject], threshold: float = STORED_FROM) -> None:
        self.regions = regions
        self.threshold = threshold

    def ground(self, image: Image.Image | None, phrase: str) -> list[GroundedObject]:
        """Regions whose phrase shares words with `phrase`; the score is the region's own times the share of words found.

        The image is not looked at.
        """
        wanted = _words(phrase)
        found = []
        for region in self.regions:
            share = len(wanted & _words(region.phrase)) / len(wanted) if wanted else 0.0
            if (score := share * region.score) >= self.threshold and share > 0:
                found.append(region.model_copy(update={"phrase": phrase, "score": score}))
        return rank(found)


def _words(phrase: str) -> set[str]:
    words = re.findall(r"[^\W_]+", phrase.lower())
    # A plural must find its singular; "ss" ends words such as "glass".
    return {w[:-1] if len(w) > 3 and w.endswith("s") and not w.endswith("ss") else w for w in words} - _IGNORED
