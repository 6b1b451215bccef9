"""Numbers in the fields of pydantic models, which alone would take more for one than a reader would."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator


def _no_text(value: object) -> object:
    if isinstance(value, bool | str):
        msg = f"found {str(value)[:80]!r}, which is {'text' if isinstance(value, str) else 'true or false'}; expected a number"
        raise ValueError(msg)
    return value


def _finite(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        msg = f"found {value}; expected a finite number"
        raise ValueError(msg)
    return _no_text(value)


StrictNumber = Annotated[float, BeforeValidator(_finite)]
"""A finite number: pydantic alone also takes true, "5" and NaN, and NaN passes every comparison."""
StrictInteger = Annotated[int, BeforeValidator(_finite)]
"""As `StrictNumber`, and whole."""
AnyNumber = Annotated[float, BeforeValidator(_no_text)]
"""A number as a model gave it: NaN and infinities count as wrong answers, where they are scored."""
