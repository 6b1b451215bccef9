"""WebEmo: what VECBench tests of it. The release's own layout was not seen."""

from __future__ import annotations

from data_prep.sources.vecbench import VECBenchSource


class WebEmoSource(VECBenchSource):
    """Two, seven and 25 emotions of each image, in the words that VECBench's candidates have; see `VECBenchSource`."""

    name = "webemo"
    sets = ("WebEmo",)
