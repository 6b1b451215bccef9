"""What a stage is: its settings, and what its inputs hold. Where they lie is no part of it, so a run may be moved with its data.

An input is hashed by content: tars by the CRC-32 of every member, models by their weights and settings, everything else by its bytes.
What an earlier stage has made is such an input, so a change goes down the whole chain. Each file is read once: the run's folder
remembers hashes by path, size, times of change and inode (`.content.json`, which may be deleted at any time).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from emo_lightning.core.errors import UserError
from emo_lightning.core.file_names import EMBEDDINGS_FILE, METRICS_FILE, PREDICTIONS_FILE
from emo_lightning.core.files import read_object
from emo_lightning.core.fingerprints import HASHES, content_sha256
from emo_lightning.core.mirrors import read_folder
from emo_lightning.core.model_folders import files_of, locate, weights_hash
from emo_lightning.core.shipped import anchors_file
from emo_lightning.experiment.kinds import Role, find_kind
from emo_lightning.experiment.stage import PLACEMENT_KEYS, Stage, computed_settings, drop_key

InputHashes = dict[str, str | None]
"""Dotted key -> what it holds; None where that could not be read (the stage itself says why)."""

CONTENT_SUFFIX = ".content.json"
CHANGEABLE_KEYS = ("data.on_error", "data.max_skipped")
"""Settings of what a stage does at an image that cannot be read: a half-done one may go on with others, as no image that it has used was one."""
_NO_SETTINGS = (*PLACEMENT_KEYS, "dirpath")
"""Keys of a config that are no settings: those of a stage's digest, and where its callbacks save to."""
_CACHE_FILES = ("part-*.safetensors", "index-*.json")
_PROBE_FILES = (METRICS_FILE, PREDICTIONS_FILE, EMBEDDINGS_FILE)


def inputs_of(stage: Stage) -> InputHashes:
    """What all inputs of a stage hold now; reads files that are not remembered."""
    HASHES.keep_in(stage.out.parent / CONTENT_SUFFIX)
    try:
        return {key: _read(_HASH[role], value) for key, role, value in _named(stage) if role != "run"}
    finally:
        HASHES.save()


def named_paths(stage: Stage) -> Iterator[str]:
    """Whatever a stage's settings name as an input: paths, patterns, ids and addresses, as they stand there."""
    for _, role, value in _named(stage):
        for one in value if isinstance(value, list) else [value]:
            if role == "probes":
                named = Path(str(one))
                yield from map(str, sorted(named.parent.glob(re.sub(r"\{\w+\}", "*", named.name))))
            elif role not in ("run", "anchors"):
                yield str(one)


def first_changed(old: Mapping[str, str | None], new: Mapping[str, str | None]) -> str | None:
    """The first input that holds something else, or is there on one side alone. What could not be read is not compared."""
    for key in sorted(old.keys() | new.keys()):
        if key not in old or key not in new or not _same(old[key], new[key]):
            return key
    return None


def settings_of(
    kind: str, config: Mapping[str, Any], run_dir: str, placement: Collection[str] = _NO_SETTINGS, *, anywhere: bool = False
) -> object:
    """What a stage computes, without where it runs and saves to, what its inputs are called, and where its run lies.

    Args:
        kind: of the stage.
        config: its resolved arguments.
        run_dir: the run's folder, as it stands in them.
        placement: keys that are left out.
        anywhere: see `computed_settings`.
    """
    settings: Any = _wherever_it_lies(computed_settings(config, placement, anywhere=anywhere), run_dir)
    for key in (*find_kind(kind).reads, *CHANGEABLE_KEYS):
        drop_key(settings, key.split("."))
    return settings


def content_digests(stage: Stage, inputs: InputHashes) -> list[str]:
    """sha256 over what a stage computes and what its inputs hold, the same wherever its run and they lie: checkpoints name it so.

    Args:
        stage: resolved.
        inputs: what its inputs hold (`inputs_of`).

    Returns:
        The digest; and, where they are others, those of earlier versions: keys that say where a stage runs were no part of them wherever they
        stood, and in the first the folders that callbacks save to were one.
    """
    # A model of the hub has a hash only once it was downloaded, which the stage may do.
    held = {key: " ".join(str(hashed).split()[:2]) if hashed else None for key, hashed in inputs.items()}
    found = []
    for placement, anywhere in ((_NO_SETTINGS, False), (_NO_SETTINGS, True), (PLACEMENT_KEYS, True)):
        settings = settings_of(stage.kind, stage.config, str(stage.out.parent), placement, anywhere=anywhere)
        text = json.dumps([stage.kind, settings, held], sort_keys=True, default=str)
        found.append(hashlib.sha256(text.encode()).hexdigest())
    return list(dict.fromkeys(found))


def _named(stage: Stage) -> Iterator[tuple[str, Role, object]]:
    """(dotted key, role, value) of every input that is given."""
    for pattern, role in find_kind(stage.kind).reads.items():
        for key, value in _at(stage.config, pattern.split("."), ""):
            inner = value.items() if isinstance(value, Mapping) else [("", value)]
            for name, one in inner:
                if one is not None and one != []:
                    yield f"{key}.{name}" if name else key, role, one


def _at(tree: object, path: list[str], before: str) -> Iterator[tuple[str, object]]:
    if not path:
        yield before, tree
    elif isinstance(tree, Mapping):
        for key in list(tree) if path[0] == "*" else [path[0]]:
            if key in tree:
                yield from _at(tree[key], path[1:], f"{before}.{key}" if before else str(key))


def _wherever_it_lies(value: object, run_dir: str) -> object:
    """A config in which the run's own folder has the same name wherever it lies."""
    if isinstance(value, dict):
        return {key: _wherever_it_lies(one, run_dir) for key, one in value.items()}
    if isinstance(value, list):
        return [_wherever_it_lies(one, run_dir) for one in value]
    if isinstance(value, str) and (value == run_dir or value.startswith(f"{run_dir}/")):
        return "${run.dir}" + value[len(run_dir) :]
    return value


def _read(hashed: Callable[[Any], str], value: object) -> str | None:
    try:
        return hashed(value)
    # What is missing or damaged is the stage's own to name: it says which file of which key, and what to do.
    except (UserError, OSError):
        return None


def _same(old: str | None, new: str | None) -> bool:
    if old is None or new is None or old == new:
        return True
    # A model of the hub, once before and once after it was downloaded.
    return old.startswith("hub ") and (old.startswith(f"{new} ") or new.startswith(f"{old} "))


def _data(paths: object) -> str:
    # Later than at the top: what prints help and checks keys reads no tars.
    from emo_lightning.data.tar_content import data_hash

    return data_hash([str(path) for path in paths] if isinstance(paths, list) else str(paths))


def _weights(path: object) -> str:
    base, adapter = locate(str(path))
    if adapter is None and not Path(base).is_dir():
        return f"hub {base} {weights_hash(base)}" if files_of(base) else f"hub {base}"
    return weights_hash(str(path))


def _file(paths: object) -> str:
    """Of one, or of several in their order."""
    if not isinstance(paths, list):
        return content_sha256(str(paths))
    return hashlib.sha256("".join(f"{content_sha256(str(path))}\n" for path in paths).encode()).hexdigest()


def _anchors(name: object) -> str:
    return content_sha256(anchors_file(str(name)))


def _bundle(folder: object) -> str:
    """Of the parts that `emo.json` names, which lie relative to it, and of what they are asked."""
    said = read_object(Path(str(folder)) / "emo.json")
    parts = []
    for key in sorted(said):
        value = said[key]
        if key in ("backbone", "head", "probe", "spread", "affect") and isinstance(value, str):
            there = Path(str(folder)) / value
            value = _weights(there if there.exists() else value)
        parts.append(f"{key} {value}\n")
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _files(patterns: tuple[str, ...]) -> Callable[[object], str]:
    def hashed(folders: object) -> str:
        digest = hashlib.sha256()
        for folder in folders if isinstance(folders, list) else [folders]:
            with read_folder(str(folder), patterns) as here:
                found = sorted({file for pattern in patterns for file in here.glob(pattern)})
                if not found:
                    msg = f"{folder}: holds none of {', '.join(patterns)}"
                    raise FileNotFoundError(msg)
                digest.update("".join(f"{file.name} {content_sha256(file)}\n" for file in found).encode())
        return digest.hexdigest()

    return hashed


def _probes(pattern: object) -> str:
    """Of all folders that a pattern stands for, with their names, as those say which probe it is."""
    named = Path(str(pattern))
    folders = sorted(named.parent.glob(re.sub(r"\{\w+\}", "*", named.name)))
    if not folders:
        msg = f"{pattern}: no such folder"
        raise FileNotFoundError(msg)
    hashed = _files(_PROBE_FILES)
    return hashlib.sha256("".join(f"{folder.name} {hashed(folder)}\n" for folder in folders).encode()).hexdigest()


_HASH: dict[Role, Callable[[Any], str]] = {
    "tars": _data,
    "weights": _weights,
    "bundle": _bundle,
    "cache": _files(_CACHE_FILES),
    "probe": _files(_PROBE_FILES),
    "probes": _probes,
    "file": _file,
    "anchors": _anchors,
}
