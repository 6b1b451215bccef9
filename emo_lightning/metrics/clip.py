"""CLIP scores of any `CLIPModel`: text against text and image against text, (cos + 1)/2 so that they lie in 0–1."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.hub import cache_only
from emo_lightning.core.model_loading import foreign_files, load_whole, quiet_library, read_model_config

if TYPE_CHECKING:
    from PIL.Image import Image
    from transformers import CLIPModel, CLIPTextConfig, PreTrainedTokenizerBase
    from transformers.image_processing_utils import BaseImageProcessor
    from transformers.modeling_outputs import BaseModelOutputWithPooling


class ClipError(InputError):
    """A folder or id holds no CLIP model that can be used."""


class ClipScorer:
    """A CLIP model in eval mode with its tokenizer and image processor; embeddings are float32, unit norm, on the CPU.

    Text embeddings are kept per unique text. Texts longer than the text tower are cut and counted in `truncated`.

    Args:
        model: the two towers.
        tokenizer: of the text tower.
        image_processor: of the image tower.
        batch_size: texts or images at a time.
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase,
        image_processor: BaseImageProcessor,
        batch_size: int = 32,
    ) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self.batch_size = batch_size
        # transformers fills in the text tower's config, whatever the type of the attribute says.
        self.max_tokens = int(cast("CLIPTextConfig", model.config.text_config).max_position_embeddings)
        self.truncated = 0
        self._texts: dict[str, Tensor] = {}

    @classmethod
    def load(cls, name: str, device: str | None = None, batch_size: int = 32) -> ClipScorer:
        """From a folder or a hub id.

        Raises:
            ClipError: not a CLIP checkpoint, or weights are missing in it.
            HubError: neither a folder nor an id that the hub or its cache has.
        """
        from transformers import AutoImageProcessor, AutoTokenizer

        what = f"clip={name!r}"
        local = cache_only(name)
        model = load_clip(name, what, ClipError, local=local)
        with quiet_library(), foreign_files(f"{what} cannot be loaded", ClipError):
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local, trust_remote_code=False)
            image_processor = AutoImageProcessor.from_pretrained(name, local_files_only=local, trust_remote_code=False)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        # torch's own `to`: the types of transformers' wrapper take a model alone.
        return cls(torch.nn.Module.to(model, device), tokenizer, image_processor, batch_size)

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings of shape (len(texts), dim)."""
        new = [t for t in dict.fromkeys(texts) if t not in self._texts]
        for start in range(0, len(new), self.batch_size):
            part = new[start : start + self.batch_size]
            self.truncated += sum(len(ids) > self.max_tokens for ids in self.tokenizer(part)["input_ids"])
            tokens = self.tokenizer(part, padding=True, truncation=True, max_length=self.max_tokens, return_tensors="pt")
            tokens = {k: v.to(self.model.device) for k, v in tokens.items() if k in ("input_ids", "attention_mask")}
            features = _unit(self.model.get_text_features(**tokens))
            self._texts.update(zip(part, features, strict=True))
        return torch.stack([self._texts[t] for t in texts]) if texts else torch.zeros(0, self.model.config.projection_dim)

    @torch.no_grad()
    def images(self, images: Sequence[Image]) -> Tensor:
        """Embeddings of shape (len(images), dim)."""
        parts = [torch.zeros(0, self.model.config.projection_dim)]
        for start in range(0, len(images), self.batch_size):
            pixels = self.image_processor(list(images[start : start + self.batch_size]), return_tensors="pt")["pixel_values"]
            parts.append(_unit(self.model.get_image_features(pixel_values=pixels.to(self.model.device))))
        return torch.cat(parts)

    def text_text(self, first: Sequence[str], second: Sequence[str]) -> list[float]:
        """(cos + 1)/2 of each pair, 0–1."""
        return cosine01(self.texts(first), self.texts(second))


def load_clip(name: str, what: str, error: type[UserError], *, local: bool) -> CLIPModel:
    """The CLIP of a folder or hub id, whole; no code that stands in the folder is run.

    Args:
        name: folder or hub id.
        what: names it, for messages.
        error: what is raised.
        local: take an id from the local cache alone (`cache_only`, which the caller has asked).

    Raises:
        UserError: of the type `error`: not a CLIP, not whole, or without its tokenizer's settings.
    """
    from transformers import CLIPModel, PreTrainedConfig

    if (folder := Path(name)).is_dir():
        settings = read_model_config(folder, error)
    else:
        with foreign_files(f"{what} cannot be loaded", error):
            settings, _ = PreTrainedConfig.get_config_dict(name, local_files_only=local)
    if settings.get("model_type") != "clip":
        msg = f"{what} holds a model of type {settings.get('model_type')!r}; expected 'clip' (transformers' CLIPModel)"
        raise error(msg)
    if folder.is_dir() and not (folder / "tokenizer_config.json").is_file():
        # transformers would take another tokenizer's special tokens, in silence.
        msg = f"{what}: {folder / 'tokenizer_config.json'}: no such file; a CLIP's folder has one"
        raise error(msg)
    return load_whole(CLIPModel.from_pretrained, name, what, error, kind=CLIPModel, local_files_only=local)


def cosine01(first: Tensor, second: Tensor) -> list[float]:
    """(cos + 1)/2 row by row of two (N, dim) sets of unit vectors."""
    return ((first.double() * second.double()).sum(dim=1).clamp(-1, 1) + 1).div(2).tolist()


def _unit(output: Tensor | BaseModelOutputWithPooling) -> Tensor:
    # transformers < 5 returns the tensor, >= 5 an output object that holds it.
    features = output if isinstance(output, Tensor) else output.pooler_output
    if features is None:
        msg = "CLIP gave no pooled features"
        raise RuntimeError(msg)
    return torch.nn.functional.normalize(features.float(), dim=-1).cpu()
