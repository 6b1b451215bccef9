"""`emo export RUN`: a folder with the run's own results, and a card that the hub's library reads."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data_prep.demo.world import World
from data_prep.export import write_shards
from emo_lightning.cli import main
from emo_lightning.core.records import EMOTIONS, Prediction, Record, write_jsonl
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.inference.bundle import Bundle, write_bundle
from emo_lightning.inference.model import EmotionModel
from emo_lightning.stages.tables import table5_stage
from tests.made import book


def scores_of(record: Record, sharp: float) -> list[float]:
    """Right in two of three, and surer than that."""
    assert record.emotion is not None
    said = (record.emotion.position + (int(record.sha256, 16) % 3 == 0)) % 8
    return [sharp if n == said else (1 - sharp) / 7 for n in range(8)]


def answered(index: TarIndex, split: str) -> tuple[list[Prediction], EmbeddingTable]:
    """What a probe stage writes of one set."""
    records = [index.record(row) for row in range(len(index))]
    said = []
    for record in records:
        scores = scores_of(record, 0.9)
        best = int(np.argmax(scores))
        named = {str(e): p for e, p in zip(EMOTIONS, scores, strict=True)}
        said.append(Prediction(id=record.id, split=split, emotion=str(EMOTIONS[best]), confidence=0.9, emotion_scores=named))
    des = np.random.default_rng(0).normal(size=(len(records), 32)).astype("float32")
    return said, EmbeddingTable([r.id for r in records], [str(r.emotion) for r in records], [split] * len(records), des)


@pytest.fixture(scope="module")
def run(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run: real tars, weights, predictions and Table 5; its probe is right in two of three."""
    home = tmp_path_factory.mktemp("run") / "small"
    world = World(seed=2)
    samples = [s for split, n in (("train", 40), ("val", 40), ("test", 48)) for s in world.samples(split, n)]
    write_shards(((s.truth, s.image, s.extension) for s in samples), home / "tars", "world", 40)
    parts = json.loads((bundle / "emo.json").read_text())
    for name, folder in (("sft", "backbone"), ("des", "head"), ("probe", "probe")):
        shutil.copytree((bundle / parts[folder]).resolve(), home / name / folder)
    base = json.loads((home / "sft" / "backbone" / "adapter_config.json").read_text())["base_model_name_or_path"]
    (home / "experiment.yaml").write_text(yaml.safe_dump({"name": "small", "dir": str(home)}))
    tars = {split: [str(home / "tars" / f"world-{split}-*.tar")] for split in ("train", "val", "test")}
    backbone = {"backbone": {"path": str(home / "sft" / "backbone")}}
    book(home / "sft", "sft", {"model": {"backbone": {"path": base}}, "data": {"train": tars["train"]}})
    book(home / "features", "features", {"model": backbone, "data": {"sets": tars}})
    caches = {name: str(home / "features" / name) for name in tars}
    book(home / "des", "des", {"data": {name: caches[name] for name in ("train", "val")}})
    book(home / "probe", "probe", {"model": {"des_head": str(home / "des" / "head")}, "data": caches})
    said, tables = [], []
    for name in ("val", "test"):
        found, table = answered(TarIndex.open(tars[name]), name)
        said += found
        tables += [table] if name == "test" else []
    write_jsonl(home / "probe" / "predictions.jsonl", said)
    EmbeddingTable.concatenate(tables).write(home / "probe" / "des.parquet")
    right = 100 * np.mean([p.emotion == e for p, e in zip(said[40:], tables[0].emotion, strict=True)])
    (home / "probe" / "metrics.json").write_text(json.dumps({"test/accuracy": float(right)}))
    (home / "predict").mkdir()
    write_jsonl(home / "predict" / "predictions.jsonl", [p for p in said if p.split == "test"])
    book(home / "predict", "predict", {"model": backbone})
    arms = {"ours": home / "predict" / "predictions.jsonl"}
    (home / "table5").mkdir()
    table5_stage(home / "table5", arms, tars["test"], resamples=100)
    book(home / "table5", "table5", {"predictions": {"ours": str(arms["ours"])}})
    (home / "model").mkdir()
    whole = {
        part: str(home / place)
        for part, place in {"backbone": "sft/backbone", "head": "des/head", "probe": "probe/probe"}.items()
    }
    bundled = Bundle(whole["backbone"], whole["head"], whole["probe"], "emotion", ["attributes", "emotion"])
    write_bundle(home / "model", bundled)
    book(home / "model", "bundle", whole)
    return home


@contextmanager
def web(folder: Path) -> Iterator[str]:
    """Its files on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("given", ["a folder", "a tar", "a tar here", "a pattern", "a URL", "tars alone"])
def test_the_card_knows_the_data_however_they_were_named(
    run: Path, tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    moved, data = tmp_path / "moved", tmp_path / "data"
    shutil.copytree(run, moved)
    shutil.copytree(run / "tars", data)
    if given == "tars alone":
        (data / "manifest.json").unlink()
    monkeypatch.chdir(data)
    config = yaml.safe_load((moved / "sft" / "config.yaml").read_text())
    with web(data) as url:
        tar = "world-train-000000.tar"
        named = {"a folder": data, "a tar": data / tar, "a tar here": tar, "a URL": f"{url}/{tar}"}
        config["data"]["train"] = [str(named.get(given, data / "*-train-*.tar"))]
        (moved / "sft" / "config.yaml").write_text(yaml.safe_dump(config))
        assert main(["export", str(moved), "--out", str(tmp_path / "out")]) == 0
    results = json.loads((tmp_path / "out" / "config.json").read_text())["emo_lightning"]["results"]
    if given == "tars alone":
        assert results["data"] == []
        assert f"{data}/manifest.json: not there, so the card does not say what is in" in capsys.readouterr().out
    else:
        assert results["data"][0]["counts"]["train"] == 40
        assert results["notes"] == []


def test_a_run_becomes_a_folder_with_its_own_figures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub import ModelCard

    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    out = tmp_path / "folder"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), dtype=np.uint8)).save(tmp_path / "noise.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    command = ["export", str(moved), "--out", str(out), "--name", "tiny <b>", "--licence", "apache-2.0"]
    assert main([*command, "--unlike", str(tmp_path / "*.png")]) == 0
    said, error = capsys.readouterr()
    assert "note:" not in said
    assert "broken.png: not an image" in error
    # Nothing of the run is needed any more.
    shutil.rmtree(moved)
    model = EmotionModel.from_pretrained(out, "cpu")
    assert model.calibration is not None
    assert model.calibration.temperature > 1.2, "it is surer than right"
    assert model.calibration.conformal.images == 40

    results = json.loads((out / "config.json").read_text())["emo_lightning"]["results"]
    accuracy = results["table6"]["test"]["accuracy"]
    assert accuracy["low"] < accuracy["value"] < accuracy["high"]
    assert results["table6"]["test"]["f1"]["low"] < results["table6"]["test"]["f1"]["value"]
    assert results["table5"]["strict"]["emotion_acc"]["value"] == pytest.approx(accuracy["value"])
    assert results["table5_images"] == results["table6_images"]["test"] == 48
    test = results["calibration"]["sets"]["test"]
    assert test["scaled"]["ece"]["value"] < test["calibration"]["ece"]["value"]
    assert results["data"][0]["counts"]["train"] == 40
    assert results["notes"] == []
    unlike = results["unlike"]
    assert model.spread is not None
    assert (unlike["train_images"], unlike["val_images"], unlike["threshold"]) == (40, 40, model.spread.threshold)
    assert (unlike["sets"]["test"]["images"], unlike["others"]["images"], unlike["against"]) == (48, 1, "test")
    assert unlike["auroc"]["value"] > 95

    card = ModelCard.load(out / "README.md")
    about = card.data.to_dict()
    assert (about["library_name"], about["pipeline_tag"], about["license"]) == (
        "emo-lightning",
        "image-text-to-text",
        "apache-2.0",
    )
    results = {(r.dataset_name, r.metric_type): r for r in card.data.eval_results or []}
    one = results["Table 6, linear probe on DES (test)", "accuracy"]
    assert one.metric_value == round(accuracy["value"], 2)
    assert one.metric_args == {"interval_95": [round(accuracy["low"], 2), round(accuracy["high"], 2)]}
    assert ("Table 5, strict (test)", "emotion_acc") in results
    assert "base_model" not in about, "a folder of this machine is no name on the hub"
    text = card.text
    assert f"| AUROC of telling these from the test images (x100) | {unlike['auroc']['value']:.2f} |" in text
    for said in (
        "No biometrics",
        "so that at most 5 % of images like them are called so",
        "*evoke",
        "Temperature",
        "licence",
        "Not measured: pictures unlike those",
        "# tiny \\<b\\>",
    ):
        assert said.replace("*evoke", "*evokes*") in text


def test_of_a_stage_or_a_folder_the_same_is_made(run: Path, tmp_path: Path) -> None:
    """`runs/NAME/model` names its run's stage; a folder is exported again with what it has."""
    assert main(["export", str(run / "model"), "--out", str(tmp_path / "kept"), "--keep-adapter"]) == 0
    assert main(["export", str(tmp_path / "kept"), "--out", str(tmp_path / "again")]) == 0
    kept, again = (EmotionModel.from_pretrained(tmp_path / name, "cpu") for name in ("kept", "again"))
    assert kept.calibration == again.calibration is not None
    assert kept.spread is not None
    assert again.spread is not None
    assert kept.spread.config == again.spread.config
    assert "emo export --unlike PICTURES` does" in (tmp_path / "again" / "README.md").read_text()
    picture = np.full((60, 60, 3), 90, np.uint8)
    assert torch.allclose(kept.embed(picture), again.embed(picture), atol=1e-4)
    assert (tmp_path / "kept" / "README.md").read_bytes() == (tmp_path / "again" / "README.md").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["RUN", "--stage", "report"], "--stage report: no such stage that puts a model together; there are: model"),
        (["RUN/table5"], "no stage that puts a model together"),
        (["RUN/sft/backbone"], "is an adapter alone: add --merge"),
        (["RUN", "--merge"], "no adapter_config.json there"),
        (["RUN/sft/backbone", "--merge", "--keep-adapter"], "--keep-adapter is for a run, or a folder with emo.json"),
    ],
)
def test_what_cannot_be_exported_is_named(
    arguments: list[str], message: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.replace("RUN", str(run)) for word in arguments]
    assert main(["export", *words, "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("start", "held", "named"),
    [
        ("Qwen/Qwen2.5-VL-3B-Instruct", "hub Qwen/Qwen2.5-VL-3B-Instruct 12ab", "Qwen/Qwen2.5-VL-3B-Instruct"),
        ("emo-lightning/tiny-base", "12ab", "emo-lightning/tiny-base"),
        ("models/own", "12ab", None),
    ],
)
def test_the_card_names_the_model_that_all_began_with(
    start: str, held: str, named: str | None, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import ModelCard

    moved = tmp_path / "moved"
    shutil.copytree(run, moved)
    # A round before the one that made the backbone: it began with what the second one does not name.
    book(moved / "first", "sft", {"model": {"backbone": {"path": start}}})
    stage = json.loads((moved / "first" / "stage.json").read_text())
    (moved / "first" / "stage.json").write_text(json.dumps(stage | {"inputs": {"model.backbone.path": held}}))
    second = yaml.safe_load((moved / "sft" / "config.yaml").read_text())
    second["model"]["backbone"]["path"] = f"{run}/first/model"
    (moved / "sft" / "config.yaml").write_text(yaml.safe_dump(second))
    assert main(["export", str(moved), "--out", str(tmp_path / "folder")]) == 0
    about = ModelCard.load(tmp_path / "folder" / "README.md").data.to_dict()
    said = json.loads((tmp_path / "folder" / "config.json").read_text())["emo_lightning"]
    assert about.get("base_model") == said["base_model"] == named
    assert about.get("base_model_relation") == ("finetune" if named else None)
    capsys.readouterr()
