"""Plain networks that know no Lightning: hidden states → DES → probe.

The walk: `loading.load_backbone` gives a `Backbone` (a vision-language model with what trains in it, of any of the `families`);
`Backbone.hidden_states` gives the last layers' hidden states of an image and its prompt; `DESHead` makes one emotion embedding
(DES) of them; `LinearProbes` classify it. `des_losses` holds what the head learns from, `loss` what the backbone does.

Importing this package costs no torch; each name is loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emo_lightning.models.des import DESHead
    from emo_lightning.models.probe import LinearProbes

__all__ = ["DESHead", "LinearProbes"]

_MODULES = {"DESHead": "des", "LinearProbes": "probe"}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
