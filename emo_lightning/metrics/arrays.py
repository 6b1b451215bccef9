"""Names of the arrays that metrics take and give."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]
Classes: TypeAlias = NDArray[np.int64]
"""Class indices."""
Flags: TypeAlias = NDArray[np.bool_]
