"""A real index beside the model: the nearest images, the way between two, small pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emo_lightning.core.errors import InputError
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.bundle import read_bundle, write_bundle
from emo_lightning.inference.model import EmotionModel
from emo_lightning.models.spread import TrainingSpread
from emo_lightning.search import SearchIndex
from tests.serve.conftest import Running


@pytest.fixture(scope="module")
def tar(world_tars: Path) -> TarIndex:
    return TarIndex.open(str(world_tars / "*-test-*.tar"))


def test_the_nearest_of_an_image_of_the_index_is_itself(indexed: Running, tar: TarIndex, index_folder: Path) -> None:
    http, (data, _) = indexed.http, tar.image_bytes(3)
    (explained,) = http.post("/v1/explain", content=data, headers={"Content-Type": "image/jpeg"}).json()["data"]
    by_vector = http.post("/v1/search", json={"embedding": explained["des"], "k": 5}).json()["data"]
    by_picture = http.post("/v1/search", json={"image": base64.b64encode(data).decode(), "k": 5}).json()["data"]
    own = SearchIndex.open(index_folder).search(np.array(explained["des"], np.float32), 5)
    assert [hit["id"] for hit in by_vector] == [hit["id"] for hit in by_picture] == [hit.id for hit in own]
    assert by_vector[0]["id"] == tar.id(3)
    assert by_vector[0]["cosine"] == pytest.approx(1, abs=1e-4)
    assert by_vector[0]["emotion"] == tar.record(3).emotion
    assert by_vector[0]["has_thumbnail"]
    small = http.get("/v1/thumbnail", params={"id": by_vector[0]["id"]})
    assert small.headers["Content-Type"] == "image/jpeg"
    assert Image.open(io.BytesIO(small.content)).size[0] > 16


def test_what_is_found_fulfils_the_conditions(indexed: Running, tar: TarIndex) -> None:
    records = [tar.record(row) for row in range(len(tar))]
    (wanted, *_) = [one.emotion for one in records if one.emotion is not None]

    def found(**conditions: object) -> set[str]:
        hits = indexed.http.post("/v1/search", json={"embedding": [1.0] * 32, "k": 50, **conditions}).json()["data"]
        return {hit["id"] for hit in hits}

    own = {one.id for one in records if one.emotion is wanted}
    assert (
        found(emotion=str(wanted))
        == found(where=[f"emotion={wanted}"])
        == found(emotion=[str(wanted)], intensity="1-10")
        == own
    )
    assert found(intensity="high") == {one.id for one in records if one.intensity_level == "high"}
    assert found(where=[f"emotion!={wanted}", "split=test"]) == {one.id for one in records} - own


def test_the_way_begins_and_ends_where_it_is_asked_to(indexed: Running, tar: TarIndex) -> None:
    ends = {"start": {"id": tar.id(0)}, "end": {"id": tar.id(5)}, "steps": 4}
    hits = indexed.http.post("/v1/path", json=ends).json()["data"]
    assert (hits[0]["id"], hits[-1]["id"]) == (tar.id(0), tar.id(5))
    assert 2 <= len({hit["id"] for hit in hits}) == len(hits) <= 4
    from_picture = {**ends, "start": {"image": base64.b64encode(tar.image_bytes(1)[0]).decode()}}
    assert indexed.http.post("/v1/path", json=from_picture).json()["data"][0]["id"] == tar.id(1)


def test_what_lies_on_the_way_fulfils_the_conditions(indexed: Running, tar: TarIndex) -> None:
    records = {tar.id(row): tar.record(row) for row in range(len(tar))}
    ends = {"start": {"id": tar.id(0)}, "end": {"id": tar.id(5)}, "steps": 8}
    wanted = next(str(one.emotion) for name, one in records.items() if name not in (tar.id(0), tar.id(5)) and one.emotion)

    def between(**conditions: object) -> list[str]:
        hits = indexed.http.post("/v1/path", json={**ends, **conditions}).json()["data"]
        assert (hits[0]["id"], hits[-1]["id"]) == (tar.id(0), tar.id(5))
        return [hit["id"] for hit in hits[1:-1]]

    assert {records[name].emotion for name in between()} - {wanted}
    assert {str(records[name].emotion) for name in between(emotion=wanted)} == {wanted}
    assert between(emotion=[wanted]) == between(where=[f"emotion={wanted}"]) == between(emotion=wanted, intensity="1-10")
    assert between(where=["split=none"]) == []


def test_a_picture_unlike_the_training_pictures_is_said_to_be(
    indexed: Running, model: EmotionModel, tar: TarIndex, world_tars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)).save(noise, "PNG")
    every = TarIndex.open(world_tars)
    drawn = [tar.image(0), *(every.image(row) for row in range(len(every)))]
    alike, far = (base64.b64encode(one).decode() for one in (tar.image_bytes(0)[0], noise.getvalue()))

    def said(path: str, **body: object) -> object:
        answer = indexed.http.post(f"/v1/{path}", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["unlike"]

    assert said("search", image=far) is None, "a folder that does not know its training pictures does not know that"
    half = len(drawn) // 2
    monkeypatch.setattr(model, "spread", TrainingSpread.fit([model.look(drawn[:half])], [model.look(drawn[half:])], 0.25))
    first, second = model.unlike([drawn[0], noise.getvalue()]) or []
    assert (first.is_unlike, second.is_unlike) == (False, True)
    for image, known in ((alike, first), (far, second)):
        told = said("search", image=image)
        assert told == known.as_json()
        ways = said("path", start={"image": image}, end={"id": tar.id(1)})
        assert ways == {"start": told, "end": None}
        assert said("faithfulness", image=image, box=[4, 4, 40, 40]) == told
    assert said("search", embedding=[1.0] * 32) is None


@pytest.mark.parametrize(
    ("path", "asked", "status", "message"),
    [
        ("search", {"embedding": [1.0] * 7}, 400, "embedding: 7 numbers; expected 32"),
        ("search", {"embedding": [0.0] * 32}, 400, "length"),
        ("search", {}, 400, "the body: expected image or embedding"),
        ("search", {"embedding": [1.0] * 32, "k": 0}, 400, "greater than or equal to 1"),
        ("search", {"embedding": [1.0] * 32, "emotion": "joy"}, 400, "emotion 'joy'; allowed: amusement"),
        ("search", {"embedding": [1.0] * 32, "where": ["x=1"]}, 400, "no field 'x'; there are: id"),
        ("path", {"start": {"id": "nobody"}, "end": {"id": "nobody"}}, 400, "no image of the id 'nobody'"),
        ("path", {"start": {}, "end": {"id": "x"}}, 400, "expected one of image, embedding and id"),
        ("path", {"start": {"id": "x", "image": "AAAA"}, "end": {"id": "x"}}, 400, "expected one of"),
    ],
)
def test_what_cannot_be_looked_for_is_said(indexed: Running, path: str, asked: dict, status: int, message: str) -> None:
    answer = indexed.http.post(f"/v1/{path}", json=asked)
    assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True), answer.text


def test_a_picture_that_is_not_there_is_404(indexed: Running, running: Running) -> None:
    assert indexed.http.get("/v1/thumbnail", params={"id": "nobody"}).status_code == 404
    assert indexed.http.get("/v1/thumbnail").json()["error"]["code"] == "missing_required_parameter"
    assert running.http.get("/v1/thumbnail", params={"id": "nobody"}).json()["error"]["code"] == "no_index"


def test_an_index_of_another_model_is_refused(
    index_folder: Path, model: EmotionModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dataclasses import replace

    from emo_lightning.cli import main

    other = tmp_path / "other"
    other.mkdir()
    write_bundle(other, replace(read_bundle(Path(model.folder)), features="attributes"))
    with pytest.raises(InputError, match="ask with the model of the index"):
        SearchIndex.open(index_folder, "0" * 64)
    assert main(["serve", str(other), "--index", str(index_folder), "--port", "0"]) == 2
    assert "ask with the model of the index" in capsys.readouterr().err
