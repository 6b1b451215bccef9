from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss

from emo_lightning.analysis.probe_predictions import ArmPredictions, read_arm
from emo_lightning.analysis.table6 import TABLE6_METRICS
from emo_lightning.analysis.table6_paired import compare, holm, paired_tests
from emo_lightning.core.records import EMOTIONS, Prediction, SchemaError, read_jsonl, write_jsonl
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.models.probe import LinearProbes
from emo_lightning.report.page import read_page
from emo_lightning.report.tables.table6 import paired_page
from emo_lightning.stages import tables as stages
from tests.made import as_json

ROOT = Path(__file__).parents[2]


def answers(truth: np.ndarray, *accuracies: float, seed: int = 0) -> ArmPredictions:
    """Seeds that are right that often, on images of the same difficulty for all."""
    rng = np.random.default_rng(seed)
    said = [np.where(rng.random(len(truth)) < a, truth, (truth + rng.integers(1, 8, len(truth))) % 8) for a in accuracies]
    return ArmPredictions([f"i{n:05}" for n in range(len(truth))], truth, np.stack(said))


TRUTH = np.random.default_rng(7).integers(0, 8, 400)


def test_one_seed_is_mcnemar_and_differences_are_those_of_sklearn() -> None:
    a, b = answers(TRUTH, 0.5, seed=1), answers(TRUTH, 0.58, seed=2)
    found = compare(a, b)
    right, left = b.correct[0], a.correct[0]
    only_b, only_a = int((right & ~left).sum()), int((left & ~right).sum())
    assert (found["better"], found["worse"], found["exact"]) == (only_b, only_a, True)
    assert found["p"] == binomtest(only_b, only_b + only_a, 0.5).pvalue
    accuracy = accuracy_score(TRUTH, b.predicted[0]) - accuracy_score(TRUTH, a.predicted[0])
    f1 = f1_score(TRUTH, b.predicted[0], average="macro") - f1_score(TRUTH, a.predicted[0], average="macro")
    assert found["accuracy"]["difference"] == pytest.approx(100 * accuracy, abs=1e-6)
    assert found["f1"]["difference"] == pytest.approx(100 * f1, abs=1e-6)
    assert found["accuracy"]["seeds_and_images"] is None


def test_permutation_agrees_with_mcnemar_where_both_exist() -> None:
    """The same seed three times has the same discordant images: the random exchanges must find the exact p."""
    a, b = answers(TRUTH, 0.5, seed=1), answers(TRUTH, 0.58, seed=2)
    thrice = [ArmPredictions(x.ids, x.truth, np.repeat(x.predicted, 3, axis=0)) for x in (a, b)]
    found = compare(*thrice)
    assert not found["exact"]
    assert found["p"] == pytest.approx(compare(a, b)["p"], abs=0.02)


def test_interval_of_the_difference_is_that_of_theory() -> None:
    a, b = answers(TRUTH, 0.5, seed=1), answers(TRUTH, 0.6, seed=2)
    gain = b.correct[0].astype(float) - a.correct[0]
    half = 196 * gain.std(ddof=1) / np.sqrt(len(gain))
    low, high = compare(a, b, resamples=4000)["accuracy"]["images"]
    assert [low, high] == pytest.approx([100 * gain.mean() - half, 100 * gain.mean() + half], abs=0.6)


def test_another_training_may_bring_more_than_other_images() -> None:
    """Seeds far apart widen the interval over seeds and images, and leave the one over images."""
    close, far = answers(TRUTH, 0.5, 0.5, 0.5), answers(TRUTH, 0.3, 0.5, 0.7)
    found = compare(close, far)["accuracy"]
    over_images, over_seeds = (np.diff(found[key] or [])[0] for key in ("images", "seeds_and_images"))
    assert over_seeds > 2.5 * over_images


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def probe_folder(folder: Path, seed: int = 0, images: int = 60, ids: str = "i") -> Path:
    """What a probe stage writes, made by its own classes."""
    rng = np.random.default_rng(3)
    truth = np.arange(images) % 8
    des = rng.normal(size=(images, 12)).astype(np.float32)
    des[np.arange(images), truth] += 2
    table = EmbeddingTable(
        [f"{ids}{n}" for n in range(images)],
        [EMOTIONS[t].value for t in truth],
        ["test" if n < images // 2 else "heldout" for n in range(images)],
        des,
    )
    table.write(folder / "des.parquet")
    probe = LinearProbes(12, 8, [(1e-3, 0.0)])
    probe.fit_statistics([torch.from_numpy(des)])
    torch.manual_seed(seed)
    with torch.no_grad():
        probe.get_parameter("probes.0.weight").copy_(torch.eye(8, 12) + 0.4 * torch.randn(8, 12))
        said = probe(torch.from_numpy(des))[0].argmax(-1).numpy()
    right = (said == truth).reshape(2, -1).mean(axis=1) * 100
    write_jsonl(
        folder / "predictions.jsonl",
        [
            Prediction(id=i, split=split, emotion=EMOTIONS[s], confidence=0.5)
            for i, split, s in zip(table.id, table.split, said, strict=True)
        ],
    )
    sets = zip(("test", "heldout"), right, strict=True)
    (folder / "metrics.json").write_text(json.dumps({f"{s}/{m}": float(v) for s, v in sets for m in TABLE6_METRICS}))
    return folder


def test_stage_writes_tables_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    probes = {arm: [probe_folder(tmp_path / f"{arm}{n}", seed=10 * i + n) for n in range(2)] for i, arm in enumerate("ab")}
    stages.table6_stage(tmp_path / "out", probes, resamples=200)
    result = json.loads((tmp_path / "out/table6.json").read_text())
    assert result["paired"]["confidence_level"] == 0.95
    pair = result["paired"]["sets"]["heldout"]["pairs"][0]
    means = {arm: result["arms"][arm]["heldout"]["accuracy"]["mean"] for arm in "ab"}
    assert pair["accuracy"]["difference"] == pytest.approx(means["b"] - means["a"])
    page = read_page(tmp_path / "out/page.json")
    assert [t.title for t in page.tables] == ["Paired differences, test, 30 images", "Paired differences, heldout, 30 images"]
    assert "sign-flip permutation" in page.tables[0].note
    printed = capsys.readouterr().out
    assert "linear probe" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    a, b = probe_folder(tmp_path / "a"), probe_folder(tmp_path / "b", ids="other")
    with pytest.raises(
        SchemaError, match=r"arms 'a' \(30 images\) and 'b' \(30\) were evaluated on different images of 'test'"
    ):
        paired_tests({"a": [a], "b": [b]})
    assert paired_tests({"a": [a]}) == {"skipped": "one arm alone has nothing to be compared with"}
    (b / "predictions.jsonl").unlink()
    skipped = paired_tests({"a": [a], "b": [b]})
    assert "predictions.jsonl: no such file" in as_json(skipped)["skipped"]
    assert "no paired test" in paired_page(skipped).notes[0]
    metrics = json.loads((a / "metrics.json").read_text())
    (a / "metrics.json").write_text(json.dumps(metrics | {"test/accuracy": 5.0}))
    with pytest.raises(SchemaError, match=r"on 'test', metrics\.json says 5\.00"):
        read_arm([a])
    (a / "metrics.json").write_text(json.dumps(metrics))
    said = list(read_jsonl(a / "predictions.jsonl", Prediction))
    write_jsonl(a / "predictions.jsonl", [said[0].model_copy(update={"confidence": np.nan}), *said[1:]])
    with pytest.raises(SchemaError, match="prediction of 'i0' has no emotion of the eight with a finite confidence"):
        read_arm([a])
    write_jsonl(a / "predictions.jsonl", said[1:])
    with pytest.raises(SchemaError, match="no prediction of 'i0' in the set 'test'"):
        read_arm([a])


def test_probe_agrees_with_logistic_regression(tmp_path: Path) -> None:
    """The whole ProbeTask with the settings that ship, against scikit-learn on the same embeddings: within half a point on 2,400 images.

    The embedding is 64 wide from 16-wide features, so most of its directions hardly vary.
    """
    import lightning.pytorch as pl

    from emo_lightning.data.feature_module import FeatureDataModule
    from emo_lightning.data.features import FeatureWriter
    from emo_lightning.data.supervision import Supervision
    from emo_lightning.models.des import DESHead
    from emo_lightning.tasks.probe import ProbeTask

    directions = 0.2 * torch.randn(8, 16, generator=torch.Generator().manual_seed(9))
    for seed, (name, count) in enumerate({"train": 800, "val": 400, "test": 2400}.items()):
        generator = torch.Generator().manual_seed(seed)
        with FeatureWriter(tmp_path / name, 4, 16, torch.float32, "toy") as writer:
            for i in range(count):
                hidden = torch.randn(4, 2, 16, generator=generator) + directions[i % 8]
                writer.append(f"{name}-{i:05}", hidden, Supervision([float(c == i % 8) for c in range(8)], i % 8))
    torch.manual_seed(0)
    DESHead(16, des_dim=64).eval().save_pretrained(tmp_path / "head")
    task = ProbeTask(str(tmp_path / "head"))
    data = FeatureDataModule(str(tmp_path / "train"), str(tmp_path / "val"), str(tmp_path / "test"), batch_size=200)
    shipped = yaml.safe_load((ROOT / "configs/trainer/probe.yaml").read_text())["trainer"]["max_epochs"]
    trainer = pl.Trainer(
        default_root_dir=tmp_path,
        max_epochs=shipped,
        check_val_every_n_epoch=shipped,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        enable_checkpointing=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(task, datamodule=data)
    trainer.test(task, datamodule=data, verbose=False)
    ours = json.loads((tmp_path / "metrics.json").read_text())["test/accuracy"]
    sets = {name: (s.des.numpy(), np.array([label.emotion for label in s.labels])) for name, s in task.embedded.items()}
    mean, std = sets["train"][0].mean(axis=0), sets["train"][0].std(axis=0)
    sets = {name: ((x.astype(np.float64) - mean) / std, y) for name, (x, y) in sets.items()}
    train, labels = sets["train"]
    spread = np.linalg.eigvalsh(np.cov(train.T))
    assert spread.max() / spread.min() > 1e4, "the embedding should be ill-conditioned"
    fitted = [
        LogisticRegression(C=1 / (len(train) * decay), max_iter=20_000).fit(train, labels)
        for decay in sorted({decay for _, decay in task.grid})
    ]
    chosen = min(fitted, key=lambda model: log_loss(sets["val"][1], model.predict_proba(sets["val"][0]), labels=range(8)))
    theirs = 100 * chosen.score(*sets["test"])
    assert 30 < ours < 99, "neither chance nor too easy to differ"
    loss = log_loss(sets["val"][1], chosen.predict_proba(sets["val"][0]), labels=range(8))
    assert abs(float(task.validation[0]) - loss) < 2e-3
    assert abs(ours - theirs) <= 0.5, f"ours {ours:.2f}, scikit-learn {theirs:.2f}"

    # What the stage wrote is what its probe says of its embeddings.
    arm, table = read_arm([tmp_path])["test"], EmbeddingTable.read(tmp_path / "des.parquet")
    with torch.no_grad():
        again = LinearProbes.from_pretrained(tmp_path / "probe")(torch.tensor(table.des))[0].argmax(-1).numpy()
    order = sorted(range(len(table)), key=lambda i: table.id[i])
    assert arm.ids == [table.id[i] for i in order]
    assert (arm.predicted == again[order]).all()
    assert 100 * arm.correct.mean() == pytest.approx(ours, abs=1e-4)
