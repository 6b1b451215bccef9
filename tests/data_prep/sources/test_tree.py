"""Names that an index gives are looked up below the root and nowhere else."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest

from data_prep.sources.base import RefusedError, SourceError
from data_prep.sources.tree import NoSuchFileError, Tree, key_of
from tests.data_prep.conftest import picture
from tests.data_prep.sources.trees import write


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    write(tmp_path, {"secret.jpg": 1, "root/images/a.jpg": 2, "root/notes.txt": "x"})
    root = tmp_path / "root"
    (root / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "outside").symlink_to(tmp_path)
    (root / "inside.jpg").symlink_to(root / "images/a.jpg")
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    (root / "loop.jpg").symlink_to(root / "loop.jpg")
    os.mkfifo(root / "pipe.jpg")
    return Tree(root)


@pytest.mark.parametrize(
    "name", ["images/a.jpg", "./images//a.jpg", "images\\a.jpg", ".\\images\\a.jpg", "inside.jpg", " images/a.jpg"]
)
def test_spellings_of_a_path_that_is_there(tree: Tree, name: str) -> None:
    assert tree.image(name).data == picture(2, kind="JPEG")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../secret.jpg", "path with '..'"),
        ("images/../../secret.jpg", "path with '..'"),
        ("images\\..\\..\\secret.jpg", "path with '..'"),
        ("/etc/passwd", "absolute path"),
        ("\\\\server\\share\\a.jpg", "absolute path"),
        ("C:\\a.jpg", "absolute path"),
        ("", "no path"),
        ("./", "no path"),
        ("images/a\x00.jpg", "no path"),
        ("out.jpg", "link out of the tree"),
        ("outside/secret.jpg", "link out of the tree"),
        ("gone.jpg", "broken link"),
        ("loop.jpg", "broken link"),
        ("pipe.jpg", "not a regular file"),
        ("images", "not a regular file"),
        ("notes.txt/a.jpg", "no such file"),
        ("notes.txt", "not an image"),
        ("x" * 5000, "no such file"),
    ],
)
def test_path_tricks_are_refused(tree: Tree, name: str, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        tree.image(name)


def test_either_unicode_form_finds_the_file(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café/été.jpg") for form in ("NFC", "NFD"))
    assert composed != decomposed
    for on_disk, asked in ((composed, decomposed), (decomposed, composed)):
        root = write(tmp_path / str(len(on_disk)), {on_disk: 3})
        assert Tree(root).image(asked).width == 40
    assert key_of(composed) == key_of(decomposed)


def test_missing_is_told_from_refused(tree: Tree) -> None:
    with pytest.raises(NoSuchFileError):
        tree.file("images/b.jpg")
    assert (tree.has("images/a.jpg"), tree.has("out.jpg"), tree.has("images/b.jpg")) == (True, True, False)


def test_index_and_folder_do_not_leave_the_tree(tree: Tree) -> None:
    with pytest.raises(SourceError, match="link out of the tree"):
        tree.index("none.json", "out.jpg")
    with pytest.raises(SourceError, match="link out of the tree"):
        tree.folder("outside")
    with pytest.raises(SourceError, match="looked for pictures/, photos/"):
        tree.folder("pictures", "photos")
    assert (tree.folder("pictures", "images"), tree.folder("pictures", "."), tree.index("none.json")) == ("images/", "", None)
