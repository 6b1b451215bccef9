"""One run's values: what tells them from another run's, and how the command line is given them."""

from __future__ import annotations

import hashlib
import json

import yaml

TrialValues = dict[str, object]
"""Dotted key of `emo run` -> value."""


def values_digest(values: TrialValues) -> str:
    """Eight hexadecimal digits, the same for the same values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]


def as_text(value: object) -> str:
    """A value as the command line of `emo run` reads it back, to the last digit (1e-05 alone would be text)."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...")
