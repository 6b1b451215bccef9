"""Every file below a folder, each with what it seems to be: nothing is left out without being named."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.sources.base import PassedOver, SourceRefusal
from emo_lightning.core.images import IMAGE_SUFFIXES, image_format

_RAW = (
    "3fr ari arw bay braw cap cr2 cr3 crw cs1 dcr dcs dng drf eip erf fff gpr iiq k25 kdc mdc mef mos mrw nef nrw obm orf pef ptx pxn "
    "qtk r3d raf raw rw2 rwl rwz sr2 srf srw sti x3f"
)
_OTHER = (
    "ai apng avif bmp cur dds dib djvu emf eps exr fit fits flif gif hdr heic heics heif heifs hif icb icns ico j2c j2k jls jng jp2 jpc "
    "jpf jpm jpx jxl jxr mng pbm pcx pfm pgm pic pict pnm ppm ps psb psd qoi ras sgi svg svgz tga tif tiff vda vst wbmp wdp wmf xbm xcf xpm"
)
OTHER_SUFFIXES = tuple(f".{ending}" for ending in re.findall(r"\w+", f"{_RAW} {_OTHER}"))
"""Names of images that are not read: the RAW files of all makers, and other formats. They are refused, not passed over."""

_LIKE_OURS = re.compile(r"\.(jfif|jif|jpe|pjpe?g?|pjp|mpo|(jpe?g|png|webp)\W?\w*)$")
"""Other endings of our formats: `x.jpe`, `x.jpg_large`, `x.jpg~`."""
_HEAD = 32
_BEGINNINGS = (
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF or RAW"),
    (b"MM\0*", "TIFF or RAW"),
    (b"II+\0", "TIFF"),
    (b"IIRO", "RAW"),
    (b"IIRS", "RAW"),
    (b"IIU\0", "RAW"),
    (b"FUJIFILMCCD-RAW", "RAW"),
    (b"\0MRM", "RAW"),
    (b"FOVb", "RAW"),
    (b"8BPS", "PSD"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"%!PS", "PostScript"),
    (b"<svg", "SVG"),
    (b"qoif", "QOI"),
    (b"v/1\x01", "OpenEXR"),
)
_BRANDS = {b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC", b"msf1": "HEIC", b"avif": "AVIF", b"avis": "AVIF", b"crx ": "RAW"}

FileKind = Literal["picture", "other picture", "no picture", "no file"]


@dataclass(frozen=True)
class FoundFile:
    """One file below a folder."""

    path: Path
    kind: FileKind
    """`picture`: in a format that we read, by its name or its first bytes; `no file`: a pipe, a socket, a broken link, a link to elsewhere."""
    what: str
    """Its ending and what is known of its format, for messages."""

    def refusal(self) -> SourceRefusal:
        """The refusal of a picture that is not read, or the note that a file is none."""
        if self.kind == "other picture":
            return SourceRefusal(str(self.path), None, f"format not read: {self.what}, allowed: JPEG, PNG, WebP")
        word = "no regular file below the folder" if self.kind == "no file" else "not a picture"
        return PassedOver(str(self.path), None, f"{word} ({self.what})")


def files_below(folder: Path, root: Path) -> Iterator[FoundFile | SourceRefusal]:
    """Every file, in sorted order, folder by folder; links to folders are not followed.

    Args:
        folder: where to look.
        root: links that lead out of it are not followed; resolved.

    Yields:
        The files; a refusal for a folder that cannot be read and for a link to a folder; what is passed over as a whole: hidden files,
        and hidden folders with the number of the files in them.
    """
    failed: list[OSError] = []
    for here_name, below, names in os.walk(folder, followlinks=False, onerror=failed.append):
        here = Path(here_name)
        yield from _unread(failed)
        for name in sorted(below):
            if (here / name).is_symlink():
                yield SourceRefusal(str(here / name), None, "link to a folder, not followed")
            elif name.startswith("."):
                yield PassedOver(str(here / name), None, "hidden folder", _count(here / name))
        below[:] = sorted(name for name in below if not name.startswith(".") and not (here / name).is_symlink())
        for name in sorted(names):
            yield PassedOver(str(here / name), None, "hidden") if name.startswith(".") else look_at(here / name, root)
    yield from _unread(failed)


def _unread(failed: list[OSError]) -> Iterator[SourceRefusal]:
    while failed:
        error = failed.pop(0)
        yield SourceRefusal(str(error.filename), None, f"folder cannot be read: {error.strerror or error}")


def _count(folder: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(folder, followlinks=False))


def look_at(path: Path, root: Path) -> FoundFile:
    """What a file is by its name, or else by its first bytes; nothing but a regular file below the root is opened."""
    lower = path.name.lower()
    ending = Path(lower).suffix[:16] or "no ending"
    if lower.endswith(IMAGE_SUFFIXES) or _LIKE_OURS.search(lower):
        return FoundFile(path, "picture", ending)
    if lower.endswith(OTHER_SUFFIXES):
        return FoundFile(path, "other picture", ending)
    try:
        target = path.resolve(strict=True)
        if not target.is_relative_to(root) or not stat.S_ISREG(target.stat().st_mode):
            return FoundFile(path, "no file", ending)
        with open(target, "rb") as file:
            head = file.read(_HEAD)
    # A loop of links is a RuntimeError up to Python 3.12.
    except (OSError, RuntimeError):
        return FoundFile(path, "no file", ending)
    if image_format(head) is not None:
        return FoundFile(path, "picture", ending)
    if (name := _format(head)) is not None:
        return FoundFile(path, "other picture", f"{name} ({ending})")
    return FoundFile(path, "no picture", ending)


def _format(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":
        return _BRANDS.get(head[8:12])
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0":
        return "BMP"
    return next((name for beginning, name in _BEGINNINGS if head.startswith(beginning)), None)
