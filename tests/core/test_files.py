"""A file or a folder is there whole, or not at all, whatever happens while it is written."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.files import (
    atomic_folder,
    read_object,
    read_yaml,
    replacing,
    this_writer,
    write_bytes,
    write_json,
    write_npz,
    write_text,
)
from emo_lightning.core.shard_index import index_path, write_index
from emo_lightning.models.weights import save_network
from tests.data.test_tar_index import many, write_tar


class Interrupted(BaseException):
    """As an interrupt from the keyboard, no `Exception`."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("fsync", [False, True])
def test_a_file_takes_its_name_when_it_is_whole(tmp_path: Path, fsync: bool) -> None:
    target = tmp_path / "new/folder/a.txt"
    with replacing(target, fsync=fsync) as temporary:
        temporary.write_text("new")
        assert not target.exists()
        assert temporary == target.with_name("a.txt.tmp")
    assert (target.read_text(), names(target.parent)) == ("new", ["a.txt"])


@pytest.mark.parametrize("error", [RuntimeError, Interrupted])
def test_a_failure_leaves_the_old_file_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "a.txt"
    write_text(target, "old")

    def fails() -> None:
        with replacing(target) as temporary:
            temporary.write_text("ha")
            raise error

    with pytest.raises(error):
        fails()
    assert (target.read_text(), names(tmp_path)) == ("old", ["a.txt"])


def test_what_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "a.txt.tmp").write_text("a longer text than the new one")
    write_text(tmp_path / "a.txt", "new")
    assert ((tmp_path / "a.txt").read_text(), names(tmp_path)) == ("new", ["a.txt"])


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with replacing(target, writer="0") as first, replacing(target, writer="1") as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert (target.read_text(), names(tmp_path)) == ("first", ["a.txt"])


def no_process() -> int:
    """An id that no process has."""
    found = os.getpid()
    while Path(f"/proc/{found}").exists():
        found += 1
    return found


def test_what_writers_of_a_shared_file_left_that_are_no_more_is_removed(tmp_path: Path) -> None:
    """And nothing of a writer that may live: of this machine, of another one, of another file; nothing that is no temporary file."""
    machine, week = this_writer().rpartition(".")[0], 7 * 86400
    gone = {f"a.{machine}.{no_process()}.tmp": 0, "a.another-host.17.tmp": week + 60, "a.17.tmp": week + 60}
    kept = {
        f"a.{machine}.{os.getppid()}.tmp": week + 60,
        "a.another-host.18.tmp": week - 3600,
        "a.18.tmp": week - 3600,
        f"b.{machine}.{no_process()}.tmp": 0,
        "a.notes.tmp": week + 60,
        "a.txt": week + 60,
    }
    for name, seconds in (gone | kept).items():
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - seconds,) * 2)
    write_text(tmp_path / "a", "whole", shared=True)
    assert names(tmp_path) == sorted([*kept, "a"])


def killed_while_it_writes(path: Path) -> None:
    with replacing(path, shared=True) as temporary:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_writer_leaves_nothing_for_ever(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "a.tar", many(range(2)))
    for target in (index_path(tar), tmp_path / "model.safetensors", tmp_path / "config.json"):
        process = multiprocessing.get_context("fork").Process(target=killed_while_it_writes, args=(target,))
        process.start()
        process.join()
    assert len(list(tmp_path.glob("*.tmp"))) == 3
    write_index(tar)
    save_network(torch.nn.Linear(1, 1), tmp_path, {})
    assert names(tmp_path) == ["a.index.npz", "a.tar", "config.json", "model.safetensors"]


def test_what_has_readers_already_is_written_to(tmp_path: Path) -> None:
    """A file renamed to the name of a pipe, or of /dev/stdout, would reach nobody, and take that name from all others."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "one")
    assert os.read(reader, 100) == b"one"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with open(tmp_path / "file", "wb") as file:
        write_text(Path(f"/dev/fd/{file.fileno()}"), "two")
        assert (tmp_path / "file").read_text() == "two"
    assert names(tmp_path) == ["file", "pipe"]
    code = "from emo_lightning.core.files import write_text; write_text('/dev/stdout', 'three')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"three"
    assert Path("/dev/stdout").is_symlink()


def test_a_block_that_wrote_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a.txt"):
        pass


def test_bytes_text_json_and_arrays(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.bin", b"\0\r\n")
    write_text(tmp_path / "a.txt", "é\r\n")
    write_json(tmp_path / "a.json", {"é": [1.5, None]})
    write_npz(tmp_path / "a.npz", {"x": np.arange(3)})
    assert (tmp_path / "a.bin").read_bytes() == b"\0\r\n"
    assert (tmp_path / "a.txt").read_bytes() == "é\r\n".encode()
    assert (tmp_path / "a.json").read_text() == '{\n "é": [\n  1.5,\n  null\n ]\n}\n'
    assert np.load(tmp_path / "a.npz")["x"].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert json.loads((tmp_path / "a.json").read_text()) == {"é": [1.5, None]}


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "parents/out"
    (target.parent / "out.tmp").mkdir(parents=True)
    (target.parent / "out.tmp/left by a kill").touch()
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("1")
        assert not target.exists()
    assert (names(target), names(target.parent)) == (["a"], ["out"])


@pytest.mark.parametrize("error", [RuntimeError, Interrupted])
def test_a_failure_leaves_the_old_folder_and_no_other(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "out"
    target.mkdir()
    (target / "old").touch()

    def fails() -> None:
        with atomic_folder(target, replace=True) as temporary:
            (temporary / "new").touch()
            raise error

    with pytest.raises(error):
        fails()
    assert (names(target), names(tmp_path)) == (["old"], ["out"])
    with atomic_folder(target, replace=True) as temporary:
        (temporary / "new").touch()
    assert (names(target), names(tmp_path)) == (["new"], ["out"])


def test_a_folder_that_holds_something_is_kept(tmp_path: Path) -> None:
    target = tmp_path / "out"
    target.mkdir()
    with atomic_folder(target):
        pass
    (target / "mine").touch()
    with pytest.raises(InputError, match="out: exists already"), atomic_folder(target):
        pytest.fail("the block does not run")
    with pytest.raises(InputError, match="mine: exists already"), atomic_folder(target / "mine", replace=True):
        pytest.fail("the block does not run")
    assert names(target) == ["mine"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[1]", "found list; expected an object"),
        (b"[" * 100_000, "JSON nested deeper than 64"),
        (b"9" * 5000, "a whole number of 5000 digits"),
        (b'{"a": NaN}', "NaN is no number"),
        (b'{"a": 1, "a": 2}', "the key 'a' stands twice"),
    ],
)
def test_what_is_no_object_is_named(tmp_path: Path, data: bytes, expected: str) -> None:
    (tmp_path / "a.json").write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.json: {expected}"):
        read_object(tmp_path / "a.json")
    with pytest.raises(MissingFileError, match=r"b\.json: no such file"):
        read_object(tmp_path / "b.json")
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        read_object(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "not YAML"),
        ("a: 2026-02-30", "not YAML: day is out of range for month"),
        ("a: 2001-12-14t21:59:43.10-25:00", "not YAML: offset must be"),
        ("a: " + "9" * 5000, "not YAML: line 1: a number of 5000 characters"),
        ("[" * 5000, "not YAML: line 1: nested deeper than 64"),
        ("[\n" * 50_000, "not YAML: line 65: nested deeper than 64"),
        ("- " * 5000, "not YAML: nested too deep"),
        ("a: " + "[" * 70 + "]" * 70, "not YAML: line 1: nested deeper than 64"),
        (
            "a: &a ["
            + "x," * 9
            + "]\n"
            + "".join(f"{b}: &{b} [" + f"*{a}," * 9 + "]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
            "not YAML: line 6: its aliases make more than 100,000 values",
        ),
        ("a: &a [*a]", "not YAML: line 1: an alias stands inside what it names"),
        ("a: &a {<<: [" + "*a," * 9 + "]}", "not YAML: line 1: an alias"),
        ("a: " + "1:" * 200 + "1", "not YAML: line 1: a number of 401 characters"),
        ("a: !!int ''", "not YAML"),
        ("a: !!bool maybe", "not YAML"),
        ("a: !!timestamp soon", "not YAML"),
        ('a: "\\ud800"', "not YAML"),
        ("a: " + "x" * 600_000, "600,003 characters of YAML; at most 500,000"),
        ("- 1", "holds list, expected a mapping"),
        ("", "holds NoneType, expected a mapping"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_no_mapping_is_named(tmp_path: Path, text: str, expected: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"a\.yaml: {expected}"):
        read_yaml(tmp_path / "a.yaml")


def test_a_key_that_stands_twice_in_a_mapping_is_refused(tmp_path: Path) -> None:
    """Of which PyYAML keeps the last; what is merged in may be said once more."""
    path = tmp_path / "a.yaml"
    path.write_text("happy: amusement\nsad: sadness\nhappy: awe\n")
    with pytest.raises(InputError, match=r"a\.yaml: not YAML: key 'happy' stands twice .* line 3"):
        read_yaml(path)
    path.write_text("low: &low {a: 1, b: 2}\nhigh: {<<: *low, a: 3}\n")
    assert read_yaml(path) == {"low": {"a": 1, "b": 2}, "high": {"a": 3, "b": 2}}


def test_the_core_brings_neither_numpy_nor_torch() -> None:
    modules = "errors files images progress ranks records"
    code = f"import sys\nfor name in '{modules}'.split(): __import__('emo_lightning.core.' + name)\n"
    code += "print([name for name in ('numpy', 'torch', 'rich', 'transformers') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout == "[]\n"
