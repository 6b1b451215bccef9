"""The eight backgrounds: each has its own palette and its own structure, with random horizon, hues and clutter."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
from PIL import Image

from .style import RGB, Brush, Palette, Style, jittered

SUPERSAMPLING = 2
"""Backdrops are drawn this many times larger and then averaged down."""


def draw_backdrop(background: str, size: tuple[int, int], style: Style, rng: random.Random) -> tuple[Image.Image, float]:
    """Draw a background.

    Args:
        background: one of `affect.WORLD_BACKGROUNDS`.
        size: (width, height) in pixels.
        style: its palette.
        rng: of hues, horizon and clutter.

    Returns:
        The RGB image, and the horizon as a share of the height (the ground is below it).
    """
    palette = {name: jittered(colour, style.jitter, rng) for name, colour in style.backdrops[background].items()}
    horizon = rng.uniform(0.48, 0.64)
    large = (size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING)
    # Indoors there is a plain wall where the others have a sky.
    top, low = (palette["wall"], palette["wall"]) if "wall" in palette else (palette["sky"], palette["sky_low"])
    image = _gradient(large, top, low, horizon)
    _SCENES[background](Brush(image), palette, horizon, rng)
    return image.reduce(SUPERSAMPLING), horizon


def _gradient(size: tuple[int, int], top: RGB, low: RGB, horizon: float) -> Image.Image:
    width, height = size
    share = np.clip(np.linspace(0, 1 / horizon, height), 0, 1)[:, None, None]
    column = np.array(top) * (1 - share) + np.array(low) * share  # (height, 1, 3)
    return Image.fromarray(column.astype(np.uint8)).resize((width, height), Image.Resampling.NEAREST)


def _beach(brush: Brush, c: Palette, horizon: float, rng: random.Random) -> None:
    shore = horizon + rng.uniform(0.12, 0.18)
    brush.ellipse(rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.2), 0.09, 0.09, c["sun"])
    brush.rect(0, horizon, 1, 1, c["water"])
    for _ in range(5):
        x, y = rng.random(), rng.uniform(horizon + 0.02, shore - 0.03)
        brush.line((x, y), (x + 0.12, y), fill=c["foam"], width=0.012)
    bend = rng.uniform(-0.03, 0.03)
    brush.polygon((0, shore - bend), (0.5, shore + 0.02), (1, shore + bend), (1, 1), (0, 1), fill=c["sand"])
    brush.line((0, shore - bend), (0.5, shore + 0.02), (1, shore + bend), fill=c["foam"], width=0.025)
    for _ in range(9):
        brush.ellipse(rng.random(), rng.uniform(shore + 0.06, 1), 0.012, 0.008, c["shell"])
    x, side = rng.choice([(0.08, 1), (0.92, -1)])
    x += rng.uniform(-0.04, 0.04)
    top = rng.uniform(0.2, 0.3)
    brush.line((x, shore + 0.14), (x + side * 0.02, (top + shore) / 2), (x + side * 0.06, top), fill=c["trunk"], width=0.045)
    for dx, dy in ((-0.2, 0.05), (-0.15, -0.09), (0.02, -0.15), (0.17, -0.08), (0.21, 0.06)):
        tip = (x + side * 0.06 + dx, top + dy)
        brush.polygon((x + side * 0.06, top - 0.03), tip, (x + side * 0.06, top + 0.04), fill=c["leaf"])


def _forest(brush: Brush, c: Palette, horizon: float, rng: random.Random) -> None:
    brush.rect(0, horizon + 0.1, 1, 1, c["ground"])
    count = rng.randint(5, 7)
    for i in range(count):
        x = (i + rng.uniform(0.2, 0.8)) / count
        w = rng.uniform(0.025, 0.045)
        brush.rect(x - w, 0, x + w, horizon + rng.uniform(0.1, 0.2), c["trunk"])
    for i in range(9):
        crown = c["crown"] if i % 2 else c["crown_light"]
        brush.ellipse((i + rng.random()) / 9, rng.uniform(0, 0.16), rng.uniform(0.12, 0.18), rng.uniform(0.1, 0.16), crown)
    for _ in range(14):
        x, y = rng.random(), rng.uniform(horizon + 0.14, 1)
        brush.polygon((x - 0.02, y), (x - 0.01, y - 0.07), (x, y), (x + 0.012, y - 0.06), (x + 0.02, y), fill=c["grass"])


def _city(brush: Brush, c: Palette, horizon: float, rng: random.Random) -> None:
    street = horizon + 0.14
    x, dark = -0.02, rng.random() < 0.5
    while x < 1:
        w, top = rng.uniform(0.14, 0.22), rng.uniform(0.06, 0.34)
        brush.rect(x, top, x + w, street, c["tower_dark"] if dark else c["tower"])
        y = top + 0.05
        while y < street - 0.06:
            for column in range(3):
                if rng.random() < 0.75:
                    left = x + w * (0.12 + 0.3 * column)
                    brush.rect(left, y, left + w * 0.17, y + 0.035, c["window"])
            y += 0.075
        x += w + rng.uniform(0, 0.02)
        dark = not dark
    brush.rect(0, street, 1, 1, c["pavement"])
    brush.rect(0, street + 0.07, 1, 1, c["road"])
    start = rng.uniform(-0.15, 0)
    for i in range(5):
        brush.rect(start + i * 0.26, 0.9, start + i * 0.26 + 0.15, 0.93, c["line"])


def _desert(brush: Brush, c: Palette, horizon: float, rng: random.Random) -> None:
    brush.ellipse(rng.uniform(0.2, 0.8), horizon - rng.uniform(0.02, 0.2), 0.13, 0.13, c["sun"])
    crest = rng.uniform(0.2, 0.8)
    brush.polygon((0, horizon + 0.06), (crest, horizon - 0.06), (1, horizon + 0.05), (1, 1), (0, 1), fill=c["far"])
    for side in rng.sample((0.1, 0.55, 0.95), 2):
        brush.ellipse(side, 1.02, 0.62, rng.uniform(0.3, 0.38), c["dune_light"] if side > 0.5 else c["dune"])
    for _ in range(4):
        x, y = rng.random(), rng.uniform(horizon + 0.14, 0.98)
        brush.arc(x, y, 0.14, 0.03, 200, 340, c["dune"], 0.012)
    for x in rng.sample((0.09, 0.3, 0.72, 0.91), 2):
        base, tall, w = horizon + rng.uniform(0.1, 0.2), rng.uniform(0.26, 0.36), 0.05
        brush.rect(x - w / 2, base - tall, x + w / 2, base, c["cactus"], round_=0.025)
        for side in (-1, 1):
            y = base - tall * (0.45 if side < 0 else 0.6)
            brush.line((x, y), (x + side * 0.075, y), (x + side * 0.075, y - 0.1), fill=c["cactus"], width=0.035)


def _mountain(brush: Brush, c: Palette, horizon: float, rng: random.Random) -> None:
    peaks = [(rng.uniform(0.08, 0.25), 0.14), (rng.uniform(0.75, 0.92), 0.18), (rng.uniform(0.4, 0.6), 0.06)]
    for x, top in peaks:
        top += rng.uniform(-0.03, 0.06)
        half, base = 0.4, horizon + 0.12
        brush.polygon((x - half, base), (x, top), (x + half, base), fill=c["rock"])
        brush.polygon((x, top), (x + half, base), (x + 0.06, base), fill=c["rock_dark"])
        cap = 0.32 * (base - top)
        slope = half * 0.32
        brush.polygon(
            (x - slope, top + cap),
            (x, top),
            (x + slope, top + cap),
            (x + slope * 0.4, top + cap * 0.72),
            (x, top + cap * 1.05),
            (x - slope * 0.4, top + cap * 0.72),
            fill=c["snow"],
        )
    brush.polygon((0, horizon + 0.1), (0.5, horizon + 0.06), (1, horizon + 0.1), (1, 1), (0, 1), fill=c["meadow"])
    for _ in range(16):
        brush.ellipse(rng.random(), rng.uniform(horizon + 0.14, 0.99), 0.012, 0.012, c["bloom"])


def _graveyard(brush: Brush, c: Palette, horizon: float, rng: random.Random) -> None:
    x = rng.uniform(0.15, 0.85)
    brush.ellipse(x, 0.17, 0.11, 0.11, c["moon"])
    brush.ellipse(x + 0.05, 0.14, 0.09, 0.09, c["sky"])
    brush.rect(0, horizon + 0.04, 1, 1, c["ground"])
    side = -1 if x > 0.5 else 1
    tree = 0.5 + side * rng.uniform(0.33, 0.42)
    brush.line((tree, horizon + 0.12), (tree, 0.28), fill=c["wood"], width=0.05)
    for y, dx in ((0.42, -0.14), (0.36, 0.15), (0.3, -0.1), (0.28, 0.07)):
        brush.line((tree, y), (tree + dx * 0.6, y - 0.09), (tree + dx, y - 0.11), fill=c["wood"], width=0.022)
    for i in range(4):
        x, base = (i + rng.uniform(0.25, 0.75)) / 4, horizon + rng.uniform(0.12, 0.36)
        w, tall = rng.uniform(0.055, 0.075), rng.uniform(0.16, 0.22)
        if i % 2:
            brush.rect(x - w, base - tall, x + w, base + 0.1, c["stone_dark"], round_=w)
            brush.rect(x - w + 0.015, base - tall + 0.015, x + w, base, c["stone"], round_=w)
        else:
            brush.rect(x - 0.022, base - tall - 0.04, x + 0.022, base, c["stone"])
            brush.rect(x - 0.08, base - tall + 0.02, x + 0.08, base - tall + 0.065, c["stone"])
        brush.rect(x - w - 0.02, base - 0.02, x + w + 0.02, base + 0.12, c["ground"])


def _room(brush: Brush, c: Palette, horizon: float, rng: random.Random) -> None:
    floor, step = horizon + 0.12, rng.uniform(0.1, 0.14)
    for i in range(11):
        brush.rect(i * step, 0, i * step + step / 2, floor, c["stripe"])
    brush.rect(0, floor, 1, 1, c["floor"])
    for i in range(4):
        y = floor + i * (1 - floor) / 4
        brush.line((0, y), (1, y), fill=c["plank"], width=0.012)
    brush.rect(0, floor - 0.025, 1, floor + 0.01, c["frame"])
    side = rng.choice((0, 1))
    x = 0.08 + 0.52 * side + rng.uniform(-0.03, 0.03)
    brush.rect(x, 0.08, x + 0.32, 0.42, c["frame"])
    brush.rect(x + 0.03, 0.11, x + 0.29, 0.39, c["glass"])
    brush.line((x + 0.16, 0.1), (x + 0.16, 0.4), fill=c["frame"], width=0.025)
    brush.line((x + 0.02, 0.25), (x + 0.3, 0.25), fill=c["frame"], width=0.025)
    x = 0.9 - 0.8 * side
    brush.line((x, 0.34), (x, floor + 0.1), fill=c["metal"], width=0.02)
    brush.polygon((x - 0.05, 0.2), (x + 0.05, 0.2), (x + 0.1, 0.36), (x - 0.1, 0.36), fill=c["lamp"])
    x = 0.28 + 0.1 * rng.random() if side else 0.62 + 0.1 * rng.random()
    brush.rect(x - 0.25, floor - 0.15, x + 0.25, floor + 0.06, c["sofa"], round_=0.05)
    brush.rect(x - 0.29, floor - 0.06, x - 0.2, floor + 0.1, c["sofa"], round_=0.03)
    brush.rect(x + 0.2, floor - 0.06, x + 0.29, floor + 0.1, c["sofa"], round_=0.03)


def _stormy_sea(brush: Brush, c: Palette, horizon: float, rng: random.Random) -> None:
    x = rng.choice((0.14, 0.86)) + rng.uniform(-0.06, 0.06)
    brush.polygon(
        (x, 0.1),
        (x - 0.07, 0.32),
        (x - 0.01, 0.3),
        (x - 0.06, horizon),
        (x + 0.07, 0.24),
        (x + 0.01, 0.26),
        (x + 0.06, 0.1),
        fill=c["bolt"],
    )
    for i in range(8):
        brush.ellipse(
            (i + rng.random()) / 8, rng.uniform(0.0, 0.1), rng.uniform(0.11, 0.17), rng.uniform(0.07, 0.11), c["cloud"]
        )
    for row in range(4):
        y, colour = horizon + 0.02 + row * 0.1, c["wave"] if row % 2 else c["wave_light"]
        start, width = rng.uniform(-0.3, 0), 0.3
        brush.rect(0, y + 0.03, 1, 1, colour)
        for i in range(5):
            left = start + i * width
            crest = (left + width * 0.55, y - rng.uniform(0.07, 0.12))
            brush.polygon((left, y + 0.05), crest, (left + width, y + 0.05), fill=colour)
            brush.line((left + width * 0.3, y - 0.01), crest, (left + width * 0.8, y), fill=c["foam"], width=0.018)


_SCENES: dict[str, Callable[[Brush, Palette, float, random.Random], None]] = {
    "beach": _beach,
    "forest": _forest,
    "city": _city,
    "desert": _desert,
    "mountain": _mountain,
    "graveyard": _graveyard,
    "room": _room,
    "stormy sea": _stormy_sea,
}
