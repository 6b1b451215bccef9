"""Pictures in pages are pixels: no place, camera, author or comment of the file that they came from."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from data_prep.export.shards import write_shards
from emo_lightning.analysis.mds import MdsMap
from emo_lightning.analysis.references import References
from emo_lightning.report.examples import _picture
from emo_lightning.report.mds_page import write_mds_page
from emo_lightning.report.panel import write_panel
from emo_lightning.report.pictures import AnsweredImage, embedded_picture, with_boxes
from tests.core.test_image_metadata import SECRETS, saved
from tests.made import make_record


def held(page: str) -> bytes:
    """What the pictures of a page hold, together."""
    return b"".join(base64.b64decode(data) for data in re.findall(r"base64,([A-Za-z0-9+/=]+)", page))


def said(data: bytes) -> list[bytes]:
    return [secret for secret in SECRETS if secret in data]


@pytest.fixture
def references(tmp_path: Path) -> References:
    """Two photographs with all that a camera and a person wrote into them: a JPEG, and a PNG."""
    rows = []
    for kind in ("JPEG", "PNG"):
        data = saved(kind, secret=True)
        assert len(said(data)) >= 2
        record = make_record(kind.lower(), width=40, height=24, emotion="awe").model_copy(
            update={"sha256": hashlib.sha256(data).hexdigest()}
        )
        rows.append((record, data, {"JPEG": "jpg", "PNG": "png"}[kind]))
    write_shards(rows, tmp_path / "tars", "x", 2)
    return References.load([str(tmp_path / "tars" / "x-test-000000.tar")])


def test_panels_examples_and_maps(references: References, tmp_path: Path) -> None:
    write_panel(tmp_path / "panel", {}, references, 2, seed=0)
    for file in (tmp_path / "panel").rglob("*.*"):
        assert said(file.read_bytes()) == [], file
    for row in range(2):
        shown = _picture(references.records[row], references.image(row), {})
        assert said(shown["image"] + held(shown["svg"])) == []
        assert len(held(shown["svg"])) > 500
    layout = MdsMap(
        np.array([[0.0, 1], [1, 0]]), ["awe", "awe"], ["jpeg", "png"], 0.0, None, None, 1.0, 1.0, 1, 2, np.array([[1], [0]])
    )
    found = write_mds_page(tmp_path / "mds.html", {"a": layout}, references)
    assert found["with_image"] == 2
    assert said(held((tmp_path / "mds.html").read_text())) == []


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_that_a_run_folder_holds(kind: str, tmp_path: Path) -> None:
    data = saved(kind, secret=True)
    file = tmp_path / f"a.{kind.lower().replace('jpeg', 'jpg')}"
    file.write_bytes(data)
    answer = dict.fromkeys(("description", "background", "attribute", "subject", "emotion", "intensity")) | {"boxes": []}
    item: AnsweredImage = {"id": "a", "size": [40, 24], "split": "x", "truth": answer, "predictions": {}}  # type: ignore[typeddict-item]
    for page in (embedded_picture(file, "a"), with_boxes(item, data, [])["svg"]):
        assert said(held(page)) == []
        assert len(held(page)) > 500
