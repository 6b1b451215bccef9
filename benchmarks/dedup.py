"""Finding transformed copies: our hash, alone and with the search for crops, against imagededup's, on the same images; and how long all
pairs of 205,000 images take.

    uv pip install --target benchmarks/.peers --no-deps -r benchmarks/requirements-peers.txt
    .venv/bin/python benchmarks/dedup.py [--bits 6] [--skip-pairs] [--model dinov2] [--quick] [--json FILE]

(--no-deps, because its other dependencies are ours as well.) Images: the photographs of scikit-image and scikit-learn, disjoint tiles
of the large ones, and drawn images of the world. Each is transformed; recall is the share of copies that are within the threshold of
their original, precision the share of true ones among all pairs (copy, original) within it. `+ crops` is what `emo prep dedup` does;
with --model there is one more column, which adds embeddings at the default cosine. `ratio` is its mean recall over that of imagededup's
PHash; without that part, theirs over our processor time for all pairs.
"""

from __future__ import annotations

import io
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.command import command_line, find_peers, write_json
from data_prep.dedup.pairs import close_hashes, hash_distance
from data_prep.dedup.phash import MIRROR_BITS, WINDOWS, perceptual_hashes, wholes
from data_prep.dedup.registration import correlations, thumbnail
from data_prep.dedup.run import DedupSettings
from data_prep.dedup.search import parts, search

HASHES = ("PHash", "DHash", "WHash", "AHash")

SAME = ("motorcycle_right", "chessboard_RGB", "phantom")
"""Left out because they show what others show: the other camera of a stereo pair, another encoding, a head of two mirrored halves."""


def peers() -> dict[str, Any]:
    """imagededup's hash functions by name."""
    from imagededup import methods

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
    from data_prep.demo.world import World

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
    """(copies, originals) bits, the least over the wholes; 64 for plain images."""
    result = np.full((len(copies), len(originals)), 64, np.uint8)
    views = [[wholes(hashes) for hashes in prints] for prints in (copies, originals)]
    a, b = (np.concatenate(v) for v in views)
    of_a, of_b = (np.repeat(np.arange(len(v)), [len(hashes) for hashes in v]) for v in views)
    np.minimum.at(result, (of_a[:, None], of_b[None]), hash_distance(a[:, None], b[None], MIRROR_BITS))
    return result


def our_crops(
    copies: list[np.ndarray], originals: list[np.ndarray], grey_copies: list[bytes], grey_originals: list[bytes], bits: int
) -> np.ndarray:
    """(copies, originals) whether the pixels agree as `emo prep dedup` wants it."""
    prints, grey = originals + copies, grey_originals + grey_copies
    found = search(prints, bits + 4, bits, True).candidates
    found = found[(found[:, 0] < len(originals)) & (found[:, 1] >= len(originals))]
    some = parts(prints, found)
    pixels = ([grey[i] for i in which] for which in (some.whole, some.part))
    same = found[correlations(*pixels, some.start, some.mirrored) >= DedupSettings.correlation] if len(found) else found
    result = np.zeros((len(copies), len(originals)), bool)
    result[same[:, 1] - len(originals), same[:, 0]] = True
    return result


def quality(bits: int, images: int, photos: int | None, model: str | None) -> dict[str, float]:
    """The table of recall and precision; mean recall of each method."""
    methods = peers()
    base = [*photographs()[:photos], *drawn(images)]
    recall: dict[str, list[float]] = {}
    rng = random.Random(0)
    embedder = None
    if model:
        from data_prep.dedup.embeddings import Embedder

        embedder = Embedder(model)
    ours = ("hash", "+ crops", *(("+ embeddings",) if embedder else ()))
    print(f"{len(base)} different images, {images} of them drawn; recall % / precision % at {bits} bits")
    print(f"{'':18}" + "".join(f"{name:>14}" for name in (*ours, *HASHES)))
    seconds = dict.fromkeys(("ours", *HASHES), 0.0)

    def encode(pictures: list[Image.Image]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        data = [png(picture) for picture in pictures]
        start = time.process_time()
        found["hash"] = [np.frombuffer(perceptual_hashes(d), ">u8").astype(np.uint64) for d in data]
        seconds["ours"] += time.process_time() - start
        found["grey"] = [thumbnail(d) for d in data]
        if embedder:
            batches = [data[i : i + 32] for i in range(0, len(data), 32)]
            found["vectors"] = np.concatenate([embedder.embed(batch) for batch in batches]).astype(np.float32)
        for name, method in methods.items():
            start = time.process_time()
            arrays = [np.asarray(Image.open(io.BytesIO(d)).convert("RGB")) for d in data]
            codes = [int(method.encode_image(image_array=array), 16) for array in arrays]
            seconds[name] += time.process_time() - start
            found[name] = np.array(codes, np.uint64)
        return found

    originals = encode(base)
    for title, transform in TRANSFORMATIONS.items():
        copies = encode([transform(image, rng) for image in base])
        close = {name: np.bitwise_count(copies[name][:, None] ^ originals[name][None]) <= bits for name in HASHES}
        close["hash"] = our_distances(copies["hash"], originals["hash"]) <= bits
        close["+ crops"] = close["hash"] | our_crops(copies["hash"], originals["hash"], copies["grey"], originals["grey"], bits)
        if embedder:
            close["+ embeddings"] = close["+ crops"] | (copies["vectors"] @ originals["vectors"].T >= DedupSettings.cosine)
        cells = []
        for name in (*ours, *HASHES):
            true = int(close[name].diagonal().sum())
            recall.setdefault(name, []).append(true / len(base))
            cells.append(f"{100 * true / len(base):.1f}/{100 * true / max(1, int(close[name].sum())):.1f}")
        print(f"{title:18}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    print(
        "processor time to decode and hash, ours / theirs: "
        + ", ".join(f"{n} {seconds['ours'] / seconds[n]:.2f}" for n in HASHES)
    )
    return {name: statistics.fmean(found) for name, found in recall.items()}


def planted(count: int, rng: np.random.Generator) -> tuple[list[np.ndarray], int]:
    """Fingerprints of unrelated images, and how many copies are among them: one in ten is a crop of another.

    A window differs from its whole in 12 bits of 64, and a crop from the window that it shows in 3.
    """
    windows = np.empty((count, len(WINDOWS)), np.uint64)
    windows[:, 0] = rng.integers(0, 2**64, size=count, dtype=np.uint64)
    for column in range(1, len(WINDOWS)):
        a, b, c, d = rng.integers(0, 2**64, size=(4, count), dtype=np.uint64)
        windows[:, column] = windows[:, 0] ^ (a & b & (c | d))
    crops = count // 10
    shown = windows[np.arange(crops), rng.integers(1, len(WINDOWS), crops)] ^ np.uint64(0b1011)
    windows[-crops:] ^= (windows[-crops:, 0] ^ shown)[:, None]
    return list(windows), crops


def pairs(count: int, bits: int) -> float:
    """All pairs, with planted ones; then hashes alone on fewer, ours and theirs: the ratio of their processor time to ours."""
    method = peers()["PHash"]
    rng = np.random.default_rng(0)
    prints, crops = planted(count, rng)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for parts_too in (False, True):
        start, processor = time.perf_counter(), time.process_time()
        found = search(prints, bits + 4, bits, parts_too)
        took, processor = time.perf_counter() - start, time.process_time() - processor
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        true = int((found.candidates[:, 1] - found.candidates[:, 0] == count - crops).sum())
        print(
            f"all pairs of {count} images{', crops too' if parts_too else ', hashes and their mirror images'}: {took:.1f} s on "
            f"{os.cpu_count()} cores ({processor:.1f} s of processor time), {len(found.edges[0])} edges"
            + (f", {len(found.candidates)} pairs to be registered, {true} of {crops} planted crops" if parts_too else "")
            + f", memory grew by {grown / 1024:.0f} MiB",
            flush=True,
        )
    few = rng.integers(0, 2**64, size=min(count, 5_000), dtype=np.uint64)
    start = time.process_time()
    sum(len(edges[0]) for edges in close_hashes(few, bits, MIRROR_BITS))
    took = time.process_time() - start
    encodings = {str(i): f"{value:016x}" for i, value in enumerate(few)}
    start = time.process_time()
    method.find_duplicates(encoding_map=encodings, max_distance_threshold=bits, search_method="brute_force_cython")
    theirs = time.process_time() - start
    print(
        f"{len(few)} hashes, processor time of ours (with mirror images) / imagededup brute_force_cython (without): {took / theirs:.3f}"
    )
    return theirs / took


def main() -> None:
    """Print both."""
    parser = command_line(__doc__)
    parser.add_argument("--bits", type=int, default=6)
    parser.add_argument("--drawn", type=int, default=300, help="drawn images")
    parser.add_argument("--count", type=int, default=205_000, help="hashes of the second part")
    parser.add_argument("--model", help="an image model of transformers, as for emo prep dedup")
    parser.add_argument("--skip-quality", action="store_true")
    parser.add_argument("--skip-pairs", action="store_true")
    args = parser.parse_args()
    if args.skip_quality and args.skip_pairs:
        parser.error("--skip-quality and --skip-pairs leave nothing")
    find_peers("imagededup", "pywt")
    drawn_images, photos, count = (4, 4, 2_000) if args.quick else (args.drawn, None, args.count)
    ratios: list[float] = []
    found: dict[str, object] = {"bits": args.bits}
    if not args.skip_quality:
        found["recall"] = recall = quality(args.bits, drawn_images, photos, args.model)
        ratios.append(recall["+ crops"] / recall["PHash"])
    if not args.skip_pairs:
        ratios.append(pairs(count, args.bits))
        found["pairs_ratio"] = ratios[-1]
    write_json(args.json, "imagededup", ratios[0], found)


if __name__ == "__main__":
    main()
