"""The wheel alone, without the checkout around it: typed, and with the configurations and experiments that its commands name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from emo_lightning.experiment.files import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `pip install` fills it."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("emo_lightning", "data_prep", "configs", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "from setuptools import build_meta; build_meta.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


EACH = """
import contextlib, io, json, sys
from emo_lightning.cli import main
ended = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as said, contextlib.redirect_stderr(said):
        ended.append((main(words), said.getvalue()))
print(json.dumps(ended))
"""


def emo(installed: Path, cwd: Path, *commands: str) -> list[tuple[int, str]]:
    """Exit code and output of each `emo` command, away from the checkout, all in one process that imports torch once."""
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps([command.split() for command in commands])],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [(code, said) for code, said in json.loads(done.stdout)]


def relative(root: Path, *globs: str) -> set[str]:
    """Names of files below a folder."""
    return {
        str(path.relative_to(root))
        for glob in globs
        for path in root.rglob(glob)
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_everything_that_is_read_is_in_it(installed: Path) -> None:
    for package in ("emo_lightning", "data_prep"):
        assert (installed / package / "py.typed").is_file()
        mine = relative(
            ROOT / package,
            "*.py",
            "*.yaml",
            "*.html",
            "*.j2",
            "*.txt",
            "*.js",
            "*.css",
            "*.md",
            "*.json",
            "*.jinja",
            "*.safetensors",
        )
        assert mine <= relative(installed / package, "*")
    for folder in ("configs", "experiments"):
        assert relative(ROOT / folder, "*.yaml") == relative(installed / "emo_lightning/shipped" / folder, "*")
    assert list(installed.glob("*.dist-info/licenses/LICENSE"))
    assert {path.name for path in installed.iterdir()} - {"emo_lightning", "data_prep"} == {
        path.name for path in installed.glob("*.dist-info")
    }


def test_its_commands_find_their_files_from_any_directory(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extends: experiments/table6.yaml\nname: mine\nvars: {sft_epochs: 3}\n")
    sweep, missing, printed, factory = emo(
        installed,
        tmp_path,
        "sweep --check experiments/sweeps/lora.yaml",
        "run experiments/table7.yaml",
        "run mine.yaml --print_config",
        "prep annotate store --estimate",
    )
    assert sweep == (0, "experiments/sweeps/lora.yaml: no fault found\n")
    assert missing[0] == 2
    assert "experiments/table7.yaml: no such file; there are: experiments/ablate_backbone.yaml, " in missing[1]
    assert printed[0] == 0, printed[1]
    assert "max_epochs: 3" in printed[1]
    assert "runs/mine/round1" in printed[1]
    # The configuration is found; the store is not there.
    assert factory[0] == 2
    assert "configs" not in factory[1]
    assert "store" in factory[1]
