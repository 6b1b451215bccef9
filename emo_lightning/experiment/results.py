"""What a stage has written: looked at once more before it calls itself complete, noted, and held against that by whoever reads it.

`stage.json` notes every file with its SHA-256 (of a tar: over its members), so that damage or a change between two stages is found, and a
stage whose results are gone is not complete. Hashes are remembered as those of inputs are: what the next stage reads is not read twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.files import read_object
from emo_lightning.core.fingerprints import HASHES, content_sha256
from emo_lightning.core.shard_index import INDEX_SUFFIX
from emo_lightning.core.weight_files import check_weight_file
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.identity import CONTENT_SUFFIX, named_paths
from emo_lightning.experiment.stage import Stage

CONFIG_FILE = "config.yaml"
STATUS_FILE = "stage.json"
_NO_RESULTS = {".tmp", "logs", "wandb", "checkpoints"}
"""Folders in a stage's whose files are not its results."""
_OWN_FILES = {CONFIG_FILE, STATUS_FILE}

ResultHashes = dict[str, str]
"""Path below the stage's folder -> what the file holds."""


def check_results(folder: Path) -> None:
    """Refuse results that are cut off: weights whose header does not account for every byte, JSON that ends early.

    Raises:
        InputError: names the file.
    """
    for path in _files(folder):
        if path.suffix == ".safetensors":
            check_weight_file(path)
        # Below it a stage may keep a store of thousands.
        elif path.suffix == ".json" and path.parent == folder:
            _check_json(path)


def results_of(stage: Stage) -> ResultHashes:
    """What a stage has written, by content. What belongs to the runner, or may be made anew at any time, is none of it.

    Raises:
        OSError: a file cannot be read.
    """
    HASHES.keep_in(stage.out.parent / CONTENT_SUFFIX)
    try:
        return {
            path.relative_to(stage.out).as_posix(): _content(path)
            for path in sorted(_files(stage.out))
            if not (
                (path.parent == stage.out and path.name in _OWN_FILES)
                or path.name[:1] == "."
                or path.name.endswith(INDEX_SUFFIX)
            )
        }
    finally:
        HASHES.save()


def lost_results(folder: Path, status: Mapping[str, object]) -> list[str]:
    """Those of a complete stage that are not there any more; none of one that noted nothing (made by an earlier version)."""
    return [name for name in _noted(status) if not (folder / name).exists()]


def refuse_changed(folder: Path, status: Mapping[str, object], below: str = "") -> None:
    """Compare what a complete stage has noted; what is gone is not compared.

    Args:
        folder: the stage's.
        status: its `stage.json`.
        below: a file or a folder of it that alone is compared; empty: everything.

    Raises:
        ExperimentError: names the first file of other content.
    """
    HASHES.keep_in(folder.parent / CONTENT_SUFFIX)
    try:
        for name, said in _noted(status).items():
            if below and PurePosixPath(below) not in (PurePosixPath(name), *PurePosixPath(name).parents):
                continue
            path = folder / name
            if path.exists() and _content(path) != said:
                msg = (
                    f"{path}: is not what the stage {folder.name!r} wrote: it was changed or damaged since; put it back, choose another "
                    f"--name, or delete {folder} to make it anew"
                )
                raise ExperimentError(msg)
    finally:
        HASHES.save()


def check_sources(stage: Stage) -> None:
    """Hold what a stage is about to read against what the stages that made it have noted, of this run or of another.

    Raises:
        ExperimentError: as `refuse_changed`.
    """
    seen: set[tuple[Path, str]] = set()
    for path in named_paths(stage):
        if (found := _maker_of(path)) is None or found in seen:
            continue
        seen.add(found)
        maker, below = found
        try:
            status = read_object(maker / STATUS_FILE)
        except UserError:
            # Another's file of that name, perhaps; the stage that it belongs to says so.
            continue
        if status.get("status") == "complete":
            refuse_changed(maker, status, below)


def remade(stages: Sequence[Stage], complete: set[str], lost: Mapping[str, Sequence[str]]) -> set[str]:
    """Which complete stages have to run again, as their results are gone and something needs them.

    Those whose every reader is complete are left alone: large caches may be deleted once they have been used.

    Args:
        stages: in order.
        complete: names of those that are.
        lost: name -> results of it that are gone.
    """
    again: set[str] = set()
    for n, stage in reversed(list(enumerate(stages))):
        readers = [later for later in stages[n + 1 :] if reads(later, stage)]
        used_up = readers and all(later.name in complete - again for later in readers)
        if stage.name in complete and lost.get(stage.name) and not used_up:
            again.add(stage.name)
    return again


def reads(later: Stage, earlier: Stage) -> bool:
    """Whether a stage's settings name something in the folder of another."""
    named = json.dumps(later.config, default=str)
    return f"{earlier.out}/" in named or f'{earlier.out}"' in named


def _noted(status: Mapping[str, object]) -> Mapping[str, object]:
    found = status.get("results")
    return found if isinstance(found, Mapping) else {}


def _maker_of(path: str) -> tuple[Path, str] | None:
    """The folder of the stage that a path lies in, and where in it; of a pattern, the folder that it searches."""
    here = Path(path)
    while not here.exists():
        if here == here.parent:
            return None
        here = here.parent
    for folder in (here, *here.parents):
        if (folder / STATUS_FILE).is_file():
            below = here.relative_to(folder).as_posix()
            return folder, "" if below == "." else below
    return None


def _files(folder: Path) -> Iterator[Path]:
    for at, folders, names in os.walk(folder):
        top = Path(at) == folder
        folders[:] = [name for name in folders if not (top and name in _NO_RESULTS)]
        yield from (Path(at, name) for name in names)


def _content(path: Path) -> str:
    if path.suffix != ".tar":
        return content_sha256(path)
    # Later than at the top: what prints help and checks keys reads no tars.
    from emo_lightning.data.tar_content import shard_hash

    return shard_hash(str(path))


def _check_json(path: Path) -> None:
    try:
        json.loads(path.read_bytes())
    except ValueError as error:
        msg = f"{path}: a result that is no whole JSON: {error}; the same command makes it anew"
        raise InputError(msg) from None
