"""Abstract: what VECBench tests of it. The release's own layout was not seen."""

from __future__ import annotations

from data_prep.sources.vecbench import VECBenchSource


class AbstractSource(VECBenchSource):
    """Abstract paintings, of the eight emotions by name; see `VECBenchSource`."""

    name = "abstract"
    sets = ("Abstract",)
