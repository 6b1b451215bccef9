"""MVEI: `MVEI/Std-MVEI.json`, statements about EmoSet's images that are right or wrong."""

from __future__ import annotations

from collections.abc import Sequence

from data_prep.sources.labels import SourceLabels
from data_prep.sources.suites import SuiteSource
from emo_lightning.core.suites import SuiteItem


class MVEISource(SuiteSource):
    """Each image with its statements (`questions`: the class is the task, the verdict the truth); it has no label of its own.

    The images are EmoSet's: whatever was trained on EmoSet has perhaps seen them (`emo overlap`).
    """

    name = suite = "mvei"
    files = ("Std-MVEI.json", "MVEI/Std-MVEI.json", "benchmarks/MVEI/Std-MVEI.json")

    def labels(self, items: Sequence[SuiteItem]) -> SourceLabels:
        """The classes of the statements."""
        return {"attributes": {"statements": sorted({item.task for item in items})}}
