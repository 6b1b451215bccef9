"""A place to search: embeddings (DES) of many images with their records and thumbnails, in a LanceDB folder on disk or on S3.

`emo index build` writes one through `build`, whose rows come from `sources` (pictures and tars through a model) or `vectors` (embeddings that
are there already). `SearchIndex` (`index`) answers: by a vector, an image of the index, words, a wish ("calmer", `wishes`), or a point between
two images. `filters` are the conditions on fields, `table` is the one module that knows LanceDB, which it imports when it is first used.
"""

from __future__ import annotations

from emo_lightning.search.filters import Filters
from emo_lightning.search.hits import Hit
from emo_lightning.search.index import SearchIndex

__all__ = ["Filters", "Hit", "SearchIndex"]
