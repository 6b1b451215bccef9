"""What servers, programs and people send to the preparation of data: replies, exports, requests of the page, configs."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from data_prep.config import PrepConfig
from data_prep.demo.config import DemoConfig
from data_prep.expand.config import ExpandConfig
from data_prep.expand.fetch import http_address
from data_prep.expand.images_received import billed_images, images_of, read_images
from data_prep.export.read import read_records
from data_prep.grounding.masks import decode_mask, encode_mask
from data_prep.provider.model_under_test import UnderTest
from data_prep.provider.openai_batches import read_batch, read_batch_results
from data_prep.provider.openai_received import read_chat
from data_prep.provider.prices import load_prices
from data_prep.review.decisions import ReviewError
from data_prep.review.label_studio import write_tasks
from data_prep.review.label_studio_import import read_annotations
from data_prep.review.log import ReviewLog
from data_prep.review.messages import RouteHandler
from data_prep.review.session import ReviewSession
from data_prep.review.study import StudyConfig
from data_prep.review.study_session import StudySession
from data_prep.settings import CONFIGS
from data_prep.sources.base import RefusedError
from data_prep.stats.graph import TripletGraph
from data_prep.store.store import Store
from emo_lightning.core.foreign import decode_json, object_of
from emo_lightning.core.records import Record
from emo_lightning.core.replies import UnreadableReplyError, asked_values, json_values
from emo_lightning.core.web.hosts import Host
from tests.data_prep.conftest import truth
from tests.data_prep.review.conftest import decide, make_store
from tests.fuzz.target import Make, Target, as_json, through

REPLY = {
    "id": "x",
    "model": "m",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "{}"}}],
    "usage": {"prompt_tokens": 5, "completion_tokens": 2},
}
IMAGE_REPLY = {
    "created": 1,
    "data": [{"b64_json": "iVBORw0KGgo=", "revised_prompt": "p"}, {"url": "https://x.example/a.png?sig=1"}],
    "usage": {"input_tokens": 5, "output_tokens": 2},
}


def _images(_: Path) -> Target:
    def read(data: bytes) -> None:
        body = read_images(data)
        assert billed_images(data, body) >= 0
        for entry in images_of(data):
            if "url" in entry:
                http_address(entry["url"])

    return Target(read, [as_json(IMAGE_REPLY), b"data: " + as_json(IMAGE_REPLY) + b"\n\ndata: [DONE]\n"])


def _address(_: Path) -> Target:
    return Target(lambda data: http_address(data.decode("utf-8", "replace")), [b"https://x.example:8/a/b.png?c=%20#d"])


def _batches(_: Path) -> Target:
    line = as_json({"custom_id": "a", "response": {"status_code": 200, "body": REPLY}, "error": None})
    return Target(lambda data: list(read_batch_results(data.split(b"\n"))), [line + b"\n" + line])


def _batch(_: Path) -> Target:
    batch = {
        "id": "b",
        "status": "completed",
        "output_file_id": "f",
        "error_file_id": None,
        "request_counts": {"total": 2, "completed": 2},
        "errors": {"data": [{"code": "c", "message": "m"}]},
    }
    return Target(lambda data: read_batch(object_of(decode_json(data, "a batch"), "a batch")), [as_json(batch)])


def _answer(_: Path) -> Target:
    def read(data: bytes) -> None:
        with contextlib.suppress(UnreadableReplyError):
            asked_values(json_values(data.decode("utf-8", "replace")), ("emotion", "bbox_2d"))

    said = b'<think>a {"emotion": 1}</think>\n```json\n{"Emotion": "awe", "more": {"bbox_2d": [1, 2, 3, 4]}}\n```'
    return Target(read, [said, b'{"emotion": "awe"}'])


def _robots(_: Path) -> Target:
    def read(data: bytes) -> None:
        host = Host(0.0)
        host.obey(data.decode("utf-8", "replace"))
        with contextlib.suppress(RefusedError):
            host.check("http://x.example/a/b.png")

    return Target(read, [b"User-agent: *\nDisallow: /*.png$\nCrawl-delay: 2\nRequest-rate: 1/5\nAllow: /a\n"])


def _config(name: str, load: Callable[[Path], object], folder: Path) -> Target:
    text = (CONFIGS / name).read_bytes().replace(b"prices: ", f"prices: {CONFIGS}/".encode())
    return Target(through(folder / "config.yaml", load), [text])


def _under_test(folder: Path) -> Target:
    text = b"base_url: http://127.0.0.1:1/v1\nmodel: m\napi_key_env: A_KEY\nprice: {input: 1, output: 2}\n"
    return Target(through(folder / "m.yaml", UnderTest.load), [text])


class _Review:
    """A store with records to review, opened when the first input comes."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(make_store(folder / "store", 4, 1), write=False)
        self.log = ReviewLog(self.store.ledger.path, write=True)
        self.session = ReviewSession(self.store, self.log, "ada", sample=None)


def _label_studio(folder: Path) -> Target:
    review = _Review(folder)
    decide(review.session, "toy-0002", ("emotion", "mended", "fear"), ("subject", "wrong"), ("objects", "mended", []))
    path = folder / "tasks.json"
    write_tasks(review.session, path, with_reviews=True)
    tasks = json.loads(path.read_text())[:3]
    return Target(through(path, lambda file: read_annotations(review.log, file, "ben")), [as_json(tasks)], one_of=2)


def _posted(routes: dict[str, RouteHandler], fresh: Callable[[dict[str, object]], None], data: bytes) -> None:
    """As the server does with the body of a request."""
    request = object_of(decode_json(data, "the request", ReviewError, max_bytes=1 << 20), "the request", ReviewError)
    fresh(request)
    for name, route in routes.items():
        # One that is refused by the first is still asked of the others.
        with contextlib.suppress(ReviewError):
            json.dumps(route(dict(request)), ensure_ascii=False).encode()
        assert name


def _page(folder: Path) -> Target:
    review = _Review(folder)

    def fresh(request: dict[str, object]) -> None:
        if request.get("digest") == "now":
            request["digest"] = review.session.item({"id": "toy-0002"})["digest"]

    box = {
        "phrase": "wolf",
        "bbox": [1, 2, 30.5, 20.0],
        "score": 1.0,
        "mask": {"size": [32, 40], "counts": "d050"},
        "primary": True,
    }
    decisions = [
        {"field": "emotion", "verdict": "mended", "value": "fear"},
        {"field": "objects", "verdict": "mended", "value": [box]},
        {"field": "intensity", "verdict": "mended", "value": 3},
        {"field": "subject", "verdict": "right"},
    ]
    bodies = [{"id": "toy-0002", "digest": "now", "decisions": [one]} for one in decisions]
    whole = [as_json(body) for body in [*bodies, {"version": 1}]]
    return Target(partial(_posted, review.session.routes, fresh), whole, one_of=2)


def _study(folder: Path) -> Target:
    review = _Review(folder)
    groups = [{"name": "a", "source": "toy", "images": 2, "annotations": "source"}]
    session = StudySession(review.store, review.log, StudyConfig.model_validate({"name": "t", "groups": groups}))
    bodies = [
        {"participant": "ada", "position": 0, "question": "emotion", "answer": 2, "shown": None},
        {"participant": "ada", "position": 1, "question": "emotion", "answer": 1, "shown": {"emotion": 2}},
    ]
    return Target(partial(_posted, session.routes, lambda _: None), [as_json(body) for body in bodies], one_of=2)


def _study_config(folder: Path) -> Target:
    (file, *_) = sorted((CONFIGS / "study").glob("*.yaml"))
    return Target(through(folder / "study.yaml", StudyConfig.load), [file.read_bytes()])


def _exported(folder: Path) -> Target:
    record, data = truth(1)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in ((f"{record.id}.json", record.to_json()), (f"{record.id}.png", data)):
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(content), {"comment": "ü"}
            tar.addfile(info, io.BytesIO(content))
    return Target(through(folder / "a.tar", lambda path: list(read_records([path]))), [out.getvalue()])


def _manifest(folder: Path) -> Target:
    manifest = {"schema_version": 1, "name": "x", "shards": [{"file": "a.tar", "count": 0}]}
    (folder / "a.tar").write_bytes(bytes(10240))
    return Target(through(folder / "manifest.json", lambda path: list(read_records([path.parent]))), [as_json(manifest)])


def _graph(folder: Path) -> Target:
    TripletGraph.from_records([truth(seed)[0] for seed in range(3)]).write_parquet(folder)
    path = folder / "triplets.parquet"
    return Target(through(path, lambda file: TripletGraph.read_parquet(file.parent)), [path.read_bytes()], one_of=50)


def _mask(_: Path) -> Target:
    def read(data: bytes) -> None:
        record = Record.from_json(data, "f")
        for found in record.objects:
            if found.mask is not None:
                decode_mask(found.mask)

    masked = truth(1)[0].objects[0].model_copy(update={"mask": encode_mask(np.eye(32, 40, dtype=bool))})
    record = truth(1)[0].model_copy(update={"objects": [masked]})
    return Target(read, [record.to_json()])


PREP: dict[str, Make] = {
    "chat reply": lambda _: Target(read_chat, [as_json(REPLY)]),
    "image reply": _images,
    "image address": _address,
    "batch lines": _batches,
    "batch": _batch,
    "model's answer": _answer,
    "robots.txt": _robots,
    "prices": lambda folder: Target(
        through(folder / "prices.yaml", load_prices), [b"models:\n  m: {input: 1.0, output: 2.0}\n"]
    ),
    "pass config": partial(_config, "default.yaml", PrepConfig.load),
    "demo config": partial(_config, "world.yaml", DemoConfig.load),
    "expand config": partial(_config, "expand_world.yaml", ExpandConfig.load),
    "endpoint config": _under_test,
    "study config": _study_config,
    "Label Studio": _label_studio,
    "review page": _page,
    "study page": _study,
    "exported tar": _exported,
    "export manifest": _manifest,
    "triplet graph": _graph,
    "mask": _mask,
}
