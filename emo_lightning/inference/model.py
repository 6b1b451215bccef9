"""A trained emotion model, loaded from its folder: embeddings, emotion distributions, and what it says of images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from emo_lightning.core.devices import usable_device
from emo_lightning.core.errors import InputError
from emo_lightning.inference.bundle import BUNDLE_FILE, bundle_folder, check_bundle, read_bundle
from emo_lightning.inference.pictures import ImageLike, as_list, as_picture, name_of
from emo_lightning.inference.results import Explanation, Unlike, said_of

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from emo_lightning.core.records import Box, Mask
    from emo_lightning.data.batches import ChatBatch
    from emo_lightning.data.emotion_words import EmotionWords
    from emo_lightning.models.label_scoring import LabelScoring
    from emo_lightning.models.spread import Seen

    Masks = Callable[[Image.Image, Sequence[Box]], Sequence[Mask | None]]

__all__ = ["EmotionModel", "Explanation"]

BATCH_SIZE = 16
"""Images at a time, where nobody says."""


class _Asked(NamedTuple):
    """What one reading of some pictures gives."""

    batch: ChatBatch
    des: Tensor
    """(N, des_dim) on the device."""
    answers: list[list[str]]
    """By question, one a picture."""
    scores: Tensor | None
    """(N, 8), over the eight."""
    unlike: list[Unlike] | None
    """Of each picture; None where it is not known."""
    polarity: Tensor | None = None
    """(N, 2), where it was asked for."""


class EmotionModel:
    """Backbone, DES head, probe and the spread of what they were trained on, loaded; all frozen.

    Args:
        folder: that `emo export` wrote, or of an experiment's `model` stage (it holds `emo.json`).
        device: torch device; None takes a GPU where there is one (the local rank's).

    Raises:
        SchemaError: no `emo.json`, or one with other keys.
        BackboneError: a part is none, is not whole, or was not made with the others.
        DeviceError: the device cannot be used.

    Examples:
        >>> from emo_lightning import EmotionModel
        >>> model = EmotionModel.from_pretrained("runs/demo/model", device="cpu")
        >>> des = model.embed(["photo.jpg"])
        >>> des.shape == (1, model.des_dim)
        True
        >>> tuple(model.distribution(des).shape)
        (1, 8)
        >>> (explanation,) = model.explain(["photo.jpg"])
        >>> explanation.id
        'photo'
        >>> explanation.probe.confidence == explanation.probe.distribution[explanation.probe.emotion]
        True
        >>> explanation.agreement in ("agree", "differ", "no emotion said")
        True
    """

    def __init__(self, folder: str | Path, device: str | None = None) -> None:
        import torch

        from emo_lightning.data.collate import Collator
        from emo_lightning.inference.calibration import ProbeCalibration
        from emo_lightning.models import DESHead, LinearProbes
        from emo_lightning.models.backbone import BackboneConfig, load_frozen
        from emo_lightning.models.spread import Spread

        self.folder = Path(folder)
        self.bundle = read_bundle(self.folder)
        self.device = torch.device(usable_device(device))
        check_bundle(self.bundle, self.folder / BUNDLE_FILE)
        backbone = load_frozen(BackboneConfig(self.bundle.backbone, tuning="frozen"))
        self.backbone = backbone.to(self.device)
        self.head = DESHead.from_pretrained(self.bundle.head).requires_grad_(False).eval().to(self.device)
        probe = self.bundle.probe
        self.probe = LinearProbes.from_pretrained(probe).to(self.device) if probe else None
        self.calibration = ProbeCalibration.of(self.folder, probe)
        spread = self.bundle.spread
        self.spread = Spread.from_pretrained(spread).to(self.device) if spread else None
        self.collate = Collator(backbone.processor, backbone.model_type, answers=False, packed=backbone.packs)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, device: str | None = None, *, revision: str | None = None, token: str | None = None
    ) -> EmotionModel:
        """Load a folder, or what was published under an id of the Hugging Face hub.

        Args:
            name: folder, or id as `owner/name`; a folder of that name comes first.
            device: torch device; None takes a GPU where there is one.
            revision: branch, tag or commit of the hub's.
            token: for a private one; None takes the one that the hub's client has.

        Raises:
            SchemaError: as the constructor; also of an id that holds no emotion model.
            HubError: the hub cannot be reached, and nothing of the id is in the local cache.
        """
        return cls(bundle_folder(name, revision, token), device)

    def save_pretrained(self, folder: str | Path, *, merge: bool = True) -> None:
        """Write all parts into one folder that needs nothing else: see `inference.folder.write_folder`.

        Args:
            folder: missing or empty; it is there when it is whole.
            merge: fold the adapter into its base model; else the adapter is kept beside its base.
        """
        from emo_lightning.inference.folder import write_folder

        write_folder(self.bundle, Path(folder), merge=merge, calibration=self.calibration, origin=self.folder)

    @property
    def des_dim(self) -> int:
        """Numbers of an embedding."""
        return self.head.des_dim

    def _batch(self, images: Sequence[Image.Image], *objectives: str) -> ChatBatch:
        """The same questions about each image, on the device; several where the backbone packs."""
        from emo_lightning.data.chat import objective
        from emo_lightning.data.collate import Question

        keys, *more = (objective(name).keys for name in objectives)
        batch = self.collate([Question(str(i), image, keys, more=tuple(more)) for i, image in enumerate(images)])
        moved = {k: v.to(self.device) if hasattr(v, "to") else v for k, v in batch.items()}
        return cast("ChatBatch", moved)  # the same keys with the same kinds of values

    def embed(self, images: ImageLike | Sequence[ImageLike], batch_size: int = BATCH_SIZE) -> Tensor:
        """DES of N images (paper section 3.3), each turned as its EXIF says: (N, des_dim) float32 on the CPU.

        Args:
            images: paths, addresses, bytes, arrays or PIL images, in any mixture.
            batch_size: images at a time.

        Raises:
            InputError: an image cannot be had, or is none; names it.
        """
        import torch

        given = as_list(images)
        rows = [
            self._embed([as_picture(image, f"image {start + i}") for i, image in enumerate(given[start : start + batch_size])])
            for start in range(0, len(given), batch_size)
        ]
        return torch.cat(rows) if rows else torch.zeros(0, self.des_dim)

    def _embed(self, pictures: Sequence[Image.Image]) -> Tensor:
        import torch

        with torch.no_grad():
            des: Tensor = self.head(*self.backbone.features(self._batch(pictures, self.bundle.features), self.head.num_layers))
            return des.float().cpu()

    def look(self, pictures: Sequence[Image.Image]) -> Seen:
        """What a `Spread` is fitted to, and measures.

        Args:
            pictures: as `as_picture` gives them, one batch.

        Raises:
            FamilyError: the backbone is of a family whose patches are not told apart.
        """
        import torch

        batch = self._batch(pictures, self.bundle.features)
        with torch.no_grad(), self.backbone.watching_tower() as tower:
            des: Tensor = self.head(*self.backbone.features(batch, self.head.num_layers))
        return self._seen(batch, des, tower)

    def _seen(self, batch: ChatBatch, des: Tensor, tower: Sequence[Tensor]) -> Seen:
        import torch

        from emo_lightning.models.spread import Seen

        family = self.backbone.family
        counts = family.patch_counts(batch)
        (states,) = tower
        vision = torch.stack([one.float().mean(0) for one in states.split(counts)])
        return Seen(des, vision, cast("Tensor", batch[family.pixels]), counts)  # type: ignore[literal-required] # of every family

    def unlike(self, images: ImageLike | Sequence[ImageLike], batch_size: int = BATCH_SIZE) -> list[Unlike] | None:
        """How far each image is from what the model was trained on; None where the folder does not hold that.

        Args:
            images: as `embed`.
            batch_size: images at a time.

        Raises:
            InputError: an image cannot be had, or is none; names it.
        """
        if self.spread is None:
            return None
        given, found = as_list(images), list[Unlike]()
        for start in range(0, len(given), batch_size):
            here = given[start : start + batch_size]
            found += self._unlike(self.look([as_picture(image, f"image {start + i}") for i, image in enumerate(here)])) or []
        return found

    def _unlike(self, seen: Seen) -> list[Unlike] | None:
        if self.spread is None:
            return None
        about = self.spread.threshold, self.spread.false_alarms
        return [Unlike(score, *about) for score in self.spread(seen).tolist()]

    def distribution(self, des: Tensor) -> Tensor | None:
        """Emotion probabilities of the probe, (N, 8) on the CPU in the order of `EMOTIONS`; None without a probe.

        They are as the probe gives them: no temperature is applied.

        Args:
            des: (N, des_dim), as `embed` gives them.
        """
        import torch

        if self.probe is None:
            return None
        with torch.no_grad():
            logits: Tensor = self.probe(des.to(self.device))[0]  # of the only probe that a saved one has
            return logits.softmax(-1).cpu()

    def explain(
        self,
        images: ImageLike | Sequence[ImageLike],
        ids: Sequence[str] | None = None,
        *,
        max_new_tokens: int = 256,
        batch_size: int = BATCH_SIZE,
        masks: Masks | None = None,
        label_scoring: LabelScoring = "plain",
    ) -> list[Explanation]:
        """Ask the model everything about each image; each is read once for all answers, the scores and the embedding.

        Args:
            images: as `embed`; boxes are in pixels of the upright image.
            ids: of the predictions; None: stems of file names, addresses, or the images' numbers.
            max_new_tokens: of one answer.
            batch_size: images at a time.
            masks: gives a mask for each box of a picture, for example `masks_of` of a SAM that `data_prep.grounding` has loaded; None
                leaves them out.
            label_scoring: `gated` asks for the polarity besides, weighs the words' distribution by it, and takes its most probable emotion
                for the one that is said (`models.label_scoring`).

        Raises:
            InputError: an image cannot be had, or is none; names it. Or its labels cannot be scored so.
        """
        self._check_scoring(label_scoring)
        given = as_list(images)
        names = [name_of(image, n) for n, image in enumerate(given)] if ids is None else list(ids)
        if len(names) != len(given):
            msg = f"{len(names)} ids for {len(given)} images; expected one each"
            raise ValueError(msg)
        found: list[Explanation] = []
        for start in range(0, len(given), batch_size):
            here = range(start, min(start + batch_size, len(given)))
            pictures = [as_picture(given[n], f"image {names[n]}") for n in here]
            explained = self._explain(pictures, [names[n] for n in here], max_new_tokens, gated=label_scoring == "gated")
            if masks is not None:
                explained = [
                    one.with_masks(masks(picture, [region.box for region in one.said.regions])) if one.said.regions else one
                    for one, picture in zip(explained, pictures, strict=True)
                ]
            found += explained
        return found

    def _check_scoring(self, label_scoring: LabelScoring) -> None:
        from emo_lightning.models.label_scoring import check_label_scoring

        check_label_scoring(label_scoring, "label_scoring")
        if label_scoring == "gated" and self._emotion_words is None:
            msg = (
                f"label_scoring: found gated, but the questions of {self.folder} have no objective 'emotion', or its tokenizer does not tell "
                "the eight words apart; allowed: plain"
            )
            raise InputError(msg)

    def _explain(
        self, pictures: Sequence[Image.Image], ids: Sequence[str], max_new_tokens: int, *, gated: bool
    ) -> list[Explanation]:
        import torch

        from emo_lightning.data.chat import merge_predictions, parse_answer
        from emo_lightning.inference.calibration import probed
        from emo_lightning.models import label_scoring

        with torch.no_grad():
            ask = self._read_once if self.collate.packed else self._one_by_one
            asked = ask(pictures, max_new_tokens, gated=gated)
        scores = asked.scores
        if scores is not None and asked.polarity is not None:
            scores = label_scoring.gated(scores, asked.polarity)
        of_words = None if scores is None else scores.tolist()
        des = asked.des.float().cpu()
        probabilities = self.distribution(des)
        explained = []
        for n, name in enumerate(ids):
            original, resized = asked.batch["original_size"][n], asked.batch["resized_size"][n]
            parts = [
                parse_answer(texts[n], id=name, original=original, resized=resized, codec=self.collate.codec)
                for texts in asked.answers
            ]
            words = merge_predictions(parts)
            if of_words is not None and asked.polarity is not None:
                words = label_scoring.relabelled(words, of_words[n], float(asked.polarity[n, 0]))
            said = said_of(words, None if of_words is None else of_words[n])
            unlike = None if asked.unlike is None else asked.unlike[n]
            probe = None
            if probabilities is not None:
                far = unlike is not None and unlike.is_unlike
                probe = probed(probabilities[n].double().tolist(), self.calibration, unlike=far)
            explained.append(Explanation(said, probe, des[n].numpy(), words, unlike))
        return explained

    @cached_property
    def _emotion_words(self) -> tuple[int, EmotionWords] | None:
        """Number of the question whose answer begins with the emotion, and the eight in the backbone's tokens; None without one."""
        from emo_lightning.data.emotion_words import EmotionWords, EmotionWordsError

        if "emotion" not in self.bundle.questions:
            return None
        try:
            return self.bundle.questions.index("emotion"), EmotionWords.of_question(self.backbone.processor.tokenizer)
        except EmotionWordsError:
            return None

    @cached_property
    def _polarity_words(self) -> EmotionWords:
        from emo_lightning.data.emotion_words import EmotionWords

        return EmotionWords.of_polarity(self.backbone.processor.tokenizer)

    def _read_once(self, pictures: Sequence[Image.Image], max_new_tokens: int, *, gated: bool) -> _Asked:
        """One forward pass over all pictures and questions; answers go on from its cache, all of them side by side."""
        questions = self.bundle.questions
        names = questions if self.bundle.features in questions else [*questions, self.bundle.features]
        number, words = self._emotion_words or (0, None)
        after = {} if words is None else {number: words.before}
        if gated:
            after[len(names)] = self._polarity_words.before
            names = [*names, "polarity"]
        batch = self._batch(pictures, *names)
        with self.backbone.watching_tower() as tower:
            read = self.backbone.read(batch, after, self.head.num_layers)
        des: Tensor = self.head(*read.features(names.index(self.bundle.features)))
        scores = None if words is None else self.backbone.word_scores(read.states[number :: len(names)], words)[0]
        polarity = None
        if gated:
            polarity = self.backbone.word_scores(read.states[len(names) - 1 :: len(names)], self._polarity_words)[0]
        answers = self.backbone.all_replies(read, range(len(questions)), max_new_tokens)
        unlike = None if self.spread is None else self._unlike(self._seen(batch, des, tower))
        return _Asked(batch, des, answers, scores, unlike, polarity)

    def _one_by_one(self, pictures: Sequence[Image.Image], max_new_tokens: int, *, gated: bool) -> _Asked:
        """A batch for each question, for backbones that cannot hold several in a row."""
        batches = [self._batch(pictures, question) for question in self.bundle.questions]
        answers = [self.backbone.generate(batch, max_new_tokens) for batch in batches]
        number, words = self._emotion_words or (0, None)
        scores = None if words is None else self.backbone.emotion_scores(batches[number], words)[0]
        polarity = None
        if gated:
            polarity = self.backbone.emotion_scores(self._batch(pictures, "polarity"), self._polarity_words)[0]
        if self.spread is None:
            return _Asked(batches[0], self._embed(pictures), answers, scores, None, polarity)
        seen = self.look(pictures)
        return _Asked(batches[0], seen.des, answers, scores, self._unlike(seen), polarity)
