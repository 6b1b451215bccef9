"""Files of a feature cache: what a part and an index hold, and when a folder is complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from emo_lightning.core.foreign import decode_json, integer_of, list_of, object_of, read_capped, text_of
from emo_lightning.core.mirrors import local_folder
from emo_lightning.core.model_folders import check_made_of
from emo_lightning.core.records import DIMENSIONS, EMOTIONS, NO_EMOTION
from emo_lightning.core.remote import RemoteError
from emo_lightning.core.text import name_fault
from emo_lightning.core.weight_files import TensorHeader, tensor_headers
from emo_lightning.data.leaks import Origin
from emo_lightning.data.mapped_parts import PartError, checked_tensor, header_text, open_part

FORMAT_VERSION = 1
CACHE_FILES = ("part-*.safetensors", "index-*.json")
"""What a cache consists of."""
RATINGS_TENSOR = "affect"
"""Tensor of people's ratings: in parts where an image has some, and in no other."""
FEATURES_HEADER_KEY = "features"
"""Key of a part's header."""
_STORED = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""dtype of the features -> its name in a safetensors header."""
_SHOWN = 8
"""Ranks named in a message."""


class FeatureError(PartError):
    """A feature cache is incomplete, damaged, or not the expected one; the message names the file."""


@dataclass(frozen=True)
class FeatureSpec:
    """What all parts of one cache share."""

    fingerprint: str
    num_layers: int
    hidden_size: int
    dtype: str
    made_of: Mapping[str, str] = field(default_factory=dict)
    """What the features are of: the backbone's content hash, its pixel limits, the prompt, the source; empty in caches of version 0.2."""

    computed: Mapping[str, str] = field(default_factory=dict)
    """How they come about: type of the weights, precision, attention; empty in caches of version 0.2 and early 0.3."""

    def check(self, other: FeatureSpec, where: Path) -> None:
        """Raise `FeatureError` with the first difference."""
        if self.made_of and not other.made_of and self.fingerprint != other.fingerprint:
            msg = (
                f"{where}: was begun by version 0.2, which did not note what its tars and its backbone held, so nothing shows that they are "
                f"the same: delete {where.parent} to make it anew, or finish it with version 0.2"
            )
            raise FeatureError(msg)
        for name in ("fingerprint", "num_layers", "hidden_size", "dtype"):
            if getattr(self, name) != getattr(other, name):
                msg = (
                    f"{where}: {name} is {getattr(other, name)!r}; expected {getattr(self, name)!r}. "
                    "The cache was made by another backbone or from other data: use another folder, or delete this one"
                )
                raise FeatureError(msg)
        self.check_computed(other, where)
        if self.made_of and other.made_of:
            check_made_of(f"{where}: this part of the cache", other.made_of, self.made_of)

    def check_computed(self, other: FeatureSpec, where: object) -> None:
        """Raise `FeatureError` where the other's features came about otherwise than these."""
        for name in sorted(self.computed.keys() & other.computed.keys()):
            if self.computed[name] != other.computed[name]:
                msg = (
                    f"{where}: was computed with {name} {other.computed[name]!r}; here it is {self.computed[name]!r}. Its numbers do not go "
                    "together with the rest: use another folder, or delete this one"
                )
                raise FeatureError(msg)


def feature_folder(place: str | Path) -> Path:
    """The folder of a cache on this machine; of one behind a URL, a copy.

    Raises:
        FeatureError: it cannot be copied.
    """
    try:
        return local_folder(place, CACHE_FILES)
    except RemoteError as error:
        raise FeatureError(str(error)) from error


def index_name(rank: int) -> str:
    """Name of a rank's mark of completion."""
    return f"index-{rank:05}.json"


def read_header(path: Path) -> tuple[FeatureSpec, list[Origin]]:
    """What a part says of itself, and its images in order; no features are read, labels and places of all samples are checked.

    Raises:
        FeatureError: it is damaged, no part of a feature cache, or a tensor is missing or not as its header says.
    """
    headers = tensor_headers(path, FeatureError)
    with open_part(path, FeatureError) as file:
        spec, origins = _spec(path, header_text(path, file, FEATURES_HEADER_KEY, FeatureError))
        tokens = headers["hidden"].shape[0] if "hidden" in headers and headers["hidden"].shape else 0
        wanted = _tensors(spec, len(origins), tokens)
        if RATINGS_TENSOR in headers:
            wanted[RATINGS_TENSOR] = TensorHeader("F32", (len(origins), len(DIMENSIONS)))
        for name, expected in wanted.items():
            found = headers.get(name)
            if found != expected:
                what = "is missing" if found is None else f"has shape {list(found.shape)} ({found.dtype})"
                msg = f"{path}: tensor {name!r} {what}; its header and keys say {list(expected.shape)} ({expected.dtype})"
                raise FeatureError(msg)
        _check_rows(
            path,
            {
                name: checked_tensor(path, file, FEATURES_HEADER_KEY, name, FeatureError)
                for name in ("offsets", "target", "emotion", "intensity", RATINGS_TENSOR)
                if name in wanted
            },
            tokens,
        )
    return spec, origins


def _spec(path: Path, text: str) -> tuple[FeatureSpec, list[Origin]]:
    """What stands in a part's header under `features`."""
    header = _versioned(path, text)
    where = f"{path}: header"
    spec = FeatureSpec(
        text_of(header.get("fingerprint"), f"{where}: 'fingerprint'", FeatureError),
        integer_of(header.get("num_layers"), f"{where}: 'num_layers'", FeatureError, low=1),
        integer_of(header.get("hidden_size"), f"{where}: 'hidden_size'", FeatureError, low=1),
        text_of(header.get("dtype"), f"{where}: 'dtype'", FeatureError),
        *(_texts(header, name, where) for name in ("made_of", "computed")),
    )
    if spec.dtype not in _STORED:
        msg = f"{where}: 'dtype': found {spec.dtype[:40]!r}; allowed: {', '.join(_STORED)}"
        raise FeatureError(msg)
    keys = [
        text_of(key, f"{where}: 'keys'", FeatureError) for key in list_of(header.get("keys"), f"{where}: 'keys'", FeatureError)
    ]
    return spec, _origins(header.get("origins"), keys, f"{where}: 'origins'")


def _texts(header: Mapping[str, object], name: str, where: str) -> dict[str, str]:
    """Name -> text; empty where an earlier version wrote none."""
    found = object_of(header.get(name, {}), f"{where}: {name!r}", FeatureError)
    return {key: text_of(value, f"{where}: {name!r}", FeatureError) for key, value in found.items()}


def _origins(found: object, keys: list[str], where: str) -> list[Origin]:
    """Of each key; version 0.2 wrote the keys alone."""
    if found is None:
        return [Origin(key) for key in keys]
    rows = [list_of(row, where, FeatureError) for row in list_of(found, where, FeatureError)]
    if len(rows) != len(keys) or not all(
        len(row) in (3, 4) and all(value is None or isinstance(value, str) for value in row) for row in rows
    ):
        msg = f"{where}: expected [split, sha256, group] or with the source's sha256 behind, of each of the {len(keys)} keys"
        raise FeatureError(msg)
    return [
        Origin(key, *(None if value is None else text_of(value, where, FeatureError) for value in row))
        for key, row in zip(keys, rows, strict=True)
    ]


def _tensors(spec: FeatureSpec, samples: int, tokens: int) -> dict[str, TensorHeader]:
    return {
        "offsets": TensorHeader("I64", (samples + 1,)),
        "target": TensorHeader("F32", (samples, len(EMOTIONS))),
        "emotion": TensorHeader("I64", (samples,)),
        "intensity": TensorHeader("F32", (samples,)),
        "hidden": TensorHeader(_STORED[spec.dtype], (tokens, spec.num_layers, spec.hidden_size)),
    }


def _check_rows(path: Path, rows: Mapping[str, Tensor], tokens: int) -> None:
    """Refuse places outside the file, and labels that are none (`Supervision` says what is one)."""
    offsets, target, emotion, intensity = rows["offsets"], rows["target"].double(), rows["emotion"], rows["intensity"]
    labelled = ~target.isnan().all(1)
    right = {
        "offsets": bool((offsets[1:] > offsets[:-1]).all()) and int(offsets[0]) == 0 and int(offsets[-1]) == tokens,
        "target": bool(((target >= 0).all(1) & ((target.sum(1) - 1).abs() <= 1e-3))[labelled].all()),
        "emotion": bool(((emotion >= NO_EMOTION) & (emotion < len(EMOTIONS))).all()),
        "intensity": bool((intensity.isnan() | ((intensity >= 1) & (intensity <= 10))).all()),
    }
    if RATINGS_TENSOR in rows:
        affect = rows[RATINGS_TENSOR]
        right[RATINGS_TENSOR] = bool((affect.isnan() | (affect.abs() <= 1)).all())
    allowed = {
        RATINGS_TENSOR: "numbers from -1 to 1, or NaN",
        "offsets": f"rising places from 0 to {tokens:,}",
        "target": "distributions that sum to 1, or NaN throughout",
        "emotion": f"classes from {NO_EMOTION} to {len(EMOTIONS) - 1}",
        "intensity": "numbers from 1 to 10, or NaN",
    }
    if wrong := [name for name, fine in right.items() if not fine]:
        msg = f"{path}: tensor {wrong[0]!r} holds other values than {allowed[wrong[0]]}"
        raise FeatureError(msg)


class PartIndex(TypedDict):
    """A rank's mark of completion."""

    version: int
    rank: int
    world_size: int
    parts: list[str]


def read_part_index(path: Path) -> PartIndex:
    """A rank's mark of completion.

    Raises:
        FeatureError: not JSON, of another version, or without one of the keys.
    """
    found = _versioned(path, read_capped(path, error=FeatureError))
    size = integer_of(found.get("world_size"), f"{path}: 'world_size'", FeatureError, low=1)
    parts = list_of(found.get("parts"), f"{path}: 'parts'", FeatureError)
    for name in parts:
        if fault := name_fault(text_of(name, f"{path}: 'parts'", FeatureError)):
            msg = f"{path}: 'parts': {name!r:.80} {fault}"
            raise FeatureError(msg)
    return {
        "version": FORMAT_VERSION,
        "rank": integer_of(found.get("rank"), f"{path}: 'rank'", FeatureError, low=0, high=size - 1),
        "world_size": size,
        "parts": [text_of(name, f"{path}: 'parts'", FeatureError) for name in parts],
    }


def _versioned(path: Path, text: str | bytes) -> dict[str, object]:
    """A JSON object of our version."""
    found = decode_json(text, path, FeatureError)
    version = found.get("version") if isinstance(found, dict) else None
    if not isinstance(found, dict) or version != FORMAT_VERSION or isinstance(version, bool):
        msg = f"{path}: version is {version!r}; this program reads {FORMAT_VERSION}"
        raise FeatureError(msg)
    return found


def complete_parts(directory: Path) -> list[str]:
    """Names of the parts, after checking that every rank is done and that exactly the listed parts are there."""
    indices = [read_part_index(path) for path in sorted(directory.glob("index-*.json"))]
    if not indices:
        msg = f"{directory}: no finished feature cache (no index-*.json); run the extraction to its end"
        raise FeatureError(msg)
    if len(sizes := {index["world_size"] for index in indices}) > 1:
        msg = f"{directory}: indices of runs with {sorted(sizes)} ranks; run the extraction again to its end"
        raise FeatureError(msg)
    size, ranks = sizes.pop(), {index["rank"] for index in indices}
    # Only as many are looked for as there may be beside those that are there: an index may claim any number.
    if len(ranks) < size:
        missing = [rank for rank in range(min(size, len(ranks) + _SHOWN)) if rank not in ranks][:_SHOWN]
        more = f" and {size - len(ranks) - len(missing):,} more" if size - len(ranks) > len(missing) else ""
        msg = f"{directory}: the feature cache is incomplete: no index of ranks {missing}{more}; run the extraction to its end"
        raise FeatureError(msg)
    listed = {name for index in indices for name in index["parts"]}
    present = {path.name for path in directory.glob("part-*.safetensors")}
    if listed != present:
        msg = (
            f"{directory}: parts missing: {sorted(listed - present)}, parts in no index: {sorted(present - listed)}; "
            "run the extraction again to its end"
        )
        raise FeatureError(msg)
    return sorted(listed)
