"""The folder of a source: paths that an index names are resolved safely below it, and images are checked."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from data_prep.sources.base import PassedOver, RefusedError, SourceError, SourceRefusal
from data_prep.sources.images import MAX_BYTES, CheckedImage, ImageError, check_image
from data_prep.sources.walk import FoundFile, files_below
from emo_lightning.core.names import composed
from emo_lightning.core.text import shown


class NoSuchFileError(RefusedError):
    """The file does not exist."""


class Tree:
    """Everything of a source lies below one folder; what leads out of it is refused.

    Args:
        root: the folder.

    Raises:
        SourceError: there is no such folder, or it cannot be read.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            msg = f"{root}: no such folder"
            raise SourceError(msg)
        try:
            next(root.iterdir(), None)
        except OSError as error:
            msg = f"{root}: cannot be read: {error.strerror or error}"
            raise SourceError(msg) from None
        self.root = root.resolve()
        self._listings: dict[Path, dict[str, str]] = {}
        self._asked_for: set[Path] = set()

    def file(self, name: str) -> Path:
        """The file that an index calls `name`: backslashes separate too, and any unicode normalisation finds it.

        Raises:
            NoSuchFileError: no such file.
            RefusedError: absolute, with `..`, a link out of the tree, or no regular file.
        """
        here = self.root
        for part in path_parts(name):
            found = self._child(here, part)
            if found is None:
                msg = f"no such file: {shown(name)}"
                raise NoSuchFileError(msg)
            here = found
        self._asked_for.add(here)
        return self._inside(here, name)

    def has(self, name: str) -> bool:
        """Whether something is there by this name, usable or not.

        Raises:
            RefusedError: the path is absolute or has `..`.
        """
        try:
            self.file(name)
        except NoSuchFileError:
            return False
        except RefusedError:
            path_parts(name)
        return True

    def image(self, name: str) -> CheckedImage:
        """The image that an index calls `name`, upright.

        Raises:
            RefusedError: see `file` and `read_source_image`.
        """
        return read_source_image(self.file(name), self.root)

    def index(self, *names: str) -> Path | None:
        """The first of these files that is there, else None.

        Raises:
            SourceError: it is there but leads out of the tree or is no regular file.
        """
        for name in names:
            if os.path.lexists(self.root / name):
                try:
                    return self.file(name)
                except RefusedError as error:
                    msg = f"{self.root / name}: {error}"
                    raise SourceError(msg) from None
        return None

    def folder(self, *names: str) -> str:
        """The first of these folders that is there, as a prefix of names ("" or with a slash at its end; "." is the root).

        Raises:
            SourceError: none is there, or the one found leads out of the tree.
        """
        for name in names:
            path = self.root / name
            if path.is_dir():
                if not path.resolve().is_relative_to(self.root):
                    msg = f"{path}: link out of the tree, to {path.resolve()}"
                    raise SourceError(msg)
                return "" if name == "." else f"{name}/"
        msg = f"{self.root}: the folder of images is missing; looked for {', '.join(f'{n}/' for n in names)}"
        raise SourceError(msg)

    def subfolders(self, prefix: str) -> list[str]:
        """Names of the folders in a folder that are neither links nor hidden, sorted."""
        entries = os.scandir(self.root / prefix)
        return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False) and not e.name.startswith("."))

    def images_in(self, prefix: str) -> Iterator[str | SourceRefusal]:
        """Names of what looks like an image below a folder, relative to the root, sorted; refusals of other formats."""
        for found in files_below(self.root / prefix, self.root):
            if isinstance(found, FoundFile):
                self._asked_for.add(found.path)
                yield found.path.relative_to(self.root).as_posix() if found.kind == "picture" else found.refusal()
            elif not isinstance(found, PassedOver):
                self._asked_for.add(Path(found.file))
                yield found

    def rest(self) -> Iterator[SourceRefusal]:
        """Everything below the root that nobody has asked for: pictures that no row names, and what is no picture."""
        for found in files_below(self.root, self.root):
            if not isinstance(found, FoundFile):
                # Told before, where a folder of images was looked through.
                if Path(found.file) not in self._asked_for:
                    yield found
            elif found.path not in self._asked_for:
                pictures = found.kind in ("picture", "other picture")
                yield (
                    PassedOver(str(found.path), None, f"no usable row names it ({found.what})") if pictures else found.refusal()
                )

    def missing(self, what: str, *names: str) -> SourceError:
        """The error for an index that is not there."""
        return SourceError(f"{self.root}: {what} is missing; looked for {', '.join(names)}")

    def _child(self, here: Path, part: str) -> Path | None:
        if os.path.lexists(here / part):
            return here / part
        if here not in self._listings:
            try:
                self._listings[here] = {composed(child.name): child.name for child in here.iterdir()}
            except OSError:
                self._listings[here] = {}
        found = self._listings[here].get(composed(part))
        return None if found is None else here / found

    def _inside(self, path: Path, name: str) -> Path:
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError):
            msg = f"broken link: {shown(name)}"
            raise RefusedError(msg) from None
        if not target.is_relative_to(self.root):
            msg = f"link out of the tree, to {target}"
            raise RefusedError(msg)
        if not target.is_file():
            msg = f"not a regular file: {shown(name)}"
            raise RefusedError(msg)
        return target


def read_source_image(file: Path, root: Path) -> CheckedImage:
    """Read and check one image file below a root (resolved).

    Raises:
        RefusedError: a link out of the root, no regular file, too large, unreadable, or no image (see `check_image`).
    """
    try:
        target = file.resolve(strict=True)
        if not target.is_relative_to(root):
            msg = f"link out of the tree, to {target}"
            raise RefusedError(msg)
        if not target.is_file():
            msg = "not a regular file"
            raise RefusedError(msg)
        if (size := target.stat().st_size) > MAX_BYTES:
            msg = f"too large: {size} bytes, at most {MAX_BYTES} are read"
            raise RefusedError(msg)
        return checked(target.read_bytes())
    except RuntimeError:
        # What pathlib makes of a loop of links up to Python 3.12.
        msg = "link in a circle"
        raise RefusedError(msg) from None
    except OSError as error:
        msg = f"cannot be read: {error.strerror or error}"
        raise RefusedError(msg) from None


def checked(data: bytes) -> CheckedImage:
    """`check_image` as importers need it.

    Raises:
        RefusedError: no image that can be stored.
    """
    try:
        return check_image(data)
    except ImageError as error:
        raise RefusedError(str(error)) from None


def path_parts(name: str) -> list[str]:
    """The parts of a relative path as indexes write it.

    Raises:
        RefusedError: empty, absolute, with `..` or with control characters.
    """
    text = name.strip().replace("\\", "/")
    if text.startswith("/") or re.match(r"[A-Za-z]:", text):
        msg = f"absolute path: {shown(name)}"
        raise RefusedError(msg)
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if ".." in parts:
        msg = f"path with '..': {shown(name)}"
        raise RefusedError(msg)
    if not parts or any(unicodedata.category(c) == "Cc" for c in text):
        msg = f"no path: {shown(name)}"
        raise RefusedError(msg)
    return parts


def encodable(name: str) -> bool:
    """Whether the name of a file is text: one in another encoding cannot stand in a record."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def key_of(name: str) -> str:
    """A path of an index as a key: the same however it is spelt.

    Raises:
        RefusedError: see `path_parts`.
    """
    return composed("/".join(path_parts(name)))


def refused_folder(tree: Tree, prefix: str, error: RefusedError) -> SourceRefusal:
    """A folder that is left out as a whole."""
    return SourceRefusal(str(tree.root / prefix), None, str(error))
