"""Keys of caches and ledgers that exist hang on these digests: they are written out here."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from data_prep.local_models.checkpoints import identity
from emo_lightning.core import fingerprints
from emo_lightning.core.fingerprints import HashMemory, file_sha256, listing
from emo_lightning.models.fingerprints import weights_fingerprint


def folder_of(path: Path) -> Path:
    for name in ("config.json", "model.safetensors", "README.md", "tokenizer.json", "preprocessor_config.json"):
        (path / name).write_text(name)
    return path


def test_a_listing_has_a_line_a_file(tmp_path: Path) -> None:
    path = folder_of(tmp_path) / "config.json"
    assert file_sha256(path) == hashlib.sha256(b"config.json").hexdigest()
    assert listing([path]) == f"config.json {file_sha256(path)}\n".encode()
    assert listing([path, path], "\0").count(b"\0") == 2


def test_a_change_whose_time_is_put_back_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place, so that length and inode stay; also by the next process, out of the sidecar."""
    monkeypatch.setattr(fingerprints, "_SETTLED", -(10**18))
    path, sidecar = tmp_path / "model.safetensors", tmp_path / "content.json"
    path.write_bytes(b"a" * 1000)
    os.utime(path, (10**9, 10**9))
    memory = HashMemory()
    memory.keep_in(sidecar)
    before = memory.of(path, "sha256", lambda: file_sha256(path))
    assert memory.of(path, "sha256", unread) == before
    memory.save()
    told = path.stat()
    with open(path, "r+b") as file:
        file.write(b"b")
    while path.stat().st_ctime_ns == told.st_ctime_ns:
        # The system's clock ticks slowly.
        os.utime(path, (10**9, 10**9))
    os.utime(path, (10**9, 10**9))
    now = path.stat()
    assert (now.st_size, now.st_mtime_ns, now.st_ino) == (told.st_size, told.st_mtime_ns, told.st_ino)
    assert memory.of(path, "sha256", lambda: file_sha256(path)) != before
    fresh = HashMemory()
    fresh.keep_in(sidecar)
    assert fresh.of(path, "sha256", lambda: file_sha256(path)) != before


def test_a_sidecar_of_an_earlier_version_is_read_again(tmp_path: Path) -> None:
    path, sidecar = tmp_path / "a", tmp_path / "content.json"
    path.write_text("a")
    told = path.stat()
    stamp = [told.st_size, told.st_mtime_ns, told.st_ino]
    sidecar.write_text(json.dumps({f"sha256 {path}": [*stamp, "0" * 64]}))
    memory = HashMemory()
    memory.keep_in(sidecar)
    assert memory.of(path, "sha256", lambda: file_sha256(path)) == file_sha256(path)


def unread() -> str:
    raise AssertionError


def test_weights_of_a_model_under_training_or_test(tmp_path: Path) -> None:
    """Weights, configuration and the processor's limits; neither tokenizer nor README."""
    names = ("config.json", "model.safetensors", "preprocessor_config.json")
    text = "".join(f"{name} {hashlib.sha256(name.encode()).hexdigest()}\n" for name in names)
    assert weights_fingerprint(str(folder_of(tmp_path))) == hashlib.sha256(text.encode()).hexdigest()
    assert weights_fingerprint("Qwen/Qwen2.5-VL-3B-Instruct") == hashlib.sha256(b"id Qwen/Qwen2.5-VL-3B-Instruct").hexdigest()


def test_identity_of_a_local_model_of_the_factory(tmp_path: Path) -> None:
    """Everything that decides its outputs, the tokenizer too."""
    names = ("config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json")
    text = "".join(f"{name}\0{hashlib.sha256(name.encode()).hexdigest()}\n" for name in names)
    assert identity(str(folder_of(tmp_path))) == f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    assert identity(str(tmp_path / "config.json")) == f"sha256:{hashlib.sha256(b'config.json').hexdigest()}"
