"""One type of image in an export: what every reader opens, what is written anew, and what is known of what it was."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from pathlib import Path

import pytest
import yaml
from PIL import ExifTags, Image, ImageCms

from data_prep.cli import main
from data_prep.config import SplitConfig
from data_prep.export import ExportError, Manifest, export_store, write_shards
from data_prep.export.pictures import as_type, most_common
from data_prep.sources import SourceItem
from data_prep.store.store import Store
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Record
from emo_lightning.data.leaks import Origin, check_leaks
from emo_lightning.data.tar_index import TarIndex
from tests.data_prep.conftest import item_of, picture, truth

SIZE = (40, 32)


def mixed(count: int = 24) -> list[tuple[Record, bytes, str]]:
    """Records with pictures of three types, in runs so that some shards begin with each; jpg is the most common."""
    rows = []
    for seed in range(count):
        record, _ = truth(seed)
        extension = ("png", "jpg", "jpg", "webp")[seed * 4 // count]
        data = picture(seed, kind={"jpg": "JPEG"}.get(extension, extension.upper()))
        rows.append((record.model_copy(update={"sha256": hashlib.sha256(data).hexdigest()}), data, extension))
    return rows


def store_of(root: Path, rows: list[tuple[Record, bytes, str]]) -> Path:
    with Store(root, write=True) as store:
        store.import_items(
            SourceItem(**{**vars(item_of(record, data)), "extension": extension, "image": data})
            for record, data, extension in rows
        )
        for item in store.ledger.items():
            record = next(r for r, _, _ in rows if r.id.endswith(item.key[-4:]))
            record = record.model_copy(
                update={"id": item.id, "source": item.source, "sha256": item.sha256, "split": item.split}
            )
            row = (item.id, "valid", "test", 0, record.to_json().decode())
            store.ledger.write_now(("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)", row))
    return root


def exported(root: Path, out: Path, **options: object) -> Manifest:
    with Store(root, write=False) as store:
        return export_store(store, out, "toy", samples_per_shard=5, shares=SplitConfig(train=1, val=0, test=0), **options)  # type: ignore[arg-type]


def test_a_mixture_goes_out_as_its_most_common_type_and_every_reader_opens_the_tars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import webdataset

    rows = mixed()
    root = store_of(tmp_path / "store", rows)
    manifest = exported(root, tmp_path / "out")
    assert manifest["images"] == {
        "type": "jpg",
        "reencoded": {"png": 6, "webp": 6},
        "how": "JPEG of quality 95 without subsampling",
    }
    assert manifest["contents"]["extension"] == {"jpg": 24}
    pattern = str(tmp_path / "out" / "toy-*.tar")

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    for streaming in (False, True):
        loaded = datasets.load_dataset(
            "webdataset", data_files=pattern, split="train", streaming=streaming, cache_dir=str(tmp_path / f"cache-{streaming}")
        )
        assert list(loaded.features) == ["jpg", "json", "__key__", "__url__"], "one column of images"
        sizes = [row["jpg"].size for row in loaded]
        assert sizes == [SIZE] * 24
    folder = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert {split: rows.num_rows for split, rows in folder.items()} == manifest["counts"]
    assert all(list(rows.features) == ["jpg", "json", "__key__", "__url__"] for rows in folder.values())

    files = sorted(str(path) for path in (tmp_path / "out").glob("*.tar"))
    samples = list(webdataset.WebDataset(files, shardshuffle=False))
    assert [set(sample) - {"__key__", "__url__", "__local_path__"} for sample in samples] == [{"jpg", "json"}] * 24
    with Store(root, write=False) as store:
        items = {item.id: item for item in store.ledger.items()}
    for sample in samples:
        record = Record.from_json(sample["json"], sample["__key__"])
        assert record.sha256 == hashlib.sha256(sample["jpg"]).hexdigest()
        item = items[record.id]
        assert record.source_sha256 == (None if item.extension == "jpg" else item.sha256)
        assert record.image_hashes == {record.sha256, item.sha256}
    index = TarIndex.open(files)
    assert [index.image(row).size for row in range(len(index))] == [SIZE] * 24, "ours reads what it wrote"


def test_the_card_and_the_command_say_what_was_written_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = store_of(tmp_path / "store", mixed(8))
    assert main(["export", str(root), str(tmp_path / "png"), "--images", "png"]) == 0
    assert "written anew as png: jpg 4, webp 2" in capsys.readouterr().out
    text = (tmp_path / "png" / "README.md").read_text()
    assert "All images are png. 4 jpg, 2 webp were of another type and were written anew (PNG, lossless)" in text
    assert [f["name"] for f in yaml.safe_load(text.split("---")[1])["dataset_info"]["features"]][:2] == ["png", "json"]
    assert main(["export", str(root), str(tmp_path / "keep"), "--images", "keep"]) == 0
    assert "written anew" not in capsys.readouterr().out
    manifest = json.loads((tmp_path / "keep" / "manifest.json").read_text())
    assert manifest["contents"]["extension"] == {"jpg": 4, "png": 2, "webp": 2}
    assert manifest["images"] == {"type": "keep", "reencoded": {}, "how": None}
    assert exported(root, tmp_path / "a") == exported(root, tmp_path / "b"), "the same bytes every time"


def test_boxes_masks_and_pixels_are_those_of_what_it_was(tmp_path: Path) -> None:
    rows = mixed(8)
    write_shards(rows, tmp_path, "toy", images="png")
    index = TarIndex.open(str(tmp_path / "*.tar"))
    by_id = {record.id: (record, data) for record, data, _ in rows}
    for row in range(len(index)):
        record, image = index.sample(row)
        before, data = by_id[record.id]
        assert record.objects == before.objects
        assert image.tobytes() == Image.open(io.BytesIO(data)).convert("RGB").tobytes(), "PNG loses nothing"


def test_what_is_odd_becomes_what_readers_see_of_it() -> None:
    """Turned, transparent, 16-bit, CMYK, animated, with a colour profile: each as `TarIndex.image` shows the first."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation], turned[ExifTags.Base.Make] = 6, "SOMEBODY"

    def file(image: Image.Image, kind: str, **options: object) -> bytes:
        out = io.BytesIO()
        image.save(out, kind, **options)
        return out.getvalue()

    plain = Image.open(io.BytesIO(picture(3))).convert("RGB")
    clear = plain.convert("RGBA")
    clear.putalpha(0)
    grey = Image.new("I;16", SIZE, 257 * 100)
    cases = {
        "turned": (file(plain, "JPEG", exif=turned, icc_profile=profile), "jpg", (32, 40)),
        "transparent": (file(clear, "PNG"), "png", SIZE),
        "16-bit": (file(grey, "PNG"), "png", SIZE),
        "cmyk": (file(plain.convert("CMYK"), "JPEG", icc_profile=profile), "jpg", SIZE),
        "animated": (file(plain, "WEBP", save_all=True, append_images=[Image.new("RGB", SIZE)], lossless=True), "webp", SIZE),
    }
    for name, (data, extension, size) in cases.items():
        for wanted in {"jpg", "png", "webp"} - {extension}:
            made = Image.open(io.BytesIO(as_type(data, extension, wanted, name, size, ExportError)))
            assert made.size == size, name
            assert made.mode in ("RGB", "L"), name
            assert not made.has_transparency_data
            assert getattr(made, "n_frames", 1) == 1
            assert made.getexif().get(ExifTags.Base.Orientation) is None
            assert (made.getexif().get(ExifTags.Base.Make) == "SOMEBODY") is (name == "turned")
            assert (made.info.get("icc_profile") == profile) is (name == "turned"), "not a profile of other colours"
            middle = made.convert("RGB").getpixel((20, 16))
            if name == "transparent":
                assert middle == (255, 255, 255), "on white, as pages show it"
            if name == "16-bit":
                assert isinstance(middle, tuple)
                assert all(abs(value - 100) <= 2 for value in middle)
    with pytest.raises(InputError, match="turned: image is 32x40, its record says 40x32"):
        as_type(*cases["turned"][:2], "png", "turned", SIZE, ExportError)
    data = cases["cmyk"][0]
    assert as_type(data, "jpg", "jpg", "same", SIZE, ExportError) is data


def test_of_equal_numbers_the_first_type_is_taken() -> None:
    assert most_common(["webp", "png"]) == "png"
    assert most_common(["webp", "png", "webp"]) == "webp"
    assert most_common([]) == "jpg"


def test_one_picture_in_two_exports_of_other_types_is_still_one(tmp_path: Path) -> None:
    """Its id differs, its bytes differ: the file that both were made of does not."""
    rows = [(record.model_copy(update={"split": "train"}), data, extension) for record, data, extension in mixed(8)]
    write_shards(rows, tmp_path / "kept", "toy", images="keep")
    other = [(record.model_copy(update={"id": f"other-{record.id}"}), data, extension) for record, data, extension in rows]
    write_shards(other, tmp_path / "jpg", "toy", images="jpg")
    train, test = TarIndex.open(str(tmp_path / "jpg" / "*.tar")), TarIndex.open(str(tmp_path / "kept" / "*.tar"))
    assert Counter(one is None for one in train.source_hashes()) == {True: 4, False: 4}
    assert set(test.source_hashes()) == {None}
    with pytest.raises(InputError, match="8 of 8 images of the set 'test' are also in 'train'"):
        check_leaks({"train": train, "test": test}, allowed=False)
    origins = [Origin.of(train.record(row)) for row in range(len(train))]
    assert {len(origin.as_row()) for origin in origins} == {3, 4}, "a cache of features knows it too"
    assert [Origin(origin.id, *origin.as_row()) for origin in origins] == origins
