"""Files of a feature cache: what a part and an index hold, and when a folder is complete."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypedDict

from safetensors import SafetensorError, safe_open
from torch import Tensor

from emo_lightning.core.errors import InputError
from emo_lightning.core.files import parse_json

FORMAT_VERSION = 1


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
    """What a part says of itself, and its keys in order."""
    with open_part(path) as file:
        text = (file.metadata() or {}).get("features")
    if text is None:
        msg = f"{path}: not a feature part: its header has no key 'features'"
        raise FeatureError(msg)
    header = _versioned(path, text)
    try:
        spec = FeatureSpec(*(header[name] for name in ("fingerprint", "num_layers", "hidden_size", "dtype")))
        return spec, list(header["keys"])
    except (KeyError, TypeError) as error:
        msg = f"{path}: not the header of a feature part: {error}"
        raise FeatureError(msg) from None


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
    found = _versioned(path, path.read_bytes())
    try:
        return {
            "version": FORMAT_VERSION,
            "rank": int(found["rank"]),
            "world_size": int(found["world_size"]),
            "parts": list(found["parts"]),
        }
    except (KeyError, TypeError, ValueError) as error:
        msg = f"{path}: not the index of a feature cache: {error}"
        raise FeatureError(msg) from None


def _versioned(path: Path, text: str | bytes) -> dict[str, Any]:
    """A JSON object of our version."""
    found = parse_json(text, path, FeatureError)
    version = found.get("version") if isinstance(found, dict) else None
    if not isinstance(found, dict) or version != FORMAT_VERSION:
        msg = f"{path}: version is {version!r}; this program reads {FORMAT_VERSION}"
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
