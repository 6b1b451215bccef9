"""Patches as bytes: what the model embeds is what the image processor would have given it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from transformers import Qwen2VLImageProcessor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionPatchEmbed

from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.families.base import ImageProcessor
from emo_lightning.models.families.patches import StillPatches, patches_of, pixel_scale
from emo_lightning.models.loading import load_backbone
from tests.made import stir_adapters
from tests.pixels import both_frames

SIZES = [(57, 91), (300, 40), (112, 112)]


def pictures() -> list[Image.Image]:
    """Of noise, so that every byte occurs."""
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in SIZES]


def processor(**settings: Any) -> ImageProcessor:  # noqa: ANN401
    return cast(ImageProcessor, Qwen2VLImageProcessor(size={"shortest_edge": 3136, "longest_edge": 50176}, **settings))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"do_normalize": False},
        {"do_rescale": False},
        {"do_rescale": False, "do_normalize": False},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.5, 0.25, 0.125], "rescale_factor": 1 / 127.5},
        {"resample": Image.Resampling.BILINEAR},
        {"do_resize": False},
    ],
)
def test_bytes_become_what_the_processor_gives_to_the_bit(settings: dict[str, Any]) -> None:
    images = processor(**settings)
    given = [picture.resize((112, 56)) for picture in pictures()] if "do_resize" in settings else pictures()
    theirs, found = images(given, return_tensors="pt"), patches_of(images, given)
    scale = pixel_scale(images)
    assert scale is not None
    assert found["pixel_values"].dtype == torch.uint8
    assert found["image_grid_thw"].equal(theirs["image_grid_thw"])
    assert both_frames(scale.normalised(found["pixel_values"])).equal(theirs["pixel_values"].float())
    # As transformers hands them to the tower: in the type of its weights.
    assert scale.normalised(found["pixel_values"].bfloat16()).equal(scale.normalised(found["pixel_values"]))


@given(st.tuples(st.integers(20, 400), st.integers(20, 400)), st.sampled_from([3136, 20000, 50176]))
def test_any_size_is_resized_as_the_processor_does_it_to_the_bit(size: tuple[int, int], lowest: int) -> None:
    pixels = np.random.default_rng(size[0]).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    images = cast(ImageProcessor, Qwen2VLImageProcessor(size={"shortest_edge": lowest, "longest_edge": 50176}))
    theirs = images([Image.fromarray(pixels)], return_tensors="pt", do_rescale=False, do_normalize=False)["pixel_values"]
    assert both_frames(patches_of(images, [Image.fromarray(pixels)])["pixel_values"]).equal(theirs)


def test_processors_that_use_pil_and_numpy_give_bytes_too() -> None:
    pil = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    images = cast(ImageProcessor, pil.Qwen2VLImageProcessorPil(size={"shortest_edge": 3136, "longest_edge": 50176}))
    theirs, found = images(pictures(), return_tensors="pt"), patches_of(images, pictures())
    scale = pixel_scale(images)
    assert scale is not None
    assert found["pixel_values"].dtype == torch.uint8
    torch.testing.assert_close(both_frames(scale.normalised(found["pixel_values"])), theirs["pixel_values"], atol=1e-6, rtol=0)


def test_an_eighth_of_the_bytes_leaves_a_worker() -> None:
    images = processor()
    whole, found = (
        batch["pixel_values"].nbytes for batch in (images(pictures(), return_tensors="pt"), patches_of(images, pictures()))
    )
    assert whole == 8 * found


def test_a_processor_without_frames_travels_as_it_is() -> None:
    images = processor(temporal_patch_size=1)
    assert pixel_scale(images) is None
    found = patches_of(images, pictures())["pixel_values"]
    assert found.equal(images(pictures(), return_tensors="pt")["pixel_values"])
    theirs = Qwen2_5_VisionPatchEmbed(temporal_patch_size=1, embed_dim=32)
    ours = StillPatches(theirs.proj, images)
    torch.testing.assert_close(ours(found), theirs(found), atol=1e-6, rtol=1e-6)


def embeddings() -> tuple[Qwen2_5_VisionPatchEmbed, StillPatches, Tensor, Tensor]:
    """transformers' and ours with the same weights, what the processor gives, and bytes."""
    torch.manual_seed(0)
    images = processor()
    theirs = Qwen2_5_VisionPatchEmbed(embed_dim=64)
    ours = StillPatches(theirs.proj, images)
    whole, still = images(pictures(), return_tensors="pt")["pixel_values"], patches_of(images, pictures())["pixel_values"]
    return theirs, ours, whole, still


def test_one_product_equals_the_convolution() -> None:
    """To 1e-6 of the largest value; the convolution's own rounding is larger."""
    theirs, ours, whole, still = embeddings()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    in_single = [ours(pixels).double() for pixels in (still, still.float(), still.double(), whole)]
    exact = theirs.double()(whole.double())
    assert all((found - exact).abs().max() <= 1e-6 * exact.abs().max() for found in in_single)
    torch.testing.assert_close(ours(still), exact, atol=1e-12, rtol=1e-12)


def test_in_half_precision_it_is_about_as_close_to_the_truth() -> None:
    """The sum of two weights is rounded once more; the convolution rounds each of the two."""
    theirs, ours, whole, still = embeddings()
    truth = theirs.bfloat16().double()(whole.double()).detach()
    off = {
        name: float((found.detach().double() - truth).norm() / truth.norm())
        for name, found in (("theirs", theirs.bfloat16()(whole)), ("ours", ours(still)))
    }
    assert off["ours"] < 1.5 * off["theirs"] < 0.01


def test_its_gradient_is_that_of_the_convolution() -> None:
    theirs, ours, whole, still = embeddings()
    weights = torch.randn(len(whole), 64)
    (theirs(whole) * weights).sum().backward()
    expected = theirs.proj.weight.grad
    theirs.proj.weight.grad = None
    (ours(still) * weights).sum().backward()
    found = theirs.proj.weight.grad
    assert expected is not None
    assert found is not None
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("tuning", ["lora", "qlora", "full"])
def test_whatever_trains_the_tower_sees_the_processors_pixels(tiny_qwen: Path, tuning: Any) -> None:  # noqa: ANN401
    """With an adapter on the embedding itself, which is then computed as the convolution that peft wraps."""
    if tuning == "qlora":
        pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    lora = LoRA(rank=2, dropout=0.0, targets=r".*patch_embed\.proj|.*visual\.blocks\.\d+\.attn\.qkv")
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning=tuning, train_vision=True, lora=lora)).eval()
    stir_adapters(backbone, 0.1)
    family, images = backbone.family, backbone.processor.image_processor
    visual = cast(Any, family.module(backbone.base, family.vision_tower))
    assert isinstance(visual.patch_embed, StillPatches)
    found = cast("dict[str, Tensor]", family.vision_inputs(backbone.processor, pictures()).tensors)
    theirs = images(pictures(), return_tensors="pt")
    device = backbone.base.device
    states = visual(found["pixel_values"].to(device), grid_thw=found["image_grid_thw"].to(device)).pooler_output
    # The convolution as transformers runs it, with whatever is on it.
    plain = visual.patch_embed.proj(theirs["pixel_values"].to(device).view(-1, 3, 2, 14, 14)).flatten(1)
    embedded = visual.patch_embed(found["pixel_values"].to(device))
    # A convolution of 1,176 products rounds by that much itself.
    assert (embedded - plain).abs().max() <= 2e-6 * plain.abs().max()
    expected = visual(theirs["pixel_values"].to(device), grid_thw=theirs["image_grid_thw"].to(device)).pooler_output
    assert (states - expected).abs().max() <= 1e-5 * expected.abs().max()
    states.sum().backward()
    trained = [name for _, name, p in backbone.parameter_groups() if "patch_embed" in name and p.grad is not None]
    assert trained
