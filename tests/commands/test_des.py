"""`emo des` and `experiments/des_space.yaml` through the command line, on tiny networks and the drawn world."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from emo_lightning.cli import main
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.experiment.files import ROOT
from emo_lightning.report.page import read_page


@pytest.fixture(scope="module")
def des(world_tars: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Embeddings of the world's 40 images that carry the emotion."""
    index = TarIndex.open(str(world_tars))
    records = [index.record(row) for row in range(len(index))]
    rng = np.random.default_rng(0)
    vectors = [rng.normal(size=8) + 2 * np.eye(8)[r.emotion.position] for r in records]  # type: ignore[union-attr]
    folder = tmp_path_factory.mktemp("probe-ours")
    names = [r.id for r in records]
    EmbeddingTable(names, [str(r.emotion) for r in records], ["test"] * len(names), np.array(vectors)).write(
        folder / "des.parquet"
    )
    return folder / "des.parquet"


@pytest.mark.slow
def test_the_three_that_need_embeddings(
    des: Path, world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--references", str(world_tars), "--out"]
    assert main(["des", "retrieval", f"ours={des}", *common, str(tmp_path / "r"), "--k", "1", "3"]) == 0
    assert main(["des", "distance", str(des), *common, str(tmp_path / "d"), "--metric", "euclidean"]) == 0
    assert main(["des", "interpolate", str(des), *common, str(tmp_path / "i"), "--per-pair", "2", "--k", "4"]) == 0
    found = json.loads((tmp_path / "r/retrieval.json").read_text())["arms"]["ours"]["targets"]["emotion"]
    assert found["recall"]["1"]["value"] > found["recall"]["1"]["chance"]
    assert json.loads((tmp_path / "d/distance.json").read_text())["arms"][des.parent.name]["distribution"]["rho"] > 0.1
    assert "Paths between emotions" in capsys.readouterr().out


def test_stability_asks_the_real_model(bundle: Path, world_tars: Path, tmp_path: Path) -> None:
    changes = ["crop=0.8", "jpeg=20", "resize=0.5", "prompt=Tell me what you feel: {keys}"]
    command = ["des", "stability", str(bundle), "--references", str(world_tars), "--out", str(tmp_path), "--k", "3"]
    assert main([*command, "--max-images", "10", "--changes", *changes]) == 0
    found = json.loads((tmp_path / "stability.json").read_text())["arms"]["model"]
    assert found["images"] == 10
    rows = {row["kind"]: row for row in found["changes"]}
    for row in rows.values():
        assert 0 < row["cosine"]["value"] < 1, "the change reached the network"
        assert 0 <= row["same_emotion"]["value"] <= 1
    assert [len(t.rows) for t in read_page(tmp_path / "page.json").tables] == [4]


def test_another_wording_is_put_back(bundle: Path, world_tars: Path) -> None:
    from emo_lightning.analysis.des_space.stability import embedder
    from emo_lightning.data.chat import prompt
    from emo_lightning.inference.model import EmotionModel

    model = EmotionModel(bundle, "cpu")
    index = TarIndex.open(str(world_tars))
    images = [index.image(row) for row in range(3)]
    embed = embedder(model, 2)
    usual = model.embed(images).numpy()
    lead = prompt(("emotion", "intensity")).partition(": ")[0]
    # The usual prompt, written as a wording, gives the usual embedding: only the words differ.
    np.testing.assert_allclose(embed(images, lead + ": {keys}")[0], usual, atol=1e-5)
    assert np.abs(embed(images, "Feel: {keys}")[0] - usual).max() > 1e-4
    np.testing.assert_allclose(embed(images, None)[0], usual, atol=1e-5)


def test_one_clear_error(des: Path, world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--references", str(world_tars), "--out", str(tmp_path)]
    for arguments, message in (
        (["retrieval", str(des), "--k", "40"], "k=40 with 40 images; expected 1 ≤ k < images"),
        (["retrieval", str(des), str(des)], ": given twice, "),
        (["distance", str(tmp_path / "no.parquet")], "no such file"),
        (["stability", str(tmp_path), "--changes", "blur=3"], "change 'blur=3'; allowed: crop=SHARE"),
        (["stability", str(tmp_path)], "no emo.json there; expected the folder of an emotion model"),
    ):
        assert main(["des", *arguments, *common]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error


@pytest.mark.slow
def test_the_experiment(des: Path, bundle: Path, world_tars: Path, tmp_path: Path) -> None:
    shown = {
        "--vars.references": f"['{world_tars}']",
        "--vars.embeddings": f"{{ours: {des}}}",
        "--vars.models": f"{{ours: {bundle}}}",
    }
    command = ["run", str(ROOT / "experiments/des_space.yaml"), "--runs", str(tmp_path)]
    assert main([*command, *(word for pair in shown.items() for word in pair)]) == 0
    run = tmp_path / "des-space"
    stages = yaml.safe_load((ROOT / "experiments/des_space.yaml").read_text())["stages"]
    assert {s: json.loads((run / s / "stage.json").read_text())["status"] for s in stages} == dict.fromkeys(stages, "complete")
    page = (run / "report.html").read_text()
    for title in ("Retrieval by DES", "Affective distance in DES", "Interpolation in DES", "Stability of DES"):
        assert title in page
