"""Public name of the records: what `emo_lightning.core.records` holds. Code of the project imports that module itself."""

from emo_lightning.core.records import *  # noqa: F403
from emo_lightning.core.records import __all__ as __all__
