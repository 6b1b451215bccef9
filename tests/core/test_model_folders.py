"""What a path of weights stands for: content and not place; and which base an adapter means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from emo_lightning.core import model_folders
from emo_lightning.core.model_folders import (
    BackboneError,
    check_made_of,
    hub_snapshot,
    locate,
    made_of,
    weights_hash,
    write_made_of,
)


def model_at(folder: Path, weights: str = "weights") -> Path:
    folder.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "README.md"):
        (folder / name).write_text(name)
    (folder / "model.safetensors").write_text(weights)
    return folder


def adapter_at(folder: Path, base: str, content: str | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": 4}))
    (folder / "adapter_model.safetensors").write_text("adapter")
    if content is not None:
        write_made_of(folder, {"base": content})
    return folder


@pytest.fixture(autouse=True)
def _each_test_warns_anew() -> None:
    model_folders.warn_once.cache_clear()


@pytest.mark.parametrize("changed", ["config.json", "tokenizer.json", "model.safetensors"])
def test_the_hash_is_of_what_decides_the_answers_and_not_of_the_place(tmp_path: Path, changed: str) -> None:
    one, two = model_at(tmp_path / "one"), model_at(tmp_path / "far" / "two")
    (two / "README.md").write_text("another")
    (two / "optimizer.pt").write_text("another")
    assert weights_hash(str(one)) == weights_hash(str(two))
    (two / changed).write_text("another one")
    assert weights_hash(str(one)) != weights_hash(str(two))


def test_an_adapter_stands_for_its_base_too(tmp_path: Path) -> None:
    base = model_at(tmp_path / "base")
    one, two = adapter_at(tmp_path / "one", str(base)), adapter_at(tmp_path / "two", str(model_at(tmp_path / "copy")))
    assert weights_hash(str(one)) == weights_hash(str(two)), "the same base at another place"
    (base / "model.safetensors").write_text("other weights")
    assert weights_hash(str(one)) != weights_hash(str(two))


def test_a_hub_id_stands_for_the_files_of_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    unknown = weights_hash("Me/Mine")
    repository = tmp_path / "hub" / "models--Me--Mine"
    snapshot = model_at(repository / "snapshots" / ("a" * 40))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    assert hub_snapshot("Me/Mine") == snapshot
    assert weights_hash("Me/Mine") == weights_hash(str(snapshot)) != unknown


def test_the_base_nearest_to_the_adapter_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of version 0.2, without a hash: the same relative name below another working directory is another project's."""
    mine = model_at(tmp_path / "mine" / "runs" / "tiny" / "model")
    adapter = adapter_at(tmp_path / "mine" / "runs" / "lora" / "adapter", "runs/tiny/model")
    model_at(tmp_path / "other" / "runs" / "tiny" / "model", "of another project")
    monkeypatch.chdir(tmp_path / "other")
    assert [locate(str(adapter)), locate(str(adapter))] == [(str(mine), adapter)] * 2
    assert capsys.readouterr().err.count("warning:") == 1


def test_the_base_with_the_right_content_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = model_at(tmp_path / "here" / "tiny")
    near = model_at(tmp_path / "there" / "tiny", "other weights")
    adapter = adapter_at(tmp_path / "there" / "adapter", "tiny", weights_hash(str(here)))
    monkeypatch.chdir(tmp_path / "here")
    assert Path(locate(str(adapter))[0]).resolve() == here
    (here / "model.safetensors").write_text("changed since")
    with pytest.raises(BackboneError, match=f"adapter {adapter} was trained on another base model than {near}"):
        locate(str(adapter))


def test_parts_that_do_not_belong_together_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert made_of(tmp_path) == {}
    write_made_of(tmp_path, {"backbone": "aa", "objective": "emotion"})
    check_made_of("the head", made_of(tmp_path), {"backbone": "aa"})
    with pytest.raises(BackboneError, match="the head was made with another backbone: aa; here it is bb"):
        check_made_of("the head", made_of(tmp_path), {"backbone": "bb"})
    assert not capsys.readouterr().err
    check_made_of("the head", made_of(tmp_path), {"backbone": "aa", "other": "x"})
    assert capsys.readouterr().err == "warning: the head does not name its other by content; taken as it is\n"
    check_made_of("an old head", {}, {"backbone": "bb"})
    assert capsys.readouterr().err.count("warning: an old head names no content hash") == 1
    (tmp_path / "made_of.json").write_text("[")
    with pytest.raises(BackboneError, match=r"made_of\.json: not JSON"):
        made_of(tmp_path)


def bundle_at(folder: Path, backbone: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "emo.json").write_text(json.dumps({"backbone": backbone}))
    return folder


def test_a_whole_model_stands_for_its_backbone(tmp_path: Path) -> None:
    base = model_at(tmp_path / "base")
    adapter = adapter_at(tmp_path / "run" / "adapter", str(base), weights_hash(str(base)))
    stage = bundle_at(tmp_path / "run" / "model", "../adapter")
    merged = bundle_at(model_at(tmp_path / "merged"), ".")
    of_merged = bundle_at(tmp_path / "again", "../merged")
    assert locate(str(stage)) == (str(base), adapter)
    assert weights_hash(str(stage)) == weights_hash(str(adapter))
    assert locate(str(merged)) == (str(merged), None)
    assert locate(str(of_merged)) == (str(merged), None)
    assert locate(str(bundle_at(tmp_path / "of id", "Qwen/Qwen2.5-VL-3B"))) == ("Qwen/Qwen2.5-VL-3B", None)
    for name, backbone, message in (
        ("round", "../trip", r"trip/emo\.json: key 'backbone': '../round' leads back to this file"),
        ("number", 3, "key 'backbone'"),
    ):
        bundle_at(tmp_path / "trip", "../round")
        with pytest.raises(BackboneError, match=message):
            locate(str(bundle_at(tmp_path / name, backbone)))
