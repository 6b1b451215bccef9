from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from data_prep.cli import main
from data_prep.dedup.groups import Candidate, Likeness, Thresholds, between, decide
from data_prep.dedup.pairs import Edges, Forest, close_between, close_hashes, close_vectors, components
from data_prep.dedup.phash import MIRROR_BITS, WINDOWS, perceptual_hashes, wholes
from data_prep.dedup.registration import correlations, thumbnail
from data_prep.dedup.run import DedupError, DedupSettings, dedup
from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE, simulated_annotators
from data_prep.sources import SourceItem
from data_prep.store.ledger import Ledger
from data_prep.store.store import Store
from emo_lightning.core.errors import UserError
from tests.data_prep.conftest import item_of
from tests.data_prep.serving import run_pass


def scene(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Smooth colours that no other seed gives: what a photograph is to a perceptual hash."""
    rng = np.random.default_rng(seed)
    small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def views(data: bytes) -> np.ndarray:
    return np.frombuffer(perceptual_hashes(data), ">u8").astype(np.uint64)


def item(key: str, data: bytes, source: str = "toy", group: str | None = None, split: str | None = None) -> SourceItem:
    with Image.open(io.BytesIO(data)) as image:
        size, kind = image.size, {"PNG": "png", "JPEG": "jpg"}[image.format or ""]
    return SourceItem(
        key=key, image=data, extension=kind, width=size[0], height=size[1], source=source, group=group, split=split
    )


def store_of(tmp_path: Path, *items: SourceItem, name: str = "store") -> Path:
    with Store(tmp_path / name, write=True) as store:
        store.import_items(items)
    return tmp_path / name


def state(path: Path) -> tuple[list[tuple[object, ...]], list[tuple[object, ...]]]:
    """What dedup decided: the table, and every item's group."""
    with Store(path, write=False) as store:
        duplicates = store.ledger.read("SELECT * FROM duplicates ORDER BY item_id")
        return duplicates, store.ledger.read("SELECT id, grp FROM items ORDER BY id")


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "smaller": lambda image: encoded(image.resize((80, 60))),
    "jpeg": lambda image: encoded(image, "JPEG", quality=40),
    "mirrored": lambda image: encoded(ImageOps.mirror(image)),
    "darker": lambda image: encoded(image.point(lambda value: int(value * 0.7))),
    "bordered": lambda image: encoded(ImageOps.expand(image, 12, "black"), "JPEG", quality=85),
    "grey": lambda image: encoded(image.convert("L")),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_near_and_others_far(copy: str) -> None:
    originals = [scene(seed) for seed in range(20)]
    hashes = [views(encoded(image)) for image in originals]
    copies = [views(COPIES[copy](image)) for image in originals]
    distances = np.array([[between(a, b) for b in hashes] for a in copies])
    assert distances.diagonal().max() <= 6
    assert (distances + 64 * np.eye(20)).min() > 10


def test_the_hash_of_a_mirrored_image_is_the_mirrored_hash() -> None:
    for seed in range(20):
        image = scene(seed)
        (plain,), (mirrored,) = wholes(views(encoded(image))), wholes(views(encoded(ImageOps.mirror(image))))
        assert int(plain) ^ MIRROR_BITS == int(mirrored)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "L", "I;16", "1", "CMYK"])
def test_every_kind_of_pixel_is_hashed(mode: str) -> None:
    if mode == "I;16":
        grey = np.asarray(scene(3).convert("L")).astype(np.uint16) * 257
        image = Image.fromarray(grey)
    else:
        image = scene(3).convert(mode)
    data = encoded(image, "JPEG") if mode == "CMYK" else encoded(image)
    assert between(views(data), views(encoded(scene(3)))) <= 6


def test_a_plain_image_is_like_no_other() -> None:
    red, blue = encoded(Image.new("RGB", (64, 64), "red")), encoded(Image.new("RGB", (64, 64), "blue"))
    assert perceptual_hashes(red) == perceptual_hashes(blue) == b""
    transparent = Image.new("RGBA", (64, 64), (0, 0, 0, 0))
    assert perceptual_hashes(encoded(transparent)) == b""
    assert between(views(red), views(blue)) == 64


def crop(image: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Without these shares of the sides."""
    width, height = image.size
    edges = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
    return image.crop((round(edges[0]), round(edges[1]), round(edges[2]), round(edges[3])))


def detailed(seed: int) -> Image.Image:
    """A scene with details as small as a photograph's, which the hash of the whole loses in a crop."""
    rng = np.random.default_rng(seed)
    total = sum(
        np.asarray(Image.fromarray(rng.normal(0, 255 / 2**n, (3 * 2**n, 4 * 2**n)).astype(np.float32)).resize((320, 240), 3))
        for n in range(5)
    )
    return Image.fromarray(np.clip(128 + total / 4, 0, 255).astype(np.uint8))


CROPS = {
    "corner": (0, 0, 0.08, 0.06),
    "middle": (0.05, 0.04, 0.05, 0.06),
    "one side": (0, 0, 0, 0.12),
    "tenth": (0.02, 0.07, 0.08, 0.03),
}


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", CROPS)
def test_crops_are_found_by_their_pixels(tmp_path: Path, name: str, mirrored: bool, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = range(12)
    copies = [crop(detailed(seed), *CROPS[name]).resize((300, 220)) for seed in seeds]
    if mirrored:
        copies = [ImageOps.mirror(copy) for copy in copies]
    items = [item(f"{seed:02}", encoded(detailed(seed)), group=f"toy:{seed}") for seed in seeds]
    items += [item(f"copy-{seed:02}", encoded(copy, "JPEG", quality=80)) for seed, copy in zip(seeds, copies, strict=True)]
    path = store_of(tmp_path, *items)
    assert main(["dedup", str(path), "--no-crops", "--json"]) == 0
    by_hash = len(json.loads(capsys.readouterr().out)["duplicates"])
    assert by_hash < 6, "else this shows nothing"
    assert main(["dedup", str(path), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    with Store(path, write=False) as store:
        key = {i.id: i.key for i in store.ledger.items()}
        groups = {i.key: i.group for i in store.ledger.items()}
    pairs = {(key[d["item"]], key[d["kept"]]) for d in report["duplicates"]}
    assert pairs <= {(f"copy-{seed:02}", f"{seed:02}") for seed in seeds}, "no two that show different things"
    # A crop that is mirrored as well is looked for by the hash of the whole alone.
    assert len(pairs) >= (3 if mirrored else 11)
    assert all(groups[copy] == groups[original] for copy, original in pairs), "they stay in one split"
    assert report["registered"] >= len(pairs) - by_hash


def test_registration_finds_the_place_and_is_not_taken_in() -> None:
    whole, other = thumbnail(encoded(detailed(1))), thumbnail(encoded(detailed(2)))
    part = thumbnail(encoded(crop(detailed(1), 0.02, 0.11, 0.07, 0.03)))
    start = np.array([[0.0, 0.1, 0.95, 0.9]] * 3)
    found = correlations([whole] * 3, [part, part, other], start, np.array([False, True, False]))
    assert found[0] > 0.93
    assert found[1:].max() < 0.5
    plain = bytes(1600)
    assert np.isfinite(correlations([plain, whole], [whole, plain], start[:2], np.zeros(2, bool))).all()
    # The same light at the same end and nothing else in common: grey levels alone would be taken in.
    ramp = np.linspace(0, 255, 40)[None] + np.zeros((40, 1))
    rng = np.random.default_rng(0)
    lit = [np.clip(ramp + rng.normal(0, 25, ramp.shape), 0, 255).astype(np.uint8).tobytes() for _ in range(2)]
    assert correlations(lit[:1], lit[1:], np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([False]))[0] < 0.5


def test_a_registration_that_leads_nowhere_ends() -> None:
    """Alone in its batch, a pair whose place leaves the picture in the first step left an empty batch behind it."""
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, 40 * 40, dtype=np.uint8).tobytes() for _ in range(80)]
    start = np.array([[0.0, 0.0, 0.6, 0.6]])
    found = [correlations([a], [b], start, np.array([False]))[0] for a, b in zip(noise[::2], noise[1::2], strict=True)]
    assert max(np.abs(found)) < 0.5


def test_all_pairs_between_two_sets_are_found() -> None:
    rng = np.random.default_rng(5)
    rows, columns = (rng.integers(0, 2**64, n, dtype=np.uint64) for n in (1500, 5000))
    columns[4090:4110] = rows[1020:1040] ^ np.uint64(0b101)
    bits = np.bitwise_count(rows[:, None] ^ columns[None])
    expected = {(int(a), int(b), int(bits[a, b])) for a, b in zip(*np.nonzero(bits <= 16), strict=True)}
    for keep in (None, lambda i, j, b: j % 2 == 0):
        found = [
            (int(a), int(b), int(d))
            for edges in close_between(rows, columns, 16, workers=2, keep=keep)
            for a, b, d in zip(*edges, strict=True)
        ]
        assert len(found) == len(set(found))
        assert set(found) == {e for e in expected if keep is None or e[1] % 2 == 0}
    assert len(expected) > 100


def test_all_close_pairs_are_found_whatever_the_size_of_a_block() -> None:
    rng = np.random.default_rng(1)
    # More than one block of rows and of columns, and neither is full.
    hashes = rng.integers(0, 2**64, 4500, dtype=np.uint64)
    hashes[4000:4200] = hashes[:200] ^ np.uint64(0b111)
    # In the second block of columns, further left than the first of the pair in its block of rows.
    hashes[4096:4130] = hashes[30:64]
    hashes[4200:4300] = hashes[:100] ^ np.uint64(MIRROR_BITS) ^ np.uint64(1 << 63)
    bits = np.bitwise_count(hashes[:, None] ^ hashes[None])
    bits = np.minimum(bits, np.bitwise_count(hashes[:, None] ^ hashes[None] ^ np.uint64(MIRROR_BITS)))
    i, j = np.nonzero(np.triu(bits <= 14, 1))
    expected = {(int(a), int(b), int(bits[a, b])) for a, b in zip(i, j, strict=True)}
    done: list[int] = []
    found = [
        (int(a), int(b), int(d))
        for edges in close_hashes(hashes, 14, MIRROR_BITS, done.append, workers=2)
        for a, b, d in zip(*edges, strict=True)
    ]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert len(expected) > 300
    assert done[-1] == len(hashes)


def test_close_vectors_are_all_pairs_too() -> None:
    rng = np.random.default_rng(2)
    vectors = rng.normal(size=(50, 8)).astype(np.float32)
    vectors[40:] = vectors[:10] + 0.01 * rng.normal(size=(10, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors.T
    expected = {(int(i), int(j)) for i, j in zip(*np.nonzero(np.triu(cosine >= 0.9, 1)), strict=True)}
    found = {(int(i), int(j)) for a, b, _ in close_vectors(vectors, 0.1, block=16) for i, j in zip(a, b, strict=True)}
    assert found == expected
    assert {(i, i + 40) for i in range(10)} <= found


def partition(labels: Sequence[int]) -> set[frozenset[int]]:
    return {frozenset(np.nonzero(np.asarray(labels) == label)[0].tolist()) for label in set(labels)}


def test_the_forest_gives_the_groups_of_all_edges_at_every_threshold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.dedup.pairs._MOST_EDGES", 50)
    rng = np.random.default_rng(3)
    forest = Forest(60)
    every: list[Edges] = []
    for _ in range(20):
        edges = (rng.integers(0, 60, 10), rng.integers(0, 60, 10), rng.integers(0, 12, 10).astype(float))
        every.append(edges)
        forest.add(*edges)
    for most in range(12):
        direct = components(60, *((a[d <= most], b[d <= most], d[d <= most]) for a, b, d in every))
        assert partition(list(components(60, forest.edges(most)))) == partition(list(direct))
    assert len(forest.edges(99)[0]) < 60


def test_groups_keep_the_foremost_source_then_the_largest_image() -> None:
    none: Edges = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    prints = [np.full(len(WINDOWS), h, np.uint64) for h in (0, 0b11, 0xFF00FF00FF00FF00, 0b1111111)]
    # 0–1 near (2 bits), 1–3 near (5 bits), 0–3 only through 1 (7 bits).
    edges = (np.array([0, 1]), np.array([1, 3]), np.array([2.0, 5.0]))
    items = [
        Candidate("a", "web", 0, 300, None),
        Candidate("b", "art", 1, 100, None),
        Candidate("c", "web", 2, 100, "web:g"),
        Candidate("d", "web", 3, 900, None),
        Candidate("e", "web", 0, 300, "web:g"),
    ]
    likeness, thresholds = Likeness(prints, edges, none, none, None), Thresholds((6, 10), (1, 1), (1, 1))

    def left_out(*priority: str) -> dict[str, tuple[str, str, float]]:
        return {d.item_id: (d.kept_id, d.how, d.distance) for d in decide(items, likeness, thresholds, priority).dropped}

    assert left_out() == {"a": ("d", "chain", 7), "b": ("d", "phash", 5), "e": ("d", "chain", 7)}
    assert left_out("art") == {"a": ("b", "phash", 2), "d": ("b", "phash", 5), "e": ("b", "phash", 2)}
    # The group of e's source takes its neighbours in, and c, which its source has put beside e.
    assert decide(items, likeness, thresholds, ()).groups == dict.fromkeys("abcde", "web:g")


def test_a_store_is_deduplicated_again_and_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    near = scene(1)
    near.paste("white", (0, 0, 50, 50))
    items = [
        item("original", encoded(scene(1))),
        item("again", encoded(scene(1)), source="copy"),
        item("small", encoded(scene(1).resize((80, 60))), group="toy:x"),
        item("flip", encoded(ImageOps.mirror(scene(1)), "JPEG", quality=90), split="test"),
        item("near", encoded(near), split="train"),
        item("other", encoded(scene(2)), group="toy:y"),
        item("plain", encoded(Image.new("RGB", (64, 64), "red"))),
        item("plain-blue", encoded(Image.new("RGB", (64, 64), "blue"))),
    ]
    path = store_of(tmp_path, *items)
    with Store(path, write=False) as store:
        ids = {i.key: i.id for i in store.ledger.items()}
        before = [(i.id, i.group) for i in store.ledger.items()]
    bits = between(views(encoded(near)), views(encoded(scene(1))))
    assert 2 < bits <= 20
    command = ["dedup", str(path), "--threshold", "2", "--near", str(bits), "--json"]
    assert main(command) == 0
    first = json.loads(capsys.readouterr().out)
    assert (first["hashed"], first["plain"], first["groups"], first["largest_group"]) == (7, 2, 1, 4)
    assert first["groups_split_by_source"] == 1
    left_out = {d["item"]: (d["kept"], d["how"]) for d in first["duplicates"]}
    # Equal sources and sizes: the first by id, which is "copy-again-…".
    assert left_out == {
        ids["original"]: (ids["again"], "sha256"),
        ids["small"]: (ids["again"], "phash"),
        ids["flip"]: (ids["again"], "phash"),
    }
    with Store(path, write=False) as store:
        assert store.ledger.duplicates() == {i: kept for i, (kept, _) in left_out.items()}
        groups = {i.key: i.group for i in store.ledger.items()}
    together = ("original", "again", "small", "flip", "near")
    assert {groups[key] for key in together} == {"toy:x"}
    assert (groups["other"], groups["plain"], groups["plain-blue"]) == ("toy:y", None, None)

    written = state(path)
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["hashed"] == 0
    assert state(path) == written

    # Other settings: as if they had been the first.
    other = ["--threshold", "0", "--near", "0", "--priority", "copy"]
    assert main(["dedup", str(path), *other]) == 0
    # The small copy and the mirrored one have the very hash of the original.
    assert "left out 3 (phash 2, sha256 1)" in capsys.readouterr().out
    fresh = store_of(tmp_path, *items, name="fresh")
    assert main(["dedup", str(fresh), *other]) == 0
    assert state(path) == state(fresh)
    assert main(command) == 0
    assert state(path) == written
    with Store(path, write=False) as store:
        said = dict(store.ledger.read("SELECT item_id, grp FROM source_groups"))
    assert before == [(i, said.get(i, group)) for i, group in state(path)[1]], "what the sources say of groups is not lost"


def test_settings_that_make_no_sense_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = store_of(tmp_path, item("a", encoded(scene(1))))
    for arguments, message in (
        (["--threshold", "8", "--near", "4"], "threshold 8, near 4: expected 0 ≤ threshold ≤ near ≤ 20"),
        (["--cosine", "1.5"], "cosine 1.5"),
        (["--priority", "toy,web"], f"priority: no image of source web; sources in {path}: toy"),
        (["--model", str(tmp_path / "none")], "cannot be loaded"),
    ):
        assert main(["dedup", str(path), *arguments]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(DedupError):
        DedupSettings(threshold=-1)


def test_a_damaged_image_stops_the_run_and_changes_nothing(tmp_path: Path) -> None:
    path = store_of(tmp_path, item("a", encoded(scene(1))), item("b", encoded(scene(1).resize((80, 60)))))
    with Store(path, write=True) as store:
        dedup(store, DedupSettings())
        damaged = next(i for i in store.ledger.items() if i.key == "b")
        store.image_path(damaged.sha256, damaged.extension).write_bytes(b"")
        before = store.ledger.duplicates()
        assert len(before) == 1
        store.ledger.write_now(("DELETE FROM image_hashes", ()))
        with pytest.raises(UserError, match="does not have the sha256 of its name"):
            dedup(store, DedupSettings())
        assert store.ledger.duplicates() == before


def test_a_ledger_of_an_older_program_gets_the_tables(tmp_path: Path) -> None:
    path = store_of(tmp_path, item("a", encoded(scene(1))))
    with Store(path, write=True) as store:
        store.ledger.write_now(*((f"DROP TABLE {name}", ()) for name in ("duplicates", "image_hashes", "source_groups")))
    ledger = Ledger(path / "ledger.sqlite", write=True)
    assert ledger.duplicates() == {}
    ledger.close()


@pytest.fixture(scope="module")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DINOv2 with random weights, as a folder that `from_pretrained` loads."""
    import torch
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    path = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=7, initializer_range=0.5
    )
    Dinov2Model(config).save_pretrained(path)
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(path)
    return path


def test_embeddings_find_what_the_hash_does_not(tmp_path: Path, vision_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from data_prep.dedup.embeddings import Embedder, EmbedderError

    embedder = Embedder(str(vision_model))
    images = [encoded(scene(seed)) for seed in range(6)] + [encoded(scene(0).crop((8, 6, 152, 114)))]
    vectors = embedder.embed(images).astype(np.float32)
    cosine = vectors @ vectors.T
    assert np.allclose(cosine.diagonal(), 1, atol=2e-3)
    bound = float(cosine[0, 6]) - 0.005
    others = (cosine - np.eye(7))[:6, :6].max()
    assert others < bound, "the crop is nearer to its original than any other image"
    assert np.array_equal(embedder.embed(images[2:3])[0], embedder.embed(images[:4])[2]), "whatever the batch"

    path = store_of(tmp_path, *(item(str(i), data) for i, data in enumerate(images)))
    command = ["dedup", str(path), "--threshold", "0", "--near", "0", "--no-crops", "--json"]
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["duplicates"] == []
    command += ["--model", str(vision_model), "--cosine", str(bound), "--near-cosine", str(bound)]
    assert main(command) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["embedded"], report["left_out"]) == (7, {"embedding": 1})
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out)["embedded"] == 0
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        Embedder(str(tmp_path))


@pytest.mark.parametrize("model_type", ["dinov2", "theirs"])
def test_code_beside_a_model_is_not_run_and_nobody_is_asked(
    tmp_path: Path, vision_model: Path, model_type: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from data_prep.dedup.embeddings import Embedder, EmbedderError

    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(vision_model, folder)
    for name in ("code.py", "__init__.py", "modeling.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w').write('x')\nclass C: pass\n")
    kinds = ("AutoConfig", "AutoModel", "AutoImageProcessor", "AutoProcessor", "AutoFeatureExtractor")
    for name in ("config.json", "preprocessor_config.json"):
        settings = json.loads((folder / name).read_text()) | {"auto_map": dict.fromkeys(kinds, "code.C")}
        (folder / name).write_text(json.dumps({**settings, "model_type": model_type} if name == "config.json" else settings))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    if model_type == "dinov2":
        assert Embedder(str(folder)).name == str(folder)
    else:
        with pytest.raises(EmbedderError, match="cannot be loaded"):
            Embedder(str(folder))
    assert not mark.exists()


def test_a_model_whose_file_lacks_weights_is_refused(tmp_path: Path, vision_model: Path) -> None:
    from safetensors.torch import load_file, save_file

    from data_prep.dedup.embeddings import Embedder, EmbedderError

    for file in vision_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = {name: tensor.clone() for name, tensor in load_file(tmp_path / "model.safetensors").items()}
    more = weights | {"encoder.layer.9.mlp.fc1.weight": weights["encoder.layer.0.mlp.fc1.weight"].clone()}
    save_file(more, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EmbedderError, match=r"1 that the model does not have .encoder.layer.9"):
        Embedder(str(tmp_path))
    head = {"classifier.weight": weights["encoder.layer.0.mlp.fc1.weight"].clone()}
    save_file(weights | head, tmp_path / "model.safetensors", metadata={"format": "pt"})
    Embedder(str(tmp_path))
    weights.pop("encoder.layer.0.mlp.fc1.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EmbedderError, match=r"1 missing \(encoder.layer.0.mlp.fc1.weight\)"):
        Embedder(str(tmp_path))


def twin_id(store: Store) -> str:
    return next(item.id for item in store.ledger.items() if item.key == "twin")


def test_a_duplicate_is_not_paid_for(
    tmp_path: Path, write_config: Callable[..., Path], toys: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")
    path, root = write_config(), tmp_path / "store"
    (record, data), (other, more) = toys[:2]
    twin = replace(item_of(record, data), source="zz", key="twin")
    with Store(root, write=True) as store:
        store.import_items([item_of(record, data), item_of(other, more), twin])
        dedup(store, DedupSettings())
        assert len(store.ledger.duplicates()) == 1
    with simulated_annotators([record, other], path) as server:
        report = run_pass(root, DemoConfig.load(path), server.base_url)
    assert (report.total, report.duplicates, sum(report.outcomes.values())) == (3, 1, 2)
    with Store(root, write=True) as store:
        counts = store.ledger.outcome_counts()
        assert (counts["duplicate"], counts["pending"], sum(counts.values())) == (1, 0, 3), "nothing waits for ever"
        dedup(store, DedupSettings(priority=("zz",)))
        assert store.ledger.duplicates() == {record.id: twin_id(store)}
        again = store.ledger.outcome_counts()
        assert (again.get("duplicate", 0), again["pending"], sum(again.values())) == (0, 1, 3), (
            "the twin is to be annotated now"
        )
