"""Tars, predictions and embeddings as a data set that FiftyOne opens: its own JSON layout, written without the library.

The layout is the one that `fiftyone.types.FiftyOneDataset` reads where `metadata.json` names no version of the library: `samples.json` with
a dictionary for each sample, and the images in `data/`. Labels carry the library's class names in `_cls`; arrays are zlib-compressed `.npy`
in base64 (`fiftyone.core.utils.serialize_numpy_array`).
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emo_lightning.analysis.des_space.inputs import read_vectors
from emo_lightning.analysis.references import by_id
from emo_lightning.core.files import atomic_folder, write_json
from emo_lightning.core.masks import decode_mask
from emo_lightning.core.records import EMOTIONS, GroundedObject, Mask, PredictedObject, Prediction, Record, SchemaError
from emo_lightning.data.tar_index import TarIndex

RESERVED = ("record", "truth", "des")
"""Names that predictions may not have: the fields that records and embeddings bring."""

_NUDGE = 1e-9
"""Share of an image by which boxes are moved: FiftyOne cuts edges down to whole pixels, and 67 / 129 · 129 is less than 67."""

Json = dict[str, object]


def write_fiftyone(
    tars: str | Path | Sequence[str | Path],
    out: Path,
    *,
    predictions: Mapping[str, Path] | None = None,
    embeddings: Path | None = None,
    name: str = "emotions",
) -> dict[str, int]:
    """Write a folder that `fiftyone.Dataset.from_dir(FOLDER, fiftyone.types.FiftyOneDataset)` opens.

    Each sample has `record_id`, `source`, the words and the intensity of its record, `emotion` (Classification), `emotion_scores`, `objects`
    (Detections, with masks), `des` (a vector), its split as a tag, and `NAME_emotion`, `NAME_objects`, … of each set of predictions.

    Args:
        tars: files, folders, globs, URLs.
        out: folder to write; missing or empty.
        predictions: name -> file (`references.by_id`). Images without one lack those fields.
        embeddings: of the images, `.parquet` or tars; without it those in the tars.
        name: of the data set.

    Returns:
        How many samples, boxes, masks, embeddings and predictions there are.

    Raises:
        SchemaError: a name of predictions that is none, embeddings or predictions of none of the images.
        InputError: `out` is not empty; anything about the tars.
    """
    predictions = dict(predictions or {})
    for arm in predictions:
        if not arm.isidentifier() or arm.startswith("_") or arm in RESERVED:
            msg = f"predictions {arm!r}: a name begins fields, of letters, digits and _; {', '.join(RESERVED)} are taken"
            raise SchemaError(msg)
    index = TarIndex.open(tars)
    said = {arm: by_id(path) for arm, path in predictions.items()}
    vectors = {} if embeddings is None else dict(zip(*read_vectors(embeddings), strict=True))
    _check_known(index, {**said, **({str(embeddings): vectors} if embeddings is not None else {})}, embeddings)
    counts = dict.fromkeys(("samples", "boxes", "masks", "embeddings", "predictions"), 0)
    with atomic_folder(out) as folder:
        (folder / "data").mkdir()
        with open(folder / "samples.json", "w", encoding="utf-8") as file:
            for row in range(len(index)):
                record = index.record(row)
                vector = vectors.get(record.id) if embeddings is not None else index.des(row)
                answers = {arm: one for arm, known in said.items() if (one := known.get(record.id)) is not None}
                data, extension = index.image_bytes(row)
                path = f"data/{record.id}.{extension}"
                (folder / path).write_bytes(data)
                sample = _sample(record, path, len(data), vector, answers)
                file.write('{"samples": [\n' if row == 0 else ",\n")
                file.write(json.dumps(sample, ensure_ascii=False, allow_nan=False))
                counts["samples"] += 1
                counts["boxes"] += len(record.objects)
                counts["masks"] += sum(one.mask is not None for one in record.objects)
                counts["embeddings"] += vector is not None
                counts["predictions"] += len(answers)
            file.write("\n]}\n")
        about = {"classes": list(map(str, EMOTIONS)), "predictions": sorted(predictions), "made_by": "emo export-fiftyone"}
        write_json(folder / "metadata.json", {"name": name, "media_type": "image", "info": about})
    return counts


def _check_known(index: TarIndex, given: Mapping[str, Mapping[str, object]], embeddings: Path | None) -> None:
    cure = {str(embeddings): "emo embed TARS --model FOLDER --out NEW.parquet"}
    known = {index.id(row) for row in range(len(index))}
    for what, by_image in given.items():
        if by_image and known.isdisjoint(by_image):
            make = cure.get(what, "emo predict MODEL TARS --out NEW.jsonl")
            msg = (
                f"{what}: is of none of the {len(known)} images: it is e.g. of {next(iter(by_image))!r}, and they are e.g. "
                f"{min(known)!r}; make one of these tars: {make}"
            )
            raise SchemaError(msg)


def _sample(
    record: Record, path: str, size: int, vector: NDArray[np.floating] | None, answers: Mapping[str, Prediction]
) -> Json:
    media = {"jpg": "image/jpeg", "jpeg": "image/jpeg"}.get(path.rpartition(".")[2], f"image/{path.rpartition('.')[2]}")
    metadata = {"_cls": "ImageMetadata", "size_bytes": size, "mime_type": media, "width": record.width, "height": record.height}
    fields: Json = {
        "filepath": path,
        "tags": [record.split] if record.split else [],
        "metadata": metadata,
        "record_id": record.id,
        "source": record.source,
        "licence": record.provenance.get("licence"),
        **_words(record),
        "emotion_scores": None if record.emotion_scores is None else {str(e): s for e, s in record.emotion_scores.items()},
        **_labels(record, record.width, record.height, f"{record.id}/truth"),
        "des": None if vector is None else _array(np.asarray(vector, dtype=np.float32)),
    }
    for arm, said in answers.items():
        named = {**_words(said), **_labels(said, record.width, record.height, f"{record.id}/{arm}")}
        if said.emotion_scores:
            named["emotion_scores"] = {key: _finite(value) for key, value in said.emotion_scores.items()}
        fields.update({f"{arm}_{key}": value for key, value in named.items()})
    return {key: value for key, value in fields.items() if value is not None}


def _words(item: Record | Prediction) -> Json:
    """What is text or a number."""
    keys = ("description", "background", "attribute", "subject", "intensity_level")
    return {
        **{key: getattr(item, key) for key in keys},
        "intensity": None if item.intensity is None else _finite(item.intensity),
    }


def _labels(item: Record | Prediction, width: int, height: int, where: str) -> Json:
    """What FiftyOne shows as labels."""
    emotion: Json | None = None
    if item.emotion is not None:
        emotion = {"_cls": "Classification", "label": str(item.emotion), **_id(f"{where}/emotion")}
        if item.confidence is not None:
            emotion["confidence"] = _finite(item.confidence)
    regions: list[GroundedObject | PredictedObject] = [*item.objects]
    objects = [
        box for number, one in enumerate(regions) if (box := _detection(one, width, height, f"{where}/{number}")) is not None
    ]
    return {"emotion": emotion, "objects": {"_cls": "Detections", "detections": objects} if objects else None}


def _detection(one: GroundedObject | PredictedObject, width: int, height: int, where: str) -> Json | None:
    """A region; None where a model's box is no numbers. Boxes of FiftyOne are (left, top, width, height), shares of the image."""
    if not all(math.isfinite(number) for number in one.bbox):
        return None
    x1, y1, x2, y2 = one.bbox
    found: Json = {
        "_cls": "Detection",
        **_id(where),
        "label": one.phrase or "object",
        "bounding_box": [x1 / width + _NUDGE, y1 / height + _NUDGE, (x2 - x1) / width, (y2 - y1) / height],
        "primary": one.primary,
    }
    if one.score is not None:
        found["confidence"] = _finite(one.score)
    if isinstance(one, GroundedObject) and one.mask is not None:
        found["mask"] = _array(_within(one.mask, one.bbox))
    return found


def _within(mask: Mask, box: Sequence[float]) -> NDArray[np.bool_]:
    """The mask's pixels in the box, as FiftyOne lays them over it: boolean, (height, width) of the box in whole pixels."""
    pixels = decode_mask(mask)
    height, width = pixels.shape
    left, top = (min(max(0, math.floor(edge)), most - 1) for edge, most in ((box[0], width), (box[1], height)))
    right, bottom = (
        max(low + 1, min(most, math.ceil(edge))) for edge, most, low in ((box[2], width, left), (box[3], height, top))
    )
    return pixels[top:bottom, left:right]


def _array(values: NDArray[np.generic]) -> Json:
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(values), allow_pickle=False)
    return {"$binary": {"base64": base64.b64encode(zlib.compress(out.getvalue())).decode(), "subType": "00"}}


def _id(what: str) -> Json:
    """The database's id of a label: the same at every export."""
    return {"_id": {"$oid": hashlib.blake2b(what.encode(), digest_size=12).hexdigest()}}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
