"""Rows of an index from embeddings that are there already: a Parquet file of `emo embed`, or a feature cache under a DES head."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emo_lightning.core.emotions import NO_EMOTION
from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.images import IMAGE_SUFFIXES
from emo_lightning.core.model_folders import check_made_of, made_of, warn_once, weights_hash
from emo_lightning.core.parquet import MODEL_KEY, parquet_batches
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.records import EMOTIONS, Emotion, Prediction, Record, Reference, SchemaError, read_jsonl
from emo_lightning.inference.pictures import as_picture
from emo_lightning.search.rows import NewRow, thumbnail_of
from emo_lightning.search.table import vectors_of
from emo_lightning.search.writer import IndexWriter

if TYPE_CHECKING:
    import pyarrow as pa

    from emo_lightning.inference.bundle import Bundle

_ROWS = 1024
"""Embeddings at a time."""
_FEATURES = 64
"""Images of a feature cache at a time."""
_SAID = ("width", "height", "description", "background", "attribute", "subject", "intensity", "objects")
"""Columns of a table of `emo explain`."""


class Stretch(NamedTuple):
    """Some embeddings."""

    ids: list[str]
    vectors: NDArray[np.float32]
    """(N, des_dim)"""
    known: list[Reference | Prediction | None]
    """What the file itself says of each."""


class Known(NamedTuple):
    """What is known of an image elsewhere."""

    record: Reference | Prediction | None
    file: str | None
    member: str | None
    thumbnail: Callable[[], bytes] | None


class Records:
    """What is true of images, by id: out of tars, one at a time when it is asked for, or of JSON lines.

    Args:
        given: tars (files, folders, globs), or `.jsonl` files of records.

    Raises:
        UserError: a file is missing, or is no such file.
    """

    def __init__(self, given: Sequence[str]) -> None:
        from emo_lightning.data.tar_index import TarIndex

        lines = [one for one in given if one.endswith(".jsonl")]
        tars = [one for one in given if not one.endswith(".jsonl")]
        self._records = {record.id: (record, path) for path in lines for record in read_jsonl(path, Reference)}
        self._index = TarIndex.open(tars, bad_images=True) if tars else None
        self._rows: dict[str, tuple[int, str]] = {}
        if self._index is not None:
            shards = self._index.shards
            self._rows = {self._index.id(row): (row, one.path) for one in shards for row in range(one.start, one.stop)}

    def get(self, name: str) -> Known | None:
        """Of one image; None where nothing is.

        Raises:
            UserError: its record in the tar is none.
        """
        if name in self._rows and self._index is not None:
            index, (row, tar) = self._index, self._rows[name]
            record: Record = index.record(row)
            return Known(record, tar, index.key(row), lambda: thumbnail_of(index.picture(row, record)))
        if name in self._records:
            said, path = self._records[name]
            return Known(said, path, None, None)
        return None


def add_vectors(writer: IndexWriter, stretches: Iterator[Stretch], records: Records | None, *, thumbnails: bool = True) -> int:
    """Every embedding that the index does not have yet.

    Args:
        writer: of the index, whose `left_out` gets what cannot be taken in.
        stretches: of embeddings.
        records: what is true of their images; None where nothing is known but what the file says.
        thumbnails: whether small pictures are kept: those of `records`, or of the files that the ids are paths of.

    Returns:
        How many of them have a record.
    """
    recorded = 0
    with progress_bars("images", stay=False) as bars:
        bar = bars.add_task("index", total=None)
        for stretch in stretches:
            rows = []
            for name, des, said in zip(*stretch, strict=True):
                stamp = f"{zlib.crc32(des.tobytes()):08x}"
                if writer.has(name, stamp):
                    continue
                try:
                    known = (None if records is None else records.get(name)) or _own(name, said)
                    picture = known.thumbnail() if thumbnails and known.thumbnail is not None else None
                except UserError as error:
                    writer.left_out[name] = f"{name}: {error}"
                    continue
                rows.append(NewRow(name, stamp, known.file, known.member, known.record, des, None, picture))
                recorded += known.record is not said
            writer.add(rows)
            bars.advance(bar, len(stretch.ids))
    writer.flush()
    return recorded


def _own(name: str, said: Reference | Prediction | None) -> Known:
    """Of an image of which there is no record: its file, where the id is the path of one."""
    if not name.lower().endswith(IMAGE_SUFFIXES) or not Path(name).is_file():
        return Known(said, None, None, None)
    return Known(said, name, None, lambda: thumbnail_of(as_picture(name)))


def holds_vectors(path: str) -> bool:
    """Whether a Parquet file has embeddings, and no paths of pictures."""
    if not path.endswith(".parquet") or not Path(path).is_file():
        return False
    batches = parquet_batches(path, rows=1)
    first = next(batches, None)
    batches.close()  # type: ignore[attr-defined]  # it is a generator
    return first is not None and {"id", "des"} <= set(first.schema.names)


def is_feature_cache(path: str) -> bool:
    """Whether a folder is one that a stage of features has written."""
    return Path(path).is_dir() and any(Path(path).glob("part-*.safetensors"))


def parquet_weights(path: str) -> str | None:
    """Which model's embeddings a Parquet file holds; None where it does not say."""
    batches = parquet_batches(path, rows=1, columns=["id"])
    first = next(batches, None)
    batches.close()  # type: ignore[attr-defined]
    metadata = first.schema.metadata if first is not None else None
    return metadata[MODEL_KEY].decode("ascii", "replace") if metadata and MODEL_KEY in metadata else None


def parquet_stretches(path: str) -> Iterator[Stretch]:
    """Embeddings of a Parquet file of `emo embed`, `emo explain` or a stage, in order.

    Raises:
        InputError: a column is missing or of another type, ids are not texts, or vectors differ in length.
    """
    wanted = ["id", "des", "emotion", "split", "said_emotion", *_SAID]
    width: int | None = None
    for batch in parquet_batches(path, required=("id", "des"), columns=wanted, rows=_ROWS):
        vectors = _vectors(batch["des"], path, width)
        width = vectors.shape[1]
        ids = batch["id"].to_pylist()
        if (bad := next((one for one in ids if not isinstance(one, str) or not one), None)) is not None or None in ids:
            msg = f"{path}: column 'id' holds {bad!r}; expected texts"
            raise InputError(msg)
        columns = {name: batch[name].to_pylist() for name in batch.schema.names if name not in ("id", "des")}
        yield Stretch(ids, vectors, [_known(name, n, columns, path) for n, name in enumerate(ids)])


def _vectors(column: pa.Array, path: str, width: int | None) -> NDArray[np.float32]:
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if not lists or not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        msg = f"{path}: column 'des' is of type {kind}; expected lists of floats"
        raise InputError(msg)
    lengths = {*pc.unique(pc.list_value_length(column)).to_pylist(), *([] if width is None else [width])}
    if len(lengths) != 1 or None in lengths or 0 in lengths or column.null_count or column.flatten().null_count:
        msg = f"{path}: column 'des' has rows of {sorted(map(str, lengths))} values; expected one length, and no nulls"
        raise InputError(msg)
    return vectors_of(column)


def _known(name: str, row: int, columns: Mapping[str, Sequence[object]], path: str) -> Prediction | Reference | None:
    """What the file says of an image beside its embedding: the words of `emo explain`, or the label of a stage."""
    if "said_emotion" in columns:
        said = {key: columns[key][row] for key in _SAID if key in columns}
        return Prediction.model_validate(
            {"id": name, "emotion": columns["said_emotion"][row], **said, "objects": said.get("objects") or []}
        )
    emotion, split = (columns[key][row] if key in columns else None for key in ("emotion", "split"))
    if not emotion and not split:
        return None
    try:
        named = Emotion.parse(str(emotion)) if emotion else None
    except SchemaError as error:
        msg = f"{path}: {name!r}: {error}"
        raise SchemaError(msg) from None
    # Not validated: the id of a photograph is its path, which no tar could hold.
    return Reference.model_construct(id=name, emotion=named, split=str(split) if split else None)


def feature_stretches(folder: str, bundle: Bundle, device: str | None = None) -> Iterator[Stretch]:
    """Embeddings of a feature cache: its hidden states through the DES head of a model, in order of id.

    Args:
        folder: of the cache.
        bundle: the model, of whose backbone and prompt the features are.
        device: torch device.

    Raises:
        UserError: no whole cache, or one of another backbone or prompt.
    """
    import torch

    from emo_lightning.core.devices import usable_device
    from emo_lightning.data.features import FeatureCache, collate_features
    from emo_lightning.models import DESHead

    cache = FeatureCache(folder)
    pixels = {part: said for part, said in made_of(bundle.head).items() if part == "pixels"}
    now = {"backbone": weights_hash(bundle.backbone), "prompt": bundle.features, **pixels}
    check_made_of(f"feature cache {folder}", cache.spec.made_of, now)
    where = torch.device(usable_device(device))
    head = DESHead.from_pretrained(bundle.head).requires_grad_(False).eval().to(where)
    for start in range(0, len(cache), _FEATURES):
        samples = [cache[n] for n in range(start, min(start + _FEATURES, len(cache)))]
        batch = collate_features(samples)
        with torch.no_grad():
            des = head(batch["hidden_states"].to(where).float(), batch["mask"].to(where)).float().cpu().numpy()
        yield Stretch(
            [one.key for one in samples], des, [_labelled(one.key, one.labels.emotion, one.labels.intensity) for one in samples]
        )


def _labelled(name: str, emotion: int, intensity: float) -> Reference:
    """The labels that a feature cache keeps."""
    word = None if emotion == NO_EMOTION else EMOTIONS[emotion]
    return Reference.model_construct(id=name, emotion=word, intensity=None if np.isnan(intensity) else round(intensity))


def check_weights(path: str, weights: str | None, model: str | None) -> None:
    """Refuse embeddings of another model; warn of those that name none.

    Args:
        path: Parquet file of embeddings.
        weights: of the model whose index it is.
        model: what the user calls that model; None where none was named.

    Raises:
        InputError: they are of another model.
    """
    said = parquet_weights(path)
    if said is None:
        taken = (
            f"taken for those of {model}, as you say"
            if model
            else "so pictures cannot be searched for in this index; --model FOLDER says it"
        )
        warn_once(f"{path}: its embeddings name no model; {taken}")
    elif said != weights:
        msg = (
            f"{path}: holds embeddings of another model (weights {said[:12]}) than {model or 'this index'} ({str(weights)[:12]}); embed its "
            f"images again (emo embed IMAGES --model {model or 'FOLDER'} --out NEW.parquet), or name the model that made them (--model)"
        )
        raise InputError(msg)
