"""The six recipes: each diff applies to the present tree, as its page prints it, and the quick commands of the page do what it says."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/recipes"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")
COPIED = ("emo_lightning", "data_prep", "tests", "configs", "experiments", "docs", "pyproject.toml")
QUICK = {
    "backbone-family": ["pytest tests/models/families/test_qwen2_vl.py"],
    "data-source": ["pytest tests/data_prep/sources/test_postcards.py"],
    "des-loss": ["pytest tests/models/test_des_losses.py"],
    "provider": ["pytest tests/data_prep/provider/test_anthropic.py"],
    "sweep": ["emo sweep experiments/sweeps/temperature.yaml --check"],
    "table": ["pytest tests/analysis/test_table6_emotions.py"],
}
"""Page -> commands that it prints and that end within seconds; the others need a finished run, a GPU or a key."""


EACH = """
import json, sys
import pytest
from emo_lightning.cli import main
others, *tests = sys.argv[1:]
sys.exit(pytest.main(tests) or max(main(words) for words in json.loads(others)))
"""
"""The commands of `emo` and pytest with its arguments, one after the other."""


def blocks(page: str, language: str) -> str:
    """All code blocks of a page in one language, one after the other."""
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    return "".join(re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def apply(page: str, folder: Path, *options: str) -> None:
    """Apply a page's diffs to the tree in a folder."""
    # A folder inside of a checkout would be taken for a part of it.
    environment = {**os.environ, "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(
        ["git", "apply", *options],
        cwd=folder,
        env=environment,
        input=blocks(page, "diff"),
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, (
        f"docs/recipes/{page}.md no longer fits the code. Apply its diffs with `git apply --3way`, mend what is left, "
        f"and put the new `git diff` into the page.\n{done.stderr}"
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The present tree, without what the tests of a recipe do not need."""
    for name in COPIED:
        source, target = ROOT / name, tmp_path / "tree" / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    return tmp_path / "tree"


def test_there_are_six_and_the_index_links_them() -> None:
    index = (FOLDER / "index.md").read_text(encoding="utf-8")
    assert sorted(QUICK) == PAGES
    assert len(PAGES) == 6
    assert all(f"]({page}.md)" in index for page in PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_the_diff_fits(page: str) -> None:
    apply(page, ROOT, "--check")


def test_the_commands_do_what_the_pages_say(copy: Path) -> None:
    """All six in one tree, which they have to share somewhere, and all commands in one process: a new one takes eight seconds."""
    for page, commands in QUICK.items():
        apply(page, copy)
        assert set(commands) <= set(blocks(page, "bash").splitlines())
    split = [shlex.split(command) for commands in QUICK.values() for command in commands]
    tests = [argument for program, *rest in split if program == "pytest" for argument in rest]
    others = [rest for program, *rest in split if program == "emo"]
    assert len(tests) + len(others) == len(split)
    # Of the copy, not of the installed package.
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    command = [sys.executable, "-c", EACH, json.dumps(others), "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_index_takes_the_diffs_out_of_a_page() -> None:
    line = next(line for line in blocks("index", "bash").splitlines() if line.startswith("sed "))
    assert line.endswith("| git apply")
    done = subprocess.run(
        line.removesuffix("| git apply"), shell=True, cwd=ROOT, capture_output=True, encoding="utf-8", check=True
    )
    assert done.stdout == blocks("des-loss", "diff")
