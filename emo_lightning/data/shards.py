"""The name that `emo_lightning.data.tar_index` had in versions 0.1, for programs that import it from here."""

from emo_lightning.data.tar_index import ShardError, ShardRange, TarIndex

__all__ = ["ShardError", "ShardRange", "TarIndex"]
