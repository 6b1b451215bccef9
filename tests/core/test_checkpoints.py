"""A checkpoint in a run folder that somebody has handed on: read as plain values, or refused by name; no code of it is run."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from emo_lightning.core.checkpoints import CheckpointFileError, read_checkpoint

PLAIN: dict[str, object] = {
    "state_dict": {"w": torch.arange(6.0)},
    "epoch": 1,
    "global_step": 2,
    "loops": {"fit_loop": {"state_dict": {}, "epoch": 1}},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(2.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}],
    "lr_schedulers": [{"base_lrs": [0.1]}],
    "callbacks": {"ModelCheckpoint": {"best_model_path": "x", "best_model_score": torch.tensor(1.0)}},
}


class Mark:
    """What its pickle does when it is read: it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], object], tuple[Path]]:
        return Path.touch, (self.path,)


def saved(path: Path, **changes: object) -> Path:
    torch.save(PLAIN | changes, path)
    return path


def test_what_lightning_writes_is_read(tmp_path: Path) -> None:
    found = read_checkpoint(saved(tmp_path / "last.ckpt"))
    assert found.keys() == PLAIN.keys()
    assert isinstance(state := found["state_dict"], dict)
    assert state["w"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("place", ["callbacks", "hyper_parameters", "loops", "state_dict"])
def test_code_is_not_run(tmp_path: Path, place: str) -> None:
    mark = tmp_path / "ran"
    path = saved(tmp_path / "last.ckpt", **{place: {"x": Mark(mark)}})
    with pytest.raises(CheckpointFileError, match=r"last\.ckpt: holds more than tensors, numbers and texts.*remove it"):
        read_checkpoint(path)
    assert not mark.exists()


def bare_pickle(path: Path) -> None:
    torch.save(PLAIN, path, _use_new_zipfile_serialization=False)


def packed(path: Path) -> None:
    with zipfile.ZipFile(saved(path)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data + bytes(1 << 20) if name.endswith("data/0") else data)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "cut": (lambda path: saved(path).write_bytes(path.read_bytes()[:-300]), "cut off"),
    "empty": (lambda path: path.write_bytes(b""), "cut off"),
    "text": (lambda path: path.write_text("hello"), "no checkpoint of torch"),
    "a bare pickle": (bare_pickle, "no checkpoint of torch"),
    "packed": (packed, "packed"),
    "a folder": (Path.mkdir, "a folder; expected a file"),
    "a list": (lambda path: torch.save([1], path), "no checkpoint of a training"),
    "weights of something else": (lambda path: torch.save({"w": torch.zeros(2)}, path), "no checkpoint of a training"),
    "no epoch": (lambda path: saved(path, epoch="two"), "no checkpoint of a training"),
    "tensors of a terabyte": (
        lambda path: saved(path, state_dict={"w": torch.zeros(1).expand(1 << 40)}),
        "claim 4,398,046,5",
    ),
}


@pytest.mark.parametrize("fault", SPOILT)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, fault: str) -> None:
    spoil, message = SPOILT[fault]
    path = tmp_path / "last.ckpt"
    spoil(path)
    with pytest.raises(CheckpointFileError, match=rf"last\.ckpt: .*{message}"):
        read_checkpoint(path)


def test_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFileError, match=r"last\.ckpt: no such file"):
        read_checkpoint(tmp_path / "last.ckpt")
