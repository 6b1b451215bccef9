"""The model that no round has trained, whose answers tell what all rounds together have gained, and lost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from emo_lightning.core.errors import InputError
from emo_lightning.core.model_folders import weights_hash
from emo_lightning.models.adapters import adapted_parts, without_adapters
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.loading import load_frozen


class ZeroShot:
    """That model, and its accuracies.

    Where the training goes on with an adapter it is the adapter's base, which is the same model with its adapters off: nothing is loaded. Of
    weights that were tuned whole nothing says where they came from, and it has to be named.

    Args:
        path: of the model; None: the adapter's base, and where there is no adapter, none.
        config: of the backbone that trains.
    """

    def __init__(self, path: str | None, config: BackboneConfig) -> None:
        self.path, self.config = path, config
        self.accuracies: dict[str, float] = {}
        """Set -> accuracy."""
        self._loaded: Backbone | None = None
        self._hash: str | None = None

    def known(self, trained: Backbone) -> bool:
        """Whether there is such a model."""
        return self.path is not None or "started_from" in trained.made_of

    def is_start(self, trained: Backbone) -> bool:
        """Whether it is the model that the training began with."""
        made_of = trained.made_of
        return self.path is not None and self._content(trained) == made_of.get("started_from", made_of.get("base"))

    def asked_for(self, name: str, trained: Backbone) -> bool:
        """Whether a set has yet to be put to it."""
        return self.known(trained) and name not in self.accuracies and not self.is_start(trained)

    def sees_otherwise(self, trained: Backbone) -> bool:
        """Whether what the trained model keeps of pictures (`vision_cache`) may be other than what this one would see."""
        if self.path is not None:
            return not self.is_start(trained)
        kept = ("vision",) if trained.config.cached_part == "vision" else ("vision", "merger")
        return self.known(trained) and not adapted_parts(trained.model, trained.family).isdisjoint(kept)

    def check(self, trained: Backbone) -> None:
        """Load it once, to refuse before the first step what could not be compared after many.

        Raises:
            InputError: it is of another family, or reads other tokens.
        """
        if self.path is not None and not self.is_start(trained):
            self._load(self.path, trained)

    @contextmanager
    def within(self, trained: Backbone) -> Iterator[Backbone]:
        """The model, on the device of the one that trains; nothing is learnt of it."""
        if self.path is None:
            with without_adapters(trained.model):
                yield trained
            return
        if self._loaded is None:
            self._loaded = self._load(self.path, trained)
        yield self._loaded.to(trained.base.device, trained.base.dtype)

    def close(self) -> None:
        """Give its memory back."""
        self._loaded = None

    def state(self, trained: Backbone) -> dict[str, object]:
        """For a checkpoint."""
        return {"of": self._content(trained), "accuracies": dict(self.accuracies)} if self.accuracies else {}

    def restore(self, state: Mapping[str, Any], trained: Backbone) -> None:
        """Take them from a checkpoint, unless they are those of another model."""
        if self.known(trained) and state.get("of") == self._content(trained):
            self.accuracies = dict(state["accuracies"])

    def _content(self, trained: Backbone) -> str | None:
        if self._hash is None:
            self._hash = trained.made_of.get("base") if self.path is None else weights_hash(self.path)
        return self._hash

    def _load(self, path: str, trained: Backbone) -> Backbone:
        limits = trained.family.pixel_limits(trained.processor)
        config = BackboneConfig(
            path,
            tuning="frozen",
            min_pixels=limits.lowest,
            max_pixels=limits.highest,
            dtype=self.config.dtype,
            attention=self.config.attention,
        )
        found = load_frozen(config)
        if found.model_type != trained.model_type:
            msg = f"model.zero_shot: {path} is a {found.model_type}; expected a {trained.model_type}, as model.backbone.path is"
            raise InputError(msg)
        if found.processor.tokenizer.get_vocab() != trained.processor.tokenizer.get_vocab():
            msg = f"model.zero_shot: {path} has another vocabulary than {self.config.path}; expected the model that its training began with"
            raise InputError(msg)
        return found
