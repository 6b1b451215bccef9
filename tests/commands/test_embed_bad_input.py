"""`emo embed` on damaged input: one line that names the file, and never a tar in --out that looks whole."""

from __future__ import annotations

import resource
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from emo_lightning.cli import main


def flipped(shard: Path, member: int, header: bool) -> None:
    """One bit of a member's header or content is another."""
    data = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        found = tar.getmembers()[member]
    data[(found.offset + 10) if header else (found.offset_data + 200)] ^= 0x10
    shard.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "cannot be read: No such file"),
        (lambda shard: shard.write_bytes(b""), "the file is empty"),
        (lambda shard: shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2]), "truncated"),
        (lambda shard: shard.write_bytes(b"PK\x03\x04" + bytes(5000)), "looks like zip"),
        (lambda shard: flipped(shard, 6, True), "corrupted tar header"),
        (lambda shard: flipped(shard, 2, False), "sha256 of the bytes is"),
    ],
    ids=["missing", "no bytes", "truncated", "a zip", "header", "image"],
)
def test_damaged_tars(
    damage: Callable[[Path], object],
    message: str,
    world_tars: Path,
    bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shard = Path(shutil.copy(world_tars / "world-val-000000.tar", tmp_path / "bad.tar"))
    damage(shard)
    out = tmp_path / "out"
    capsys.readouterr()
    assert main(["embed", str(shard), "--model", str(bundle), "--out", str(out), "--device", "cpu"]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert str(shard) in error[0]
    assert message in error[0]
    assert not list(out.glob("*.tar"))
    assert not (out / "manifest.json").exists()


def test_no_room_on_the_disk(world_tars: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit on the size of files stands for a full disk; with room, the same command ends well."""
    command = [
        "embed",
        str(world_tars / "world-val-000000.tar"),
        "--model",
        str(bundle),
        "--out",
        str(tmp_path),
        "--device",
        "cpu",
    ]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        assert main(command) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    error = capsys.readouterr().err
    assert "error: cannot write: File too large; make room, then run the same command again" in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("*.tar"))
    assert main(command) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "embedding.json",
        "manifest.json",
        "world-val-000000.index.npz",
        "world-val-000000.tar",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used: "),
        (["--device", "gpu"], "device 'gpu' cannot be used: "),
        (["--model", "/nowhere"], "/nowhere: no such folder; expected the folder of an emotion model"),
        (["--out", "TARS/world-val-000000.tar"], "world-val-000000.tar: is a file; tars go to a folder"),
    ],
    ids=["no such GPU", "no such device", "no such model", "out is a file"],
)
def test_wrong_options(
    options: list[str], message: str, world_tars: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["embed", str(world_tars / "world-val-000000.tar"), "--model", str(bundle), "--out", str(tmp_path / "out")]
    assert main([*command, *(word.replace("TARS", str(world_tars)) for word in options)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert message in error
