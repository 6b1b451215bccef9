"""Embeddings of images by any model of transformers that sees images (CLIP, SigLIP, DINOv2, ViT, ResNet, …)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from data_prep.engine import EngineResult, ItemRow, Step, portable
from data_prep.local_models.decoding import decode
from emo_lightning.core.errors import InputError
from emo_lightning.core.model_loading import foreign_files, load_whole, quiet_library

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray
    from PIL import Image
    from transformers import PreTrainedModel
    from transformers.image_processing_utils import BaseImageProcessor


class EmbedderError(InputError):
    """The model cannot be used."""


class Embedder:
    """A model by name or folder.

    Args:
        name: as `from_pretrained` takes it.

    Raises:
        EmbedderError: it cannot be loaded, is no model of images, or its file lacks weights.
    """

    def __init__(self, name: str) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModel

        with quiet_library(), foreign_files(f"model {name!r} cannot be loaded", EmbedderError):
            load: Callable[..., BaseImageProcessor] = AutoImageProcessor.from_pretrained
            self._processor = load(name, trust_remote_code=False)
        without: list[str] = []

        def pooler(key: str) -> bool:
            if "pooler" in key:
                without.append(key)
            return "pooler" in key

        what = f"model {name!r}"
        model: PreTrainedModel = load_whole(
            partial(AutoModel.from_pretrained, trust_remote_code=False), name, what, EmbedderError, optional=pooler, heads=True
        )
        # A classifier's checkpoint lacks the pooler, which would be random: the mean of the tokens serves then.
        self._pooled = not without
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model: PreTrainedModel = model.eval().to(self._device)
        self.name = name
        self.key = self._digest()
        """What the vectors depend on: weights and preprocessing."""

    def _digest(self) -> str:
        import torch

        digest = hashlib.sha256(json.dumps(self._processor.to_dict(), sort_keys=True, default=str).encode())
        for key, weight in sorted(self._model.state_dict().items()):
            digest.update(key.encode())
            digest.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return f"{type(self._model).__name__}-{digest.hexdigest()[:16]}"

    def embed(self, images: Sequence[bytes]) -> NDArray[np.float16]:
        """Unit vectors of encoded images: (images, dimensions) float16.

        Raises:
            EmbedderError: the model gives no vector for an image.
        """
        return self.embed_decoded([decode(data) for data in images])

    def embed_decoded(self, pictures: Sequence[Image.Image]) -> NDArray[np.float16]:
        """As `embed`, for RGB images."""
        import torch

        pixels = self._processor(images=list(pictures), return_tensors="pt").to(self._device)
        with torch.inference_mode():
            vectors = self._vectors(pixels).float()
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        if not bool(torch.isfinite(vectors).all()):
            msg = f"{type(self._model).__name__}: an embedding is not finite"
            raise EmbedderError(msg)
        found: NDArray[np.float16] = vectors.cpu().numpy().astype(np.float16)
        return found

    def _vectors(self, pixels: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """One vector for each image, (images, dimensions), not of unit length yet."""
        import torch

        features = getattr(self._model, "get_image_features", None)
        if features is not None:
            found = features(**pixels)
            # Transformers 5 gives an output object here, older ones the tensor.
            vectors: object = getattr(found, "pooler_output", found)
            if not isinstance(vectors, torch.Tensor) or vectors.ndim != 2:
                msg = f"model {self.name!r}: {type(self._model).__name__} gives no vector for a whole image; a CLIP or a DINOv2 does"
                raise EmbedderError(msg)
            return vectors
        output = self._model(**pixels)
        pooled: torch.Tensor | None = getattr(output, "pooler_output", None)
        if self._pooled and pooled is not None:
            return pooled.flatten(1)
        if not hasattr(output, "last_hidden_state"):
            msg = f"{type(self._model).__name__} gives neither pooler_output nor last_hidden_state"
            raise EmbedderError(msg)
        hidden: torch.Tensor = output.last_hidden_state
        return hidden.mean(1) if hidden.ndim == 3 else hidden.mean((2, 3))


class Embedding(Step["Image.Image"]):
    """The vectors of an embedder that is loaded here; another process loads the same one again.

    Args:
        embedder: stays in this process.
    """

    def __init__(self, embedder: Embedder) -> None:
        self._name, self._key = portable(embedder.name), embedder.key
        self._embedder: Embedder | None = embedder

    def __getstate__(self) -> dict[str, object]:
        return {**vars(self), "_embedder": None}

    def prepare(self, data: bytes) -> Image.Image:
        """RGB."""
        return decode(data)

    def load(self) -> Callable[[Sequence[ItemRow], Sequence[Image.Image]], list[EngineResult]]:
        """See `Step.load`.

        Raises:
            EmbedderError: the name means another model here.
        """
        embedder = self._embedder or Embedder(self._name)
        if embedder.key != self._key:
            msg = f"model {self._name!r} is {embedder.key} here and {self._key} where the store lies"
            raise EmbedderError(msg)
        return lambda _, pictures: [vector.tobytes() for vector in embedder.embed_decoded(pictures)]
