"""What an index holds: its tables, their columns, and which of them may be filtered by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal

from emo_lightning.core.errors import InputError
from emo_lightning.core.foreign import decode_json, integer_of, object_of, text_of

if TYPE_CHECKING:
    import pyarrow as pa

INDEX_FORMAT = 1
"""Version of the tables; another one is refused."""
IMAGES_TABLE = "images"
"""Table of all images, one row each."""
CENTROIDS_TABLE = "centroids"
"""Table of the mean embeddings of the images of one emotion and level."""
LEFT_OUT_TABLE = "left_out"
"""Table of what could not be taken in: id and reason."""
TUNING_TABLE = "tuning"
"""Table of one row: how the approximate search is asked, and what it was measured to find."""
METADATA_KEY = b"emo_index"
"""Key of the schema's metadata of `IMAGES_TABLE`: format, length of the embeddings and model, as JSON."""

FieldKind = Literal["text", "number"]

FILTER_FIELDS: dict[str, FieldKind] = {
    "id": "text",
    "file": "text",
    "member": "text",
    "source": "text",
    "split": "text",
    "width": "number",
    "height": "number",
    "sha256": "text",
    "description": "text",
    "background": "text",
    "attribute": "text",
    "subject": "text",
    "phrases": "text",
    "emotion": "text",
    "emotion_by": "text",
    "confidence": "number",
    "intensity": "number",
    "intensity_level": "text",
    "probe_emotion": "text",
    "probe_confidence": "number",
}
"""Fields of an image that may be filtered by. `file` and `member`: where it lies (a tar and the key in it, or a path or address).
`phrases`: what its regions are called. `emotion_by`: who says `emotion`: the record, the model's words (`said`) or its `probe`."""
HIT_FIELDS = ("emotion_scores", "objects", "has_thumbnail")
"""What a hit knows beside `FILTER_FIELDS`: the distribution, and the regions without their masks."""
HIT_COLUMNS = ("id", "record")
"""Columns that a hit is made of: one text is read in a quarter of the time that its fields take."""


@dataclass(frozen=True)
class Identity:
    """What the vectors of an index are."""

    des_dim: int
    """Numbers of an embedding."""
    weights: str | None
    """`bundle_fingerprint` of the model whose embeddings they are; None where nobody said."""
    model: str | None
    """What that model was called when the index was made."""

    def as_metadata(self) -> dict[bytes, bytes]:
        """For the schema of `IMAGES_TABLE`."""
        return {METADATA_KEY: json.dumps({"format": INDEX_FORMAT, **asdict(self)}).encode()}

    @classmethod
    def of_metadata(cls, metadata: Mapping[bytes, bytes] | None, where: str) -> Identity:
        """Read it.

        Raises:
            InputError: it is no index of ours, or one of another format.
        """
        if metadata is None or METADATA_KEY not in metadata:
            msg = f"{where}: a LanceDB folder, but no index that emo index build has made"
            raise InputError(msg)
        found = object_of(decode_json(metadata[METADATA_KEY], where), where)
        if found.get("format") != INDEX_FORMAT:
            msg = f"{where}: index of format {found.get('format')!r}; this version reads {INDEX_FORMAT}: build it again"
            raise InputError(msg)

        def text(key: str) -> str | None:
            return None if found.get(key) is None else text_of(found[key], f"{where}: key {key!r}")

        return cls(integer_of(found["des_dim"], f"{where}: key 'des_dim'", low=1, high=1 << 20), text("weights"), text("model"))


def images_schema(identity: Identity) -> pa.Schema:
    """Columns of `IMAGES_TABLE`."""
    import pyarrow as pa

    kinds = {"text": pa.string(), "number": pa.float64()}
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            *(pa.field(name, kinds[kind]) for name, kind in FILTER_FIELDS.items() if name != "id"),
            # All of these as JSON, with `HIT_FIELDS` beside them.
            pa.field("record", pa.string(), nullable=False),
            pa.field("has_thumbnail", pa.bool_()),
            # Changes where the image does.
            pa.field("stamp", pa.string()),
            pa.field("thumbnail", pa.binary()),
            pa.field("des", pa.list_(pa.float32(), identity.des_dim), nullable=False),
        ],
        metadata=identity.as_metadata(),
    )
