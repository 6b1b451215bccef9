"""The folder of a trained model: `emo.json`, which says where backbone, DES head and probe are, and what each is asked."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from emo_lightning.core.files import read_object, write_json
from emo_lightning.core.records import SchemaError

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
    keys = {field.name for field in fields(Bundle)}
    if set(found) != keys:
        msg = f"{path}: keys {', '.join(sorted(found))}; expected {', '.join(sorted(keys))}"
        raise SchemaError(msg)

    def text(key: str) -> str:
        if not isinstance(found[key], str):
            msg = f"{path}: key {key!r}: found {found[key]!r}; expected text"
            raise SchemaError(msg)
        return str(found[key])

    def place(key: str) -> str:
        given = text(key)
        return str((folder / given).resolve()) if given and (folder / given).exists() else given

    questions = found["questions"]
    if not isinstance(questions, list) or not all(isinstance(name, str) for name in questions):
        msg = f"{path}: key 'questions': found {questions!r}; expected a list of objectives"
        raise SchemaError(msg)
    return Bundle(place("backbone"), place("head"), place("probe") if found["probe"] else None, text("features"), questions)


def bundle_fingerprint(folder: Path) -> str:
    """sha256 over what decides the DES of an image: backbone, DES head and prompt.

    Raises:
        SchemaError: as `read_bundle`.
    """
    from emo_lightning.models.fingerprints import weights_fingerprint

    bundle = read_bundle(folder)
    parts = [weights_fingerprint(bundle.backbone), weights_fingerprint(bundle.head), bundle.features]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
