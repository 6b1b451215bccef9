"""The eight subjects and the small props, as RGBA sprites with exact alpha.

Every subject is mostly face, so that an expression is still some ten pixels wide when the image is 112 px.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from data_prep.demo.world.backdrops import SUPERSAMPLING

from .faces import INK, TEAR, WHITE, Face, draw_face
from .style import RGB, Brush, Style, jittered, mix

FLUSH_COLOUR: RGB = (236, 52, 36)
"""The coat of who scowls is tinted with it."""

PROPS = ("ball", "flower", "box", "balloon", "mushroom")


@dataclass(frozen=True)
class Pen:
    """A brush on a sprite's frame (square, coordinates 0–1) with the sprite's colours."""

    brush: Brush
    main: RGB
    second: RGB
    line: RGB
    width: float

    def oval(self, x: float, y: float, rx: float, ry: float, fill: RGB) -> None:
        """Outlined ellipse."""
        self.brush.ellipse(x, y, rx, ry, fill, self.line, self.width)

    def shape(self, *points: tuple[float, float], fill: RGB) -> None:
        """Outlined polygon."""
        self.brush.polygon(*points, fill=fill, outline=self.line, width=self.width)

    def block(self, x1: float, y1: float, x2: float, y2: float, fill: RGB, round_: float = 0.03) -> None:
        """Outlined rectangle."""
        self.brush.rect(x1, y1, x2, y2, fill, self.line, self.width, round_)

    def limb(self, *points: tuple[float, float], fill: RGB, width: float) -> None:
        """Outlined thick line."""
        self.brush.line(*points, fill=self.line, width=width + 2 * self.width)
        self.brush.line(*points, fill=fill, width=width)


def draw_subject(subject: str, attribute: str | None, pixels: int, style: Style, rng: random.Random) -> Image.Image:
    """RGBA sprite of (pixels, pixels); `attribute` None draws a plain face. May be mirrored and slightly turned."""
    main, second = (jittered(colour, style.jitter, rng) for colour in rng.choice(style.coats[subject]))
    if attribute == "scowling":
        main = mix(main, FLUSH_COLOUR, 0.35)
    image = Image.new("RGBA", (pixels * SUPERSAMPLING, pixels * SUPERSAMPLING), (*main, 0))
    pen = Pen(Brush(image), main, second, style.outline, style.outline_width)
    draw_face(pen.brush, _SUBJECTS[subject](pen, attribute == "jumping"), attribute)
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rng.random() < 0.5:
        image = image.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR)
    return image.reduce(SUPERSAMPLING)


def draw_prop(prop: str, colour: str, pixels: int, style: Style, rng: random.Random) -> Image.Image:
    """RGBA sprite of (pixels, pixels) of a small thing in a colour of `style.props`."""
    main = jittered(style.props[colour], style.jitter, rng)
    image = Image.new("RGBA", (pixels * SUPERSAMPLING, pixels * SUPERSAMPLING), (*main, 0))
    pen = Pen(Brush(image), main, mix(main, WHITE, 0.6), style.outline, max(style.outline_width, 0.04))
    _PROPS[prop](pen)
    return image.reduce(SUPERSAMPLING)


# --- subjects: each draws itself in the frame 0–1 and returns its face ---------------------------------------------------


def _dog(pen: Pen, jump: bool) -> Face:
    spread = 0.1 if jump else 0.0
    pen.limb((0.72, 0.78), (0.9, 0.66), fill=pen.second, width=0.06)
    for x, side in ((0.36, -1), (0.64, 1)):
        pen.limb((x, 0.8), (x + side * spread, 0.96), fill=pen.main, width=0.1)
    pen.oval(0.5, 0.78, 0.24, 0.17, pen.main)
    pen.oval(0.5, 0.4, 0.35, 0.34, pen.main)
    pen.shape((0.22, 0.14), (0.03, 0.3), (0.06, 0.62), (0.17, 0.58), (0.24, 0.34), fill=pen.second)
    pen.shape((0.78, 0.14), (0.97, 0.3), (0.94, 0.62), (0.83, 0.58), (0.76, 0.34), fill=pen.second)
    pen.brush.ellipse(0.5, 0.54, 0.2, 0.17, mix(pen.main, WHITE, 0.6))
    pen.brush.ellipse(0.5, 0.44, 0.065, 0.045, INK)
    return Face(0.5, 0.41, 0.29)


def _cat(pen: Pen, jump: bool) -> Face:
    spread = 0.1 if jump else 0.0
    ink = INK if sum(pen.main) > 330 else (250, 240, 220)
    pen.limb((0.68, 0.86), (0.9, 0.86), (0.93, 0.62), fill=pen.main, width=0.06)
    for x, side in ((0.38, -1), (0.62, 1)):
        pen.limb((x, 0.82), (x + side * spread, 0.96), fill=pen.second, width=0.08)
    pen.oval(0.5, 0.8, 0.21, 0.15, pen.main)
    pen.shape((0.17, 0.38), (0.15, 0.02), (0.46, 0.16), fill=pen.main)
    pen.shape((0.83, 0.38), (0.85, 0.02), (0.54, 0.16), fill=pen.main)
    pen.brush.polygon((0.22, 0.26), (0.2, 0.1), (0.34, 0.18), fill=(250, 170, 180))
    pen.brush.polygon((0.78, 0.26), (0.8, 0.1), (0.66, 0.18), fill=(250, 170, 180))
    pen.oval(0.5, 0.42, 0.36, 0.3, pen.main)
    for x in (0.42, 0.5, 0.58):
        pen.brush.line((x, 0.14), (x, 0.23), fill=pen.second, width=0.035)
    for side in (-1, 1):
        for dy in (0.0, 0.07):
            pen.brush.line((0.5 + side * 0.24, 0.5 + dy), (0.5 + side * 0.48, 0.47 + dy * 2), fill=ink, width=0.014)
    pen.brush.polygon((0.46, 0.46), (0.54, 0.46), (0.5, 0.51), fill=(240, 120, 140))
    return Face(0.5, 0.43, 0.29, ink)


def _bird(pen: Pen, jump: bool) -> Face:
    beak: RGB = (255, 150, 40)
    for x in (0.4, 0.6):
        pen.limb((x, 0.84), (x, 0.95), (x + 0.07, 0.95), fill=beak, width=0.03)
    pen.shape((0.2, 0.6), (0.0, 0.5), (0.02, 0.7), (0.26, 0.78), fill=pen.second)
    for x, y in ((0.4, 0.02), (0.5, 0.0), (0.6, 0.03)):
        pen.limb((0.5, 0.16), (x, y + 0.02), fill=pen.second, width=0.04)
    pen.oval(0.5, 0.5, 0.36, 0.38, pen.main)
    pen.brush.ellipse(0.52, 0.74, 0.2, 0.12, mix(pen.main, WHITE, 0.65))
    wing = 0.36 if jump else 0.76
    pen.shape((0.2, 0.5), (0.04, wing), (0.3, 0.66), fill=pen.second)
    pen.shape((0.8, 0.5), (0.97, wing), (0.7, 0.66), fill=pen.second)
    pen.shape((0.43, 0.42), (0.57, 0.42), (0.5, 0.53), fill=beak)
    return Face(0.5, 0.42, 0.3)


def _fish(pen: Pen, jump: bool) -> Face:
    pen.shape((0.66, 0.5), (0.99, 0.22), (0.92, 0.5), (0.99, 0.8), fill=pen.second)
    pen.shape((0.34, 0.26), (0.5, 0.06), (0.66, 0.14), (0.62, 0.3), fill=pen.second)
    pen.shape((0.4, 0.76), (0.5, 0.92), (0.62, 0.88), (0.56, 0.72), fill=pen.second)
    pen.oval(0.42, 0.5, 0.4, 0.31, pen.main)
    pen.brush.arc(0.52, 0.5, 0.16, 0.26, -70, 70, pen.second, 0.05)
    pen.brush.arc(0.6, 0.5, 0.16, 0.2, -70, 70, pen.second, 0.05)
    if jump:
        for dx in (0.1, 0.3, 0.5):
            pen.brush.ellipse(0.2 + dx, 0.95, 0.025, 0.03, TEAR)
    return Face(0.33, 0.5, 0.27)


def _child(pen: Pen, jump: bool) -> Face:
    hair: RGB = mix(pen.second, INK, 0.75)
    hand = 0.52 if jump else 0.86
    for side in (-1, 1):
        pen.limb((0.5 + side * 0.14, 0.72), (0.5 + side * 0.34, hand), fill=pen.main, width=0.07)
        pen.limb((0.5 + side * 0.07, 0.88), (0.5 + side * (0.18 if jump else 0.08), 0.97), fill=(60, 70, 120), width=0.09)
    pen.shape((0.4, 0.64), (0.6, 0.64), (0.7, 0.92), (0.3, 0.92), fill=pen.second)
    pen.oval(0.16, 0.42, 0.06, 0.07, pen.main)
    pen.oval(0.84, 0.42, 0.06, 0.07, pen.main)
    pen.oval(0.5, 0.36, 0.35, 0.34, hair)
    pen.oval(0.5, 0.42, 0.32, 0.29, pen.main)
    pen.brush.chord(0.5, 0.34, 0.33, 0.3, 190, 350, hair)
    return Face(0.5, 0.46, 0.27)


def _robot(pen: Pen, jump: bool) -> Face:
    hand = 0.56 if jump else 0.9
    pen.limb((0.5, 0.16), (0.5, 0.06), fill=pen.second, width=0.03)
    pen.oval(0.5, 0.05, 0.045, 0.045, (240, 60, 50))
    for side in (-1, 1):
        pen.limb((0.5 + side * 0.2, 0.74), (0.5 + side * 0.38, hand), fill=pen.second, width=0.06)
        pen.block(0.5 + side * 0.12 - 0.07, 0.88, 0.5 + side * 0.12 + 0.07, 0.985, pen.second)
        pen.block(0.5 + side * 0.4 - 0.06, 0.3, 0.5 + side * 0.4 + 0.06, 0.5, pen.second)
    pen.block(0.27, 0.62, 0.73, 0.9, pen.main)
    for i, colour in enumerate(((240, 70, 60), (250, 210, 60), (80, 200, 100))):
        pen.brush.ellipse(0.4 + i * 0.1, 0.77, 0.034, 0.034, colour)
    pen.block(0.13, 0.14, 0.87, 0.68, pen.main, 0.05)
    pen.brush.rect(0.19, 0.2, 0.81, 0.62, mix(pen.main, WHITE, 0.45), round_=0.03)
    return Face(0.5, 0.41, 0.29)


def _ghost(pen: Pen, jump: bool) -> Face:
    hand = 0.24 if jump else 0.5
    for side in (-1, 1):
        pen.limb((0.5 + side * 0.28, 0.55), (0.5 + side * 0.44, hand), fill=pen.main, width=0.1)
        pen.oval(0.5 + side * 0.43, hand, 0.06, 0.06, pen.main)
    pen.shape(
        (0.17, 0.4),
        (0.2, 0.24),
        (0.3, 0.11),
        (0.42, 0.05),
        (0.5, 0.04),
        (0.58, 0.05),
        (0.7, 0.11),
        (0.8, 0.24),
        (0.83, 0.4),
        (0.86, 0.95),
        (0.74, 0.84),
        (0.62, 0.97),
        (0.5, 0.85),
        (0.38, 0.97),
        (0.26, 0.84),
        (0.14, 0.95),
        fill=pen.main,
    )
    pen.brush.polygon((0.76, 0.5), (0.82, 0.5), (0.83, 0.86), (0.75, 0.8), fill=pen.second)
    return Face(0.5, 0.38, 0.3)


def _spider(pen: Pen, jump: bool) -> Face:
    lift = -0.16 if jump else 0.0
    for side in (-1, 1):
        for knee, foot in ((0.2, 0.3), (0.34, 0.52), (0.5, 0.76), (0.64, 0.95)):
            tip = (0.5 + side * 0.48, foot + lift)
            pen.brush.line((0.5 + side * 0.2, 0.52), (0.5 + side * 0.4, knee - 0.04 + lift), tip, fill=pen.line, width=0.05)
            pen.brush.line((0.5 + side * 0.2, 0.52), (0.5 + side * 0.4, knee - 0.04 + lift), tip, fill=pen.main, width=0.025)
    pen.oval(0.5, 0.3, 0.22, 0.2, pen.second)
    pen.brush.polygon((0.44, 0.16), (0.56, 0.16), (0.5, 0.24), fill=(200, 40, 40))
    pen.oval(0.5, 0.56, 0.3, 0.29, pen.main)
    for x in (0.42, 0.5, 0.58):
        pen.brush.ellipse(x, 0.35, 0.026, 0.026, WHITE)
    return Face(0.5, 0.58, 0.27, (246, 226, 226))


_SUBJECTS: dict[str, Callable[[Pen, bool], Face]] = {
    "dog": _dog,
    "cat": _cat,
    "bird": _bird,
    "fish": _fish,
    "child": _child,
    "robot": _robot,
    "ghost": _ghost,
    "spider": _spider,
}


# --- props -----------------------------------------------------------------------------------------------------------


def _ball(pen: Pen) -> None:
    pen.oval(0.5, 0.5, 0.46, 0.46, pen.main)
    pen.brush.arc(0.5, 0.5, 0.2, 0.42, 0, 360, pen.second, 0.08)


def _flower(pen: Pen) -> None:
    pen.limb((0.5, 0.5), (0.5, 0.97), fill=(50, 140, 60), width=0.07)
    for x, y in ((0.5, 0.16), (0.26, 0.34), (0.74, 0.34), (0.35, 0.6), (0.65, 0.6)):
        pen.oval(x, y, 0.17, 0.15, pen.main)
    pen.oval(0.5, 0.4, 0.13, 0.13, pen.second)


def _box(pen: Pen) -> None:
    pen.block(0.08, 0.16, 0.92, 0.92, pen.main, 0.04)
    pen.brush.rect(0.42, 0.18, 0.58, 0.9, pen.second)
    pen.brush.rect(0.1, 0.46, 0.9, 0.6, pen.second)


def _balloon(pen: Pen) -> None:
    pen.brush.line((0.5, 0.66), (0.44, 0.8), (0.54, 0.98), fill=pen.line, width=0.05)
    pen.oval(0.5, 0.36, 0.3, 0.34, pen.main)
    pen.brush.ellipse(0.4, 0.24, 0.07, 0.09, pen.second)


def _mushroom(pen: Pen) -> None:
    pen.block(0.34, 0.5, 0.66, 0.96, (246, 236, 214), 0.1)
    pen.shape((0.04, 0.56), (0.12, 0.28), (0.32, 0.1), (0.5, 0.06), (0.68, 0.1), (0.88, 0.28), (0.96, 0.56), fill=pen.main)
    for x, y in ((0.32, 0.34), (0.56, 0.22), (0.72, 0.42)):
        pen.brush.ellipse(x, y, 0.08, 0.07, WHITE)


_PROPS: dict[str, Callable[[Pen], None]] = {
    "ball": _ball,
    "flower": _flower,
    "box": _box,
    "balloon": _balloon,
    "mushroom": _mushroom,
}
