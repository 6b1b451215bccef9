"""An option of `emo predict` is used or refused, never taken in silence."""

from __future__ import annotations

import json
import tarfile
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from emo_lightning.cli import main
from emo_lightning.commands.endpoint import _config
from emo_lightning.commands.predict import _launched, parser
from emo_lightning.core.errors import InputError
from emo_lightning.data.images import check_shapes
from emo_lightning.data.tar_index import TarIndex

ENDPOINT = ["--base-url", "http://127.0.0.1:1/v1", "--model", "m", "--api-key-env", "K", "--price", "0", "0"]


@pytest.mark.parametrize(
    "option",
    [
        "--batch-size 16",
        "--max-new-tokens 256",
        "--dtype auto",
        "--qlora",
        "--emotion-scores",
        "--accelerator cpu",
        "--devices 1",
        "--num-workers 0",
    ],
)
def test_of_a_local_model_at_an_endpoint(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", *ENDPOINT, "a.tar", "--out", "p.jsonl", *option.split()]) == 2
    assert capsys.readouterr().err.startswith(
        f"error: {option.split()[0]} is for a model on this machine; this is a model behind"
    )


@pytest.mark.parametrize(
    "option", ["--price 0 0", "--boxes pixels", "--store s", "--budget 1", "--estimate", "--resend-unknown"]
)
def test_of_an_endpoint_with_a_local_model(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "model", "a.tar", "--out", "p.jsonl", *option.split()]) == 2
    assert capsys.readouterr().err.startswith(f"error: {option.split()[0]} is for a model behind an endpoint")


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_devices_beside_a_launcher(launcher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    srun = {"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "2"} | {
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_STEP_ID": "0",
        "SLURM_JOB_NAME": "x",
        "SLURM_JOB_ID": "1",
    }
    for key, value in (torchrun if launcher == "torchrun" else srun).items():
        monkeypatch.setenv(key, value)
    given = ["model", "a.tar", "--out", "p.jsonl"]
    found = _launched(parser().parse_args(given))
    assert (found["devices"], found["num_nodes"], found["strategy"]) == (2, 2, "ddp")
    with pytest.raises(InputError, match="--devices 2: torchrun or srun has started the processes"):
        _launched(parser().parse_args([*given, "--devices", "2"]))


def test_pixels_of_an_endpoint() -> None:
    given = [*ENDPOINT, "a.tar", "--out", "p.jsonl"]
    config = _config(parser().parse_args([*given, "--boxes", "resized", "--max-pixels", "12544"]))
    assert (config.boxes, config.max_pixels) == ("resized", 12544)
    with pytest.raises(InputError, match="add --boxes resized"):
        _config(parser().parse_args([*given, "--max-pixels", "12544"]))
    with pytest.raises(InputError, match="is more than --max-pixels 100"):
        _config(parser().parse_args([*given, "--boxes", "resized", "--max-pixels", "100"]))


def test_a_picture_that_is_too_long_is_named(tmp_path: Path) -> None:
    path = tmp_path / "long.tar"
    record = {"source": "s", "sha256": "0" * 64, "split": "test"}
    with tarfile.open(path, "w") as tar:
        for key, size in (("a", (200, 1)), ("b", (18, 4096)), ("c", (3000, 2))):
            data = BytesIO()
            Image.new("RGB", size).save(data, "PNG")
            line = json.dumps({"id": key, "width": size[0], "height": size[1], **record}).encode()
            for name, content in ((f"{key}.png", data.getvalue()), (f"{key}.json", line)):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
    index = TarIndex.open([str(path)])
    with pytest.raises(InputError, match=r"long\.tar.*b.*'b' has 18x4096 pixels, more than 200 times.*\(2 of 3 pictures\)"):
        check_shapes(index)
    check_shapes(index.take([0]))
