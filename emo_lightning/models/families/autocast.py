"""The type in which automatic mixed precision computes products."""

from __future__ import annotations

import torch


def autocast_type(device: torch.device) -> torch.dtype | None:
    """On a device, or None where it computes in the types that it is given; a meta device knows no mixed precision."""
    kind = device.type
    return torch.get_autocast_dtype(kind) if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind) else None
