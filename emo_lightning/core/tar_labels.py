"""Tars of others, whose samples have a label in place of our record: `{key}.jpg` and `{key}.cls`, say, as webdataset writes them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from emo_lightning.core.emotions import Emotion, SchemaError
from emo_lightning.core.errors import InputError
from emo_lightning.core.label_map import LabelMap, emotion_of, label_map
from emo_lightning.core.records import DES_EXTENSION, IMAGE_EXTENSIONS, Record
from emo_lightning.core.tar_scan import ShardError

MAX_LABEL_BYTES = 4096
"""Of a member that holds a word or a number."""
LABELLED_SOURCE = "labelled"
"""Of records that are made of a label."""
_RESERVED = (*IMAGE_EXTENSIONS, "jpeg", "json", DES_EXTENSION)


@dataclass(frozen=True)
class TarLabels:
    """Where tars without our record say what an image is labelled, and what it means (`data.labels`)."""

    member: str
    """Ending of the member that holds the label: `cls`, `txt`."""
    map: dict[str | int, str | None] = field(default_factory=dict)
    """Word or number -> one of the eight emotions, or null for what has no equal among them; such an image has no label."""

    def __post_init__(self) -> None:
        if self.member != self.member.lower() or not self.member.isalnum() or self.member in _RESERVED:
            msg = f"data.labels.member: found {self.member[:60]!r}; expected the ending of the member that holds the label, in lower case: cls, txt"
            raise InputError(msg)
        _ = self.words

    @cached_property
    def words(self) -> LabelMap:
        """The map, checked."""
        return label_map(self.map, "data.labels.map")

    @cached_property
    def identity(self) -> str:
        """Of what they make of a tar, SHA-256 in hexadecimal."""
        means = sorted((word, None if value is None else str(value)) for word, value in self.words.items())
        return hashlib.sha256(json.dumps([self.member, means]).encode()).hexdigest()

    def emotion(self, label: bytes, where: object) -> Emotion | None:
        """What the bytes of a label mean.

        Raises:
            ShardError: they are no text, or none of the map's words.
        """
        try:
            return emotion_of(label.decode("utf-8"), self.words)
        except UnicodeDecodeError:
            msg = f"{where}: the label is no text in UTF-8"
            raise ShardError(msg) from None
        except SchemaError as error:
            msg = f"{where}: {error} (data.labels.map)"
            raise ShardError(msg) from None

    def record(self, key: str, label: bytes, image: LabelledImage, where: object) -> Record:
        """The record that the label of an image stands for.

        Args:
            key: the sample's, without a folder.
            label: the member's bytes.
            image: of the sample.
            where: the member, for messages.

        Raises:
            ShardError: see `emotion`; or the key is none for a record.
        """
        said = {
            "id": labelled_id(key, image.sha256),
            "source": LABELLED_SOURCE,
            "width": image.width,
            "height": image.height,
            "sha256": image.sha256,
            "split": "",
            "emotion": self.emotion(label, where),
            "provenance": {"label": label.decode("utf-8").strip(), "member": self.member},
        }
        try:
            return Record.from_json(json.dumps(said), str(where))
        except SchemaError as error:
            raise ShardError(str(error)) from error


class LabelledImage(NamedTuple):
    """What a record must say of its image."""

    width: int
    """As its EXIF turns it."""
    height: int
    sha256: str


def labelled_id(key: str, sha256: str) -> str:
    """Id of an image without a record: others number their samples anew in every split, so that the key alone names none."""
    return f"{key}-{sha256[:12]}"
