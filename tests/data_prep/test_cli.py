"""`emo prep …` from the first import to the tars, as a user types it."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_prep.cli import COMMANDS, main
from data_prep.demo.config import DemoConfig
from data_prep.demo.prepare import prepare_world
from data_prep.demo.simulation.serve import KEY_VARIABLE, simulated_annotators
from data_prep.provider.budget import NANO_PER_DOLLAR
from data_prep.store.store import Store
from emo_lightning.core.errors import InputError
from emo_lightning.core.records import Record
from tests.data_prep.conftest import item_of, picture, truth


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"emo prep {command}" in capsys.readouterr().out.split("example:")[1]


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "pydantic", "openai", "PIL", "numpy")
    code = f"import sys, data_prep.cli as c; c.main(['--help']); print([m for m in {heavy} if m in sys.modules])"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True).stdout.splitlines()[-1]
        == "[]"
    )


def test_own_photographs_from_import_to_tars(
    tmp_path: Path, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")
    known = [truth(seed) for seed in range(8)]
    photos = tmp_path / "photos"
    photos.mkdir()
    for record, data in known:
        (photos / f"{record.id}.png").write_bytes(data)
    (photos / "broken.png").write_bytes(picture(1)[:60])
    store, config = str(tmp_path / "store"), str(write_config())

    assert main(["import", "folder", str(photos), "--into", store, "--name", "mine", "--licence", "CC-BY-4.0"]) == 0
    out = capsys.readouterr()
    assert "added 8" in out.out
    assert "broken.png" in out.err

    with simulated_annotators([record for record, _ in known], config) as server:
        assert main(["annotate", store, "--config", config, "--base-url", server.base_url]) == 0
        assert "outcomes:" in capsys.readouterr().out
        assert main(["annotate", store, "--config", config, "--base-url", server.base_url]) == 0
        assert "requests 0," in capsys.readouterr().out

    assert main(["status", store, "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["outcomes"]["valid"] >= 1
    assert status["nano_dollars"] == sum(row["nano_dollars"] for row in status["calls"])

    assert main(["export", store, str(tmp_path / "tars"), "--name", "mine"]) == 0
    manifest = json.loads((tmp_path / "tars/manifest.json").read_text())
    assert sum(manifest["counts"].values()) == status["outcomes"]["valid"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "nowhere", "x", "--into", "{tmp}/s"], "unknown source 'nowhere'"),
        (["import", "folder", "{tmp}/none", "--into", "{tmp}/s"], "no such folder"),
        (["annotate", "{tmp}/s", "--config", "{tmp}/none.yaml"], "no such file"),
        (["export", "{tmp}/none", "{tmp}/out"], "no ledger there"),
        (["status", "{tmp}/none"], "no ledger there"),
        (["annotate", "{tmp}/s", "--config", "{tmp}/deep.yaml"], "deep.yaml: not YAML: line 1: nested deeper than 64"),
        (["annotate", "{tmp}/s", "--config", "{tmp}/day.yaml"], "day.yaml: not YAML: day is out of range for month"),
        (["annotate", "{tmp}/s", "--base-url", "http://[::1"], "base_url 'http://[::1': expected an address, e.g. https://"),
        (["annotate", "{tmp}/s", "--base-url", ""], "base_url '': expected an address"),
        (
            ["expand", "images", "{tmp}/s", "--count", "1", "--base-url", "localhost:8000"],
            "base_url 'localhost:8000': expected",
        ),
        (
            ["import", "world", "{tmp}/splits.yaml", "--into", "{tmp}/s"],
            "world has no split 'tset'; allowed: backbone, pretrain, train",
        ),
        (
            ["annotate", "{tmp}/s", "--config", "{tmp}/tokens.yaml"],
            "key 'critic.parameters': cannot be sent as JSON",
        ),
        (["world", "{tmp}/out", "--split", "tset", "--count", "3"], "tset"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    write_config: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "deep.yaml").write_text("[" * 5000)
    (tmp_path / "day.yaml").write_text("a: 2026-02-30")
    write_config(lambda c: c["world"].update(splits={"tset": 3})).rename(tmp_path / "splits.yaml")
    write_config(lambda c: c["critic"].update(parameters={"max_tokens": math.nan})).rename(tmp_path / "tokens.yaml")
    assert main([a.format(tmp=tmp_path) for a in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        ("import", "folder", "photos", "--into"),
        ("expand", "queries", "store", "--count", "1", "--out"),
        ("review", "store", "--report", "--out"),
        ("review", "store", "--label-studio-export"),
        ("graph", "store", "--out"),
        ("stats", "store", "--out"),
        ("table3", "store", "--out"),
        ("backup", "store"),
        ("emovit-convert", "weights.pth", "--base", "base", "--out"),
    ],
)
def test_where_to_write_is_no_url(
    command: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A path of it would be a folder of that name here."""
    monkeypatch.chdir(tmp_path)
    assert main([*command, "s3://bucket/x"]) == 2
    assert "expected a path of this machine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_what_a_pass_cost_is_said_whatever_ends_it(
    tmp_path: Path,
    toys: list,
    write_config: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")

    def without_detector(config: dict[str, Any]) -> None:
        config["grounding"] = {"backend": "transformers", "detector": "/none/detector"}
        for endpoint in [*config["annotators"], config["critic"]]:
            endpoint["max_attempts"] = 2

    path, root = write_config(without_detector), tmp_path / "store"
    with Store(root, write=True) as store:
        store.import_items([item_of(record, data) for record, data in toys[:3]])
    command = ["annotate", str(root), "--config", str(path), "--base-url"]
    assert main([*command, "http://127.0.0.1:9/v1"]) == 2
    said = capsys.readouterr()
    assert "cost of this run $0.000000" in said.out
    assert "cannot connect to http://127.0.0.1:9/v1" in said.err
    with simulated_annotators([record for record, _ in toys[:3]], path) as server:
        assert main([*command, server.base_url, "--check"]) == 0
        assert "boxes cannot be made here: /none/detector: no such file or folder" in capsys.readouterr().out
        assert main([*command, server.base_url]) == 2
        said = capsys.readouterr()
        assert "outcomes: valid" in said.out or "outcomes: human" in said.out
        assert (
            f"cost of this run ${sum(row['nano_dollars'] for row in server.bill().values()) / NANO_PER_DOLLAR:.6f}" in said.out
        )
        assert "/none/detector" in said.err


def test_the_demo_world_is_prepared_once(
    tmp_path: Path, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")
    counts: dict[str, Any] = {"train": 40, "val": 8, "test": 6, "heldout": 6, "pretrain": 10}
    told: dict[str, tuple[int, int]] = {}
    result = prepare_world(
        tmp_path,
        seed=3,
        config=write_config(),
        **counts,
        progress=lambda what, done, total, _note: told.update({what: (done, total)}),
    )
    assert list(told) == ["draw", "annotate", "ground", "export", "draw test, heldout", "draw pretrain, val"]
    assert all(done == total for done, total in told.values()), "every bar ends at its end"
    assert result["outcomes"]["pending"] == 0
    assert result["exported"]["train"] + result["exported"]["val"] == result["outcomes"]["valid"]
    assert result["cost_nano"] == sum(row["nano_dollars"] for row in result["server_bill"].values())
    assert min(result["accuracy"].values()) > 0.7
    written = {p: p.read_bytes() for p in tmp_path.rglob("*.tar")}
    assert {p.name for p in written} == {f"world-{s}-000000.tar" for s in ("train", "val", "test", "heldout", "pretrain")}
    again = prepare_world(tmp_path, seed=3, config=write_config(), **counts)
    assert again["requests"] == 0
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.tar")} == written
    with pytest.raises(InputError, match="are there already with other content; was it made with another seed"):
        prepare_world(tmp_path, seed=4, config=write_config(), **counts)
    neutral = json.loads((tmp_path / "neutral/manifest.json").read_text())
    assert neutral["label_counts"] == {"pretrain": {}, "val": {}}, "neutral tars name no emotion"


def test_world_source_hides_its_truth(tmp_path: Path, write_config: Callable[..., Path]) -> None:
    path = write_config(lambda c: c["world"].update(splits={"train": 5, "val": 2}))
    assert main(["import", "world", str(path), "--into", str(tmp_path / "s")]) == 0
    from data_prep.demo.simulation.serve import store_truth
    from data_prep.store.store import Store

    with Store(tmp_path / "s", write=False) as store:
        items = list(store.ledger.items())
    known = store_truth(tmp_path / "s", DemoConfig.load(path))
    assert {r.sha256 for r in known} == {i.sha256 for i in items}
    assert all(isinstance(r, Record) for r in known)
    assert {i.split for i in items} == {"train", "val"}
    assert all(set(i.labels) == {"emotion"} for i in items)
