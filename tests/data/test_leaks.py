"""Test images in the training set are refused by name, unless told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emo_lightning.core.errors import InputError
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.data.features import FeatureWriter
from emo_lightning.data.leaks import Origin, check_leaks
from emo_lightning.data.supervision import Supervision
from emo_lightning.data.tar_index import TarIndex
from tests.data.test_tar_index import picture, record, write_tar


def tar(path: Path, numbers: range, split: str = "train", picture_of: int = 0, group: str | None = None) -> TarIndex:
    members = {}
    for number in numbers:
        image = picture(number + picture_of)
        provenance = {} if group is None else {"group": group}
        members[f"s{number:03d}.json"] = record(number, image, split=split, provenance=provenance)
        members[f"s{number:03d}.png"] = image
    return TarIndex.open(write_tar(path, members))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ({"numbers": range(3)}, {"numbers": range(2, 4)}, "1 of 2 images of the set 'test' are also in 'train', .*first: s002"),
        ({"numbers": range(3)}, {"numbers": range(5, 6), "picture_of": -4}, "1 of 1 images .*first: s005 and s001"),
        (
            {"numbers": range(1), "group": "near:a"},
            {"numbers": range(5, 6), "group": "near:a"},
            "1 of 1 images .*s005 and s000",
        ),
        (
            {"numbers": range(3), "split": "Test"},
            {"numbers": range(5, 6)},
            "3 of 3 records of the set 'train' say split 'Test'",
        ),
    ],
    ids=["id", "bytes", "group", "split"],
)
def test_leaks(
    train: dict[str, object], test: dict[str, object], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = {
        "train": tar(tmp_path / "train.tar", **train),  # type: ignore[arg-type]
        "test": tar(tmp_path / "test.tar", **test),  # type: ignore[arg-type]
    }
    with pytest.raises(InputError, match=rf"{message}.*data.allow_leaks: true"):
        check_leaks(sets, allowed=False)
    check_leaks(sets, allowed=True)
    assert "as data.allow_leaks says" in capsys.readouterr().err


def test_sets_that_have_nothing_in_common(tmp_path: Path) -> None:
    check_leaks(
        {
            "train": tar(tmp_path / "a.tar", range(3)),
            "val": tar(tmp_path / "b.tar", range(3, 5), "val"),
            "test": tar(tmp_path / "c.tar", range(5, 7), "test"),
        },
        allowed=False,
    )


def cache(folder: Path, origins: list[Origin | str]) -> str:
    with FeatureWriter(folder, 1, 4, torch.float32, "toy") as writer:
        for one in origins:
            origin = one if isinstance(one, Origin) else None
            writer.append(origin.id if origin else str(one), torch.ones(1, 2, 4), Supervision(emotion=1), origin)
    return str(folder)


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (["a", "c"], "1 of 2 images of the set 'test' are also in 'train', or near to one .first: a"),
        ([Origin("c", "test", "f" * 64)], "first: c and b"),
        ([Origin("c", "test", "0" * 64, "near:7")], "first: c and b"),
    ],
    ids=["id alone, as version 0.2 wrote it", "bytes", "group"],
)
def test_caches_that_are_given_by_hand(test: list[Origin | str], message: str, tmp_path: Path) -> None:
    """They may come of two stages, each of which saw its own sets alone."""
    train = cache(tmp_path / "train", ["a", Origin("b", "train", "f" * 64, "near:7")])
    val = cache(tmp_path / "val", [Origin("v", "val", "e" * 64)])
    paths = (train, val, cache(tmp_path / "test", test))
    data = FeatureDataModule(*paths)
    data.setup("fit")
    with pytest.raises(InputError, match=message):
        data.setup("test")
    FeatureDataModule(*paths, allow_leaks=True).setup("test")
    # A cache of held-out images as the training set.
    with pytest.raises(InputError, match="1 of 1 records of the set 'train' say split 'val'"):
        FeatureDataModule(val, train).setup("fit")
