"""Files that are whole or not there: written under a temporary name beside the target, then renamed.

One family for both packages. A killed process leaves a temporary name behind, which the next write takes over or removes; a reader
never sees half a file.
"""

from __future__ import annotations

import glob
import io
import json
import os
import platform
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emo_lightning.core.errors import InputError, MissingFileError, UserError
from emo_lightning.core.foreign import MAX_DEPTH, decode_json, read_capped

if TYPE_CHECKING:
    import numpy as np
    import yaml
    from numpy.typing import NDArray

MAX_OBJECT_BYTES = 256 << 20
"""Of a JSON file with the results or the settings of one stage."""
MAX_YAML_CHARACTERS = 500_000
"""Ours have 20,000 at most; PyYAML reads about 100,000 in a second."""
MAX_YAML_NODES = 100_000
"""Values of a YAML text, an alias counted as all that it stands for."""


_ABANDONED_AFTER = 7 * 86400
"""Seconds without a change after which a temporary file is nobody's, whose writer cannot be looked for: it ran on another machine."""
_FIRST_NAMESPACE = 4026531836
"""Of process ids: Linux's own number for that of the machine itself; every container has another."""
_TEMPORARY = re.compile(r"\.tmp$|\.\d+\.mode$")


def is_temporary(name: str) -> bool:
    """Whether a file or folder of that name is what a write, of this version or an earlier one, has before its end."""
    return _TEMPORARY.search(name) is not None


@contextmanager
def replacing(path: str | Path, *, writer: str | None = None, shared: bool = False, fsync: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; what the block writes there takes the place of `path`, unless the block fails.

    Args:
        path: the target; its folder is made. Of what no name can take the place of, a pipe, a device or `/dev/stdout`, it is what is
            written to once the block has ended.
        writer: tells apart those that may write this file at the same time; None where only one writes. The temporary name is
            `NAME.tmp` or `NAME.WRITER.tmp`.
        shared: several processes may write this file at the same time, of whatever machine: `writer` is `this_writer`, and what those
            that are no more have left of this file is removed.
        fsync: rename only after the bytes are on disk, so that a name that exists is complete even after a power cut.

    Yields:
        The temporary path; nothing is there unless a killed process left it.
    """
    path = Path(path)
    if _is_stream(path):
        with tempfile.TemporaryDirectory() as folder:
            whole = Path(folder) / (path.name or "whole")
            yield whole
            with open(whole, "rb") as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    if shared:
        writer = this_writer()
        remove_left_behind(path.parent, f"{glob.escape(path.name)}.*.tmp")
    temporary = path.with_name(f"{path.name}.tmp" if writer is None else f"{path.name}.{writer}.tmp")
    try:
        yield temporary
        if fsync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _is_stream(path: Path) -> bool:
    """Whether it is open elsewhere, so that a file under its name would not reach whoever reads it. `/dev/stdout` may be a link to a file."""
    if not path.exists() or path.is_dir():
        return False
    place = path.absolute()
    # Files in shared memory are files.
    in_dev = place.is_relative_to("/dev") and not place.is_relative_to("/dev/shm")
    return not path.is_file() or in_dev or place.is_relative_to("/proc")


def as_new_files(paths: Iterable[Path]) -> None:
    """Give files the mode of a file that is made beside them: safetensors makes its own readable by their owner alone, whatever the umask."""
    for path in paths:
        other = path.with_name(f"{path.name}.mode.{this_writer()}.tmp")
        other.touch()
        try:
            path.chmod(stat.S_IMODE(other.stat().st_mode))
        finally:
            other.unlink()


def this_writer() -> str:
    """Name of this process among all that may write to a shared disk, for `replacing`; `remove_left_behind` knows it again."""
    return f"{_machine()}.{os.getpid()}"


def remove_left_behind(folder: Path, pattern: str = "*.tmp") -> None:
    """Remove the temporary files of writers (`this_writer`) that are no more.

    Of those of this machine that is known. Those of others, and of versions that did not name the machine, go once nobody has written to
    them for a week.
    """
    for path in folder.glob(pattern):
        # NAME.MACHINE.PROCESS.tmp
        before, _, process = path.stem.rpartition(".")
        if not process.isdigit():
            continue
        with suppress(OSError):
            ours = before.endswith(f".{_machine()}")
            if not _alive(int(process)) if ours else time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                path.unlink()


def _machine() -> str:
    """Within which a process id is one process: containers may share the name of their machine, and have numbers of their own."""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        namespace = _FIRST_NAMESPACE
    return platform.node() + ("" if namespace == _FIRST_NAMESPACE else f"-{namespace}")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextmanager
def atomic_folder(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """Give an empty folder beside `path`; it becomes `path` when the block ends, and is removed when the block fails.

    Args:
        path: the target. An empty folder there gives way.
        replace: a folder that holds something gives way, too, with all its files.

    Yields:
        The temporary folder `NAME.tmp`; what a killed process left there is removed first.

    Raises:
        InputError: `path` is a file, or a folder that holds something (without `replace`); the block does not run.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or (not replace and any(path.iterdir()))):
        msg = f"{path}: exists already; choose another folder, or remove it"
        raise InputError(msg)
    temporary = path.with_name(f"{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.exists():
            if replace:
                shutil.rmtree(path)
            else:
                path.rmdir()
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_bytes(path: str | Path, data: bytes, *, writer: str | None = None, shared: bool = False, fsync: bool = False) -> None:
    """Write a whole file; see `replacing`."""
    with replacing(path, writer=writer, shared=shared, fsync=fsync) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str, *, shared: bool = False, fsync: bool = False) -> None:
    """Write a whole file in UTF-8; see `replacing`."""
    write_bytes(path, text.encode(), shared=shared, fsync=fsync)


def write_json(path: str | Path, value: object, *, indent: int = 1, shared: bool = False) -> None:
    """Write indented JSON; see `replacing`.

    Raises:
        ValueError: a NaN or an infinity, which other JSON readers refuse.
    """
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False) + "\n", shared=shared)


def write_npz(path: str | Path, arrays: Mapping[str, NDArray[np.generic]], *, shared: bool = False) -> None:
    """Write a compressed .npz without pickled objects; see `replacing`."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **dict(arrays))
    write_bytes(path, buffer.getvalue(), shared=shared)


def read_object(
    path: Path,
    on_constant: Callable[[str], object] | None = None,
    *,
    error: type[UserError] = InputError,
    max_bytes: int = MAX_OBJECT_BYTES,
) -> dict[str, Any]:
    """A JSON object.

    Args:
        path: the file.
        on_constant: gives the value of NaN, Infinity and -Infinity, which strict JSON does not have; None refuses them.
        error: what is raised.
        max_bytes: longest file.

    Raises:
        MissingFileError: no such file.
        UserError: of the type `error`: it cannot be read, is not JSON (see `decode_json`), or is no object.
    """
    found = decode_json(read_capped(path, max_bytes, error), path, error, on_constant=on_constant)
    if not isinstance(found, dict):
        msg = f"{path}: found {type(found).__name__}; expected an object"
        raise error(msg)
    return found


def parse_yaml(
    text: str, where: object, error: type[UserError] = InputError, loader: type[yaml.SafeLoader] | None = None
) -> object:
    """The value of a YAML text.

    Args:
        text: of a file or of an option.
        where: file or option, for the message.
        error: what is raised.
        loader: of PyYAML; None is `WordLoader`, to which `off` is a word.

    Raises:
        UserError: of the type `error`: it is not YAML, a key stands twice in one mapping, it holds a date that there is not, is nested too
            deep, or its aliases make more of it than `MAX_YAML_NODES`.
    """
    import yaml

    from emo_lightning.core.yaml_words import WordLoader

    if len(text) > MAX_YAML_CHARACTERS:
        msg = f"{where}: {len(text):,} characters of YAML; at most {MAX_YAML_CHARACTERS:,} are read"
        raise error(msg)
    try:
        loading = (loader or WordLoader)(text)
        _bound_nesting(loading)
        node = loading.get_single_node()
        if node is None:
            return None
        _check_node(node, {})
        return loading.construct_document(node)
    # A ValueError is a scalar that looks like a number or a date and is none: 2026-02-30. PyYAML looks no closer at one whose tag is
    # written out: `!!int ""`, `!!bool maybe`, `!!timestamp soon` end in the other errors.
    except (yaml.YAMLError, ValueError, RecursionError, LookupError, AttributeError, TypeError, OverflowError) as failure:
        reason = (
            "nested too deep"
            if isinstance(failure, RecursionError)
            else " ".join(str(failure).split()) or type(failure).__name__
        )
        msg = f"{where}: not YAML: {reason}"
        raise error(msg) from None


def _bound_nesting(loading: yaml.SafeLoader) -> None:
    """Have a loader stop at a bracket that is nested too deep.

    The time that PyYAML's scanner takes for a bracket grows with their number around it: it would read a line of 5,000 of them for ten
    seconds before `_check_node` sees a node.
    """
    started = loading.fetch_flow_collection_start

    def bounded(token: type[yaml.Token]) -> None:
        if loading.flow_level >= MAX_DEPTH:
            msg = f"line {loading.line + 1}: nested deeper than {MAX_DEPTH}"
            raise ValueError(msg)
        started(token)

    loading.fetch_flow_collection_start = bounded  # type: ignore[assignment]  # its stub names the argument


def _check_node(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """(nodes, nesting) below a node, every alias counted as what it stands for.

    Args:
        node: composed, not yet constructed: nothing has been expanded.
        known: of nodes that have been counted; None of those that are being counted.

    Raises:
        ValueError: too many, too deep, an alias within itself, a number that nobody writes, or half a character.
    """
    import yaml

    if id(node) in known:
        if (before := known[id(node)]) is None:
            msg = f"line {node.start_mark.line + 1}: an alias stands inside what it names"
            raise ValueError(msg)
        return before
    known[id(node)] = None
    nodes, depth = 1, 0
    if isinstance(node, yaml.ScalarNode):
        if len(node.value) > 100 and node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
            msg = f"line {node.start_mark.line + 1}: a number of {len(node.value)} characters"
            raise ValueError(msg)
        node.value.encode()
    else:
        below = node.value if isinstance(node, yaml.SequenceNode) else [part for pair in node.value for part in pair]
        for child in below:
            more, deeper = _check_node(child, known)
            nodes, depth = nodes + more, max(depth, deeper)
    if nodes > MAX_YAML_NODES or depth >= MAX_DEPTH:
        said = (
            f"its aliases make more than {MAX_YAML_NODES:,} values of it"
            if depth < MAX_DEPTH
            else f"nested deeper than {MAX_DEPTH}"
        )
        msg = f"line {node.start_mark.line + 1}: {said}"
        raise ValueError(msg)
    known[id(node)] = nodes, depth + 1
    return nodes, depth + 1


def read_yaml(
    path: Path, error: type[UserError] = InputError, loader: type[yaml.SafeLoader] | None = None, near: Sequence[str] = ()
) -> dict[str, Any]:
    """A mapping from a YAML file.

    Args:
        path: the file.
        error: what is raised.
        loader: of PyYAML; None is `WordLoader`, to which `off` is a word.
        near: files that are there, for the message where this one is not.

    Raises:
        UserError: of the type `error`: no such file, it cannot be read, is not YAML, or is no mapping; names file and line.
    """
    try:
        text = read_capped(path, 4 * MAX_YAML_CHARACTERS, error).decode()
    except MissingFileError:
        raise error(f"{path}: no such file" + (f"; there are: {', '.join(near)}" if near else "")) from None
    except UnicodeDecodeError as failure:
        msg = f"{path}: not YAML: {failure}"
        raise error(msg) from None
    found = parse_yaml(text, path, error, loader)
    if not isinstance(found, dict):
        msg = f"{path}: holds {type(found).__name__}, expected a mapping"
        raise error(msg)
    return found
