"""Files of weights that are none, are cut, or claim what they do not hold: refused by name, before a library opens them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.core.weight_files import TensorHeader, check_weight_files, tensor_headers

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def safetensors(path: Path, header: object = None, data: bytes = bytes(24)) -> Path:
    text = json.dumps(header or {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"more")


def header_of_a_terabyte(path: Path) -> None:
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")


def claim(**wrong: object) -> Callable[[Path], object]:
    return lambda path: safetensors(path, {"w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]} | wrong})


def test_a_header_is_read_without_its_weights(tmp_path: Path) -> None:
    assert tensor_headers(safetensors(tmp_path / "m.safetensors")) == {"w": TensorHeader("F32", (2, 3))}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cut, "cut off"),
        (longer, "longer than its header says"),
        (header_of_a_terabyte, "its header alone claims 1,099,511,627,784"),
        (lambda path: path.write_bytes(b"\0"), "cut off, or no safetensors file"),
        (lambda path: path.write_bytes(b""), "empty"),
        (lambda path: path.write_text(LFS), "Git LFS pointer"),
        (lambda path: safetensors(path, [1]), "expected an object"),
        (claim(shape=[1 << 40, 1 << 40]), "does not take bytes"),
        (claim(shape=[True, 6]), "expected a whole number"),
        (claim(shape=[-2, -3]), "expected a whole number"),
        (claim(data_offsets=[0, 1 << 50]), "does not take bytes"),
        (claim(dtype=None), "expected a text"),
        (claim(dtype="NEW", data_offsets=[0, 1 << 50]), "cut off"),
    ],
)
def test_a_safetensors_file_that_claims_what_it_does_not_hold(
    tmp_path: Path, spoil: Callable[[Path], object], said: str
) -> None:
    path = safetensors(tmp_path / "model.safetensors")
    spoil(path)
    with pytest.raises(InputError, match=f"{path}.*{said}"):
        check_weight_files(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "merges.txt", "pytorch_model.bin", "chat_template.jinja"])
@pytest.mark.parametrize(("text", "said"), [(LFS, "Git LFS pointer"), ("", "empty")])
def test_every_file_of_a_model_is_looked_at(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=f"{tmp_path / name}: .*{said}"):
        check_weight_files(tmp_path)


def test_a_cut_pickle_archive(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(1000))
    check_weight_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"{path}: cut off"):
        check_weight_files(tmp_path)


@pytest.mark.parametrize(
    ("weight_map", "said"),
    [
        ({"w": "a.safetensors", "v": "b.safetensors"}, r"b\.safetensors: missing, though model\.safetensors\.index\.json"),
        ({"w": "../a.safetensors"}, "is no file of this folder"),
        ({"w": 3}, "expected a text"),
        (None, "'weight_map': found nothing; expected an object"),
    ],
)
def test_shards_that_an_index_names(tmp_path: Path, weight_map: object, said: str) -> None:
    safetensors(tmp_path / "a.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match=said):
        check_weight_files(tmp_path)
