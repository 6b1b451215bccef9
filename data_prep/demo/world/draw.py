"""One image from a triplet: backdrop, atmosphere, the primary subject and up to two distractors, with exact masks."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance

from .affect import WORLD_SUBJECTS, TripletKey
from .backdrops import draw_backdrop
from .sprites import PROPS, draw_prop, draw_subject
from .style import RGB, Brush, Style

IMAGE_SIDES = (96, 168)
"""Pixels: the shorter side is at least the first, the longer at most the second."""

ASPECT_RATIOS = (3 / 4, 4 / 5, 1.0, 1.0, 5 / 4, 4 / 3)

PRIMARY_SCALE = (0.48, 0.76)
"""Frame of the primary sprite, as a share of the shorter side."""

DISTRACTOR_SCALE = (0.15, 0.24)

MAX_HIDDEN = 0.15
"""Share of the primary that distractors may hide, all together."""

MIN_VISIBLE = 0.6
"""Share of a distractor that must stay visible; else it is drawn elsewhere or left out."""

_PLACEMENT_TRIES = 8
_RADIAL = Image.radial_gradient("L").point([255 - v for v in range(256)])


@dataclass(frozen=True)
class Layer:
    """One thing in the image."""

    phrase: str
    mask: np.ndarray
    """(height, width) bool: its visible pixels."""
    primary: bool

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Tight box of the mask: (x1, y1, x2, y2), x2 and y2 exclusive."""
        rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
        return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@dataclass(frozen=True)
class Scene:
    """A drawn image and what is in it; `layers[0]` is the primary subject."""

    image: Image.Image
    layers: tuple[Layer, ...]
    scale: float
    """Frame of the primary as a share of the shorter side."""


@dataclass
class _Placed:
    phrase: str
    sprite: Image.Image
    corner: tuple[int, int]
    mask: np.ndarray
    front: bool


def draw_scene(triplet: TripletKey, style: Style, rng: random.Random) -> Scene:
    """Draw a triplet; the same state of `rng` gives the same pixels."""
    background, attribute, subject = triplet
    size = _size(rng)
    image, horizon = draw_backdrop(background, size, style, rng)
    scale = rng.uniform(*PRIMARY_SCALE)
    primary = _place_primary(subject, attribute, scale, size, horizon, style, rng)
    distractors = _place_distractors(primary, subject, size, style, rng)

    _behind(image, primary, attribute, rng)
    for item in [d for d in distractors if not d.front] + [primary] + [d for d in distractors if d.front]:
        image.paste(item.sprite, item.corner, item.sprite)
    image = _in_front(image, primary, attribute, rng)

    hidden = np.zeros_like(primary.mask)
    for item in distractors:
        if item.front:
            hidden |= item.mask
    layers = [Layer(primary.phrase, primary.mask & ~hidden, True)]
    for i, item in enumerate(distractors):
        above = primary.mask.copy() if not item.front else np.zeros_like(hidden)
        for j, other in enumerate(distractors):
            if (other.front, j) > (item.front, i):
                above |= other.mask
        layers.append(Layer(item.phrase, item.mask & ~above, False))
    return Scene(image, tuple(layers), scale)


def _size(rng: random.Random) -> tuple[int, int]:
    aspect = rng.choice(ASPECT_RATIOS)
    low, high = IMAGE_SIDES
    longer = rng.randint(round(low * max(aspect, 1 / aspect)), high)
    shorter = max(low, round(longer * min(aspect, 1 / aspect)))
    return (longer, shorter) if aspect >= 1 else (shorter, longer)


def _mask(sprite: Image.Image, corner: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """(height, width) bool: pixels that the sprite covers by at least half; what leaves the image is cut."""
    canvas = Image.new("L", size)
    canvas.paste(sprite.getchannel("A"), corner)
    return np.asarray(canvas) >= 128


def _place_primary(
    subject: str, attribute: str, scale: float, size: tuple[int, int], horizon: float, style: Style, rng: random.Random
) -> _Placed:
    width, height = size
    pixels = round(scale * min(size))
    sprite = draw_subject(subject, attribute, pixels, style, rng)
    x = rng.randint(0, width - pixels)
    # On the ground where there is room for it; who jumps is well above it.
    ground = rng.uniform(max(horizon + 0.2, pixels / height), 1.0) if attribute != "jumping" else rng.uniform(0.72, 0.84)
    y = max(0, min(height - pixels, round(ground * height) - pixels))
    return _Placed(subject, sprite, (x, y), _mask(sprite, (x, y), size), False)


def _place_distractors(
    primary: _Placed, subject: str, size: tuple[int, int], style: Style, rng: random.Random
) -> list[_Placed]:
    placed: list[_Placed] = []
    hidden = np.zeros_like(primary.mask)
    for _ in range(rng.choices((0, 1, 2), weights=(4, 4, 2))[0]):
        pixels = round(rng.uniform(*DISTRACTOR_SCALE) * min(size))
        if rng.random() < 0.65:
            colour, prop = rng.choice(list(style.props)), rng.choice(PROPS)
            phrase, sprite = f"{colour} {prop}", draw_prop(prop, colour, pixels, style, rng)
        else:
            other = rng.choice([s for s in WORLD_SUBJECTS if s != subject])
            phrase, sprite = f"small {other}", draw_subject(other, None, pixels, style, rng)
        for _ in range(_PLACEMENT_TRIES):
            corner = (rng.randint(0, size[0] - pixels), rng.randint(round(0.25 * size[1]), size[1] - pixels))
            item = _Placed(phrase, sprite, corner, _mask(sprite, corner, size), rng.random() < 0.5)
            if _fits(item, primary, placed, hidden):
                placed.append(item)
                if item.front:
                    hidden |= item.mask
                break
    return placed


def _fits(item: _Placed, primary: _Placed, placed: list[_Placed], hidden: np.ndarray) -> bool:
    if any((item.mask & other.mask).any() for other in placed):
        return False
    if item.front:
        return int(((hidden | item.mask) & primary.mask).sum()) <= MAX_HIDDEN * int(primary.mask.sum())
    return int((item.mask & ~primary.mask).sum()) >= MIN_VISIBLE * int(item.mask.sum())


# --- atmosphere --------------------------------------------------------------------------------------------------------


def _behind(image: Image.Image, primary: _Placed, attribute: str, rng: random.Random) -> None:
    """Draws in place what lies behind the primary: its shadow, a halo, lines of a jump, a puddle."""
    (x, y), side = primary.corner, primary.sprite.width
    height = image.height
    draw = ImageDraw.Draw(image, "RGBA")
    foot, middle = y + side * 0.97, x + side / 2
    if attribute == "glowing":
        _halo(image, (middle, y + side / 2), side, rng)
    elif attribute == "jumping":
        foot = min(height - 2.0, y + side * 1.22)
        for share in (0.25, 0.5, 0.75):
            line = x + side * share
            draw.line(
                (line, y + side * 1.02, line, min(height, y + side * 1.16)), fill=(255, 255, 255, 235), width=max(2, side // 24)
            )
        for sign in (-1, 1):
            edge = middle + sign * side * 0.56
            draw.arc(
                (edge - side * 0.12, y + side * 0.3, edge + side * 0.12, y + side * 0.75),
                300 if sign > 0 else 120,
                60 if sign > 0 else 240,
                fill=(255, 255, 255, 235),
                width=max(2, side // 24),
            )
    elif attribute == "drenched":
        draw.ellipse(
            (middle - side * 0.55, foot - side * 0.1, middle + side * 0.55, foot + side * 0.1), fill=(120, 170, 220, 230)
        )
    if attribute != "drenched":
        draw.ellipse(
            (middle - side * 0.32, foot - side * 0.045, middle + side * 0.32, foot + side * 0.045), fill=(10, 10, 20, 100)
        )


def _halo(image: Image.Image, centre: tuple[float, float], side: int, rng: random.Random) -> None:
    reach = round(side * rng.uniform(1.5, 1.75))
    glow = _RADIAL.resize((reach, reach), Image.Resampling.BILINEAR)
    corner = (round(centre[0] - reach / 2), round(centre[1] - reach / 2))
    strong = glow.point([min(255, round(v * 1.8)) for v in range(256)])
    image.paste(Image.new("RGB", (reach, reach), (255, 238, 96)), corner, strong)
    draw = ImageDraw.Draw(image)
    start = rng.uniform(0, 30)
    for i in range(12):
        angle = np.deg2rad(start + 30 * i)
        dx, dy = float(np.cos(angle)), float(np.sin(angle))
        inner, outer = side * 0.58, side * (0.8 if i % 2 else 0.72)
        draw.line(
            (centre[0] + dx * inner, centre[1] + dy * inner, centre[0] + dx * outer, centre[1] + dy * outer),
            fill=(255, 255, 220),
            width=max(2, side // 22),
        )


def _in_front(image: Image.Image, primary: _Placed, attribute: str, rng: random.Random) -> Image.Image:
    """What lies over everything: rain, washed-out colours, the letters of sleep."""
    match attribute:
        case "drenched":
            return _rain(image, rng)
        case "faded":
            grey = ImageEnhance.Color(image).enhance(rng.uniform(0.0, 0.12))
            return Image.blend(grey, Image.new("RGB", image.size, (205, 203, 200)), rng.uniform(0.25, 0.38))
        case "sleeping":
            _letters_of_sleep(image, primary)
    return image


def _rain(image: Image.Image, rng: random.Random) -> Image.Image:
    image = Image.blend(image, Image.new("RGB", image.size, (96, 120, 156)), rng.uniform(0.22, 0.32))
    draw = ImageDraw.Draw(image)
    width, height = image.size
    slant = rng.uniform(-0.35, 0.35)
    for _ in range(width * height // 230):
        x, y, long = rng.uniform(-8, width + 8), rng.uniform(-8, height), rng.uniform(6, 12)
        colour: RGB = (206, 226, 250) if rng.random() < 0.6 else (150, 190, 240)
        draw.line((x, y, x + slant * long, y + long), fill=colour, width=1)
    return image


def _letters_of_sleep(image: Image.Image, primary: _Placed) -> None:
    (x, y), side = primary.corner, primary.sprite.width
    width, height = image.size
    brush = Brush(image)
    towards = 1 if x + side / 2 < width / 2 else -1  # to the side that has more room
    px, py = x + side * (0.5 + towards * 0.44), y + side * 0.16
    for size in (0.15, 0.2, 0.26):
        half = size * side / 2
        px = min(max(px, half + 1), width - half - 1)
        py = min(max(py, half + 1), height - half - 1)
        corners = [(px - half, py - half), (px + half, py - half), (px - half, py + half), (px + half, py + half)]
        points = tuple((cx / width, cy / height) for cx, cy in corners)
        stroke = max(1.0, side * 0.035) / min(width, height)
        brush.line(*points, fill=(24, 24, 60), width=stroke * 2.6)
        brush.line(*points, fill=(255, 255, 255), width=stroke)
        px, py = px + towards * side * 0.2, py - side * 0.14
