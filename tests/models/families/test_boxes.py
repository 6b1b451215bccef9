"""The box codec against its bound, and the resize rule against transformers' own."""

import math
from collections.abc import Iterator

import numpy as np
import pytest

from emo_lightning.models.families import AbsolutePixels, BoxCodec, Relative1000
from emo_lightning.models.families.resize import resized_size

TRIALS = 16_000
"""Of these at least 10,000 can be used; slender images are refused."""


def _sizes(seed: int, trials: int = TRIALS) -> Iterator[tuple[int, int, int, int, int]]:
    """(width, height, factor, min_pixels, max_pixels), from tiny to large and from square to slender."""
    random = np.random.default_rng(seed)
    for _ in range(trials):
        width, height = (int(math.exp(x)) for x in random.uniform(0, math.log(6000), 2))
        low = int(math.exp(random.uniform(math.log(28 * 28), math.log(600_000))))
        high = low + int(math.exp(random.uniform(0, math.log(2_000_000))))
        yield width, height, int(random.choice([14, 28, 32])), low, high


def test_resized_size_is_transformers_smart_resize() -> None:
    from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

    refused = 0
    for width, height, factor, low, high in _sizes(0):
        try:
            theirs = smart_resize(height, width, factor=factor, min_pixels=low, max_pixels=high)
        except ValueError:
            refused += 1
            with pytest.raises(ValueError, match="aspect ratio"):
                resized_size(width, height, factor=factor, min_pixels=low, max_pixels=high)
            continue
        assert resized_size(width, height, factor=factor, min_pixels=low, max_pixels=high) == theirs[::-1]
    assert 0 < refused < TRIALS / 2


@pytest.mark.parametrize("codec", [AbsolutePixels(), Relative1000()])
def test_error_at_most_half_a_unit_both_directions(codec: BoxCodec) -> None:
    random = np.random.default_rng(1)
    checked = 0
    for width, height, factor, low, high in _sizes(2):
        if max(width, height) > 200 * min(width, height):
            continue
        resized = resized_size(width, height, factor=factor, min_pixels=low, max_pixels=high)
        frame = resized if isinstance(codec, AbsolutePixels) else (1000, 1000)
        unit = np.array([width / frame[0], height / frame[1]] * 2)  # original pixels per unit of the frame
        # A true box: at least one unit long, partly outside now and then as BOX_TOLERANCE permits.
        start, end = np.sort(random.uniform(-0.02, 1.02, (2, 2)), axis=0)
        box = np.concatenate([start, np.maximum(end, start + 1 / np.array(frame))]) * np.array([width, height] * 2)
        if (box[:2] >= [width, height] - unit[:2]).any() or (box[2:] <= unit[:2]).any():
            continue  # nothing, or less than one unit, is within the frame
        clamped = np.clip(box, 0, [width, height] * 2)
        coded = codec.encode(box.tolist(), (width, height), resized)
        assert all(isinstance(value, int) for value in coded)
        assert 0 <= coded[0] < coded[2] <= frame[0]
        assert 0 <= coded[1] < coded[3] <= frame[1]
        back = codec.decode(coded, (width, height), resized)
        narrow = (np.tile(clamped[2:] - clamped[:2], 2) / unit) < 1 - 1e-9  # clamping may leave less than a unit
        assert (np.abs(np.array(back) - clamped) / unit <= np.where(narrow, 1, 0.5) + 1e-6).all()
        assert codec.encode(back, (width, height), resized) == coded
        checked += 1
    assert checked >= 10_000


def test_slivers_are_widened_by_at_most_one_unit() -> None:
    random = np.random.default_rng(3)
    codec = AbsolutePixels()
    for _ in range(2000):
        x, y = random.uniform(0, 280, 2)
        w, h = random.uniform(0, 1, 2)
        box = np.clip([x, y, x + w, y + h], 0, 280)
        x1, y1, x2, y2 = codec.encode(box, (280, 280), (280, 280))
        assert 0 <= x1 < x2 <= 280
        assert 0 <= y1 < y2 <= 280
        assert np.abs(np.array([x1, y1, x2, y2]) - box).max() <= 1
    assert codec.encode((1, 1, 1, 1), (1, 1), (1, 1)) == (0, 0, 1, 1)


def test_decode_changes_no_number_and_keeps_the_order() -> None:
    box = AbsolutePixels().decode([-7, 14, 700, 7], (200, 100), (280, 140))
    assert box == pytest.approx((-5, 10, 500, 5))
    assert Relative1000().decode([0, 500, 1000, 1200], (200, 100), (280, 140)) == (0.0, 50.0, 200.0, 120.0)
    # The frame's edges are the image's, to the bit.
    for width in range(1, 3000, 7):
        assert AbsolutePixels().decode([0, 0, 28, 56], (width, width + 1), (28, 56)) == (0, 0, width, width + 1)
        assert Relative1000().decode([0, 0, 1000, 1000], (width, width + 1), (28, 28)) == (0, 0, width, width + 1)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="turned"):
        AbsolutePixels().encode([5, 0, 1, 9], (10, 10), (28, 28))
    with pytest.raises(ValueError, match="four finite numbers"):
        AbsolutePixels().decode([1, 2, 3], (10, 10), (28, 28))
    with pytest.raises(ValueError, match="four finite numbers"):
        AbsolutePixels().decode([1, 2, 3, math.nan], (10, 10), (28, 28))
    with pytest.raises(ValueError, match="min_pixels 10 and max_pixels 5"):
        resized_size(10, 10, factor=28, min_pixels=10, max_pixels=5)
    with pytest.raises(ValueError, match="empty"):
        resized_size(0, 10, factor=28, min_pixels=10, max_pixels=500)
