"""A real server in a thread, on a tiny random model that answers in words that can be read."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import torch
from openai import OpenAI
from PIL import Image
from transformers import LogitsProcessor, LogitsProcessorList

from emo_lightning.cli import main
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.bundle import bundle_fingerprint, read_bundle, write_bundle
from emo_lightning.inference.calibration import ProbeCalibration
from emo_lightning.inference.model import EmotionModel
from emo_lightning.metrics.conformal import Conformal
from emo_lightning.models.backbone import _generative
from emo_lightning.search import SearchIndex
from emo_lightning.serve.app import make_app
from emo_lightning.serve.door import Door, Gate
from emo_lightning.serve.images import ImageIndex
from emo_lightning.serve.server import Server, address_of, listen
from emo_lightning.serve.service import Service
from emo_lightning.serve.settings import Limits
from tests.patience import PATIENCE, wait_until
from tests.worded import worded_qwen  # noqa: F401 - fixture

if TYPE_CHECKING:
    from emo_lightning.inference.model import Masks

TOKEN = "a-secret-of-the-tests"
SEEN = {
    "bbox_2d": [[8, 8, 40, 48], [44, 20, 72, 70]],
    "description": "Two red dogs run along a beach, <b>barking</b>.",
    "background": "beach",
    "attribute": "running",
    "subject": "dog",
}
FELT = {"emotion": "excitement", "intensity": 7}


@dataclass
class Running:
    """A server that runs."""

    host: str
    door: Door
    service: Service
    server: Server

    @property
    def url(self) -> str:
        """Without a token."""
        return f"http://{self.host}"

    @property
    def page(self) -> str:
        """What one opens."""
        return f"{self.url}/{TOKEN}/"

    @property
    def openai(self) -> OpenAI:
        """A client of OpenAI's own, that asks once."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=TOKEN, max_retries=0, timeout=PATIENCE)

    @property
    def http(self) -> httpx.Client:
        """A plain client that knows the token."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=PATIENCE)

    @property
    def figures(self) -> Mapping[str, float]:
        """Of /metrics, by name and labels."""
        lines = self.http.get("/metrics").text.splitlines()
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


@contextmanager
def serving(
    model: EmotionModel,
    limits: Limits | None = None,
    index: ImageIndex | None = None,
    token: str | None = TOKEN,
    masks: Masks | None = None,
) -> Iterator[Running]:
    """A server until the block ends; it ends as by SIGTERM, so everything that was asked is answered."""
    bound = listen("127.0.0.1", 0)
    service = Service(model, limits or Limits(), index, masks)
    door = make_app(service, Gate(token, frozenset({"emo.example.org"})))
    server = Server(door, PATIENCE, service.batcher.hurry)
    thread = threading.Thread(target=server.run, args=([bound],), daemon=True)
    running = Running(address_of(bound), door, service, server)
    thread.start()
    wait_until(lambda: server.started)
    try:
        yield running
    finally:
        server.should_exit = True
        thread.join()
    assert not service.batcher.alive


@pytest.fixture(scope="package")
def folder(bundle: Path, worded_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """Of a model whose tokenizer tells the eight emotions apart."""
    found = tmp_path_factory.mktemp("served") / "emotion-model"
    found.mkdir()
    write_bundle(found, replace(read_bundle(bundle), backbone=str(worded_qwen)))
    return found


class Told(LogitsProcessor):
    """Has generation write given texts, a token a step, whatever the model would rather write.

    Args:
        texts: tokens of each row, its end among them.
        begin: tokens of the question.
    """

    def __init__(self, texts: Sequence[Sequence[int]], begin: int) -> None:
        self._texts, self._begin = texts, begin

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        place, forced = input_ids.shape[1] - self._begin, torch.full_like(scores, -torch.inf)
        for row, text in enumerate(self._texts):
            forced[row, text[min(place, len(text) - 1)]] = 0
        return forced


def speak(model: EmotionModel, texts: Sequence[str]) -> None:
    """Have a model answer its questions by these texts; what is asked, read, embedded and generated stays its own."""
    backbone, tokenizer = model.backbone, model.collate.tokenizer
    base, tokens = backbone.base, [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    generate = _generative(base).generate

    def told(*, input_ids: torch.Tensor, logits_processor: LogitsProcessorList, **more: object) -> torch.Tensor:
        rows, begin = input_ids.shape
        each = [[*one, backbone.end_token_ids[0]] for one in tokens for _ in range(rows // len(tokens))]
        forced = LogitsProcessorList([*logits_processor, Told(each, begin)])
        answer: torch.Tensor = generate(input_ids=input_ids, logits_processor=forced, **more)
        return answer

    base.generate = told  # type: ignore[assignment] # the method of this model alone


@pytest.fixture(scope="package")
def model(folder: Path) -> EmotionModel:
    """Real in all but its words: those of a random model are none."""
    found = EmotionModel(folder, device="cpu")
    found.calibration = ProbeCalibration(3.0, Conformal("lac", 0.1, 0.9, 40))
    said = {"attributes": SEEN, "emotion": FELT}
    speak(found, [json.dumps(said[name]) for name in found.bundle.questions])
    return found


@pytest.fixture(scope="package")
def running(model: EmotionModel) -> Iterator[Running]:
    with serving(model) as found:
        yield found


@pytest.fixture(scope="package")
def pictures(world_tars: Path) -> list[bytes]:
    """Three PNGs of unequal sizes."""
    index, found = TarIndex.open(world_tars), []
    for row, size in enumerate(((112, 112), (84, 120), (140, 84))):
        out = io.BytesIO()
        index.image(row).resize(size).save(out, "PNG")
        found.append(out.getvalue())
    return found


@pytest.fixture(scope="package")
def index_folder(folder: Path, world_tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of the drawn world, through the model that is served."""
    out = tmp_path_factory.mktemp("indexed") / "index"
    assert main(["index", "build", str(world_tars / "*-test-*.tar"), "--model", str(folder), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="package")
def indexed(model: EmotionModel, folder: Path, index_folder: Path) -> Iterator[Running]:
    """As `running`, with an index."""
    with serving(model, index=SearchIndex.open(index_folder, bundle_fingerprint(folder))) as found:
        yield found


def opened(data: bytes) -> Image.Image:
    """A picture as models see it."""
    return Image.open(io.BytesIO(data)).convert("RGB")
