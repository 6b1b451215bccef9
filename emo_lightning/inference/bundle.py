"""A trained emotion model as one folder: backbone, DES head and probe, and what it says of an image."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emo_lightning.core.files import read_object, write_json
from emo_lightning.core.records import EMOTIONS, Prediction, SchemaError, intensity_level

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

BUNDLE_FILE = "emo.json"
_KEYS = ("backbone", "head", "probe", "features", "questions")


def bundle_stage(
    out: Path,
    backbone: str,
    head: Path,
    probe: Path | None = None,
    features: str = "emotion",
    questions: list[str] | None = None,
) -> None:
    """Stage: write `OUT/emo.json`, which `emo embed` and `emo explain` take as `--model OUT`.

    Args:
        out: the stage's directory.
        backbone: adapter or model folder, or hub id.
        head: folder of the DES head that was trained on it.
        probe: folder of a linear probe on that DES, for the emotion distribution.
        features: objective at whose prompt the hidden states were taken.
        questions: objectives that `emo explain` asks.
    """

    def place(path: str | Path) -> str:
        # Relative, so that a run directory can be moved as a whole; a hub id stays as it is.
        return os.path.relpath(path, out) if Path(path).exists() else str(path)

    value = {
        "backbone": place(backbone),
        "head": place(head),
        "probe": place(probe) if probe else None,
        "features": features,
        "questions": questions or ["attributes", "emotion"],
    }
    write_json(out / BUNDLE_FILE, value)


def bundle_fingerprint(folder: Path) -> str:
    """sha256 over what decides the DES of an image: backbone, DES head and prompt.

    Raises:
        SchemaError: as `read_bundle`.
    """
    from emo_lightning.models.fingerprints import weights_fingerprint

    config = read_bundle(folder)
    parts = [weights_fingerprint(str(config["backbone"])), weights_fingerprint(str(config["head"])), config["features"]]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


@dataclass
class Explanation:
    """What the model says of one image.

    Args:
        prediction: triplet, boxes, emotion and intensity as the language model said them.
        distribution: emotion -> probability, of the probe on DES; None without a probe.
        des: (des_dim,) as a list.
    """

    prediction: Prediction
    distribution: dict[str, float] | None
    des: list[float]

    def as_json(self) -> dict[str, Any]:
        """The record's keys; `emotion` is as said, `emotion_scores` is the probe's distribution."""
        said = self.prediction.model_dump(mode="json")
        level = None
        if said["intensity"] is not None and 1 <= said["intensity"] <= 10:
            level = intensity_level(said["intensity"])
        confidence = max(self.distribution.values()) if self.distribution else None
        return said | {"emotion_scores": self.distribution, "confidence": confidence, "intensity_level": level, "des": self.des}


class EmotionModel:
    """Backbone, DES head and probe, loaded; all frozen.

    Args:
        folder: that `bundle_stage` wrote (it holds `emo.json`).
        device: torch device; None takes a GPU where there is one (the local rank's).

    Raises:
        SchemaError: no `emo.json`, or one with other keys.
    """

    def __init__(self, folder: str | Path, device: str | None = None) -> None:
        import torch

        from emo_lightning.data.collate import Collator
        from emo_lightning.models import DESHead, LinearProbes
        from emo_lightning.models.backbone import BackboneConfig, load_frozen

        self.config = read_bundle(Path(folder))
        local_rank = os.environ.get("LOCAL_RANK", "0")
        name = device or (f"cuda:{local_rank}" if torch.cuda.is_available() else "cpu")
        try:
            self.device = torch.empty(0, device=name).device
        # torch without CUDA raises AssertionError.
        except (RuntimeError, AssertionError) as error:
            msg = f"device {name!r} cannot be used: {str(error).splitlines()[0]}"
            raise ValueError(msg) from None
        backbone = load_frozen(BackboneConfig(self.config["backbone"], tuning="frozen"))
        self.backbone = backbone.to(self.device)
        self.head = DESHead.from_pretrained(self.config["head"]).requires_grad_(False).eval().to(self.device)
        self.probe = LinearProbes.from_pretrained(self.config["probe"]).to(self.device) if self.config["probe"] else None
        self.collate = Collator(backbone.processor, backbone.model_type, answers=False)

    def _batch(self, images: Sequence[Image.Image], asked: str) -> dict[str, Any]:
        from emo_lightning.data.chat import objective
        from emo_lightning.data.collate import Question

        keys = objective(asked).keys
        batch = self.collate([Question(str(i), image.convert("RGB"), keys) for i, image in enumerate(images)])
        return {k: v.to(self.device) if hasattr(v, "to") else v for k, v in batch.items()}

    def embed(self, images: Sequence[Image.Image]) -> Tensor:
        """DES of images, (N, des_dim) float32 on the CPU."""
        import torch

        batch = self._batch(images, self.config["features"])
        with torch.no_grad():
            hidden = self.backbone.hidden_states(batch, self.head.num_layers)
            return self.head(hidden, batch["attention_mask"]).float().cpu()

    def distribution(self, des: Tensor) -> Tensor | None:
        """Emotion probabilities (N, 8) of the probe, order of `EMOTIONS`."""
        import torch

        if self.probe is None:
            return None
        with torch.no_grad():
            return self.probe(des.to(self.device))[0].softmax(-1).cpu()

    def explain(self, image: Image.Image, name: str, max_new_tokens: int = 256) -> Explanation:
        """Ask the model everything about one image."""
        from emo_lightning.data.chat import merge_predictions, parse_reply

        parts = []
        for asked in self.config["questions"]:
            batch = self._batch([image], asked)
            (reply,) = self.backbone.generate(batch, max_new_tokens)
            parts.append(
                parse_reply(
                    reply,
                    id=name,
                    original=batch["original_size"][0],
                    resized=batch["resized_size"][0],
                    codec=self.collate.codec,
                )
            )
        des = self.embed([image])
        scores = self.distribution(des)
        named = None if scores is None else {str(e): round(float(s), 6) for e, s in zip(EMOTIONS, scores[0], strict=True)}
        return Explanation(merge_predictions(parts), named, [float(x) for x in des[0]])


def read_bundle(folder: Path) -> dict[str, Any]:
    """What `emo.json` says, its folders made absolute.

    Raises:
        SchemaError: no such file, or one with other keys.
    """
    path = folder / BUNDLE_FILE
    if not path.is_file():
        msg = f"{path}: no such file; --model takes the folder of an experiment's `model` stage, e.g. runs/demo/model"
        raise SchemaError(msg)
    config = read_object(path)
    if set(config) != set(_KEYS):
        msg = f"{path}: keys {', '.join(sorted(config))}; expected {', '.join(sorted(_KEYS))}"
        raise SchemaError(msg)
    for key in ("backbone", "head", "probe"):
        if config[key] and (folder / config[key]).exists():
            config[key] = str((folder / config[key]).resolve())
    return config
