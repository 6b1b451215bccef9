from __future__ import annotations

import doctest
import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emo_lightning.core.devices import DeviceError
from emo_lightning.core.errors import InputError, UserError
from emo_lightning.core.records import EMOTIONS, Emotion, Mask, PredictedObject, Prediction
from emo_lightning.core.web.fetch import Fetcher, FetchError
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Question
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.bundle import read_bundle, write_bundle
from emo_lightning.inference.calibration import ProbeCalibration, probed
from emo_lightning.inference.model import EmotionModel
from emo_lightning.inference.pictures import ImageLike, as_picture
from emo_lightning.inference.results import Explanation, said_of
from emo_lightning.inference.text import as_text
from emo_lightning.metrics.conformal import Conformal
from tests.worded import worded_qwen  # noqa: F401 - fixture


@pytest.fixture(scope="module")
def worded(bundle: Path, worded_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    """The bundle on a backbone whose tokenizer tells the eight words apart."""
    folder = tmp_path_factory.mktemp("worded")
    write_bundle(folder, replace(read_bundle(bundle), backbone=str(worded_qwen)))
    return folder


@pytest.fixture(scope="module")
def model(worded: Path) -> EmotionModel:
    return EmotionModel(worded, device="cpu")


@pytest.fixture(scope="module")
def pictures(world_tars: Path) -> list[Image.Image]:
    """Five of unequal sizes."""
    index = TarIndex.open(world_tars)
    sizes = ((112, 112), (60, 90), (200, 80), (84, 84), (150, 151))
    return [index.image(row).resize(size) for row, size in enumerate(sizes)]


def test_the_example_runs(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "demo").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "model").symlink_to(bundle)
    Image.new("RGB", (90, 60), "orange").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    example = doctest.DocTestParser().get_doctest(str(EmotionModel.__doc__), {}, "EmotionModel", None, None)
    done = doctest.DocTestRunner().run(example)
    assert (done.attempted > 6, done.failed) == (True, 0)


def test_a_picture_of_any_kind_is_embedded_and_nothing_can_be_trained(
    model: EmotionModel, bundle: Path, tmp_path: Path
) -> None:
    grey = Image.new("L", (64, 64), 90)
    grey.save(tmp_path / "grey.png")
    kinds: list[ImageLike] = [
        grey,
        grey.convert("RGB"),
        tmp_path / "grey.png",
        str(tmp_path / "grey.png"),
        (tmp_path / "grey.png").read_bytes(),
        np.asarray(grey),
        np.asarray(grey.convert("RGBA")),
    ]
    des = model.embed(kinds, batch_size=3)
    assert des.shape == (7, model.des_dim)
    assert torch.allclose(des, des[:1].expand_as(des), atol=1e-6)
    assert torch.equal(model.embed(grey), model.embed([grey]))
    assert model.embed([]).shape == (0, model.des_dim)
    assert not any(parameter.requires_grad for net in (model.backbone, model.head) for parameter in net.parameters())
    probabilities = model.distribution(des)
    assert probabilities is not None
    assert torch.allclose(probabilities.sum(-1), torch.ones(7), atol=1e-6)
    with pytest.raises(DeviceError, match="device 'gpu' cannot be used"):
        EmotionModel(bundle, device="gpu")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"no image", "image 0: not an image"),
        ("nowhere.png", "nowhere.png: no such file"),
        (np.zeros((4, 4), np.float32), r"image 0: an array of float32 with shape \(4, 4\); expected uint8"),
        (np.zeros((4, 4, 2), np.uint8), "expected uint8 with shape"),
        (np.zeros((2, 900), np.uint8), "image 0: 900x2: aspect ratio above 200"),
        ("http://127.0.0.1:9/x.png", "x.png: .*address not public"),
    ],
)
def test_what_is_no_picture_is_named(image: bytes | str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        as_picture(image, "image 0")


def test_an_answer_is_the_same_alone_and_in_a_batch_and_asked_by_itself(
    model: EmotionModel, pictures: list[Image.Image]
) -> None:
    """One reading of all pictures gives the words, scores and embedding that separate calls give."""
    together = model.explain(pictures, max_new_tokens=24, batch_size=5)
    alone = [one for picture in pictures for one in model.explain([picture], max_new_tokens=24)]
    des = model.embed(pictures)
    keys = {name: objective(name).keys for name in model.bundle.questions}
    words = model.explaining.emotion_words
    assert words is not None
    for n, (one, single) in enumerate(zip(together, alone, strict=True)):
        asked = {name: model.collate([Question("0", pictures[n], keys[name])]) for name in keys}
        replies = [model.backbone.generate(batch, 24)[0] for batch in asked.values()]
        found = one.prediction.provenance["replies"]
        assert isinstance(found, list)
        assert [reply["reply"] for reply in found] == replies
        assert one.prediction.provenance == single.prediction.provenance
        assert np.allclose(one.des, des[n].numpy(), atol=1e-5)
        scores = model.backbone.emotion_scores(asked["emotion"], words[1])[0][0]
        assert one.said.distribution is not None
        assert np.allclose(list(one.said.distribution.values()), scores.numpy(), atol=1e-5)
    assert [one.id for one in together] == ["0", "1", "2", "3", "4"]


def test_a_backbone_that_does_not_pack_says_the_same(worded: Path, pictures: list[Image.Image], model: EmotionModel) -> None:
    plain = EmotionModel(worded, device="cpu")
    plain.collate.packed = False
    for one, other in zip(plain.explain(pictures, max_new_tokens=12), model.explain(pictures, max_new_tokens=12), strict=True):
        assert one.prediction.provenance == other.prediction.provenance
        assert np.allclose(one.des, other.des, atol=1e-5)
        assert one.said.distribution is not None
        assert other.said.distribution is not None
        assert one.said.distribution == pytest.approx(other.said.distribution, abs=1e-5)


def explained(words: Prediction, fear: float | None, scores: list[float] | None = None) -> Explanation:
    """What a model with these words and this probability of fear would have given."""
    rest = None if fear is None else [fear if e is Emotion.FEAR else (1 - fear) / 7 for e in EMOTIONS]
    probe = None if rest is None else probed(rest, None)
    return Explanation(said_of(words, scores), probe, np.ones(2, np.float32), words)


def test_an_emotion_never_stands_beside_another_ones_confidence() -> None:
    """The words say awe, the probe fear: each has its own number, and that they differ is said."""
    scores = [0.5 if e is Emotion.AWE else 0.5 / 7 for e in EMOTIONS]
    words = Prediction(id="a", emotion="Awe", intensity=8.0, objects=[PredictedObject(bbox=(0, 0, 4, 4), phrase="dog")])
    one = explained(words, 0.95, scores)
    assert (one.said.category, one.said.confidence, one.said.level) == (Emotion.AWE, 0.5, "high")
    assert one.probe is not None
    assert (one.probe.emotion, one.probe.confidence) == (Emotion.FEAR, 0.95)
    value = one.as_json()
    probe, said = value["probe"], value["said"]
    assert isinstance(probe, dict)
    assert (value["emotion"], value["confidence"], said) == ("Awe", 0.5, {"emotion": "Awe", "confidence": 0.5})
    assert (probe["emotion"], probe["confidence"], probe["calibrated"]) == ("fear", 0.95, False)
    assert (value["agreement"], value["intensity_level"], value["des"]) == ("differ", "high", [1.0, 1.0])
    assert Prediction.model_validate(value).emotion == "Awe"
    for width in (50, 80):
        broken = as_text(one, width).splitlines()
        assert max(map(len, broken)) <= width
        assert " ".join(as_text(one).split()) == " ".join(" ".join(broken).split()), "broken, and nothing is lost"
    text = as_text(one)
    assert "words and probe differ: awe said, fear in the embedding" in text
    assert "Awe, by its own account 0.50; intensity 8 of 10 (high)" in text
    mask = Mask(size=(4, 4), counts="04L0")
    masked = one.with_masks([mask])
    assert masked.said.regions[0].mask == mask
    assert masked.as_json()["objects"][0]["mask"]["counts"] == "04L0"  # type: ignore[index]


@pytest.mark.parametrize(
    ("emotion", "fear", "agreement"),
    [("fear", 0.9, "agree"), ("joy", 0.9, "no emotion said"), (None, 0.9, "no emotion said"), ("fear", None, "no probe")],
)
def test_agreement_is_named(emotion: str | None, fear: float | None, agreement: str) -> None:
    one = explained(Prediction(id="a", emotion=emotion, intensity=40.0), fear)
    assert one.agreement == agreement
    assert (one.said.level, one.said.confidence) == (None, None)
    assert "(off the scale)" in as_text(one)


def test_a_fitted_probe_is_cooled_and_names_its_set(tmp_path: Path) -> None:
    fitted = ProbeCalibration(2.0, Conformal("lac", 0.1, 0.75, 40))
    fitted.write(tmp_path)
    assert ProbeCalibration.read(tmp_path) == fitted
    one = probed([0.6, 0.3, *[0.1 / 6] * 6], fitted)
    assert (one.conformal, one.calibrated) == ((Emotion.AMUSEMENT, Emotion.AWE), True)
    assert one.coverage == pytest.approx(0.9)
    assert one.confidence == pytest.approx(0.6**0.5 / (0.6**0.5 + 0.3**0.5 + 6 * (0.1 / 6) ** 0.5))
    infinite = ProbeCalibration(1.0, Conformal("lac", 0.01, float("inf"), 5))
    infinite.write(tmp_path)
    assert ProbeCalibration.read(tmp_path) == infinite
    (tmp_path / "calibration.json").write_text('{"temperature": 0, "score": "lac"}')
    with pytest.raises(InputError, match="key 'threshold': found None; expected a number from 0 to 1"):
        ProbeCalibration.read(tmp_path)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A server with a picture, a text and nothing else."""
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    files = {"/red.png": (tmp_path / "red.png").read_bytes(), "/text.png": b"a text that is no picture at all"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_pictures_of_the_web_are_fetched_safely(web: str) -> None:
    """As `emo prep import urls` fetches them; this test's server is private, which is refused otherwise."""
    from emo_lightning.core.web.download import DownloadLimits

    fetcher = Fetcher(DownloadLimits(per_host_rate=1000, allow_private=True))
    assert Image.open(io.BytesIO(fetcher.fetch(f"{web}/red.png"))).size == (40, 40)
    with pytest.raises(FetchError, match=r"text\.png: no JPEG or PNG or WebP"):
        fetcher.fetch(f"{web}/text.png")
    with pytest.raises(FetchError, match=r"none\.png: HTTP 404"):
        fetcher.fetch(f"{web}/none.png")
    with pytest.raises(FetchError, match="scheme not allowed"):
        fetcher.fetch("file:///etc/passwd")
    fetcher.close()


def test_labels_gated_by_polarity(model: EmotionModel, bundle: Path, pictures: list[Image.Image]) -> None:
    """One reading for all, against the scores as they are and the polarity asked alone."""
    from emo_lightning.data.emotion_words import EmotionWords
    from emo_lightning.models.label_scoring import gated

    plain = model.explain(pictures, max_new_tokens=4, batch_size=5)
    found = model.explain(pictures, max_new_tokens=4, batch_size=5, label_scoring="gated")
    words = EmotionWords.of_polarity(model.backbone.processor.tokenizer)
    polarity, _ = model.backbone.emotion_scores(model.batch(pictures, "polarity"), words)
    for before, one, weigh in zip(plain, found, polarity, strict=True):
        assert before.said.distribution is not None
        assert one.said.distribution is not None
        expected = gated(torch.tensor([list(before.said.distribution.values())]), weigh[None])[0]
        assert list(one.said.distribution.values()) == pytest.approx(expected.tolist(), abs=1e-5)
        assert one.said.emotion == one.prediction.emotion == max(one.said.distribution, key=one.said.distribution.__getitem__)
        assert one.said.triplet == before.said.triplet
        assert np.array_equal(one.des, before.des)
    with pytest.raises(InputError, match=r"label_scoring: found gated, but .* allowed: plain"):
        EmotionModel(bundle, device="cpu").explain(pictures, label_scoring="gated")


def test_what_cannot_be_asked_is_named(model: EmotionModel, pictures: list[Image.Image]) -> None:
    for wrong in (0, -1):
        for call in (model.embed, model.explain, model.unlike):
            with pytest.raises(InputError, match=rf"^batch_size={wrong}; expected a whole number, at least 1$"):
                call(pictures[:1], batch_size=wrong)
        with pytest.raises(InputError, match=rf"^max_new_tokens={wrong}; "):
            model.explain(pictures[:1], max_new_tokens=wrong)
    with pytest.raises(InputError, match=r"^2 ids for 1 images; expected one each$"):
        model.explain(pictures[:1], ids=["a", "b"])


def test_a_model_is_saved_over_nothing(model: EmotionModel, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="exists already"):
        model.save_pretrained(tmp_path)
