"""What the tests of the importers share: files written into small trees, and what a source makes of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep.sources import SourceItem, SourceRefusal, open_source
from data_prep.sources.base import PassedOver, Repeat
from tests.data_prep.conftest import picture


def write(root: Path, files: dict[str, Any]) -> Path:
    """Write files by name: an int is the seed of a picture, bytes and text are themselves, anything else is JSON."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, int):
            content = picture(content, kind="JPEG" if name.lower().endswith(("jpg", "jpeg")) else "PNG")
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return root


def read(name: str, root: Path) -> tuple[dict[str, SourceItem], list[SourceRefusal], list[Repeat]]:
    """Items by key, refusals, and repeated rows, without what is passed over; a second read must say the same."""
    found = list(open_source(name).read(root))
    assert list(map(str, open_source(name).read(root))) == list(map(str, found)), "the order is stable"
    items = [one for one in found if isinstance(one, SourceItem)]
    assert len({item.key for item in items}) == len(items)
    assert all(item.source == name for item in items)
    json.dumps([item.labels for item in items], allow_nan=False)
    refused = [one for one in found if isinstance(one, SourceRefusal) and not isinstance(one, Repeat | PassedOver)]
    return {item.key: item for item in items}, refused, [one for one in found if isinstance(one, Repeat)]


def said(refusals: Sequence[SourceRefusal], root: Path) -> list[str]:
    """Refusals as text, without the part of the paths that differs from run to run."""
    return [str(refusal).replace(f"{root.resolve()}/", "") for refusal in refusals]
