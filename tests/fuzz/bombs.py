"""Inputs of at most 10 MB that claim, or become, far more than that; each for one of the readers of `TARGETS`."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

MB = 10**6
_FULL = 10 * MB

Bomb = tuple[str, str, Callable[[], bytes]]
"""(reader, what it is, its bytes)."""


def _png(width: int, height: int, colour: int, depth: int, real: bool) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    packer = zlib.compressobj(1)
    row = bytes(1 + width * channels * depth // 8)
    body = b"".join(packer.compress(row) for _ in range(height if real else 1)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def _coded(kind: str, size: tuple[int, int], mode: str = "RGB", **options: object) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size).save(out, kind, **options)
    return out.getvalue()


def _turned(size: tuple[int, int]) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _coded("JPEG", size, exif=exif, comment=b"c", quality=10)


def _npz() -> bytes:
    out = io.BytesIO()
    np.savez_compressed(out, *[np.zeros(30 * MB, np.uint8)] * 20)
    return out.getvalue()


def _parquet(columns: dict[str, object], **options: object) -> bytes:
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), out, **options)
    return out.getvalue()


def _embeddings(des: object, text: object, count: int, **options: object) -> bytes:
    emotion = ["awe"] * count
    # The last two are what EmoVerse's files have.
    names = {"id": text, "emotion": emotion, "split": ["x"] * count, "image": [b"x"] * count, "emotion_category": emotion}
    return _parquet({**names, "des": des, "DES_representation": des, "description": text}, **options)


def _long_page() -> bytes:
    return _embeddings([[0.0]], pyarrow.array(["a" * (900 * MB)]), 1, compression="gzip", use_dictionary=False)


def _dictionary() -> bytes:
    texts = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 4096, pyarrow.int32()), pyarrow.array(["a" * MB]))
    return _embeddings([[0.0]] * 4096, texts, 4096, compression="zstd")


def _zeros() -> bytes:
    des = pyarrow.ListArray.from_arrays(pyarrow.array([0, 60 * MB], pyarrow.int32()), pyarrow.array(np.zeros(60 * MB, np.int8)))
    return _embeddings(des, ["a"], 1, compression="zstd")


def _many_columns() -> bytes:
    wanted = {name: pyarrow.array(["a"]) for name in ("id", "emotion", "split", "des", "image", "emotion_category")}
    return _parquet({**wanted, **{f"c{n}": pyarrow.array([1], pyarrow.int8()) for n in range(30_000)}})


def _many_groups() -> bytes:
    return _embeddings([[0.0]] * 7_000, ["a"] * 7_000, 7_000, row_group_size=1)


def _header(kind: bytes, size: int, name: str = "a.jpg") -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def _pax(record: bytes) -> bytes:
    return _header(tarfile.XHDTYPE, len(record)) + record.ljust(512, b"\0") + _header(tarfile.REGTYPE, 0) + bytes(1024)


def _checkpoint(content: bytes, packed: bool = False) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return out.getvalue()


def _safetensors(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def _repeated(text: str, start: str = "[", end: str = "]", size: int = _FULL) -> bytes:
    return (start + text * ((size - len(start) - len(end)) // len(text)) + end).encode()


def _keys(size: int = 9 * MB) -> bytes:
    return ("{" + ",".join(f'"{n:x}":{n}' for n in range(size // 15)) + "}").encode()


def _csv() -> bytes:
    return b"epoch,step,train/loss\n" + b"".join(b"0,%d,1.5\n" % n for n in range(700_000))


_JSON = {
    "lists": lambda: _repeated("[],", end="0]"),
    "objects": lambda: _repeated("{},", end="0]"),
    "numbers": lambda: _repeated("0,", end="0]"),
    "keys": _keys,
    "depth": lambda: b"[" * _FULL,
    "digits": lambda: b"9" * _FULL,
    "text": lambda: b'"' + b"\\u00e9" * (_FULL // 6) + b'"',
    "object of lists": lambda: b'{"a":' + _repeated("[],", end="0]", size=_FULL - 10) + b"}",
    "object of objects": lambda: b'{"a":' + _repeated('{"b":0},', end="0]", size=_FULL - 10) + b"}",
}
_YAML = {
    "aliases": lambda: (
        "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
    ).encode(),
    "lists": lambda: _repeated("[],", start="a: [", end="0]", size=490_000),
    "depth": lambda: b"a: " + b"[" * 490_000,
    "digits": lambda: b"a: " + b"9" * 490_000,
    "length": lambda: b"a: 1\n" * 2 * MB,
}

_VOTES = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
_HEADS = {
    "artemis": (b"art_style,painting,emotion,utterance\n", b"a,b,c,d\n"),
    "emotion6": (
        "\t".join(["image_filename", "valence", "arousal", *(f"prob. {e}" for e in _VOTES)]).encode() + b"\n",
        b"a" + b"\t1" * 9 + b"\n",
    ),
    "flickr30k, CSV": (b"raw,split,filename\n", b"[],a,b\n"),
    "flickr30k, token": (b"a.jpg#0\ta\n", b"a\tb\n"),
    "findingemo": (b"image_path,valence,arousal,emotion\n", b"a,b,c,d\n"),
    "fi": (b"awe,http://a/b,1,4\n", b"awe,http://a/b,1,4\n"),
    "URLs, CSV": (b"url,licence\n", b"a,b\n"),
}
"""Headers of tables, and a row that has their columns."""


def bombs() -> Iterator[Bomb]:
    """All of them; none is made before it is asked for."""
    of_json: tuple[str, ...] = (
        "record",
        "manifest",
        "settings, JSON",
        "Label Studio",
        "chat reply",
        "image reply",
        "batch lines",
        "emoset",
        "emoverse, JSON",
        "emoart",
        "findingemo, URLs",
        "URLs, lines",
    )
    of_json += (
        "page.json",
        "panel.json",
        "prep.json",
        "training.json",
        "stage.json",
        "cache, index",
        "adapter",
        "model's config",
        "hashes",
    )
    for reader in (
        *of_json,
        "model's answer",
        "review page",
        "weights, index",
        "made_of.json",
        "sweep's run",
        "emoverse, lines",
    ):
        for what, make in _JSON.items():
            yield reader, what, make
    for reader in ("settings, YAML", "experiment", "sweep", "prices", "pass config", "study config", "config.yaml"):
        for what, make in _YAML.items():
            yield reader, what, make
    yield "emoset", "one good row again", lambda: _repeated('["awe","a.jpg","a.json"],', end='["awe","a.jpg","a.json"]]')
    yield "emoset", "good and bad rows", lambda: _repeated('["awe","a.jpg","a.json"],0,', end='["awe","a.jpg","a.json"]]')
    yield (
        "emoverse, JSON",
        "no such image",
        lambda: b"[" + b",".join(b'{"id":%d,"image_path":"a","emotion":"awe"}' % n for n in range(200_000)) + b"]",
    )
    yield from _of_pictures()
    yield from _of_tars()
    yield from _of_tables()
    answer = "model's answer"
    for what, text in {
        "braces": '{"a":',
        "brackets": "[",
        "thoughts": "<think>",
        "fences": "```json\n",
        "quotes": '{"',
    }.items():
        yield answer, what, lambda text=text: text.encode() * (_FULL // len(text))  # type: ignore[misc]
    yield "robots.txt", "stars", lambda: b"User-agent: *\nDisallow: /" + b"*a" * 200_000 + b"$\n"
    yield "robots.txt", "rules", lambda: b"User-agent: *\n" + b"Disallow: /*a*b*c$\n" * 500_000
    yield "mask", "size", lambda: json.dumps({"size": [1 << 40, 1 << 40], "counts": "0"}).encode()
    yield "npy", "shape", lambda: _npy((1 << 40,))
    yield "npz", "zeros", _npz
    yield "safetensors", "header", lambda: _safetensors(_keys())
    yield "safetensors", "lists", lambda: _safetensors(_JSON["object of lists"]())
    yield "checkpoint", "zeros", lambda: _checkpoint(bytes(2000 * MB), packed=True)
    for what, code in {"dicts": b"}", "lists": b"]", "marks": b"(", "tuples": b")\x85"}.items():
        yield "checkpoint", what, lambda code=code: _checkpoint(b"\x80\x02" + code * (9 * MB // len(code)) + b".")  # type: ignore[misc]
    yield "checkpoint", "memo", lambda: _checkpoint(pickle.dumps([{} for _ in range(2 * MB)], 2)[:_FULL])


def _npy(shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f8", "fortran_order": False, "shape": shape})
    return out.getvalue()


def _of_pictures() -> Iterator[Bomb]:
    yield "picture", "PNG that claims", lambda: _png(60_000, 60_000, 2, 8, real=False)
    yield "picture", "PNG, 59 MP", lambda: _png(7680, 7680, 2, 8, real=True)
    yield "picture", "PNG, 59 MP with alpha", lambda: _png(7680, 7680, 6, 8, real=True)
    yield "picture", "PNG, 59 MP of 16 bits", lambda: _png(7680, 7680, 0, 16, real=True)
    yield "picture", "PNG, 59 MP grey with alpha", lambda: _png(7680, 7680, 4, 8, real=True)
    yield "picture", "JPEG, 59 MP", lambda: _coded("JPEG", (7680, 7680), quality=10)
    yield "picture", "JPEG, 40 MP turned", lambda: _turned((6400, 6400))
    yield "picture", "JPEG, 40 MP progressive", lambda: _coded("JPEG", (6400, 6400), quality=10, progressive=True)
    yield "picture", "JPEG, 40 MP CMYK", lambda: _coded("JPEG", (6400, 6400), "CMYK", quality=10)
    yield "picture", "WebP, 29 MP", lambda: _coded("WEBP", (5400, 5400), quality=10)
    yield "picture", "WebP, 29 MP with alpha", lambda: _coded("WEBP", (5400, 5400), "RGBA", lossless=True)


def _of_tars() -> Iterator[Bomb]:
    for reader in ("tar", "exported tar", "emoart, archive"):
        yield reader, "PAX of length 0", lambda: _pax(b"0 path=a\n" * 20)
        yield reader, "PAX of length 10^9", lambda: _pax(b"1000000000 path=a\n")
        yield reader, "a member of 3 GB", lambda: _header(tarfile.REGTYPE, 3 << 30, "a.json") + bytes(MB)
        yield reader, "headers alone", lambda: _header(tarfile.REGTYPE, 0) * (_FULL // 512)
        yield reader, "long names", lambda: _header(tarfile.GNUTYPE_LONGNAME, 8 * MB) + bytes(8 * MB)
        yield reader, "sparse", lambda: _header(tarfile.GNUTYPE_SPARSE, 512, "a.json") + bytes(1024)
        yield reader, "headers of headers", lambda: (_header(tarfile.XHDTYPE, 512) + b"9 path=a\n".ljust(512, b"\0")) * 9000
    yield "emoart, archive", "gzip of zeros", lambda: gzip.compress(_header(tarfile.REGTYPE, 3 << 30) + bytes(1500 * MB), 1)
    yield "emoart, archive", "gzip of headers", lambda: gzip.compress(_header(tarfile.REGTYPE, 0) * 2 * MB, 1)


def _of_tables() -> Iterator[Bomb]:
    for reader in ("parquet", "triplet graph", "emoverse, Parquet", "embeddings"):
        for make in (_long_page, _dictionary, _zeros, _many_columns, _many_groups):
            yield reader, make.__name__.strip("_").replace("_", " "), make
    for reader in ("artemis", "emotion6", "flickr30k, CSV", "flickr30k, token", "findingemo", "fi", "URLs, CSV", "URLs, text"):
        yield reader, "one line", lambda: b"a" * _FULL
        yield reader, "lines", lambda: b"a\n" * (_FULL // 2)
        yield reader, "quotes", lambda: b'a,"\n' * (_FULL // 4)
        yield reader, "a quote without end", lambda: (b'"' + b'""\n' * 1200) * (_FULL // 3601)
        yield reader, "commas", lambda: b"," * _FULL
    for reader, (head, row) in _HEADS.items():
        for what, line in {"short rows": b"a\n", "rows": row, "open quotes": b'"\n'}.items():
            yield reader, f"{what} below a header", lambda head=head, line=line: head + line * (_FULL // len(line))  # type: ignore[misc]
    yield "URLs, text", "addresses", lambda: b"".join(b"http://a.b/%x\n" % n for n in range(500_000))
    yield "metrics.csv", "steps", _csv
    yield (
        "metrics.csv",
        "columns",
        lambda: b"step," + b",".join(b"a%d/loss" % n for n in range(400_000)) + b"\n" + b"1," * 400_000 + b"1\n",
    )
