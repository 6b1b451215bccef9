"""From a ledger to tars: splits that stay, selections, and what stays behind."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tarfile
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest
from PIL import ExifTags, Image

from data_prep.cli import main
from data_prep.config import SplitConfig
from data_prep.export import ExportError, Manifest, Selection, export_store
from data_prep.export.splits import EXPORT_SPLITS, assign, groups_of
from data_prep.sources import SourceItem
from data_prep.store.rows import Item
from data_prep.store.store import Store
from emo_lightning.core.records import EMOTIONS, Record
from tests.data_prep.conftest import item_of, truth

SHARES = SplitConfig(train=0.8, val=0.1, test=0.1)


def photo(seed: int, **changes: object) -> SourceItem:
    """An image without a split of its source."""
    record, data = truth(seed)
    return SourceItem(**{**vars(item_of(record, data)), "split": None, **changes})


def fill(root: Path, items: list[SourceItem], states: dict[str, str] | None = None) -> None:
    """Import items and give each an outcome: that of its truth, `valid` unless `states` says otherwise by key."""
    with Store(root, write=True) as store:
        store.import_items(items)
        for item in store.ledger.items():
            known, _ = truth(int(item.key.rsplit("-", 1)[1]))
            state = (states or {}).get(item.key, "valid")
            record = known.model_copy(
                update={"id": item.id, "source": item.source, "sha256": item.sha256, "split": item.split or ""}
            )
            store.ledger.write_now(
                (
                    "INSERT OR IGNORE INTO outcomes VALUES (?, ?, ?, ?, ?)",
                    (item.id, state, "test", 0, record.to_json().decode()),
                )
            )


def export(
    root: Path,
    out: Path,
    *,
    selection: Selection | None = None,
    labels: Literal["annotations", "source"] = "annotations",
    resplit: bool = False,
) -> Manifest:
    with Store(root, write=False) as store:
        return export_store(store, out, "toy", shares=SHARES, selection=selection, labels=labels, resplit=resplit)


def records(out: Path) -> dict[str, Record]:
    found = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    record = Record.from_json(tar.extractfile(member).read(), member.name)  # type: ignore[union-attr]
                    found[record.id] = record
    return found


def splits(out: Path) -> dict[str, str]:
    return {key: record.split for key, record in records(out).items()}


def read_all(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


def test_equal_ledgers_give_equal_bytes_whatever_the_order_of_import(tmp_path: Path) -> None:
    items = [photo(seed) for seed in range(60)]
    fill(tmp_path / "a", items)
    fill(tmp_path / "b", list(reversed(items)))
    export(tmp_path / "a", tmp_path / "out-a")
    export(tmp_path / "a", tmp_path / "again")
    export(tmp_path / "b", tmp_path / "out-b")
    assert read_all(tmp_path / "out-a") == read_all(tmp_path / "out-b") == read_all(tmp_path / "again")
    assert {"README.md", "manifest.json"} < set(read_all(tmp_path / "out-a"))


def test_nothing_moves_when_images_are_added_and_shares_still_hold(tmp_path: Path) -> None:
    fill(tmp_path / "s", [photo(seed) for seed in range(60)])
    export(tmp_path / "s", tmp_path / "first")
    first = splits(tmp_path / "first")
    fill(tmp_path / "s", [photo(seed) for seed in range(160)])
    manifest = export(tmp_path / "s", tmp_path / "second")
    second = splits(tmp_path / "second")
    assert {key: second[key] for key in first} == first
    counts = manifest["counts"]
    assert abs(counts["val"] - 16) <= 4
    assert abs(counts["test"] - 16) <= 4
    export(tmp_path / "s", tmp_path / "third", resplit=True)
    assert splits(tmp_path / "third") != second


def items(number: int, seed: int, grouped: float) -> tuple[list[Item], dict[str, str]]:
    rng = random.Random(seed)
    made, emotions = [], {}
    for i in range(number):
        group = f"g{rng.randrange(number // 4)}" if rng.random() < grouped else None
        made.append(Item(f"i{i:05d}", "s", str(i), f"{seed:032x}{i:032x}", "png", 1, 1, None, group, {}, [], None, None))
        # Rare emotions are what stratification is for.
        emotions[made[-1].id] = str(rng.choices(EMOTIONS, [8, 8, 8, 8, 4, 2, 1, 1])[0])
    return made, emotions


@pytest.mark.parametrize(("number", "grouped"), [(400, 0.0), (400, 0.3), (3000, 0.5)])
def test_shares_hold_for_every_emotion_and_groups_stay_whole(number: int, grouped: float) -> None:
    made, emotions = items(number, 1, grouped)
    groups = groups_of(made)
    result = assign(groups, {}, {}, emotions, SHARES).splits
    by_group: dict[int, set[str]] = {}
    for item in made:
        by_group.setdefault(groups[item.id], set()).add(result[item.id])
    assert all(len(found) == 1 for found in by_group.values())
    total = Counter(emotions.values())
    have = Counter((result[i], e) for i, e in emotions.items())
    slack = 1 if not grouped else 1 + max(Counter(groups.values()).values())
    for split in EXPORT_SPLITS:
        for emotion, n in total.items():
            assert abs(have[split, emotion] - getattr(SHARES, split) * n) <= slack, (split, emotion)


def test_siblings_of_a_triplet_and_equal_images_are_one_group() -> None:
    def item(name: str, sha: int = 0, group: str | None = None, parents: tuple[str, ...] = (), triplet: str = "") -> Item:
        labels: dict[str, object] = (
            {"lineage": {"parents": list(parents), "parent_triplet": {"subject": triplet}}} if parents else {}
        )
        return Item(name, "s", name, f"{sha or ord(name):064x}", "png", 1, 1, None, group, labels, [], None, None)

    groups = groups_of(
        [
            *(item("a"), item("b", parents=("a", "h"), triplet="dog"), item("c", parents=("a",), triplet="dog")),
            *(item("i", parents=("j",), triplet="dog"), item("j"), item("k", parents=("h",), triplet="cat")),
            *(item("d", 7), item("e", 7, "g"), item("f", 0, "g"), item("h")),
        ]
    )
    assert groups["a"] == groups["b"] == groups["c"] == groups["i"] == groups["j"], "siblings, and the anchor of each"
    assert groups["d"] == groups["e"] == groups["f"]
    assert groups["h"] == groups["k"]
    assert len({groups["a"], groups["d"], groups["h"]}) == 3


def test_a_group_in_two_splits_of_its_source_goes_where_it_is_held_out() -> None:
    groups = {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1}
    result = assign(groups, {"a": "train", "b": "test", "d": "val"}, {"e": "train"}, dict.fromkeys(groups, "awe"), SHARES)
    assert result.splits == {"a": "test", "b": "test", "c": "test", "d": "val", "e": "val"}
    assert result.moved == 2
    assert result.new == {"c": "test"}


def test_selection_by_licence_and_source_is_counted_and_stands_in_every_record(tmp_path: Path) -> None:
    def licensed(seed: int) -> SourceItem:
        return photo(seed, licence=("CC-BY-4.0", "CC-BY-NC-4.0", None)[seed % 3], source="web" if seed % 2 else "toy")

    fill(tmp_path / "s", [licensed(seed) for seed in range(60)], {f"toy-{seed:04d}": "human" for seed in (0, 3)})
    whole = export(tmp_path / "s", tmp_path / "whole")
    assert whole["excluded"] == {"human": 2}
    before = splits(tmp_path / "whole")
    open_ = export(tmp_path / "s", tmp_path / "open", selection=Selection(licences=("CC-BY-4.0", "unknown"), sources=("web",)))
    found = records(tmp_path / "open")
    assert {r.provenance["licence"] for r in found.values()} == {"CC-BY-4.0", None}
    assert all(r.source == "web" and r.provenance["origin"] == "drawn by a test" for r in found.values())
    assert open_["excluded"] == {"human": 2, "licence CC-BY-NC-4.0": 20, "source toy": 19}
    assert sum(open_["counts"].values()) + sum(open_["excluded"].values()) == 60
    assert {key: r.split for key, r in found.items()} == {key: before[key] for key in found}, "a selection moves nothing"
    assert open_["created_from"]["selection"] == {"licences": ["CC-BY-4.0", "unknown"], "sources": ["web"]}
    rest = export(tmp_path / "s", tmp_path / "rest", selection=Selection(exclude_licences=("CC-BY-NC-4.0",)))
    assert rest["excluded"]["licence CC-BY-NC-4.0"] == 20
    with pytest.raises(ExportError, match=r"no image has the licence CC-BY; in the store: CC-BY-4\.0, CC-BY-NC-4\.0, unknown"):
        export(tmp_path / "s", tmp_path / "x", selection=Selection(licences=("CC-BY",)))


def test_a_split_that_got_no_image_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path / "few", [photo(seed) for seed in range(5)])
    assert main(["export", str(tmp_path / "few"), str(tmp_path / "out")]) == 0
    assert "no image in val and test:" in capsys.readouterr().out
    fill(tmp_path / "many", [photo(seed) for seed in range(200)])
    assert main(["export", str(tmp_path / "many"), str(tmp_path / "more")]) == 0
    assert "no image in" not in capsys.readouterr().out


def test_an_export_of_nothing_says_why(tmp_path: Path) -> None:
    fill(tmp_path / "s", [photo(seed, licence="CC-BY-4.0") for seed in range(3)], {"toy-0001": "human"})
    with pytest.raises(ExportError, match=r"no record to export; left out: human 1, licence CC-BY-4\.0 2$"):
        export(tmp_path / "s", tmp_path / "out", selection=Selection(exclude_licences=("CC-BY-4.0",)))


def test_duplicates_stay_behind(tmp_path: Path) -> None:
    fill(tmp_path / "s", [photo(seed) for seed in range(12)])
    with Store(tmp_path / "s", write=True) as store:
        ids = [item.id for item in store.ledger.items()]
        store.ledger.write_now(
            ("INSERT INTO duplicates (item_id, kept_id, how, distance) VALUES (?, ?, ?, ?)", (ids[3], ids[2], "sha256", 0))
        )
    manifest = export(tmp_path / "s", tmp_path / "out")
    assert manifest["excluded"] == {"duplicate": 1}
    with Store(tmp_path / "s", write=True) as store:
        store.ledger.write_now(("DELETE FROM outcomes WHERE item_id IN (?, ?)", (ids[3], ids[4])))
    assert export(tmp_path / "s", tmp_path / "less")["excluded"] == {"duplicate": 1, "pending": 1}
    assert set(splits(tmp_path / "out")) == set(ids) - {ids[3]}


def test_labels_of_the_source_are_exported_without_annotations(tmp_path: Path) -> None:
    made = [photo(seed, labels={"emotion": "fear"} if seed % 2 else {}, split="test") for seed in range(8)]
    with Store(tmp_path / "s", write=True) as store:
        store.import_items(made)
    manifest = export(tmp_path / "s", tmp_path / "out", labels="source")
    assert manifest["excluded"] == {"unlabelled": 4}
    found = records(tmp_path / "out")
    assert {(r.emotion, r.description, r.split) for r in found.values()} == {("fear", None, "test")}
    assert manifest["created_from"]["labels"] == "source"
    assert json.loads((tmp_path / "out/manifest.json").read_text()) == manifest


@pytest.mark.parametrize("kept", [False, True])
def test_what_a_photograph_says_beside_its_pixels_stays_unless_asked_for(tmp_path: Path, *, kept: bool) -> None:
    """In the file, in the record's hash, in the card and in the manifest."""
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "SECRET"
    _, data = truth(1)
    out = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(out, "JPEG", exif=exif)
    bytes_, plain = out.getvalue(), photo(0)
    said = photo(1, image=bytes_, extension="jpg")
    fill(tmp_path / "s", [plain, said])
    flags = ["--keep-metadata"] if kept else []
    assert main(["export", str(tmp_path / "s"), str(tmp_path / "out"), "--name", "toy", "--images", "keep", *flags]) == 0
    found: dict[str, bytes] = {}
    for path in (tmp_path / "out").glob("*.tar"):
        with tarfile.open(path) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    name = next(name for name in found if name.endswith(".jpg"))
    assert (found[name] == bytes_) is kept
    assert (b"SECRET" in found[name]) is kept
    assert Record.from_json(found[f"{name.removesuffix('.jpg')}.json"], name).sha256 == hashlib.sha256(found[name]).hexdigest()
    other = next(name for name in found if name.endswith(".png"))
    assert found[other] == plain.image, "a file that says nothing goes out as it is"
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("as their sources made them" in card) is kept
    assert ("1 image files said more than their pixels" in card) is not kept
