"""What the loaders give and the tasks take: one TypedDict for each kind of batch, with the shape of every tensor.

B is the number of rows (images, or questions), T the number of tokens after padding,
H the width of the backbone, L the number of layers that are kept, E the number of emotions (eight).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NotRequired, TypedDict, final, overload

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from emo_lightning.models.families import Size

if TYPE_CHECKING:
    from PIL import Image

    from emo_lightning.core.records import Record


class ChatBatch(TypedDict):
    """Questions about images, and in training their answers (`Collator`).

    Beside these keys it holds the other inputs of the backbone (pictures, positions), which differ between families and are taken
    out by `Family.model_inputs` alone.
    """

    input_ids: Tensor
    """(B, T) int64: prompt, image tokens, and in training the answer; (1, T) of all samples, one after another, where they are packed."""
    attention_mask: NotRequired[Tensor]
    """(B, T) int64: 1 at real tokens, 0 at padding; none where samples are packed."""
    lengths: NotRequired[list[int]]
    """B numbers of tokens, where samples are packed."""
    room: NotRequired[int]
    """Tokens that the row of a plan has room for (`data.max_tokens`); T of them are there."""
    branches: NotRequired[list[list[int]]]
    """Packed, where images are asked several questions: of each image the tokens up to the end of its picture, and those of each
    question, with its answer, after it."""
    key: list[str]
    """B ids of records."""
    original_size: list[Size]
    """B sizes of the images as they are stored."""
    resized_size: list[Size]
    """B sizes of the images as the model sees them."""
    filler: Tensor
    """(B,) bool: a repeated sample that only keeps ranks in step; it counts nowhere."""
    faults: NotRequired[list[tuple[str, str]]]
    """Ids of fillers whose image cannot be read, and why (`data.on_error: skip`)."""
    answer_at: NotRequired[Tensor]
    """(S,) int64, packed and with answers: the places in the row whose label is a target."""
    answer_ends: NotRequired[list[int]]
    """Packed and with answers: of each piece of the row (`branches`, or its samples), how many of its last tokens have states that the loss
    reads: those from before the answer on. At least one, but 0 of what questions share."""
    label_weights: NotRequired[Tensor]
    """(1, T) float32, where images are asked several questions: what a target counts, at its place."""
    labels: NotRequired[Tensor]
    """As `input_ids`, with answers: token ids at the answer and its end, `IGNORE_INDEX` elsewhere."""
    emotion_at: NotRequired[Tensor]
    """(B,) int64, with distributions: the place of the emotion's first token in its row, -1 without one. Here and below B is the
    number of questions, where images are asked several."""
    emotion_rows: NotRequired[Tensor]
    """(N,) int64, with distributions: which of the B have one."""
    emotion_first: NotRequired[Tensor]
    """(B, E) int64, with distributions: that token for each of `EMOTIONS`."""
    emotion_target: NotRequired[Tensor]
    """(B, E) float32, with distributions: what the annotators said; zeros where `emotion_at` is -1."""


class QuestionBatch(TypedDict):
    """The same images asked several questions (`QuestionDataModule`)."""

    rows: list[int]
    """B rows of the set's index."""
    inputs: dict[tuple[str, ...], ChatBatch]
    """Objectives -> questions without answers: all objectives in one row where the backbone packs, else each padded on the left."""
    filler: list[bool]
    """B values."""
    faults: NotRequired[list[tuple[str, str]]]
    """As in `ChatBatch`."""


class Keys(Sequence[str]):
    """Ids of the rows of a batch, which are looked up only where somebody asks: most steps never do.

    Args:
        names: of all samples.
        rows: of the batch; None: all.
    """

    def __init__(self, names: Sequence[str], rows: NDArray[np.int64] | None = None) -> None:
        self._names, self._rows = names, np.arange(len(names)) if rows is None else rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...

    @overload
    def __getitem__(self, place: slice) -> Keys: ...

    def __getitem__(self, place: int | slice) -> str | Keys:
        if isinstance(place, slice):
            return Keys(self._names, self._rows[place])
        return self._names[int(self._rows[place])]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __reduce__(self) -> tuple[type[list[str]], tuple[list[str]]]:
        # Between processes the batch's own go, not those of all samples.
        return list, (list(self),)


class LabelBatch(TypedDict):
    """What the DES head and the probe learn from (`collate_supervision`)."""

    target: Tensor
    """(B, E) float32: distribution over `EMOTIONS`; a row of NaN without a label."""
    emotion: Tensor
    """(B,) int64: 0–7, `NO_EMOTION` without a category."""
    intensity: Tensor
    """(B,) float32: 1–10, NaN without one."""
    affect: Tensor
    """(B, 3) float32: valence, arousal and dominance from -1 to 1 as people rated them, NaN where they did not."""
    filler: Tensor
    """(B,) bool: a repeated sample that only keeps ranks in step; it counts nowhere."""
    key: Sequence[str]
    """B ids of records."""


@final
class FeatureBatch(LabelBatch):
    """Hidden states from a feature cache (`collate_features`)."""

    hidden_states: Tensor
    """(L, B, T, H) in the cache's dtype, padded on the right; index -1 is the last layer."""
    mask: Tensor
    """(B, T) bool: real tokens."""


class EmbeddingBatch(LabelBatch):
    """Emotion embeddings that are in memory (`EmbeddingDataset`)."""

    des: Tensor
    """(B, des_dim) float32."""


@final
class LabelledBatch(ChatBatch):
    """Questions without answers, with labels beside them (`LabelledDataModule`): the model sees nothing of the labels."""

    target: Tensor
    """As in `LabelBatch`."""
    emotion: Tensor
    """As in `LabelBatch`."""
    intensity: Tensor
    """As in `LabelBatch`."""
    affect: Tensor
    """As in `LabelBatch`."""


class ReplyTargets:
    """What a batch of questions is asked of, for those who judge the replies; no tensor, and never an input of the model.

    Args:
        records: B annotations.
        images: B pictures, where a reward looks at them again; else none.
    """

    # No dataclass: Lightning would take it apart to look for tensors.
    def __init__(self, records: Sequence[Record], images: Sequence[Image.Image] = ()) -> None:
        self.records, self.images = list(records), list(images)


@final
class RolloutBatch(ChatBatch):
    """Questions without answers, packed, and what their replies are judged by (`RolloutDataModule`): the model sees nothing of it."""

    asked: ReplyTargets
    """Annotations, and perhaps pictures."""


class SeenBatch(TypedDict):
    """Images and what is seen in them, for a vision tower alone (`PairDataModule`)."""

    inputs: dict[str, Tensor]
    """What the backbone's family takes for B pictures."""
    tokens: list[int]
    """How many tokens the tower gives for each of the B pictures."""
    seen: dict[str, Tensor]
    """Field -> (B,) number of its value; `IGNORE_INDEX` where it is not annotated or the sample is a filler."""
    filler: Tensor
    """(B,) bool: a repeated sample that only keeps ranks in step."""
    key: list[str]
    """B ids of records."""
    faults: NotRequired[list[tuple[str, str]]]
    """As in `ChatBatch`; none of the B."""


class PairBatch(TypedDict):
    """Images and their descriptions as a CLIP takes them (`PairDataModule`)."""

    inputs: dict[str, Tensor]
    """What the CLIP's processor gives for B images and B texts."""
    filler: Tensor
    """(B,) bool: a repeated sample that only keeps ranks in step."""
    key: list[str]
    """B ids of records."""
    faults: NotRequired[list[tuple[str, str]]]
    """As in `ChatBatch`; none of the B."""
