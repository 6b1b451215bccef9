"""README and docs: every command that they print is understood, every link and file is there, every block of Python compiles."""

from __future__ import annotations

import argparse
import ast
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

import emo_lightning
from data_prep.cli import COMMANDS as PREP_COMMANDS
from emo_lightning.cli import COMMANDS, main
from emo_lightning.core.options import Parser
from emo_lightning.experiment.files import find_file, read_experiment

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
RECIPES = DOCS / "recipes"
"""What a recipe prints may exist only where its diff is applied, as `test_recipes.py` does."""
MADE_THERE = {"base.yaml", "tiny.yaml", "my-pass.yaml", "submission.yaml", "config.yaml"}
"""Files that the reader writes, or a stage."""
_SHELL = ("", "bash", "sh", "console")


def machine_paths(text: str) -> list[str]:
    """Folders of the machine that a page was written on."""
    return re.findall(r"(?<![\w.:/-])/(?:work|tmp|root|home|Users)/\S*", text)


def name_of(page: Path) -> str:
    """Of a page, in the ids of tests."""
    return str(page.relative_to(ROOT))


class Block(NamedTuple):
    """A fenced block of code."""

    page: Path
    language: str
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """Those of a page, also indented ones."""
    text = page.read_text(encoding="utf-8")
    for indent, language, body in re.findall(r"^( *)```([\w-]*)[^\n]*\n(.*?)^\1```", text, re.MULTILINE | re.DOTALL):
        yield Block(page, language, re.sub(rf"^{indent}", "", body, flags=re.MULTILINE))


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^( *)```.*?^\1```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def test_the_version_is_the_newest_release_of_the_changelog() -> None:
    """A release changes three files; one that is forgotten says another version than the package."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == version
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    releases = [heading for heading in headings if heading != "[Unreleased]"]
    assert headings[0] in ("[Unreleased]", releases[0])
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d{2}-\d{2}", release) for release in releases)
    assert releases[0].startswith(f"[{version}] ")


def command_lines() -> list[tuple[str, str]]:
    """(page, command) of every line of a block that starts one of our commands, behind a launcher too."""
    found: dict[tuple[str, str], None] = {}
    for page in PAGES:
        if page.is_relative_to(RECIPES):
            continue
        for block in blocks(page):
            if block.language not in _SHELL:
                continue
            for line in block.text.replace("\\\n", " ").splitlines():
                line = re.sub(r"^(torchrun .*?-m emo_lightning|srun emo|\.venv/bin/emo|lightning(?= run))", "emo", line.strip())
                if line.startswith("emo "):
                    found[name_of(page), line.replace("$PASS", "pass.yaml")] = None
    return list(found)


class _Parsed(BaseException):
    """Arguments were understood; the command goes no further. No Exception, which the command line would explain."""


def _and_no_further(parse: Callable[..., object]) -> Callable[..., None]:
    def parsed(parser: argparse.ArgumentParser, *arguments: object) -> None:
        parse(parser, *arguments)
        raise _Parsed

    return parsed


@pytest.mark.parametrize(("page", "line"), command_lines())
def test_a_command_is_understood(page: str, line: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words = shlex.split(line, comments=True)[1:]
    if words[0] == "run":
        check_run(words[1:])
    elif words[0] == "sweep":
        check_sweep(words[1:])
    elif words[0] == "demo":
        assert words[1:] in ([], ["--fast"])
    else:
        for kind in (argparse.ArgumentParser, Parser):
            monkeypatch.setattr(kind, "parse_args", _and_no_further(kind.parse_args))
        # What parses its words in another way would run: nothing of it comes into the checkout, and there is nothing for it to work on.
        monkeypatch.chdir(tmp_path)
        with pytest.raises(_Parsed):
            main(words)


def check_run(words: list[str]) -> None:
    """The experiment is one that is shipped, and its overrides name variables and stages that it has."""
    from emo_lightning.commands.run import parse

    line = parse(words)
    if line.experiment in MADE_THERE:
        return
    path = find_file(line.experiment, ROOT)
    assert path.is_file(), line.experiment
    tree = read_experiment(path)
    for key, _ in line.overrides:
        first, _, rest = key.partition(".")
        if first == "vars":
            assert rest.partition(".")[0] in tree["vars"], key
        else:
            assert first in tree["stages"] or any(first in stage for stage in tree["stages"].values()), key


def check_sweep(words: list[str]) -> None:
    """The options are known and the file is there."""
    from emo_lightning.commands.sweep import parse

    assert [(ROOT / file).is_file() for file in parse(words).files] == [True]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_in_the_text_are_there(page: Path) -> None:
    if page.is_relative_to(RECIPES):
        pytest.skip("its commands are tested with its diff")
    for text in re.findall(r"`emo ([a-z][^`\n]*)`", prose(page)):
        name, *rest = re.split(r"[\s…|]+", text)
        assert name in COMMANDS, text
        if name == "prep" and rest and re.fullmatch(r"[a-z][\w-]*", rest[0]):
            assert rest[0] in PREP_COMMANDS, text


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+://|#|mailto:", target):
            continue
        assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_are_there(page: Path) -> None:
    if page.is_relative_to(RECIPES) or page.name == "CHANGELOG.md":
        pytest.skip("it names files that come with its diff, or that were")
    rooms = r"(?:emo_lightning|data_prep|experiments|configs|tests|benchmarks|docs|\.ci)/[\w./-]*"
    for name in re.findall(rf"`({rooms})`", prose(page)):
        if "NAME" not in name:
            assert (ROOT / name).exists(), name
    known = {path.name for folder in ("experiments", "configs") for path in (ROOT / folder).rglob("*.yaml")}
    for name in re.findall(r"`([\w-]+\.yaml)`", prose(page)):
        assert name in known | MADE_THERE, name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_compiles_and_uses_names_that_are_public(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python" and not page.is_relative_to(RECIPES):
            tree = ast.parse(block.text)
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.module == "emo_lightning":
                    assert {alias.name for alias in node.names} <= set(emo_lightning.__all__)
        elif block.language == "yaml":
            yaml.safe_load(block.text)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_page_knows_the_machine_it_was_written_on(page: Path) -> None:
    assert machine_paths(page.read_text(encoding="utf-8")) == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_experiments_of_the_tutorial_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, tiny = (block.text for block in blocks(DOCS / "tutorials/table6.md") if block.language == "yaml")
    (tmp_path / "base.yaml").write_text(base, encoding="utf-8")
    (tmp_path / "tiny.yaml").write_text(tiny, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    shipped = read_experiment(ROOT / "experiments/table6.yaml")
    tree = read_experiment(Path("tiny.yaml"))
    assert list(tree["stages"]) == ["init", "base", *shipped["stages"]]
    assert set(tree["vars"]) == set(shipped["vars"])
    for stage in tree["stages"].values():
        assert all((ROOT / "configs" / name).is_file() for name in stage.get("defaults", []))
