"""An emotion model as the one module of a SentenceTransformer; imports sentence-transformers, so only it imports this."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sentence_transformers.base.modules import InputModule

from emo_lightning.inference.model import EmotionModel
from emo_lightning.inference.pictures import ImageLike, as_picture

if TYPE_CHECKING:
    from torch import Tensor


class SentenceEmotion(InputModule):  # type: ignore[misc] # where the library is not installed it is Any
    """Images in, `sentence_embedding` out: the DES of `EmotionModel.embed`.

    Args:
        model: loaded.
    """

    def __init__(self, model: EmotionModel) -> None:
        super().__init__()
        self.model = model
        self.backbone, self.head = model.backbone, model.head

    @classmethod
    def load(
        cls,
        model_name_or_path: str,
        subfolder: str = "",  # noqa: ARG003 - ours is the whole folder
        token: str | None = None,
        cache_folder: str | None = None,  # noqa: ARG003 - the hub's own
        revision: str | None = None,
        local_files_only: bool = False,  # noqa: ARG003 - an unreachable hub is found out
        **_options: object,
    ) -> SentenceEmotion:
        """See `EmotionModel.from_pretrained`."""
        return cls(EmotionModel.from_pretrained(model_name_or_path, "cpu", revision=revision, token=token))

    @property
    def modalities(self) -> list[str]:
        """Images alone."""
        return ["image"]

    def get_embedding_dimension(self) -> int:
        """Numbers of an embedding."""
        return self.model.des_dim

    def preprocess(self, inputs: Sequence[ImageLike], prompt: str | None = None, **_options: object) -> dict[str, object]:  # noqa: ARG002
        """Pictures of paths, addresses, bytes, arrays or PIL images."""
        return {"pictures": [as_picture(image, f"image {n}") for n, image in enumerate(inputs)]}

    def forward(self, features: dict[str, object], **_options: object) -> dict[str, object]:
        """Add `sentence_embedding`, (N, des_dim)."""
        pictures = features["pictures"]
        assert isinstance(pictures, list)
        self.model.device = next(self.parameters()).device
        embedded: Tensor = self.model.embed(pictures, len(pictures))
        return {**features, "sentence_embedding": embedded.to(self.model.device)}

    def save(self, output_path: str, *_arguments: object, **_options: object) -> None:
        """Write the parts; see `EmotionModel.save_pretrained`.

        Raises:
            NotImplementedError: always: `EmotionModel.save_pretrained` and `emo export` write whole folders.
        """
        msg = f"{output_path}: use EmotionModel.save_pretrained, which writes the whole folder"
        raise NotImplementedError(msg)
