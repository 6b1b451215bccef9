"""Faces of the subjects: the expression of an attribute, drawn big enough to be read at 112 px."""

from __future__ import annotations

from dataclasses import dataclass

from .style import RGB, Brush

WHITE: RGB = (255, 255, 255)
INK: RGB = (30, 22, 28)
TEAR: RGB = (70, 170, 255)
MOUTH: RGB = (150, 24, 40)


@dataclass(frozen=True)
class Face:
    """Where a sprite's face is: centre and radius; `ink` is the colour of mouth and brows."""

    x: float
    y: float
    r: float
    ink: RGB = INK


def draw_face(brush: Brush, face: Face, attribute: str | None) -> None:
    """Eyes and mouth that show the attribute; attributes of pose and weather leave a plain face."""
    x, y, r, ink = face.x, face.y, face.r, face.ink
    left, right, eye, level = x - 0.42 * r, x + 0.42 * r, 0.24 * r, y - 0.2 * r
    match attribute:
        case "sleeping":
            for ex in (left, right):
                brush.arc(ex, level - 0.08 * r, eye * 1.2, eye, 10, 170, ink, 0.11 * r)
            brush.ellipse(x, y + 0.5 * r, 0.1 * r, 0.08 * r, ink)
            return
        case "smiling":
            _eyes(brush, left, right, level, eye)
            for side in (-1, 1):
                brush.ellipse(x + side * 0.78 * r, y + 0.18 * r, 0.15 * r, 0.11 * r, (255, 140, 150))
            brush.chord(x, y + 0.16 * r, 0.58 * r, 0.62 * r, 0, 180, ink)
            brush.chord(x, y + 0.2 * r, 0.5 * r, 0.5 * r, 0, 180, MOUTH)
            brush.chord(x, y + 0.2 * r, 0.48 * r, 0.2 * r, 0, 180, WHITE)
        case "crying":
            _eyes(brush, left, right, level, eye)
            for side, ex in ((-1, left), (1, right)):
                brush.rect(ex - 0.15 * r, level + 0.16 * r, ex + 0.15 * r, y + 0.9 * r, TEAR, WHITE, 0.03 * r, 0.1 * r)
                brush.line(
                    (ex - side * 0.26 * r, level - 0.52 * r), (ex + side * 0.26 * r, level - 0.34 * r), fill=ink, width=0.1 * r
                )
            brush.ellipse(x, y + 0.5 * r, 0.17 * r, 0.2 * r, ink)
        case "scowling":
            _eyes(brush, left, right, level, eye)
            for side, ex in ((-1, left), (1, right)):
                brush.line(
                    (ex + side * 0.36 * r, level - 0.5 * r), (ex - side * 0.3 * r, level - 0.08 * r), fill=ink, width=0.2 * r
                )
            brush.rect(x - 0.44 * r, y + 0.3 * r, x + 0.44 * r, y + 0.62 * r, WHITE, ink, 0.08 * r)
            for i in (-1, 0, 1):
                brush.line((x + i * 0.22 * r, y + 0.3 * r), (x + i * 0.22 * r, y + 0.62 * r), fill=ink, width=0.05 * r)
        case "jumping":
            _eyes(brush, left, right, level, eye)
            brush.ellipse(x, y + 0.45 * r, 0.15 * r, 0.15 * r, ink)
        case None | "drenched" | "faded" | "glowing":
            _eyes(brush, left, right, level, eye)
            brush.line((x - 0.2 * r, y + 0.45 * r), (x + 0.2 * r, y + 0.45 * r), fill=ink, width=0.09 * r)
        case _:
            msg = f"no face is known for attribute {attribute!r}"
            raise ValueError(msg)


def _eyes(brush: Brush, left: float, right: float, level: float, radius: float) -> None:
    for x in (left, right):
        brush.ellipse(x, level, radius, radius * 1.1, WHITE, INK, radius * 0.18)
        brush.ellipse(x, level + radius * 0.1, radius * 0.5, radius * 0.58, INK)
