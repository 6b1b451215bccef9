"""Files that are whole or not there: written under a temporary name beside the target, then renamed.

One family for both packages. A killed process leaves a temporary name behind, which the next write takes over; a reader never
sees half a file.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emo_lightning.core.errors import InputError, MissingFileError, UserError

if TYPE_CHECKING:
    import numpy as np
    import yaml
    from numpy.typing import NDArray


@contextmanager
def replacing(path: str | Path, *, writer: str | int | None = None, fsync: bool = False) -> Iterator[Path]:
    """Give a temporary path beside `path`; what the block writes there takes the place of `path`, unless the block fails.

    Args:
        path: the target; its folder is made.
        writer: tells apart the processes that may write this file at the same time, for example a rank or a process id;
            None where only one writes. The temporary name is `NAME.tmp` or `NAME.WRITER.tmp`.
        fsync: rename only after the bytes are on disk, so that a name that exists is complete even after a power cut.

    Yields:
        The temporary path; nothing is there unless a killed process left it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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


def write_bytes(path: str | Path, data: bytes, *, writer: str | int | None = None, fsync: bool = False) -> None:
    """Write a whole file; see `replacing`."""
    with replacing(path, writer=writer, fsync=fsync) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str, *, writer: str | int | None = None, fsync: bool = False) -> None:
    """Write a whole file in UTF-8; see `replacing`."""
    write_bytes(path, text.encode(), writer=writer, fsync=fsync)


def write_json(path: str | Path, value: object, *, indent: int = 1) -> None:
    """Write indented JSON; see `replacing`.

    Raises:
        ValueError: a NaN or an infinity, which other JSON readers refuse.
    """
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False) + "\n")


def write_npz(path: str | Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write a compressed .npz without pickled objects; see `replacing`."""
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **dict(arrays))
    write_bytes(path, buffer.getvalue())


def parse_json(
    data: str | bytes, where: object, error: type[UserError] = InputError, on_constant: Callable[[str], object] | None = None
) -> object:
    """The value of a JSON text that a user or another program has written.

    Args:
        data: the text; bytes are UTF-8, UTF-16 or UTF-32.
        where: file, and line or member, for the message.
        error: what is raised.
        on_constant: see `read_object`.

    Raises:
        UserError: of the type `error`: it is not JSON, or nested deeper or with longer numbers than Python reads.
    """
    try:
        return json.loads(data, parse_constant=on_constant)
    # JSONDecodeError and UnicodeDecodeError are ValueErrors; so is what Python says of a number of more than 4,300 digits.
    except (ValueError, RecursionError) as failure:
        msg = f"{where}: not JSON: {failure}"
        raise error(msg) from None


def read_object(path: Path, on_constant: Callable[[str], object] | None = None) -> dict[str, Any]:
    """A JSON object.

    Args:
        path: the file.
        on_constant: gives the value of NaN, Infinity and -Infinity, which strict JSON does not have; None takes Python's.

    Raises:
        MissingFileError: no such file.
        InputError: it cannot be read, is not JSON, or is no object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        msg = f"{path}: no such file"
        raise MissingFileError(msg) from None
    except OSError as error:
        msg = f"{path}: cannot be read: {error.strerror or error}"
        raise InputError(msg) from error
    except UnicodeDecodeError as error:
        msg = f"{path}: not JSON: {error}"
        raise InputError(msg) from None
    found = parse_json(text, path, on_constant=on_constant)
    if not isinstance(found, dict):
        msg = f"{path}: found {type(found).__name__}; expected an object"
        raise InputError(msg)
    return found


def parse_yaml(
    text: str, where: object, error: type[UserError] = InputError, loader: type[yaml.SafeLoader] | None = None
) -> object:
    """The value of a YAML text.

    Args:
        text: of a file or of an option.
        where: file or option, for the message.
        error: what is raised.
        loader: of PyYAML; None is its own safe one.

    Raises:
        UserError: of the type `error`: it is not YAML, holds a date that there is not, or is nested too deep.
    """
    import yaml

    try:
        return yaml.load(text, loader or yaml.SafeLoader)
    # A ValueError is a scalar that looks like a number or a date and is none: 2026-02-30.
    except (yaml.YAMLError, ValueError, RecursionError) as failure:
        msg = f"{where}: not YAML: {' '.join(str(failure).split())}"
        raise error(msg) from None


def read_yaml(
    path: Path, error: type[UserError] = InputError, loader: type[yaml.SafeLoader] | None = None, near: Sequence[str] = ()
) -> dict[str, Any]:
    """A mapping from a YAML file.

    Args:
        path: the file.
        error: what is raised.
        loader: of PyYAML; None is its own safe one.
        near: files that are there, for the message where this one is not.

    Raises:
        UserError: of the type `error`: no such file, it cannot be read, is not YAML, or is no mapping; names file and line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise error(f"{path}: no such file" + (f"; there are: {', '.join(near)}" if near else "")) from None
    except OSError as failure:
        msg = f"{path}: cannot be read: {failure.strerror or failure}"
        raise error(msg) from None
    except UnicodeDecodeError as failure:
        msg = f"{path}: not YAML: {failure}"
        raise error(msg) from None
    found = parse_yaml(text, path, error, loader)
    if not isinstance(found, dict):
        msg = f"{path}: holds {type(found).__name__}, expected a mapping"
        raise error(msg)
    return found
