"""Plain networks that know no Lightning. Only the small heads are imported here; a backbone costs seconds."""

from emo_lightning.models.des import DESHead
from emo_lightning.models.probe import LinearProbes

__all__ = ["DESHead", "LinearProbes"]
