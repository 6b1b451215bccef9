"""Valence, arousal and dominance beside a backbone's answers: a DES head, and the affect head that was trained with it, read along."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import check_made_of, made_of, weights_hash
from emo_lightning.models.affect import AFFECT_FOLDER, AffectHead, affect_folder
from emo_lightning.models.des import DESHead
from emo_lightning.models.sound import check_rows

if TYPE_CHECKING:
    from emo_lightning.models.backbone import Backbone

_PROMPT = "emotion"
"""At which the hidden states of a head are taken that does not say it (made by version 0.2)."""


class AffectReader:
    """A DES head and its affect head.

    Args:
        des_head: folder of the DES head, with `affect/` beside it.

    Raises:
        InputError: there is no affect head, or the DES head was trained on states that are not taken at a prompt.
        BackboneError: the affect head was trained with another DES head.
    """

    def __init__(self, des_head: str) -> None:
        folder = affect_folder(des_head)
        if folder is None:
            msg = (
                f"model.des_head {des_head}: no {AFFECT_FOLDER}/ beside it, so it gives no valence, arousal or dominance; train it with "
                "model.va_weight, or leave des_head null"
            )
            raise InputError(msg)
        self.des_head = des_head
        self.about = {"head": weights_hash(des_head), "affect": weights_hash(str(folder))}
        """What decides the values, by content."""
        self.objective = made_of(des_head).get("prompt", _PROMPT)
        """At whose prompt the hidden states are taken."""
        self.head = DESHead.from_pretrained(des_head).requires_grad_(False)
        self.affect = AffectHead.from_pretrained(folder).requires_grad_(False)

    def check(self, backbone: Backbone, path: str) -> None:
        """Refuse a backbone that the head was not trained on, or whose pictures have another size.

        Args:
            backbone: loaded from `path`; the heads go to its device.
            path: folder or hub id.

        Raises:
            BackboneError: names what differs.
        """
        now = {**backbone.sources(path), "source": "prompt"}
        check_made_of(f"DES head {self.des_head}", made_of(self.des_head), now)
        self.head.to(backbone.base.device)
        self.affect.to(backbone.base.device)

    @torch.no_grad()
    def values(self, hidden: Tensor, mask: Tensor) -> list[dict[str, float]]:
        """Of B pictures, by dimension; (layers, B, T, H) and (B, T), as `Backbone.features` gives them.

        Raises:
            NotFiniteAnswerError: an embedding is not finite.
        """
        des: Tensor = self.head(hidden, mask)
        check_rows(des)
        return self.affect.said(des)
