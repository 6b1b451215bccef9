"""The forward pass of both towers asks the device for nothing: workers have said where everything stands."""

from __future__ import annotations

import json
import pickle
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.families.grids import PLACES_KEY
from emo_lightning.models.families.places import PatchPlaces, Tower
from emo_lightning.models.loading import load_backbone
from tests.worded import worded_qwen  # noqa: F401 - fixture

pytest.importorskip("transformers.vision_utils", reason="this transformers does not take places from outside")

SIZES = [(224, 112), (84, 140), (112, 112), (28, 56)]
WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal", "aten::unique_consecutive"}
"""What cannot be computed without the values: on a GPU the host waits for them."""


def windowed(tiny: Path, folder: Path, window: int = 112) -> Path:
    """The tests' model with windows in one of its two blocks."""
    shutil.copytree(tiny, folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= {"fullatt_block_indexes": [1], "window_size": window}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def backbone(worded_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Backbone:  # noqa: F811
    return loaded(windowed(worded_qwen, tmp_path_factory.mktemp("windowed") / "model"))


def loaded(path: Path) -> Backbone:
    torch.manual_seed(0)
    config = BackboneConfig(str(path), train_vision=True, lora=LoRA(rank=2), max_pixels=224 * 224)
    return load_backbone(config).train()


def batch_of(backbone: Backbone, tars: Path, sizes: Sequence[tuple[int, int]] = SIZES, *, packed: bool = True) -> ChatBatch:
    index = TarIndex.open(str(tars / "*-train-*.tar"))
    record = index.record(0)
    questions = [
        ImageQuestion(record.id, index.image(0).resize(size, Image.Resampling.BICUBIC), ("emotion", "intensity"), record)
        for size in sizes
    ]
    return Collator(backbone.processor, backbone.model_type, answers=True, packed=packed, distributions=True)(questions)


def without(batch: ChatBatch) -> ChatBatch:
    return cast(ChatBatch, {name: value for name, value in batch.items() if name != PLACES_KEY})


def gradients(backbone: Backbone, batch: ChatBatch) -> list[Tensor]:
    backbone.zero_grad()
    torch.manual_seed(0)  # of dropout
    loss, _ = backbone.answer_loss(batch, soft=True, distribution_weight=0.5)
    loss.backward()
    return [loss.detach(), *(p.grad for p in backbone.parameters() if p.grad is not None)]


def test_places_are_those_that_transformers_works_out() -> None:
    from transformers.vision_utils import get_vision_cu_seqlens, get_vision_position_ids, get_vision_window_index

    draw = np.random.default_rng(0)
    for tower in (Tower(112, 14, 2), Tower(56, 14, 2), Tower(96, 16, 2), Tower(84, 14, 3)):
        grids = [(tower.merge * int(rows), tower.merge * int(columns)) for rows, columns in draw.integers(1, 20, (30, 2))]
        found = PatchPlaces.of(grids, tower)
        grid = torch.tensor([(1, *sides) for sides in grids])
        assert tower.window is not None
        assert found.windows is not None
        index, bounds = get_vision_window_index(grid, tower.merge, tower.window, tower.patch)
        assert found.windows.order.equal(index)
        assert found.windows.samples.bounds.equal(bounds)
        assert found.windows.samples.lengths == tuple(bounds.diff().tolist())
        assert found.positions.equal(get_vision_position_ids(grid, tower.merge))
        assert found.pictures.bounds.equal(get_vision_cu_seqlens(grid))


@pytest.mark.parametrize("packed", [True, False])
def test_what_is_learned_is_the_same_to_the_bit(backbone: Backbone, world_tars: Path, packed: bool) -> None:
    batch = batch_of(backbone, world_tars, packed=packed)
    for found, expected in zip(gradients(backbone, batch), gradients(backbone, without(batch)), strict=True):
        assert found.equal(expected)


def test_a_tower_with_other_windows_works_them_out_itself(
    backbone: Backbone,
    worded_qwen: Path,  # noqa: F811
    world_tars: Path,
    tmp_path: Path,
) -> None:
    other = loaded(windowed(worded_qwen, tmp_path / "model", window=56))
    batch = batch_of(other, world_tars)
    for found, expected in zip(gradients(other, batch), gradients(other, without(batch)), strict=True):
        assert found.equal(expected)
    assert not gradients(other, batch)[0].equal(gradients(backbone, batch)[0])


class Waits(TorchDispatchMode):
    """Counts operations for whose result the host waits; an index of bools is one."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401
        name = func._schema.name
        by_bools = name.startswith("aten::index") and any(
            isinstance(part, Tensor) and part.dtype == torch.bool for part in (args[1] if isinstance(args[1], list) else [])
        )
        if name in WAITING or by_bools:
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def test_nothing_waits_for_the_device(backbone: Backbone, world_tars: Path) -> None:
    batch = batch_of(backbone, world_tars)
    with Waits() as waits:
        gradients(backbone, batch)
    assert not waits.found
    with Waits() as waits:
        gradients(backbone, without(batch))
    assert waits.found, "the test does not see what transformers asks for"


def test_not_even_their_values_are_there(worded_qwen: Path, world_tars: Path, tmp_path: Path) -> None:  # noqa: F811
    """On the meta device tensors have shapes and nothing else: `item` and `tolist` fail there, as any choice by a value does."""
    backbone = loaded(windowed(worded_qwen, tmp_path / "model"))
    batch = on_meta(batch_of(backbone, world_tars))
    backbone.to("meta")
    loss, count = backbone.answer_loss(batch, soft=True, distribution_weight=0.5)
    loss.backward()
    assert loss.is_meta
    assert count.is_meta
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)
    # transformers' own asks for the pictures' sizes.
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        backbone.answer_loss(without(batch))


def on_meta(batch: Mapping[str, Any]) -> ChatBatch:
    moved = {name: value.to("meta") if hasattr(value, "to") else value for name, value in batch.items()}
    return cast(ChatBatch, moved)


def test_a_batch_is_one_call_of_attention_a_layer_and_no_padding(backbone: Backbone, world_tars: Path) -> None:
    """Of samples and windows of one length, which are one call on a CPU, too; on a GPU the kernel takes those of all lengths."""
    batch = batch_of(backbone, world_tars, [(224, 112)] * 3)
    assert len(set(batch["lengths"])) == 1
    places = cast("dict[str, Any]", batch)[PLACES_KEY]
    assert set(places.windows.samples.lengths) == {64}
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen, torch.no_grad():
        backbone.last_hidden_state(batch)
    calls = {event.key: event.count for event in seen.key_averages()}
    blocks, layers = len(backbone.base.model.visual.blocks), len(backbone.family.layers(backbone.base))
    assert calls["aten::scaled_dot_product_attention"] == blocks + layers
    assert not calls.keys() & {"aten::item", *WAITING}
    # Padding: 0 % of the tokens, and of the patches.
    assert batch["input_ids"].shape == (1, sum(batch["lengths"]))
    assert (
        sum(places.pictures.lengths)
        == sum(places.windows.samples.lengths)
        == len(cast("dict[str, Tensor]", batch)["pixel_values"])
    )
    assert "attention_mask" not in batch


def test_places_travel_with_the_batch(backbone: Backbone, world_tars: Path) -> None:
    """Through a worker, and as Lightning moves and converts batches."""
    from lightning.fabric.utilities import move_data_to_device
    from lightning.pytorch.plugins.precision import HalfPrecision

    batch = batch_of(backbone, world_tars)
    found = pickle.loads(pickle.dumps(batch))
    assert found[PLACES_KEY].windows.order.equal(cast("dict[str, Any]", batch)[PLACES_KEY].windows.order)
    moved = cast("dict[str, Any]", move_data_to_device(dict(batch), torch.device("meta")))[PLACES_KEY]
    assert moved.windows.order.is_meta
    assert moved.windows.samples.bounds.is_meta
    halved = HalfPrecision("bf16-true").convert_input(dict(batch))
    assert halved[PLACES_KEY].positions.dtype == torch.int64
    assert halved["pixel_values"].dtype == torch.uint8


def test_places_of_other_pictures_are_refused(backbone: Backbone, world_tars: Path) -> None:
    batch = dict(batch_of(backbone, world_tars))
    backbone.family.check_images(backbone.processor, batch)
    other = dict(batch_of(backbone, world_tars, SIZES[::-1]))
    with pytest.raises(ValueError, match=r"batch\['places'\] is of pictures of \(\d+, 64, 60, 128\) patches"):
        backbone.family.check_images(backbone.processor, batch | {PLACES_KEY: other[PLACES_KEY]})
