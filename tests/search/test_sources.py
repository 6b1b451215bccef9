"""Pictures into an index: through a model, once each, or with the embeddings that their tars have of it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from emo_lightning.core.errors import InputError
from emo_lightning.core.images import encoded
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.bundle import bundle_fingerprint
from emo_lightning.inference.embed import embed_tars
from emo_lightning.inference.inputs import entries
from emo_lightning.inference.model import EmotionModel
from emo_lightning.search import SearchIndex
from emo_lightning.search.rows import THUMBNAIL_SIDE
from emo_lightning.search.sources import add_pictures
from emo_lightning.search.writer import IndexWriter


class Counted:
    """The model, and how many pictures it has embedded."""

    def __init__(self, folder: Path) -> None:
        self.model = EmotionModel(folder, "cpu")
        self.seen = 0
        self.most = 10**9
        embed = self.model.embed

        def counting(images: Sequence[object], batch_size: int = 16) -> torch.Tensor:
            if self.seen >= self.most:
                raise KeyboardInterrupt
            self.seen += len(images)
            return embed(images, batch_size)  # type: ignore[arg-type]

        self.model.embed = counting  # type: ignore[assignment, method-assign]


@pytest.fixture(scope="module")
def loaded(bundle: Path) -> Counted:
    return Counted(bundle)


@pytest.fixture
def counted(loaded: Counted) -> Counted:
    loaded.seen, loaded.most = 0, 10**9
    return loaded


def build(place: Path, given: list[str], bundle: Path, counted: Counted | None, **more: bool) -> IndexWriter:
    writer = IndexWriter(place, bundle_fingerprint(bundle), str(bundle), rows=4)
    add_pictures(writer, entries(given), None if counted is None else lambda: counted.model, 4, **more)
    return writer


def test_tars_with_their_records(world_tars: Path, bundle: Path, counted: Counted, tmp_path: Path) -> None:
    tars = str(world_tars / "*-test-*.tar")
    truth = TarIndex.open(tars)
    written = build(tmp_path / "a", [tars], bundle, counted).finish()
    assert (written.images, written.new, written.left_out, counted.seen) == (8, 8, {}, 8)
    index = SearchIndex.open(tmp_path / "a", bundle_fingerprint(bundle))
    for row in range(8):
        record, picture = truth.sample(row)
        hit = index.get(record.id)
        assert (hit.emotion, hit.intensity, hit.triplet, hit.record["emotion_by"]) == (
            record.emotion,
            record.intensity,
            record.triplet,
            "record",
        )
        assert hit.record["file"] == truth.shards[0].path
        assert hit.record["member"] == truth.key(row)
        assert hit.record["probe_emotion"] in index.centroids.emotions or hit.record["probe_emotion"]
        objects = hit.record["objects"]
        assert isinstance(objects, list)
        assert [tuple(one["bbox"]) for one in objects] == [one.bbox for one in record.objects]
        small = Image.open(io.BytesIO(index.thumbnail(record.id)))
        assert small.format == "JPEG"
        assert max(small.size) == min(THUMBNAIL_SIDE, max(picture.size))
        np.testing.assert_allclose(small.width / small.height, picture.width / picture.height, rtol=0.02)
        des = counted.model.embed([picture])[0].numpy()
        assert index.search(des, 1)[0].cosine == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(index.vector(record.id), des / np.linalg.norm(des), atol=1e-5)


def test_an_interrupt_costs_one_batch(world_tars: Path, bundle: Path, counted: Counted, tmp_path: Path) -> None:
    given = [str(world_tars / "*-train-*.tar")]
    counted.most = 12
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, given, bundle, counted)
    assert counted.seen == 12
    counted.most = 10**9
    written = build(tmp_path, given, bundle, counted).finish()
    assert (written.images, written.new, counted.seen) == (24, 12, 24)
    names = [name for stretch, _ in SearchIndex.open(tmp_path).vectors() for name in stretch]
    assert sorted(names) == sorted({entry.id for entry in entries(given)})
    assert build(tmp_path, given, bundle, counted).finish().new == 0
    assert counted.seen == 24


def test_photographs_are_named_by_their_probe(bundle: Path, counted: Counted, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for n in range(3):
        picture = Image.fromarray(rng.integers(0, 255, (60, 400, 3), dtype=np.uint8))
        (photos / f"it's {n}.jpg").write_bytes(encoded(picture, "JPEG"))
    (photos / "broken.png").write_bytes(b"no picture")
    written = build(tmp_path / "index", [str(photos)], bundle, counted, thumbnails=False).finish()
    assert written.images == 3
    assert list(written.left_out) == [str(photos / "broken.png")]
    index = SearchIndex.open(tmp_path / "index")
    hit = index.get(str(photos / "it's 1.jpg"))
    distribution = counted.model.distribution(counted.model.embed([photos / "it's 1.jpg"]))
    assert distribution is not None
    assert hit.record["emotion_by"] == "probe"
    assert hit.emotion == hit.record["probe_emotion"]
    assert hit.record["probe_confidence"] == pytest.approx(float(distribution.max()), abs=1e-5)
    assert (hit.triplet, hit.intensity, hit.has_thumbnail, hit.record["file"]) == (None, None, False, hit.id)
    # One that is mended is asked again, one that is changed as well.
    (photos / "broken.png").write_bytes(encoded(Image.new("RGB", (30, 30), "red"), "PNG"))
    (photos / "it's 1.jpg").write_bytes(encoded(Image.new("RGB", (90, 30), "blue"), "JPEG"))
    written = build(tmp_path / "index", [str(photos)], bundle, counted, thumbnails=False).finish()
    assert (written.images, written.new, written.changed, written.left_out) == (4, 2, 1, {})


def test_embeddings_in_tars_are_not_computed_again(world_tars: Path, bundle: Path, counted: Counted, tmp_path: Path) -> None:
    embed_tars([str(world_tars / "*-test-*.tar")], tmp_path / "des", bundle, 8, "cpu")
    given = [str(tmp_path / "des")]
    written = build(tmp_path / "index", given, bundle, None).finish()
    assert (written.images, counted.seen) == (8, 0)
    index = SearchIndex.open(tmp_path / "index")
    truth = TarIndex.open(given[0])
    des = truth.des(3)
    assert des is not None
    np.testing.assert_allclose(index.vector(truth.id(3)), des / np.linalg.norm(des), atol=1e-6)
    # Those of another model are computed anew where a model is named, and refused as an index of it where none is.
    (tmp_path / "des" / "embedding.json").write_text('{"weights": "another"}')
    assert build(tmp_path / "anew", given, bundle, counted).finish().images == 8
    assert counted.seen == 8
    with pytest.raises(InputError, match=r"has no embedding there; --model FOLDER computes them"):
        build(tmp_path / "none", [str(world_tars / "*-test-*.tar")], bundle, None)
