"""What a stage has written: looked at once more before it calls itself complete, noted, and held against that by whoever reads it.

`stage.json` notes every file with its SHA-256 (of a tar: over its members), so that damage or a change between two stages is found, and a
stage whose results are gone is not complete. So it is with what a stage writes elsewhere (`model.out`), of which the same stands beside it.
Hashes are remembered as those of inputs are: what the next stage reads is not read twice.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath, PurePosixPath
from typing import NamedTuple

from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.files import is_temporary, read_object
from emo_lightning.core.fingerprints import HASHES, content_sha256
from emo_lightning.core.shard_index import INDEX_SUFFIX
from emo_lightning.core.weight_files import check_weight_file
from emo_lightning.experiment.elsewhere import (
    BESIDE_FILE,
    NO_RESULTS,
    files_elsewhere,
    is_about,
    noted_beside,
    path_elsewhere,
    written_elsewhere,
)
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.identity import CONTENT_SUFFIX, named_paths
from emo_lightning.experiment.stage import Stage

CONFIG_FILE = "config.yaml"
STATUS_FILE = "stage.json"
_OWN_FILES = {CONFIG_FILE, STATUS_FILE}
_OWN, _ELSEWHERE = "results", "results_elsewhere"
"""Keys of `stage.json`."""

ResultHashes = dict[str, str]
"""Path below the stage's folder, or below `model.out` -> what the file holds."""


class Results(NamedTuple):
    """What a stage has written, by content."""

    own: ResultHashes
    """In its own folder."""
    elsewhere: ResultHashes
    """Outside of it, by the names below `model.out`."""

    def noted(self) -> dict[str, ResultHashes]:
        """As it stands in `stage.json`."""
        return {_OWN: self.own, **({_ELSEWHERE: self.elsewhere} if self.elsewhere else {})}


class _Held(NamedTuple):
    """What a file held when its stage was done."""

    path: Path
    content: object
    stage: str
    mend: str
    """How it is made anew."""


def check_results(stage: Stage) -> None:
    """Refuse results that are cut off: weights whose header does not account for every byte, JSON that ends early.

    Raises:
        InputError: names the file.
    """
    # Below it a stage may keep a store of thousands.
    tops = {stage.out, *(path.parent for path in written_elsewhere(stage).values())}
    for path in (*_files(stage.out), *(path for _, path in files_elsewhere(stage))):
        if path.suffix == ".safetensors":
            check_weight_file(path)
        elif path.suffix == ".json" and path.parent in tops:
            _check_json(path)


def results_of(stage: Stage) -> Results:
    """What a stage has written, by content. What belongs to the runner, or may be made anew at any time, is none of it.

    Raises:
        OSError: a file cannot be read.
    """
    HASHES.keep_in(stage.out.parent / CONTENT_SUFFIX)
    own = ((path.relative_to(stage.out).as_posix(), path) for path in sorted(_files(stage.out)))
    try:
        return Results(
            {
                name: _content(path)
                for name, path in own
                if _is_result(path) and not (path.parent == stage.out and path.name in _OWN_FILES)
            },
            {name: _content(path) for name, path in files_elsewhere(stage) if _is_result(path)},
        )
    finally:
        HASHES.save()


def lost_results(stage: Stage, status: Mapping[str, object]) -> list[Path]:
    """Those of a complete stage that are not there any more; none of one that noted nothing (made by an earlier version)."""
    return [one.path for one in _held(stage, status) if not one.path.exists()]


def refuse_changed(stage: Stage, status: Mapping[str, object]) -> None:
    """Compare what a complete stage has noted; what is gone is not compared.

    Args:
        stage: with the settings that it has now.
        status: its `stage.json`.

    Raises:
        ExperimentError: names the first file of other content.
    """
    _compare(_held(stage, status), stage.out.parent)


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
        folder, below = found
        if (folder / BESIDE_FILE).is_file():
            beside = noted_beside(folder)
            held = [
                _Held(one.path, one.content, one.stage, "or delete it with that stage's folder to make it anew")
                for one in beside
            ]
            _compare((one for one in held if _is_below(one.path.relative_to(folder), below)), stage.out.parent)
        if not (folder / STATUS_FILE).is_file():
            continue
        try:
            status = read_object(folder / STATUS_FILE)
        except UserError:
            # Another's file of that name, perhaps; the stage that it belongs to says so.
            continue
        if status.get("status") == "complete":
            _compare(_held_in(folder, status, below), folder.parent)


def _is_below(name: PurePath, below: str) -> bool:
    """Whether a file is one, or lies in a folder; all do in that of no name."""
    return not below or PurePath(below) in (name, *name.parents)


def _held_in(folder: Path, status: Mapping[str, object], below: str = "") -> Iterator[_Held]:
    """Of what a complete stage has noted in its own folder.

    Args:
        folder: the stage's.
        status: its `stage.json`.
        below: a file or a folder of it that alone is meant; empty: everything.
    """
    for name, content in _noted(status, _OWN).items():
        if _is_below(PurePath(name), below):
            yield _Held(folder / name, content, folder.name, f"choose another --name, or delete {folder} to make it anew")


def _held(stage: Stage, status: Mapping[str, object]) -> Iterator[_Held]:
    """Of all that a complete stage has noted."""
    yield from _held_in(stage.out, status)
    for name, content in _noted(status, _ELSEWHERE).items():
        if (path := path_elsewhere(stage, name)) is not None:
            yield _Held(path, content, stage.name, f"or delete it with {stage.out} to make it anew")


def _compare(held: Iterable[_Held], run_dir: Path) -> None:
    """Refuse the first file of other content; hashes are remembered in the folder of a run."""
    HASHES.keep_in(run_dir / CONTENT_SUFFIX)
    try:
        for one in held:
            if one.path.exists() and _content(one.path) != one.content:
                msg = f"{one.path}: is not what the stage {one.stage!r} wrote: it was changed or damaged since; put it back, {one.mend}"
                raise ExperimentError(msg)
    finally:
        HASHES.save()


def remade(stages: Sequence[Stage], complete: set[str], lost: Mapping[str, Sequence[Path]]) -> set[str]:
    """Which complete stages have to run again, as their results are gone and something needs them.

    Those whose every reader is complete are left alone: large caches may be deleted once they have been used.

    Args:
        stages: in order.
        complete: names of those that are.
        lost: name -> results of it that are gone.
    """
    again: set[str] = set()
    for n, stage in reversed(list(enumerate(stages))):
        readers = [later for later in stages[n + 1 :] if reads(later, stage) or _reads_elsewhere(later, stage)]
        used_up = readers and all(later.name in complete - again for later in readers)
        if stage.name in complete and lost.get(stage.name) and not used_up:
            again.add(stage.name)
    return again


def reads(later: Stage, earlier: Stage) -> bool:
    """Whether a stage's settings name something in the folder of another."""
    named = json.dumps(later.config, default=str)
    return f"{earlier.out}/" in named or f'{earlier.out}"' in named


def _reads_elsewhere(later: Stage, earlier: Stage) -> bool:
    """Whether a stage reads something that another writes outside of its own folder."""
    return bool(written_elsewhere(earlier)) and any(is_about(path, earlier) for path in named_paths(later))


def _noted(status: Mapping[str, object], key: str) -> Mapping[str, object]:
    found = status.get(key)
    # Earlier versions noted what a killed process had left behind, too.
    return {name: said for name, said in found.items() if _lasts(name)} if isinstance(found, Mapping) else {}


def _lasts(name: str) -> bool:
    """Whether a path below a stage's folder is of a whole file."""
    return not any(is_temporary(part) for part in PurePosixPath(name).parts)


def _maker_of(path: str) -> tuple[Path, str] | None:
    """The folder of the stage that a path lies in, or in which stages have noted what they wrote there, and where in it.

    Of a pattern it is the folder that it searches.
    """
    here = Path(path)
    while not here.exists():
        if here == here.parent:
            return None
        here = here.parent
    for folder in (here, *here.parents):
        if (folder / STATUS_FILE).is_file() or (folder / BESIDE_FILE).is_file():
            below = here.relative_to(folder).as_posix()
            return folder, "" if below == "." else below
    return None


def _files(folder: Path) -> Iterator[Path]:
    for at, folders, names in os.walk(folder):
        top = Path(at) == folder
        folders[:] = [name for name in folders if not (is_temporary(name) or (top and name in NO_RESULTS))]
        yield from (Path(at, name) for name in names if not is_temporary(name))


def _is_result(path: Path) -> bool:
    """Whether it is none of what may be made anew at any time."""
    return path.name[:1] != "." and not path.name.endswith(INDEX_SUFFIX)


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
