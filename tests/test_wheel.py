"""The wheel alone, without the checkout around it: typed, and with the configurations and experiments that its commands name."""

from __future__ import annotations

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
    done = subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = (source / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def emo(installed: Path, cwd: Path, *words: str) -> tuple[int, str]:
    """Exit code and output of `emo`, away from the checkout."""
    done = subprocess.run(
        [sys.executable, "-m", "emo_lightning", *words],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


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
        mine = relative(ROOT / package, "*.py", "*.html", "*.j2", "*.txt", "*.js", "*.css")
        assert mine <= relative(installed / package, "*")
    for folder in ("configs", "experiments"):
        assert relative(ROOT / folder, "*.yaml") == relative(installed / "emo_lightning/shipped" / folder, "*")
    assert list(installed.glob("*.dist-info/licenses/LICENSE"))
    assert {path.name for path in installed.iterdir()} - {"emo_lightning", "data_prep"} == {
        path.name for path in installed.glob("*.dist-info")
    }


def test_sweeps_and_experiments_are_found_from_any_directory(installed: Path, tmp_path: Path) -> None:
    code, said = emo(installed, tmp_path, "sweep", "--check", "experiments/sweeps/lora.yaml")
    assert (code, said) == (0, "experiments/sweeps/lora.yaml: no fault found\n")
    code, said = emo(installed, tmp_path, "run", "experiments/table7.yaml")
    assert code == 2
    assert "experiments/table7.yaml: no such file; there are: experiments/ablate_backbone.yaml, " in said
    (tmp_path / "mine.yaml").write_text("extends: experiments/table6.yaml\nname: mine\nvars: {sft_epochs: 3}\n")
    code, said = emo(installed, tmp_path, "run", "mine.yaml", "--print_config")
    assert code == 0, said
    assert "max_epochs: 3" in said
    assert "runs/mine/round1" in said


def test_the_factory_finds_its_configuration(installed: Path, tmp_path: Path) -> None:
    code, said = emo(installed, tmp_path, "prep", "annotate", "store", "--estimate")
    assert code == 1
    assert "configs" not in said
    assert "store" in said
