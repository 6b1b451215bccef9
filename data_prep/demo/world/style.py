"""The look of the world: colours, outlines, jitter. Another style is another instance of `Style`, not other drawing code."""

from __future__ import annotations

import colorsys
import random
from collections.abc import Mapping
from dataclasses import dataclass

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Palette = Mapping[str, RGB]


@dataclass(frozen=True)
class Style:
    """Everything about the look that is a choice and not geometry."""

    name: str
    outline: RGB
    outline_width: float
    """Of sprites, as a share of the sprite's frame; 0 draws none."""
    backdrops: Mapping[str, Palette]
    """Named colours of each background."""
    coats: Mapping[str, tuple[tuple[RGB, RGB], ...]]
    """(main, second) colour pairs that each subject can have."""
    props: Mapping[str, RGB]
    """Colours of small things, by the word a caption uses."""
    jitter: int
    """Random shift of every colour channel, ± of 255."""


FLAT = Style(
    name="flat",
    outline=(38, 30, 36),
    outline_width=0.02,
    backdrops={
        "beach": {
            "sky": (168, 222, 246),
            "sky_low": (226, 244, 250),
            "sun": (255, 240, 130),
            "water": (40, 178, 200),
            "foam": (240, 252, 252),
            "sand": (246, 224, 160),
            "shell": (226, 196, 128),
            "trunk": (150, 104, 62),
            "leaf": (48, 158, 82),
        },
        "forest": {
            "sky": (96, 158, 92),
            "sky_low": (150, 196, 112),
            "crown": (40, 112, 52),
            "crown_light": (66, 142, 66),
            "trunk": (94, 62, 38),
            "ground": (58, 98, 44),
            "grass": (96, 150, 60),
        },
        "city": {
            "sky": (198, 176, 206),
            "sky_low": (240, 208, 206),
            "tower": (112, 108, 128),
            "tower_dark": (78, 76, 98),
            "window": (255, 226, 128),
            "pavement": (176, 172, 172),
            "road": (84, 84, 90),
            "line": (240, 240, 236),
        },
        "desert": {
            "sky": (248, 150, 70),
            "sky_low": (254, 212, 130),
            "sun": (254, 92, 50),
            "far": (222, 140, 66),
            "dune": (200, 108, 48),
            "dune_light": (232, 156, 84),
            "cactus": (66, 126, 70),
        },
        "mountain": {
            "sky": (122, 176, 236),
            "sky_low": (206, 226, 250),
            "rock": (112, 120, 146),
            "rock_dark": (82, 90, 118),
            "snow": (250, 252, 255),
            "meadow": (132, 192, 96),
            "bloom": (246, 246, 160),
        },
        "graveyard": {
            "sky": (32, 24, 62),
            "sky_low": (82, 62, 112),
            "moon": (238, 236, 206),
            "ground": (52, 62, 52),
            "stone": (142, 144, 152),
            "stone_dark": (92, 94, 104),
            "wood": (28, 20, 26),
        },
        "room": {
            "wall": (236, 210, 192),
            "stripe": (224, 186, 170),
            "floor": (158, 96, 58),
            "plank": (124, 72, 42),
            "frame": (250, 246, 238),
            "glass": (164, 212, 240),
            "sofa": (168, 58, 72),
            "lamp": (252, 220, 120),
            "metal": (70, 60, 60),
        },
        "stormy sea": {
            "sky": (60, 70, 86),
            "sky_low": (116, 128, 142),
            "cloud": (42, 48, 62),
            "bolt": (255, 250, 180),
            "wave": (24, 66, 104),
            "wave_light": (42, 92, 132),
            "foam": (206, 224, 232),
        },
    },
    # A subject has colours of its own, as things have: shape alone would take a small model hours to learn from nothing.
    coats={
        "dog": (((176, 112, 58), (98, 56, 28)), ((190, 130, 72), (110, 66, 36)), ((160, 98, 50), (84, 50, 28))),
        "cat": (((250, 164, 60), (214, 116, 30)), ((240, 150, 52), (200, 104, 30)), ((252, 178, 84), (220, 130, 44))),
        "bird": (((232, 60, 54), (172, 34, 44)), ((222, 44, 62), (160, 26, 48)), ((240, 78, 58), (184, 44, 40))),
        "fish": (((52, 190, 170), (240, 240, 120)), ((40, 172, 158), (236, 232, 140)), ((66, 206, 178), (244, 236, 100))),
        "child": (((252, 212, 178), (58, 104, 214)), ((222, 170, 128), (46, 92, 200)), ((150, 98, 68), (66, 118, 224))),
        "robot": (((176, 190, 204), (98, 116, 136)), ((160, 178, 194), (86, 106, 128)), ((188, 198, 208), (110, 124, 142))),
        "ghost": (((246, 246, 252), (206, 208, 228)), ((236, 244, 250), (190, 206, 222)), ((244, 238, 250), (208, 194, 224))),
        "spider": (((66, 46, 62), (38, 26, 36)), ((58, 40, 50), (34, 22, 30)), ((48, 42, 60), (28, 24, 38))),
    },
    props={
        "red": (222, 48, 48),
        "blue": (52, 96, 220),
        "yellow": (250, 214, 48),
        "green": (58, 172, 78),
        "pink": (246, 130, 180),
    },
    jitter=10,
)


def _dusk(colour: RGB) -> RGB:
    """Turned by 40 degrees of hue, half as saturated, a quarter darker."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
    r, g, b = colorsys.hsv_to_rgb((hue + 1 / 9) % 1, 0.5 * saturation, 0.75 * value)
    return (round(255 * r), round(255 * g), round(255 * b))


DUSK = Style(
    name="dusk",
    # Light and thicker, where `flat` is drawn in dark and thin lines.
    outline=(236, 228, 208),
    outline_width=0.035,
    backdrops={name: {part: _dusk(colour) for part, colour in palette.items()} for name, palette in FLAT.backdrops.items()},
    coats={name: tuple((_dusk(a), _dusk(b)) for a, b in pairs) for name, pairs in FLAT.coats.items()},
    props={name: _dusk(colour) for name, colour in FLAT.props.items()},
    jitter=20,
)
"""The same world in other colours and lines: what a model has learned of `flat` colours does not help here."""

STYLES: dict[str, Style] = {style.name: style for style in (FLAT, DUSK)}


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """`a` with a `share` (0–1) of `b`."""
    return (
        round(a[0] + (b[0] - a[0]) * share),
        round(a[1] + (b[1] - a[1]) * share),
        round(a[2] + (b[2] - a[2]) * share),
    )


def jittered(colour: RGB, amount: int, rng: random.Random) -> RGB:
    """`colour` with every channel moved by up to ±`amount`."""
    r, g, b = (max(0, min(255, c + rng.randint(-amount, amount))) for c in colour)
    return (r, g, b)


class Brush:
    """`ImageDraw` in shares of the picture: x of the width, y of the height, radii and line widths of the shorter side."""

    def __init__(self, image: Image.Image) -> None:
        self.width, self.height = image.size
        self.unit = min(image.size)
        self.draw = ImageDraw.Draw(image)

    def _points(self, points: tuple[tuple[float, float], ...]) -> list[tuple[float, float]]:
        return [(x * self.width, y * self.height) for x, y in points]

    def _frame(self, x: float, y: float, rx: float, ry: float) -> tuple[float, float, float, float]:
        px, py, ax, ay = x * self.width, y * self.height, rx * self.unit, ry * self.unit
        return (px - ax, py - ay, px + ax, py + ay)

    def _stroke(self, width: float) -> int:
        return max(1, round(width * self.unit))

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: RGB | None, outline: RGB | None = None, width: float = 0
    ) -> None:
        """Ellipse about (x, y) with radii (rx, ry)."""
        line = self._stroke(width) if outline is not None and width else 0
        self.draw.ellipse(self._frame(x, y, rx, ry), fill=fill, outline=outline if line else None, width=line)

    def rect(
        self,
        x1: float,
        y1: float,
        x2: float,
        y2: float,
        fill: RGB,
        outline: RGB | None = None,
        width: float = 0,
        round_: float = 0,
    ) -> None:
        """Rectangle with corners of radius `round_`."""
        line = self._stroke(width) if outline is not None and width else 0
        box = (x1 * self.width, y1 * self.height, x2 * self.width, y2 * self.height)
        self.draw.rounded_rectangle(box, round_ * self.unit, fill=fill, outline=outline if line else None, width=line)

    def polygon(self, *points: tuple[float, float], fill: RGB, outline: RGB | None = None, width: float = 0) -> None:
        """Closed polygon; the outline has round joints."""
        pixels = self._points(points)
        self.draw.polygon(pixels, fill=fill)
        if outline is not None and width:
            self.draw.line([*pixels, pixels[0], pixels[1]], fill=outline, width=self._stroke(width), joint="curve")

    def line(self, *points: tuple[float, float], fill: RGB, width: float) -> None:
        """Open line through the points."""
        self.draw.line(self._points(points), fill=fill, width=self._stroke(width), joint="curve")

    def arc(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: RGB, width: float) -> None:
        """Arc of an ellipse; degrees clockwise from three o'clock."""
        self.draw.arc(self._frame(x, y, rx, ry), start, end, fill=fill, width=self._stroke(width))

    def chord(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: RGB) -> None:
        """Filled segment of an ellipse; degrees clockwise from three o'clock."""
        self.draw.chord(self._frame(x, y, rx, ry), start, end, fill=fill)
