"""Where the tensors of a part lie in its file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from emo_lightning.data.mapped_parts import checked_tensor, header_text, open_part, write_part


@pytest.mark.parametrize("said", ["", "a", "a" * 4090, "ä" * 5000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_largest_tensor_begins_where_a_page_does(tmp_path: Path, said: str, dtype: torch.dtype) -> None:
    path = tmp_path / "part.safetensors"
    # safetensors puts the wider type first: what is before the vectors is not a whole page.
    tensors = {"vectors": torch.randn(7, 3, 1024).to(dtype), "offsets": torch.arange(8)}
    write_part(path, "kind", {"said": said}, tensors)

    part = open_part(path)
    vectors = checked_tensor(path, part, "kind", "vectors")
    assert vectors.data_ptr() % 4096 == 0
    assert json.loads(header_text(path, part, "kind"))["said"] == said
    read = load_file(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_a_part_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    write_part(tmp_path / "part.safetensors", "kind", {}, {"vectors": torch.zeros(2)})
    (tmp_path / "other").touch()
    assert (tmp_path / "part.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode
