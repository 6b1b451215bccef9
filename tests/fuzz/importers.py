"""Index files of every published data set, and lists of addresses."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from data_prep.sources import open_source
from data_prep.sources.addresses import read_list
from tests.data_prep.conftest import picture
from tests.data_prep.sources.trees import write
from tests.fuzz.target import Make, Target, as_json, through

_EMOART = {
    "request_id": "r",
    "image_path": "Images/Cubism/a.jpg",
    "description": {
        "first_section": {"description": "A quiet harbour."},
        "second_section": {"visual_attributes": {"color": "blue"}, "emotional_impact": "calming"},
        "third_section": {
            "emotional_arousal_level": "Low",
            "emotional_valence": "Positive",
            "healing_effects": ["rest"],
            "dominant_emotion": "Calm",
        },
    },
}
_EMOVERSE = {
    "id": "a",
    "image_path": "images/a.jpg",
    "description": "d",
    "emotion": "awe",
    "confidence": 8,
    "background": "b",
    "attribute": "c",
    "subject": "d",
    "DES": None,
    "bbox": [{"x1": 1, "y1": 2, "x2": 30, "y2": 31}],
    "split": "train",
}
_VOTES = ("anger", "disgust", "fear", "joy", "sadness", "surprise", "neutral")
_EMOTION6 = (
    "\t".join(["[image_filename]", "[valence]", "[arousal]", *(f"[prob. {word}]" for word in _VOTES)])
    + "\nanger/1.jpg\t2.5\t5\t0.7\t0.1\t0.1\t0\t0.1\t0\t0\n"
)
_KARPATHY = {
    "dataset": "x",
    "images": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": "A dog."}, {"raw": "A cat."}]}],
}

INDEXES: dict[str, tuple[str, str, dict[str, Any], Any]] = {
    # Name of the target: source, its index, the other files, the index's content.
    "emoset": ("emoset", "train.json", {"a.jpg": 1, "a.json": {"emotion": "awe"}}, [["awe", "a.jpg", "a.json"]] * 2),
    "emoset, image": (
        "emoset",
        "a.json",
        {"a.jpg": 1, "train.json": [["awe", "a.jpg", "a.json"]]},
        {"emotion": "awe", "scene": ["x"]},
    ),
    "emoart": ("emoart", "Annotation.json", {"Images/Cubism/a.jpg": 1}, [_EMOART, _EMOART]),
    "flickr30k, JSON": ("flickr30k", "dataset_flickr30k.json", {"images/a.jpg": 1}, _KARPATHY),
    "flickr30k, CSV": (
        *("flickr30k", "flickr_annotations_30k.csv", {"images/a.jpg": 1}),
        'raw,split,filename\n"[""A dog."", ""A cat.""]",train,a.jpg\n',
    ),
    "flickr30k, token": ("flickr30k", "results_20130124.token", {"images/a.jpg": 1}, "a.jpg#0\tA dog.\na.jpg#1\tA cat.\n"),
    "fi": ("fi", "a.csv", {"images/awe/a.jpg": 1}, "awe,http://x.example/awe/a.jpg,1,4\nawe,http://x.example/b.jpg,0,5\n"),
    "emotion6": ("emotion6", "ground_truth.txt", {"images/anger/1.jpg": 1}, _EMOTION6),
    "artemis": (
        *("artemis", "a.csv", {"wikiart/A/p.jpg": 1}),
        'art_style,painting,emotion,utterance,split\nA,p,awe,"he said ""so"",\nand so",train\nA,p,fear,u,train\n',
    ),
    "findingemo": (
        *("findingemo", "data/annotations_single.ann", {"images/a.jpg": 1}),
        "index,image_path,valence,arousal,emotion,tags\n0,/a.jpg,-1,2,Sadness,x\n1,/a.jpg,-1,2,Joy,y\n",
    ),
    "findingemo, URLs": (
        "findingemo",
        "data/dataset_urls_exploded.json",
        {"images/a.jpg": 1, "data/annotations_single.ann": "image_path,valence,arousal,emotion\n/a.jpg,-1,2,Sadness\n"},
        [{"rel_path": "/a.jpg", "idx_url": 0, "url": "http://x.example/a.jpg"}],
    ),
    "emoverse, JSON": ("emoverse", "train.json", {"images/a.jpg": 1}, [_EMOVERSE, {**_EMOVERSE, "id": "b"}]),
    "emoverse, lines": ("emoverse", "train.jsonl", {"images/a.jpg": 1}, json.dumps(_EMOVERSE) + "\n" + json.dumps(_EMOVERSE)),
}
"""Every index that is JSON, CSV or a table with tabs."""


def _index(name: str, folder: Path) -> Target:
    source, index, files, content = INDEXES[name]
    write(folder, files)
    whole = content.encode() if isinstance(content, str) else as_json(content)
    return Target(through(folder / index, lambda _: list(open_source(source).read(folder))), [whole])


def _list(ending: str, content: str, folder: Path) -> Target:
    return Target(through(folder / f"a.{ending}", lambda path: list(read_list(path))), [content.encode()])


def _parquet(folder: Path) -> Target:
    row = {
        "image": {"bytes": picture(1), "path": None},
        "emotion_category": "Awe",
        "confidence_score": 8,
        "bounding_box": [1, 2, 30, 31],
    }
    out = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row] * 3), out)
    return Target(
        through(folder / "train-0.parquet", lambda _: list(open_source("emoverse").read(folder))), [out.getvalue()], one_of=50
    )


def _archive(folder: Path) -> Target:
    write(folder, {"Annotation.json": [_EMOART]})
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as tar:
        data = picture(1, kind="JPEG")
        info = tarfile.TarInfo("Cubism/a.jpg")
        info.size, info.pax_headers = len(data), {"comment": "ü"}
        tar.addfile(info, io.BytesIO(data))
    read = through(folder / "Cubism.tar", lambda _: list(open_source("emoart").read(folder)))
    packed = through(folder / "Cubism.tar.gz", lambda _: list(open_source("emoart").read(folder)))

    def both(data: bytes) -> None:
        for one in (read, packed):
            one(data)
        # Whole gzip around a spoilt tar: else few spoilt inputs would reach the tar's reader.
        packed(gzip.compress(data, 1))

    return Target(both, [plain.getvalue(), gzip.compress(plain.getvalue())], one_of=3)


_URLS = "url,licence,emotion,query,lineage\n"
_ROW = {"url": "http://x.example/a.jpg?b=1#c", "licence": "CC0", "emotion": "awe", "query": "q", "lineage": {"a": 1}}
IMPORTERS: dict[str, Make] = {
    **{name: partial(_index, name) for name in INDEXES},
    "emoverse, Parquet": _parquet,
    "emoart, archive": _archive,
    "URLs, CSV": partial(_list, "csv", _URLS + 'http://x.example/a.jpg,CC0,awe,q,"{""a"": 1}"\nhttps://x.example/b.png,,,,\n'),
    "URLs, lines": partial(_list, "jsonl", json.dumps(_ROW) + "\n" + json.dumps(_ROW)),
    "URLs, text": partial(_list, "txt", "# list\nhttp://x.example/a.jpg\nhttps://[::1]:80/b\nhttp://ü.example/%00\n"),
}
