"""Small images with known truth, and a pass over them, for every test of the factory."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from PIL import Image

from data_prep.sources import SourceItem
from emo_lightning.core.records import EMOTIONS, GroundedObject, Record, intensity_level

ROOT = Path(__file__).parents[2]

BACKGROUNDS = ("beach", "forest", "city")
ATTRIBUTES = ("smiling", "crying", "sleeping")
SUBJECTS = ("dog", "cat", "bird")


def picture(seed: int, size: tuple[int, int] = (40, 32), kind: str = "PNG") -> bytes:
    """A small image that no other seed gives."""
    rng = random.Random(seed)
    image = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    for _ in range(20):
        image.putpixel((rng.randrange(size[0]), rng.randrange(size[1])), tuple(rng.randrange(256) for _ in range(3)))
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def truth(seed: int) -> tuple[Record, bytes]:
    """A record with everything known, and its image."""
    rng = random.Random(seed)
    data = picture(seed)
    background, attribute, subject = rng.choice(BACKGROUNDS), rng.choice(ATTRIBUTES), rng.choice(SUBJECTS)
    intensity = rng.randint(1, 10)
    record = Record(
        id=f"toy-{seed:04d}",
        source="toy",
        width=40,
        height=32,
        sha256=hashlib.sha256(data).hexdigest(),
        split="train" if seed % 4 else "val",
        description=f"scene number {seed}: a {attribute} {subject} in the {background}",
        background=background,
        attribute=attribute,
        subject=subject,
        emotion=rng.choice(EMOTIONS),
        intensity=intensity,
        intensity_level=intensity_level(intensity),
        objects=[GroundedObject(phrase=f"{attribute} {subject}", bbox=(4, 4, 20, 24), score=1.0, primary=True)],
    )
    return record, data


def item_of(record: Record, data: bytes) -> SourceItem:
    """The same, as a source yields it."""
    return SourceItem(
        key=record.id,
        image=data,
        extension="png",
        width=record.width,
        height=record.height,
        source="toy",
        split=record.split,
        labels={"emotion": "awe"},
        regions=tuple(record.objects),
        licence="CC0-1.0",
        origin="drawn by a test",
    )


@pytest.fixture
def toys() -> list[tuple[Record, bytes]]:
    """24 images with truth."""
    return [truth(seed) for seed in range(24)]


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Writes the demo's configuration, with the changes of a test, and the price table beside it."""

    def write(change: Callable[[dict], None] = lambda config: None) -> Path:
        config = yaml.safe_load((ROOT / "configs/prep/world.yaml").read_text())
        config["prices"] = str(ROOT / "configs/prep/prices.yaml")
        change(config)
        path = tmp_path / "pass.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return write
