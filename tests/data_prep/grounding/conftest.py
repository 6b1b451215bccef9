"""Images whose records only lack their regions, and models without a trained weight."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from skimage import data

from data_prep.store.rows import Outcome
from data_prep.store.store import Store
from tests.data_prep.conftest import item_of
from tests.data_prep.grounding.models import save_transformers_models


@pytest.fixture
def store(tmp_path: Path, toys: list) -> Iterator[Store]:
    """24 images with a valid record each."""
    store = Store(tmp_path / "store", write=True)
    store.import_items([item_of(record, data) for record, data in toys])
    for record, _ in toys:
        bare = record.model_copy(update={"objects": []}).to_json().decode()
        outcome = Outcome(record.id, "valid", "digest", 0, bare)
        store.ledger.write_now(("INSERT INTO outcomes VALUES (?, ?, ?, ?, ?)", tuple(vars(outcome).values())))
    yield store
    store.close()


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    """Photographs of several shapes, two of them of one shape."""
    photograph = Image.fromarray(data.astronaut())
    sizes = [(120, 90), (60, 90), (120, 90), (200, 80), (97, 101), (90, 60)]
    return [photograph.rotate(40 * i).resize(size) for i, size in enumerate(sizes)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """`dino` and `sam` for transformers; neither of the original packages is needed."""
    torch.manual_seed(0)
    return save_transformers_models(tmp_path_factory.mktemp("folders"), size={"shortest_edge": 96, "longest_edge": 160})
