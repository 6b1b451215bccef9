"""An export takes the place of an earlier one whole, of nothing else, and alone; meanwhile nobody reads the mixture."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from data_prep.export import ExportError, write_shards
from data_prep.export.read import read_records
from emo_lightning.core.emotions import EMOTIONS
from emo_lightning.core.errors import InputError, user_message
from emo_lightning.core.overlap import pictures_of
from emo_lightning.core.records import Record
from emo_lightning.data.shard_list import manifests_of
from emo_lightning.data.tar_index import ShardError, TarIndex

Given = list[tuple[Record, bytes, str]]
BROKE_OFF = r"/manifest\.json: an export into this folder broke off: run it again"


def samples(toys: list[tuple[Record, bytes]], count: int, emotion: str | None = None) -> Given:
    """So many images of one split, of one emotion where one is given."""
    change = {"split": "train"} | ({} if emotion is None else {"emotion": emotion})
    return [(record.model_copy(update=change), data, "png") for record, data in toys[:count]]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def emotions(index: TarIndex) -> list[str]:
    return [str(index.record(row).emotion) for row in range(len(index))]


def breaks(at: int, into: Path, end: Callable[[], None]) -> Callable[[Path, Path], Path]:
    """`Path.replace`, which ends instead of the rename of that number into a folder."""
    rename, seen = Path.replace, 0

    def replace(self: Path, target: Path) -> Path:
        nonlocal seen
        if Path(target).parent == into and self.parent != into:
            seen += 1
            if seen == at:
                end()
        return rename(self, target)

    return replace


def interrupted() -> None:
    raise KeyboardInterrupt


def readers(folder: Path) -> dict[str, Callable[[], object]]:
    tars = sorted(folder.glob("*.tar"))
    return {
        "folder": lambda: TarIndex.open(folder),
        "glob": lambda: TarIndex.open(folder / "*.tar"),
        "glob of a split": lambda: TarIndex.open(str(folder / "n-train-*.tar")),
        "range": lambda: TarIndex.open(str(folder / "n-train-{000000..000001}.tar")),
        "one by one": lambda: TarIndex.open(tars),
        "manifest": lambda: list(manifests_of(folder)),
        "records of the folder": lambda: list(read_records([folder])),
        "records of the tars": lambda: list(read_records(tars)),
        "pictures": lambda: pictures_of(folder),
    }


# Of the renames into the folder: the manifest of the moment, four tars with their indices, the card, the manifest.
@pytest.mark.parametrize("at", range(1, 12))
def test_a_mixture_of_two_exports_is_read_by_nobody_and_healed_by_the_next(
    at: int, tmp_path: Path, toys: list[tuple[Record, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = EMOTIONS[:2]
    out, whole = tmp_path / "out", tmp_path / "whole"
    write_shards(samples(toys, 6, first), out, "n", 2)
    write_shards(samples(toys, 8, second), whole, "n", 2)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", breaks(at, out, interrupted))
        with pytest.raises(KeyboardInterrupt):
            write_shards(samples(toys, 8, second), out, "n", 2)
    if at == 1:
        assert emotions(TarIndex.open(out)) == [first] * 6
    else:
        for name, read in readers(out).items():
            with pytest.raises(ShardError, match=BROKE_OFF):
                pytest.fail(f"{name}: {read()}")
    # A smaller one, too, leaves nothing of either.
    for given, there in ((samples(toys, 8, second), whole), (samples(toys, 2, first), None)):
        write_shards(given, out, "n", 2)
        assert emotions(TarIndex.open(out, verify=True)) == [str(record.emotion) for record, _, _ in given]
        assert there is None or contents(out) == contents(there)
    assert sorted(contents(out)) == ["README.md", "manifest.json", "n-train-000000.index.npz", "n-train-000000.tar"]


def test_a_first_export_that_is_killed_midway_is_read_by_nobody(tmp_path: Path, toys: list[tuple[Record, bytes]]) -> None:
    child = os.fork()
    if child == 0:
        Path.replace = breaks(4, tmp_path, lambda: os.kill(os.getpid(), signal.SIGKILL))  # type: ignore[method-assign, assignment]
        try:
            write_shards(samples(toys, 6), tmp_path, "n", 2)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with pytest.raises(ShardError, match=BROKE_OFF):
        TarIndex.open(tmp_path)
    write_shards(samples(toys, 6), tmp_path, "n", 2)
    assert len(TarIndex.open(tmp_path, verify=True)) == 6
    assert not (tmp_path / ".n.partial").exists()


@pytest.mark.parametrize("manifest", [False, True])
def test_tars_of_others_are_neither_replaced_nor_removed(
    manifest: bool, tmp_path: Path, toys: list[tuple[Record, bytes]]
) -> None:
    """With a manifest of ours beside them, or without."""
    if manifest:
        write_shards(samples(toys, 2), tmp_path, "data", 2)
    others = {"data-2017-000000.tar": b"a", "data-v2-train-000000.tar": b"b", "data-a-b-000000.tar": b"c"}
    for name, data in others.items():
        (tmp_path / name).write_bytes(data)
    write_shards(samples(toys, 4), tmp_path, "data", 2)
    write_shards(samples(toys, 1), tmp_path, "data", 2)
    assert contents(tmp_path).items() >= others.items()
    if not manifest:
        (tmp_path / "manifest.json").unlink()
    (tmp_path / "data-train-000009.tar").write_bytes(b"d")
    before = contents(tmp_path)
    first = "data-train-000009.tar" if manifest else "data-train-000000.tar"
    with pytest.raises(ExportError, match=rf"/{first}: could be replaced, and no manifest\.json says that it is of an earlier"):
        write_shards(samples(toys, 4), tmp_path, "data", 2)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("listed", ["../x.tar", "", 3])
def test_a_manifest_that_lists_what_is_no_file_beside_it_is_none_of_an_export(
    listed: object, tmp_path: Path, toys: list[tuple[Record, bytes]]
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "x.tar").write_bytes(b"mine")
    for said in ({"shards": [{"file": listed}]}, {"shards": [], "unfinished": [listed]}):
        (out / "manifest.json").write_text(json.dumps({"schema_version": 1, "name": "n", **said}))
        with pytest.raises(ExportError, match=r"manifest\.json: not the manifest of an export"):
            write_shards(samples(toys, 2), out, "n", 2)
    assert (tmp_path / "x.tar").read_bytes() == b"mine"


def test_one_export_at_a_time_is_written_into_a_folder(tmp_path: Path, toys: list[tuple[Record, bytes]]) -> None:
    """Of whatever name; the first one is none the worse for it."""
    refused = []

    def records() -> Iterator[tuple[Record, bytes, str]]:
        for number, given in enumerate(samples(toys, 6)):
            if number == 3:
                for name in ("n", "m"):
                    with pytest.raises(ExportError, match="another export is being written into this folder") as error:
                        write_shards(samples(toys, 8), tmp_path, name, 2)
                    refused.append(error)
            yield given

    write_shards(records(), tmp_path, "n", 4)
    assert len(refused) == 2
    assert len(TarIndex.open(tmp_path, verify=True)) == 6
    write_shards(samples(toys, 8), tmp_path, "n", 4)
    assert len(TarIndex.open(tmp_path, verify=True)) == 8


def test_a_disk_that_is_full_is_left_empty_and_the_file_is_named(tmp_path: Path, toys: list[tuple[Record, bytes]]) -> None:
    """Writing what is left in memory fails once more where the file is closed."""
    out = tmp_path / "out"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as full:
            write_shards(samples(toys, 24), out, "n", 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(out.iterdir()) == []
    assert f"({out}/.n.partial/n-train-000000.tar); make room" in cast("str", user_message(full.value))


def test_a_url_of_this_machine_is_its_path_and_an_empty_one_is_refused(
    tmp_path: Path, toys: list[tuple[Record, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_shards(samples(toys, 2), f"file://{tmp_path}/there", "n", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert len(TarIndex.open(f"file://{tmp_path}/there", verify=True)) == 2
    for empty in ("", "file://"):
        with pytest.raises(InputError, match="found an empty path"):
            write_shards(samples(toys, 2), empty, "n", 2)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def never() -> Iterator[Any]:
    """Records that nobody may ask for."""
    raise AssertionError
    yield


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://example.org/x", r"^https://example\.org/x: https:// takes no files"),
        ("http://example.org/x", "http:// takes no files"),
        ("s3://", "^s3://: names no bucket"),
        ("s3:///x", "names no bucket"),
        ("gs:////", "names no bucket"),
        ("foo://bucket/x", "Protocol not known"),
    ],
)
def test_a_place_that_cannot_be_one_is_refused_before_anything_is_made(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_shards(never(), url, "n")
