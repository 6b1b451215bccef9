"""The folder of a trained model: `emo.json`, which says where backbone, DES head and probe are, and what each is asked."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path

from emo_lightning.core.files import read_object, write_json
from emo_lightning.core.foreign import object_of, text_of
from emo_lightning.core.hub import cache_only
from emo_lightning.core.model_folders import check_made_of, made_of, weights_hash
from emo_lightning.core.records import SchemaError
from emo_lightning.data.chat import OBJECTIVES

BUNDLE_FILE = "emo.json"


@dataclass(frozen=True)
class Bundle:
    """What `emo.json` says; folders are absolute once it is read."""

    backbone: str
    """Adapter or model folder, or hub id."""
    head: str
    """Folder of the DES head that was trained on the backbone."""
    probe: str | None
    """Folder of a linear probe on that DES, for the emotion distribution."""
    features: str
    """Objective at whose prompt the hidden states are taken."""
    questions: list[str]
    """Objectives that `emo explain` asks."""
    made_of: dict[str, str] = field(default_factory=dict)
    """Part (`backbone`, `head`, `probe`) -> content hash; empty in a bundle of version 0.2."""


def write_bundle(folder: Path, bundle: Bundle) -> None:
    """Write `FOLDER/emo.json`; paths that exist are written relative to it, so that a run directory can be moved as a whole."""

    def place(path: str) -> str:
        # A hub id stays as it is.
        return os.path.relpath(path, folder) if Path(path).exists() else path

    probe = place(bundle.probe) if bundle.probe else None
    placed = replace(bundle, backbone=place(bundle.backbone), head=place(bundle.head), probe=probe)
    write_json(folder / BUNDLE_FILE, asdict(placed))


def read_bundle(folder: Path) -> Bundle:
    """What `emo.json` says, its folders made absolute.

    Raises:
        SchemaError: no such file, or one with other keys or other kinds of values.
    """
    path = folder / BUNDLE_FILE
    if not path.is_file():
        msg = f"{path}: no such file; --model takes the folder of an experiment's `model` stage, e.g. runs/demo/model"
        raise SchemaError(msg)
    found = read_object(path)
    # Version 0.2 named no content.
    keys = {entry.name for entry in fields(Bundle)} - {"made_of"}
    if set(found) - {"made_of"} != keys:
        msg = f"{path}: keys {', '.join(sorted(found))}; expected {', '.join(sorted(keys))}"
        raise SchemaError(msg)

    def text(key: str) -> str:
        if not isinstance(found[key], str) or not found[key]:
            msg = f"{path}: key {key!r}: found {found[key]!r}; expected text"
            raise SchemaError(msg)
        return str(found[key])

    def place(key: str) -> str:
        given = text(key)
        # Not `Path.exists`, which raises for a name that no file can have.
        return str((folder / given).resolve()) if os.path.exists(folder / given) else given  # noqa: PTH110

    questions = found["questions"]
    if not isinstance(questions, list) or not questions or not all(isinstance(name, str) for name in questions):
        msg = f"{path}: key 'questions': found {questions!r}; expected a list of objectives"
        raise SchemaError(msg)
    if unknown := next((name for name in (*questions, text("features")) if name not in OBJECTIVES), None):
        msg = f"{path}: found the objective {unknown!r}; allowed: {', '.join(OBJECTIVES)}"
        raise SchemaError(msg)
    where = f"{path}: key 'made_of'"
    made = object_of(found.get("made_of", {}), where, SchemaError)
    parts = {part: text_of(value, f"{where}: {part}", SchemaError) for part, value in made.items()}
    probe = place("probe") if found["probe"] else None
    return Bundle(place("backbone"), place("head"), probe, text("features"), questions, parts)


def bundle_folder(name: str | Path, revision: str | None = None, token: str | None = None) -> Path:
    """Where the files of a model are: the folder itself, or that of a hub id, which is downloaded where the cache lacks it.

    Args:
        name: folder, or `owner/name`.
        revision: branch, tag or commit of the hub's.
        token: for a private one.

    Raises:
        HubError: the hub cannot be reached, and nothing of the id is in the local cache.
        SchemaError: the hub has no such model, or does not give it.
    """
    text = str(name)
    if Path(text).exists() or text.startswith((".", "/", "~")) or text.count("/") != 1:
        return Path(text).expanduser()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(text, revision=revision, token=token, local_files_only=cache_only(text)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError) as error:
        msg = f"{text}: no folder of that name, and the hub does not give it: {' '.join(str(error).split())}"
        raise SchemaError(msg) from None


def check_bundle(bundle: Bundle, where: object) -> dict[str, str]:
    """Refuse parts that do not belong together: a head of another backbone or prompt, a probe of another head, a part that has changed.

    Args:
        bundle: its folders are there.
        where: what names them, for messages.

    Returns:
        Part -> content hash, as `Bundle.made_of`.

    Raises:
        BackboneError: names the part.
    """
    now = {"backbone": weights_hash(bundle.backbone), "head": weights_hash(bundle.head)}
    if bundle.probe:
        now["probe"] = weights_hash(bundle.probe)
    if bundle.made_of:
        check_made_of(where, bundle.made_of, now)
    check_made_of(f"DES head {bundle.head}", made_of(bundle.head), {"backbone": now["backbone"], "prompt": bundle.features})
    if bundle.probe:
        check_made_of(f"probe {bundle.probe}", made_of(bundle.probe), {"head": now["head"]})
    return now


def bundle_fingerprint(folder: Path, content: Callable[[str], str] = weights_hash) -> str:
    """sha256 over what decides the DES of an image: backbone, DES head and prompt.

    Args:
        folder: of the bundle.
        content: hash of a folder of weights.

    Raises:
        SchemaError: as `read_bundle`.
    """
    bundle = read_bundle(folder)
    parts = [content(bundle.backbone), content(bundle.head), bundle.features]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
