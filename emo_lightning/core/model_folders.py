"""Which model a path stands for: where its base is, what its files hold by content, and what it says that it was made from.

Without torch, so that an experiment can be checked before any is loaded.

`weights_hash` is the one content hash of a model, adapter, DES head or probe. Whatever is made from one of these writes a `made_of.json`
beside its own files (`write_made_of`) that names its parts by this hash, and refuses others (`check_made_of`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from emo_lightning.core.errors import InputError
from emo_lightning.core.files import read_object, write_json
from emo_lightning.core.fingerprints import content_sha256
from emo_lightning.core.foreign import text_of
from emo_lightning.core.terminal import say
from emo_lightning.core.weight_files import MAX_CONFIG_BYTES

__all__ = [
    "BUNDLE_FILE",
    "MADE_OF_FILE",
    "BackboneError",
    "backbone_of",
    "check_made_of",
    "deciding_files",
    "files_of",
    "hub_snapshot",
    "locate",
    "made_of",
    "warn_once",
    "weights_hash",
    "write_made_of",
]

MADE_OF_FILE = "made_of.json"
"""In a folder of weights: part -> `weights_hash` of what it was made from."""
BUNDLE_FILE = "emo.json"
"""In the folder of an emotion model: where its backbone, DES head and probe are."""
_ADAPTER = "adapter_config.json"
_BASE = "base_model_name_or_path"
_DECIDES = (
    "*.safetensors",
    "*.bin",
    "*.index.json",
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "preprocessor_config.json",
    "tokenizer*.json",
    "tokenizer.model",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.*",
)
"""Files that decide what a model says, as patterns; an optimiser's state, a log or a README does not."""


class BackboneError(InputError):
    """The backbone cannot be used as configured; the message names the path or key and what is allowed."""


SHIPPED = {"emo-lightning/tiny-base": Path(__file__).resolve().parents[1] / "models" / "tiny_base"}
"""Ids of the models that come with the package -> their folders; wherever a hub id may stand, they may."""


def _shipped(path: str) -> str:
    """The folder of a model that comes with the package, unless there is one of that name here."""
    return str(SHIPPED[path]) if path in SHIPPED and not Path(path).is_dir() else path


def backbone_of(path: str) -> str:
    """The backbone that an emotion model's folder names in its `emo.json`; any other path or id is its own.

    So wherever a backbone is asked for, the folder of a whole model may be given. The id of a model that comes with the package stands for
    its folder.

    Raises:
        BackboneError: the file cannot be read, or leads back to itself.
    """
    path = _shipped(path)
    seen: list[Path] = []
    while (folder := files_of(path)) is not None and (folder / BUNDLE_FILE).is_file():
        file = folder / BUNDLE_FILE
        said = text_of(
            read_object(file, error=BackboneError, max_bytes=MAX_CONFIG_BYTES).get("backbone"),
            f"{file}: key 'backbone'",
            BackboneError,
        )
        said = _shipped(said)
        place = folder / said
        # Not `Path.exists`, which raises for a name that no file can have.
        found = str(place.resolve()) if os.path.exists(place) else said  # noqa: PTH110
        if Path(found) == folder.resolve():
            return path
        seen.append(folder.resolve())
        if Path(found) in seen:
            msg = f"{file}: key 'backbone': {said!r} leads back to this file"
            raise BackboneError(msg)
        path = found
    return path


def locate(path: str) -> tuple[str, Path | None]:
    """(base model, adapter folder or None).

    Args:
        path: folder of a model, an adapter or an emotion model (`backbone_of`), or a hub id.

    Raises:
        BackboneError: no such folder, or an adapter whose base is not there, or is there with other content.
    """
    path = backbone_of(str(Path(path).expanduser()) if path.startswith("~") else path)
    if (Path(path) / _ADAPTER).exists():
        return _base_of(Path(path)), Path(path)
    looks_local = path.startswith((".", "/")) or path.count("/") > 1
    if looks_local and not (Path(path) / "config.json").exists():
        msg = f"backbone path {path!r}: no folder with config.json or adapter_config.json there"
        raise BackboneError(msg)
    return path, None


def _base_of(adapter: Path) -> str:
    """The adapter's base model: the folder of that name nearest to the adapter, else as written.

    So an adapter is found from any working directory, a run directory can be moved with its base, and another project's folder of
    the same relative name is not taken for it. Where the adapter names its base by content, a folder with other content is passed over.
    """
    config = adapter / _ADAPTER
    base = _adapter_config(adapter).get(_BASE)
    if not base:
        msg = f"{config}: key {_BASE!r} is empty; it must name the base model"
        raise BackboneError(msg)
    base = text_of(base, f"{config}: key {_BASE!r}", BackboneError)
    wanted = made_of(adapter).get("base")
    around = [] if Path(base).is_absolute() else [folder / base for folder in adapter.resolve().parents]
    # A set of places would not keep their order.
    places = list({place.resolve(): place for place in (*around, Path(base)) if (place / "config.json").is_file()}.values())
    if wanted is None and places:
        warn_once(
            f"{adapter} names no content hash of its base model (version 0.2 and other programs write none); taken: {places[0]}"
        )
        return str(places[0])
    for place in places:
        if weights_hash(str(place)) == wanted:
            return str(place)
    if places:
        msg = (
            f"adapter {adapter} was trained on another base model than {places[0]}, whose files have changed or are of another model; "
            f"put the one with content {wanted} back, or name it as {_BASE!r} in {config}"
        )
        raise BackboneError(msg)
    if Path(base).is_absolute() or base.startswith(".") or base.count("/") > 1:
        msg = f"{config}: key {_BASE!r}: there is no folder {base!r}"
        raise BackboneError(msg)
    return base


def _adapter_config(adapter: Path) -> dict[str, object]:
    return read_object(adapter / _ADAPTER, error=BackboneError, max_bytes=MAX_CONFIG_BYTES)


def weights_hash(path: str) -> str:
    """SHA-256 of what a path says, hexadecimal: of its own files and, for an adapter, of its base model's.

    Where the files lie does not matter, nor does what else lies beside them.

    Args:
        path: folder of a model, an adapter, a DES head or a probe, or a hub id. An id stands for the files that the local cache has of
            it; while there are none, for itself.

    Raises:
        BackboneError: neither a folder nor an id.
        OSError: a file cannot be read.
    """
    base, adapter = locate(path)
    digest = hashlib.sha256(b"weights 1\n")
    for place in (base, *([str(adapter)] if adapter else [])):
        folder = files_of(place)
        if folder is None:
            digest.update(f"id {place}\n".encode())
            continue
        for file in deciding_files(folder):
            digest.update(f"{file.name} {content_sha256(file)}\n".encode())
        if adapter is not None and folder == adapter:
            # Without where the base lay when it was trained: that is not content.
            settings = {key: value for key, value in _adapter_config(adapter).items() if key != _BASE}
            digest.update(json.dumps(settings, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()


def deciding_files(folder: Path) -> list[Path]:
    """Files of a folder that decide what a model says, by name."""
    return sorted({file for kind in _DECIDES for file in folder.glob(kind)}, key=lambda file: file.name)


def files_of(name: str) -> Path | None:
    """The folder itself, or that of a hub id in the local cache; None for an id that has not been downloaded."""
    name = _shipped(name)
    return Path(name) if Path(name).is_dir() else hub_snapshot(name)


def hub_snapshot(name: str) -> Path | None:
    """The folder of a hub id in the local cache, or None where it has none."""
    if name.count("/") > 1:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def made_of(folder: str | Path) -> dict[str, str]:
    """What a folder says that it was made from, part -> content hash; empty where it says nothing (made by version 0.2, or by others).

    Raises:
        BackboneError: its `made_of.json` cannot be read.
    """
    path = Path(folder) / MADE_OF_FILE
    if not path.is_file():
        return {}
    found = read_object(path, error=BackboneError, max_bytes=MAX_CONFIG_BYTES)
    return {part: text_of(value, f"{path}: key {part!r}", BackboneError) for part, value in found.items()}


def write_made_of(folder: str | Path, parts: Mapping[str, str]) -> None:
    """Write `made_of.json`, from part to content hash or to another word that must be equal."""
    write_json(Path(folder) / MADE_OF_FILE, dict(parts))


def check_made_of(maker: object, said: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Refuse parts that do not belong together.

    Args:
        maker: what says what it was made from, for the message.
        said: by it; where it is empty, one warning is given and everything is taken.
        now: what it is to be used with. A part that only `said` names is not compared; one that only `now` names is taken with a
            warning.

    Raises:
        BackboneError: a part is another one; names it.
    """
    if not said:
        warn_once(
            f"{maker} names no content hash of what it was made from (version 0.2 and other programs write none); taken as it is"
        )
        return
    for part in sorted(said.keys() & now.keys()):
        if said[part] != now[part]:
            msg = f"{maker} was made with another {part}: {said[part][:60]}; here it is {now[part][:60]}"
            raise BackboneError(msg)
    if nameless := sorted(now.keys() - said.keys()):
        warn_once(f"{maker} does not name its {' and '.join(nameless)} by content; taken as it is")


@functools.lru_cache(maxsize=4096)
def warn_once(text: str) -> None:
    """A line on stderr, once in a process and of the first of a machine's ranks alone."""
    if os.environ.get("LOCAL_RANK", "0") in ("", "0"):
        say(f"warning: {text}", file=sys.stderr)
