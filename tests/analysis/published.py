"""Small trees of the published data sets in the layouts in which they are downloaded, filled with images of the drawn world.

Labels are the world's truth said in each set's own words, so that a model that knows the world is right about all of them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_prep.demo.world import World
from data_prep.sources.labels import PLUTCHIK
from emo_lightning.core.records import EMOTIONS, Emotion, Record
from tests.data_prep.sources.trees import write

POSITIVE = EMOTIONS[:4]


def _images(count: int, style: str, start: int, split: str = "train") -> Iterator[tuple[int, Record, bytes]]:
    """World images as JPEG, whatever the world drew them as: the layouts say .jpg."""
    import io

    from PIL import Image

    for n, sample in enumerate(World(seed=0, style=style).samples(split, count, start)):
        out = io.BytesIO()
        Image.open(io.BytesIO(sample.image)).convert("RGB").save(out, "JPEG", quality=92)
        yield n, sample.truth, out.getvalue()


def emoset(root: Path, counts: Mapping[str, int]) -> Path:
    """`{split}.json`, `image/<emotion>/*.jpg`, `annotation/<emotion>/*.json`.

    Args:
        root: made.
        counts: split -> images.
    """
    files: dict[str, Any] = {"info.json": {"emotion": {"label2idx": {str(e): n for n, e in enumerate(EMOTIONS)}}}}
    start = 0
    for split, count in counts.items():
        rows = []
        for n, truth, image in _images(count, "flat", start):
            emotion, stem = str(truth.emotion), f"{truth.emotion}_{start + n:05d}"
            row = [f"image/{emotion}/{stem}.jpg", f"annotation/{emotion}/{stem}.json"]
            files[row[0]] = image
            files[row[1]] = {"image_id": stem, "emotion": emotion, "brightness": 0.5, "colorfulness": 0.4, "scene": "park"}
            rows.append([emotion, stem, *row])
        files[f"{split}.json"] = rows
        start += count
    return write(root, files)


def fi(root: Path, count: int) -> Path:
    """The raw release: a header-less CSV with votes, and images by emotion."""
    files: dict[str, Any] = {}
    rows = []
    for n, truth, image in _images(count, "dusk", 0):
        files[f"emotion_dataset/{truth.emotion}/{n}.jpg"] = image
        rows.append(f"{truth.emotion},http://farm.example/{n}.jpg,{n % 3},{5 - n % 3}")
    # People disagreed with the last one: it has no label.
    rows[-1] = f"{rows[-1].rsplit(',', 2)[0]},4,1"
    return write(root, {**files, "votes.csv": "\n".join(rows)})


def emotion6(root: Path, count: int) -> Path:
    """`images/<keyword>/N.jpg` and `ground_truth.txt`, tab-separated; one image in eight is of surprise."""
    words = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
    columns = ["[image_filename]", "[valence]", "[arousal]", *(f"[prob. {word}]" for word in words)]
    files: dict[str, Any] = {}
    lines = ["\t".join(columns)]
    for n, truth, image in _images(count, "dusk", 1000):
        scores = {str(e): s for e, s in (truth.emotion_scores or {}).items()}
        shares = {word: scores.get(word, 0.0) for word in words} | {"joy": sum(scores[str(e)] for e in POSITIVE)}
        if n % 8 == 7:
            shares = dict.fromkeys(words, 0.0) | {"surprise": 0.8, "neutral": 0.2}
        keyword = max(shares, key=shares.__getitem__)
        files[f"images/{keyword}/{n}.jpg"] = image
        valence = 1 + 8 * sum(scores[str(e)] for e in POSITIVE)
        lines.append("\t".join([f"{keyword}/{n}.jpg", f"{valence:.3f}", "5", *(f"{shares[word]:.6f}" for word in words)]))
    return write(root, {**files, "ground_truth.txt": "\r\n".join(lines) + "\r\n"})


def artemis(root: Path, count: int) -> Path:
    """One row per annotator, images as `wikiart/<art_style>/<painting>.jpg`."""
    files: dict[str, Any] = {}
    rows = ["art_style,painting,emotion,utterance,repetition"]
    for n, truth, image in _images(count, "dusk", 2000):
        style, painting = ("Cubism", "Fauvism")[n % 2], f"painter_{n:04d}"
        files[f"wikiart/{style}/{painting}.jpg"] = image
        rng = random.Random(n)
        votes = rng.choices([*map(str, EMOTIONS)], weights=[(truth.emotion_scores or {})[e] for e in EMOTIONS], k=5)
        rows += [f'{style},{painting},{vote},"It makes me feel {vote}, somehow.",6' for vote in [*votes, "something else"]]
    return write(root, {**files, "artemis_dataset_release_v0.csv": "\n".join(rows)})


def findingemo(root: Path, count: int) -> Path:
    """`data/annotations_single.ann` with leaves of Plutchik's wheel; the intensity is the leaf's."""
    files: dict[str, Any] = {}
    rows = ["index,user,image_path,tags,age,valence,arousal,emotion,dec_factors,ambiguity,datetime"]
    for n, truth, image in _images(count, "dusk", 3000):
        family = str(truth.emotion) if truth.emotion not in (*POSITIVE, Emotion.AWE) else "joy"
        leaf = next(word for word, (own, level) in PLUTCHIK.items() if (own, level) == (family, truth.intensity_level))
        valence = 2 if family == "joy" else -2
        rows.append(f'{n},u{n % 3},/Run_1/Park/{n}.jpg,"[""x""]",Adults,{valence},3,{leaf.title()},Conflict,1,2023-01-01')
        files[f"images/Run_1/Park/{n}.jpg"] = image
    return write(root, {**files, "data/annotations_single.ann": "\n".join(rows)})
