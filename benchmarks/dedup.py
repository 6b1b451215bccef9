"""Finding transformed copies: our hash against imagededup's, on the same images; and how long all pairs of 205,000 hashes take.

    pip install --no-deps --target /tmp/imagededup imagededup PyWavelets
    PYTHONPATH=/tmp/imagededup .venv/bin/python benchmarks/dedup.py [--bits 6] [--skip-pairs]

(--no-deps, because its other dependencies are ours as well.) Images: the photographs of scikit-image and scikit-learn, disjoint tiles
of the large ones, and drawn images of the world. Each is transformed; recall is the share of copies that are within the threshold of
their original, precision the share of true ones among all pairs (copy, original) within it.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from data_prep.dedup.pairs import close_hashes, hash_distance
from data_prep.dedup.phash import MIRROR, fingerprint

HASHES = ("PHash", "DHash", "WHash", "AHash")

SAME = ("motorcycle_right", "chessboard_RGB", "phantom")
"""Left out because they show what others show: the other camera of a stereo pair, another encoding, a head of two mirrored halves."""


def peers() -> dict[str, Any]:
    """imagededup's hash functions by name."""
    try:
        from imagededup import methods
    except ImportError as error:
        sys.exit(f"imagededup is missing ({error}); how to get it stands at the top of {__file__}")
    return {name: getattr(methods, name)(verbose=False) for name in HASHES}


def photographs() -> list[Image.Image]:
    """Photographs and disjoint tiles of the large ones."""
    import skimage
    import sklearn.datasets

    folders = (Path(skimage.__file__).parent / "data", Path(sklearn.datasets.__file__).parent / "images")
    found: list[Image.Image] = []
    for path in sorted(p for folder in folders for p in folder.glob("*.*") if p.suffix in (".png", ".jpg")):
        image = Image.open(path).convert("RGB")
        if min(image.size) < 200 or path.stem in SAME:
            continue
        found.append(image)
        width, height = image.size
        n = min(4, max(image.size) // 200) if min(image.size) >= 400 else 0
        found += [
            image.crop((width * i // n, height * j // n, width * (i + 1) // n, height * (j + 1) // n))
            for i in range(n)
            for j in range(n)
        ]
    return found


def drawn(count: int) -> list[Image.Image]:
    """Images of the demo world."""
    from data_prep.sources.world import World

    return [Image.open(io.BytesIO(s.image)).convert("RGB") for s in World(seed=0).samples("train", count)]


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Through JPEG once."""
    out = io.BytesIO()
    image.save(out, "JPEG", quality=quality)
    return Image.open(io.BytesIO(out.getvalue())).convert("RGB")


def cropped(image: Image.Image, share: float, rng: random.Random) -> Image.Image:
    """Without `share` of either side, at a random place."""
    width, height = round(image.width * (1 - share)), round(image.height * (1 - share))
    x, y = rng.randint(0, image.width - width), rng.randint(0, image.height - height)
    return image.crop((x, y, x + width, y + height))


def scaled(image: Image.Image, x: float, y: float) -> Image.Image:
    """Another size."""
    return image.resize((round(image.width * x), round(image.height * y)), Image.Resampling.BICUBIC)


def bordered(image: Image.Image, share: float, colour: str) -> Image.Image:
    """A plain border, then JPEG."""
    return jpeg(ImageOps.expand(image, max(2, round(min(image.size) * share)), colour), 90)


TRANSFORMATIONS: dict[str, Callable[[Image.Image, random.Random], Image.Image]] = {
    "resize 50 %": lambda image, rng: scaled(image, 0.5, 0.5),
    "resize 200 %": lambda image, rng: scaled(image, 2, 2),
    "height 80 %": lambda image, rng: scaled(image, 1, 0.8),
    "crop 5 %": lambda image, rng: cropped(image, 0.05, rng),
    "crop 10 %": lambda image, rng: cropped(image, 0.1, rng),
    "crop 20 %": lambda image, rng: cropped(image, 0.2, rng),
    "JPEG 50": lambda image, rng: jpeg(image, 50),
    "JPEG 15": lambda image, rng: jpeg(image, 15),
    "black border 5 %": lambda image, rng: bordered(image, 0.05, "black"),
    "white border 10 %": lambda image, rng: bordered(image, 0.1, "white"),
    "flip": lambda image, rng: ImageOps.mirror(image),
    "brightness 70 %": lambda image, rng: ImageEnhance.Brightness(image).enhance(0.7),
    "brightness 140 %": lambda image, rng: ImageEnhance.Brightness(image).enhance(1.4),
}


def png(image: Image.Image) -> bytes:
    """Encoded without loss: the same pixels for everybody."""
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def our_distances(copies: list[np.ndarray], originals: list[np.ndarray]) -> np.ndarray:
    """(copies, originals) bits, the least over the views; 64 for plain images."""
    result = np.full((len(copies), len(originals)), 64, np.uint8)
    a, b = (np.concatenate(views) for views in (copies, originals))
    of_a, of_b = (np.repeat(np.arange(len(views)), [len(v) for v in views]) for views in (copies, originals))
    np.minimum.at(result, (of_a[:, None], of_b[None]), hash_distance(a[:, None], b[None], MIRROR))
    return result


def quality(bits: int, images: int) -> None:
    """The table of recall and precision."""
    methods = peers()
    base = [*photographs(), *drawn(images)]
    rng = random.Random(0)
    print(f"{len(base)} different images, {images} of them drawn; recall % / precision % at {bits} bits")
    print(f"{'':18}" + "".join(f"{name:>14}" for name in ("ours", *HASHES)))
    seconds = dict.fromkeys(("ours", *HASHES), 0.0)

    def encode(pictures: list[Image.Image]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        data = [png(picture) for picture in pictures]
        start = time.perf_counter()
        found["ours"] = [np.frombuffer(fingerprint(d), ">u8").astype(np.uint64) for d in data]
        seconds["ours"] += time.perf_counter() - start
        for name, method in methods.items():
            start = time.perf_counter()
            arrays = [np.asarray(Image.open(io.BytesIO(d)).convert("RGB")) for d in data]
            codes = [int(method.encode_image(image_array=array), 16) for array in arrays]
            seconds[name] += time.perf_counter() - start
            found[name] = np.array(codes, np.uint64)
        return found

    originals = encode(base)
    for title, transform in TRANSFORMATIONS.items():
        copies = encode([transform(image, rng) for image in base])
        cells = []
        for name in ("ours", *HASHES):
            if name == "ours":
                close = our_distances(copies[name], originals[name]) <= bits
            else:
                close = np.bitwise_count(copies[name][:, None] ^ originals[name][None]) <= bits
            true = int(close.diagonal().sum())
            cells.append(f"{100 * true / len(base):.1f}/{100 * true / max(1, int(close.sum())):.1f}")
        print(f"{title:18}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    print("time to decode and hash, ours / theirs: " + ", ".join(f"{n} {seconds['ours'] / seconds[n]:.2f}" for n in HASHES))


def pairs(count: int, bits: int) -> None:
    """All pairs, with planted ones; then both on fewer, for the ratio."""
    method = peers()["PHash"]
    rng = np.random.default_rng(0)

    def hashes(n: int) -> np.ndarray:
        found = rng.integers(0, 2**64, size=n, dtype=np.uint64)
        # One in ten is a copy of another with three bits turned.
        copies = n // 10
        found[-copies:] = found[:copies] ^ np.uint64(0b1011)
        return found

    def ours(values: np.ndarray) -> tuple[float, int]:
        start = time.perf_counter()
        found = sum(len(edges[0]) for edges in close_hashes(values, bits, MIRROR))
        return time.perf_counter() - start, found

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    values, processor = hashes(count), time.process_time()
    took, found = ours(values)
    processor = time.process_time() - processor
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"all pairs of {count} hashes and their mirror images, {bits} bits: {took:.1f} s on {os.cpu_count()} cores "
        f"({processor:.1f} s of processor time), "
        f"{found} pairs ({count // 10} planted), memory grew by {grown / 1024:.0f} MiB",
        flush=True,
    )
    few = hashes(min(count, 5_000))
    took, _ = ours(few)
    encodings = {str(i): f"{value:016x}" for i, value in enumerate(few)}
    start = time.perf_counter()
    method.find_duplicates(encoding_map=encodings, max_distance_threshold=bits, search_method="brute_force_cython")
    theirs = time.perf_counter() - start
    print(
        f"{len(few)} hashes, time of ours (with mirror images) / imagededup brute_force_cython (without): {took / theirs:.3f}"
    )


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, default=6)
    parser.add_argument("--drawn", type=int, default=300, help="drawn images")
    parser.add_argument("--count", type=int, default=205_000, help="hashes of the second part")
    parser.add_argument("--skip-quality", action="store_true")
    parser.add_argument("--skip-pairs", action="store_true")
    args = parser.parse_args()
    if not args.skip_quality:
        quality(args.bits, args.drawn)
    if not args.skip_pairs:
        pairs(args.count, args.bits)


if __name__ == "__main__":
    main()
