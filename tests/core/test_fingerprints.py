"""Keys of caches and ledgers that exist hang on these digests: they are written out here."""

from __future__ import annotations

import hashlib
from pathlib import Path

from data_prep.local_models.checkpoints import identity
from emo_lightning.core.fingerprints import file_sha256, listing
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
