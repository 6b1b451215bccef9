"""One index for all tests that only ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from emo_lightning.search import SearchIndex
from tests.search.planted import planted, write


@pytest.fixture(scope="session")
def index_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """800 planted images."""
    folder = tmp_path_factory.mktemp("index")
    write(folder, planted(800))
    return folder


@pytest.fixture
def index(index_folder: Path) -> SearchIndex:
    """The same, opened."""
    return SearchIndex.open(index_folder)
