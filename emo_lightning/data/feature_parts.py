"""Files of a feature cache: what a part and an index hold, and when a folder is complete."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypedDict

from safetensors import SafetensorError, safe_open
from torch import Tensor

from emo_lightning.core.errors import InputError
from emo_lightning.core.files import MAX_OBJECT_BYTES
from emo_lightning.core.foreign import decode_json, integer_of, list_of, read_capped, text_of
from emo_lightning.core.records import EMOTIONS
from emo_lightning.core.text import name_fault

FORMAT_VERSION = 1
_MOST_RANKS = 100_000
_MOST_SAMPLES = 100_000_000
"""Of one part."""


class FeatureError(InputError):
    """A feature cache is incomplete, damaged, or not the expected one; the message names the file."""


@dataclass(frozen=True)
class FeatureSpec:
    """What all parts of one cache share."""

    fingerprint: str
    num_layers: int
    hidden_size: int
    dtype: str

    def check(self, other: FeatureSpec, where: Path) -> None:
        """Raise `FeatureError` with the first difference."""
        for name in ("fingerprint", "num_layers", "hidden_size", "dtype"):
            if getattr(self, name) != getattr(other, name):
                msg = (
                    f"{where}: {name} is {getattr(other, name)!r}; expected {getattr(self, name)!r}. "
                    "The cache was made by another backbone or from other data: use another folder, or delete this one"
                )
                raise FeatureError(msg)


def index_name(rank: int) -> str:
    """Name of a rank's mark of completion."""
    return f"index-{rank:05}.json"


class Slices(Protocol):
    """A tensor on disk, of which stretches are read."""

    def __getitem__(self, rows: slice) -> Tensor:
        """Rows of it."""
        ...

    def get_shape(self) -> list[int]:
        """Of the whole tensor."""
        ...


class PartFile(Protocol):
    """A mapped safetensors file; the package's own class has no types."""

    def __enter__(self) -> Self:
        """As a context manager it closes itself."""
        ...

    def __exit__(self, kind: object, error: object, traceback: object, /) -> None:
        """See `__enter__`."""
        ...

    def metadata(self) -> dict[str, str] | None:
        """What stands in the header beside the tensors."""
        ...

    def keys(self) -> list[str]:
        """Names of the tensors."""
        ...

    def get_tensor(self, name: str) -> Tensor:
        """A whole tensor."""
        ...

    def get_slice(self, name: str) -> Slices:
        """A tensor to be read in stretches."""
        ...


def open_part(path: Path) -> PartFile:
    """Map a part.

    Raises:
        FeatureError: it is damaged or cannot be read.
    """
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        msg = f"{path}: damaged or unreadable feature part: {error}"
        raise FeatureError(msg) from None


def read_header(path: Path) -> tuple[FeatureSpec, list[str]]:
    """What a part says of itself, and its keys in order; no features are read.

    Raises:
        FeatureError: it is damaged, no part of a feature cache, or a tensor is missing or not as its header says.
    """
    with open_part(path) as file:
        text = (file.metadata() or {}).get("features")
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
        few = len(shapes.get("offsets", ())) == 1 and shapes["offsets"][0] <= _MOST_SAMPLES
        offsets = file.get_tensor("offsets").tolist() if few else []
    if text is None:
        msg = f"{path}: not a feature part: its header has no key 'features'"
        raise FeatureError(msg)
    header = _versioned(path, text)
    try:
        spec, keys = _spec_of(header)
        expected = _shapes(spec, len(keys), int(offsets[-1]) if offsets else 0)
    # A FeatureError is one; so is what Python says of a last offset that is no whole number.
    except (ValueError, OverflowError) as error:
        msg = f"{path}: not the header of a feature part: {error}"
        raise FeatureError(msg) from None
    if wrong := [name for name, shape in expected.items() if shapes.get(name) != shape]:
        name = wrong[0]
        found = f"has shape {shapes[name]}" if name in shapes else "is missing"
        msg = f"{path}: tensor {name!r} {found}; its header and offsets say {expected[name]}"
        raise FeatureError(msg)
    return spec, keys


def _spec_of(header: dict[str, object]) -> tuple[FeatureSpec, list[str]]:
    """What a part's header says of all parts, and the keys of its own samples."""
    spec = FeatureSpec(
        text_of(header.get("fingerprint"), "key 'fingerprint'", FeatureError),
        integer_of(header.get("num_layers"), "key 'num_layers'", FeatureError, low=1),
        integer_of(header.get("hidden_size"), "key 'hidden_size'", FeatureError, low=1),
        text_of(header.get("dtype"), "key 'dtype'", FeatureError),
    )
    keys = list_of(header.get("keys"), "key 'keys'", FeatureError)
    return spec, [text_of(key, "key 'keys'", FeatureError) for key in keys]


def _shapes(spec: FeatureSpec, samples: int, tokens: int) -> dict[str, tuple[int, ...]]:
    return {
        "offsets": (samples + 1,),
        "target": (samples, len(EMOTIONS)),
        "emotion": (samples,),
        "intensity": (samples,),
        "hidden": (tokens, spec.num_layers, spec.hidden_size),
    }


class PartIndex(TypedDict):
    """A rank's mark of completion."""

    version: int
    rank: int
    world_size: int
    parts: list[str]


def read_index(path: Path) -> PartIndex:
    """A rank's mark of completion.

    Raises:
        FeatureError: not JSON, of another version, or without one of the keys.
    """
    found = _versioned(path, read_capped(path, MAX_OBJECT_BYTES, FeatureError))
    where = f"{path}: not the index of a feature cache"
    ranks = integer_of(found.get("world_size"), f"{where}: key 'world_size'", FeatureError, low=1, high=_MOST_RANKS)
    parts = [
        text_of(part, f"{where}: key 'parts'", FeatureError)
        for part in list_of(found.get("parts"), f"{where}: key 'parts'", FeatureError)
    ]
    for part in parts:
        if fault := name_fault(part):
            msg = f"{where}: key 'parts': {part[:80]!r} {fault}"
            raise FeatureError(msg)
    return {
        "version": FORMAT_VERSION,
        "rank": integer_of(found.get("rank"), f"{where}: key 'rank'", FeatureError, low=0, high=ranks - 1),
        "world_size": ranks,
        "parts": parts,
    }


def _versioned(path: Path, text: str | bytes) -> dict[str, Any]:
    """A JSON object of our version."""
    found = decode_json(text, path, FeatureError)
    version = found.get("version") if isinstance(found, dict) else None
    if not isinstance(found, dict) or version != FORMAT_VERSION or isinstance(version, bool):
        msg = f"{path}: version is {version!r:.60}; this program reads {FORMAT_VERSION}"
        raise FeatureError(msg)
    return found


def complete_parts(directory: Path) -> list[str]:
    """Names of the parts, after checking that every rank is done and that exactly the listed parts are there."""
    indices = [read_index(path) for path in sorted(directory.glob("index-*.json"))]
    if not indices:
        msg = f"{directory}: no finished feature cache (no index-*.json); run the extraction to its end"
        raise FeatureError(msg)
    if len(sizes := {index["world_size"] for index in indices}) > 1:
        msg = f"{directory}: indices of runs with {sorted(sizes)} ranks; run the extraction again to its end"
        raise FeatureError(msg)
    if missing := sorted(set(range(sizes.pop())) - {index["rank"] for index in indices}):
        msg = f"{directory}: the feature cache is incomplete: no index of ranks {missing}; run the extraction to its end"
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
