"""One store through both engines: the same tars; and what a user is told where Ray cannot be used."""

from __future__ import annotations

import builtins
import json
import os
import pickle
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from data_prep.cli import main
from data_prep.dedup.phash import Hashing
from data_prep.demo.simulation.serve import KEY_VARIABLE, simulated_annotators
from data_prep.engine import LOCAL_ENGINE, EngineError, EngineResult, ItemRow, Step, in_batches
from data_prep.engine.cluster import RayEngine, connected
from data_prep.sources import SourceItem
from data_prep.store.store import Store
from emo_lightning.core.errors import UserError
from tests.data_prep.dedup.test_dedup import encoded, item, scene
from tests.data_prep.serving import import_toys

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

KEY = "a-key-that-must-not-be-written"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)


def noisy(config: dict) -> None:
    for model in config["simulation"]["models"].values():
        model["invalid_json"] = 0.15
        model["too_many_requests"] = 0.1


def test_both_engines_give_the_same_tars(
    cluster: Cluster, tmp_path: Path, toys: list, write_config: Callable[..., Path]
) -> None:
    path, exported = write_config(noisy), []
    for engine in ("local", "ray"):
        root = tmp_path / engine
        import_toys(root, toys)
        options = ["--engine", engine]
        with simulated_annotators([r for r, _ in toys], path) as sim:
            assert main(["dedup", str(root), *options]) == 0
            assert main(["annotate", str(root), "--config", str(path), "--base-url", sim.base_url, *options]) == 0
            bill = sim.bill()
        assert sum(row["repeated"] for row in bill.values()) == 0
        with Store(root, write=True) as store:
            assert store.ledger.outcome_counts()["pending"] == 0
            assert store.ledger.open_calls() == {}
            assert store.ledger.total_cost() == sum(row["nano_dollars"] for row in bill.values())
        assert main(["export", str(root), str(root / "tars"), "--samples-per-shard", "5"]) == 0
        exported.append({p.name: p.read_bytes() for p in (root / "tars").iterdir()})
    assert exported[0] == exported[1]
    assert len(exported[0]) > 5
    # Neither a store nor what Ray writes about its processes, their environment and their messages.
    written = [path for folder in (tmp_path, Path(os.environ["RAY_TMPDIR"])) for path in folder.rglob("*") if path.is_file()]
    assert sum(path.suffix in (".log", ".out", ".err") for path in written) > 5
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
    with sqlite3.connect(tmp_path / "ray" / "ledger.sqlite") as ledger:
        states = dict(ledger.execute("SELECT state, count(*) FROM calls GROUP BY state"))
    assert states["rejected"] > 0, "429s are written down by the senders too"


def test_both_engines_find_the_same_duplicates(cluster: Cluster, store: Store, tmp_path: Path) -> None:
    from data_prep.dedup.run import DedupSettings, dedup

    store.import_items([item(f"twin-{n}", encoded(scene(n, (40, 30)).resize((80, 60)))) for n in (3, 5, 7)])
    found = []
    for engine in (LOCAL_ENGINE, RayEngine()):
        store.ledger.write_now(("DELETE FROM image_hashes", ()), ("DELETE FROM duplicates", ()))
        assert dedup(store, DedupSettings(), engine=engine).hashed == 44
        tables = ("image_hashes ORDER BY image_sha256", "duplicates ORDER BY item_id", "items ORDER BY id")
        found.append([store.ledger.read(f"SELECT * FROM {table}") for table in tables])
    assert found[0] == found[1]
    assert len(found[0][1]) == 3


class Refusing(Step[int]):
    """A model that is another one on the workers."""

    # The same path as that of a large model, without a process that is started for it.
    resident = False

    def prepare(self, data: bytes) -> int:
        return len(data)

    def load(self) -> Callable[[Sequence[ItemRow], Sequence[int]], list[EngineResult]]:
        raise UserError("the model is another one here")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "images", write=True) as store:
        store.import_items(images(41))
        yield store


def images(count: int) -> list[SourceItem]:
    return [item(f"i-{n}", encoded(scene(n, (40, 30)))) for n in range(count)]


def rows_of(store: Store) -> list[ItemRow]:
    found = store.ledger.read("SELECT sha256, extension, id FROM items ORDER BY id")
    return [ItemRow(*row) for row in found]


def test_many_batches_are_read_by_few_processes(cluster: Cluster, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading takes no core from the steps: unbounded, Ray starts a process for every batch that waits (34 for 60 of them)."""
    import ray.data

    asked: list[dict[str, Any]] = []
    real = ray.data.Dataset.map_batches

    def noted(data: ray.data.Dataset, function: Callable[..., object], **options: object) -> object:
        asked.append(options)
        given: dict[str, Any] = dict(options)
        return real(data, function, **given)

    monkeypatch.setattr(ray.data.Dataset, "map_batches", noted)
    assert len(list(RayEngine().map(store, in_batches(rows_of(store), 8), Hashing()))) == 6
    assert all(options["num_cpus"] > 0 or 1 <= options["concurrency"] <= 4 for options in asked)
    assert len(asked) == 2


def test_what_goes_wrong_on_a_worker_is_one_message(cluster: Cluster, store: Store) -> None:
    assert list(RayEngine().map(store, [], Refusing())) == []
    batches = in_batches(rows_of(store), 30)
    with pytest.raises(EngineError, match=r"^the model is another one here$"):
        list(RayEngine().map(store, batches, Refusing()))
    store.image_path(batches[0][0].sha256, "png").write_bytes(b"damaged")
    with pytest.raises(EngineError, match="does not have the sha256 of its name"):
        list(RayEngine().map(store, batches, Refusing()))


def test_without_ray_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path / "s", write=True).close()
    real = builtins.__import__

    def no_ray(name: str, *arguments: object, **more: object) -> object:
        if name == "ray" or name.startswith("ray."):
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return cast(Callable[..., object], real)(name, *arguments, **more)

    monkeypatch.setattr(builtins, "__import__", no_ray)
    assert main(["dedup", str(tmp_path / "s"), "--engine", "ray"]) == 2
    assert "pip install 'emo-lightning[ray]'" in capsys.readouterr().err
    assert main(["dedup", str(tmp_path / "s"), "--ray-address", "somewhere:1"]) == 2
    assert "only --engine ray uses a cluster" in capsys.readouterr().err


def test_a_cluster_that_does_not_answer_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where it does, and wants a token: Ray says the same then."""
    ray = pytest.importorskip("ray")

    def refused(**options: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at h:1\nand much more")

    Store(tmp_path / "s", write=True).close()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refused)
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert main(["dedup", str(tmp_path / "s"), "--engine", "ray", "--ray-address", "h:1"]) == 2
    error = capsys.readouterr().err.strip()
    assert "no Ray cluster at h:1" in error
    assert "RAY_AUTH_MODE=token here and on every node" in error
    assert len(error.splitlines()) == 1


def test_a_cluster_without_a_token_is_joined_only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    seen: list[dict[str, str]] = []

    def init(**options: object) -> None:
        seen.append({"address": str(options["address"]), **os.environ})

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.delenv(name, raising=False)
    for address in ("h:1", "auto"):
        with pytest.raises(EngineError, match="without a token"), connected(address):
            pass
    assert seen == []
    with connected("h:1", without_token=True):
        assert "RAY_AUTH_TOKEN" not in seen[-1]
    for _ in range(2):
        with connected(None):
            assert (seen[-1]["address"], seen[-1]["RAY_AUTH_MODE"]) == ("local", "token")
            assert seen[-1]["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert seen[-1]["RAY_AUTH_TOKEN"] != seen[-2]["RAY_AUTH_TOKEN"]
    assert "RAY_AUTH_TOKEN" not in os.environ
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    with connected("h:1"), connected(None):
        assert "RAY_AUTH_TOKEN" not in seen[-1], "the user's own"


def test_the_local_engine_loads_nothing_for_nothing(store: Store) -> None:
    assert list(LOCAL_ENGINE.map(store, [], Refusing())) == []
    assert os.environ.get("RAY_USAGE_STATS_ENABLED") == "0"


class Together(Step[list[Any]]):
    """Several steps as one, so that a worker starts, and loads torch, once."""

    def __init__(self, *steps: Step[Any]) -> None:
        self._steps = steps

    def prepare(self, data: bytes) -> list[Any]:
        return [step.prepare(data) for step in self._steps]

    def load(self) -> Callable[[Sequence[ItemRow], Sequence[Any]], list[EngineResult]]:
        computes = [step.load() for step in self._steps]

        def compute(rows: Sequence[ItemRow], prepared: Sequence[Any]) -> list[EngineResult]:
            found = [compute(rows, parts) for compute, parts in zip(computes, zip(*prepared, strict=True), strict=True)]
            return [pickle.dumps(results) for results in zip(*found, strict=True)]

        return compute


@pytest.mark.slow
def test_every_model_computes_the_same_on_a_cluster(cluster: Cluster, store: Store, tmp_path: Path) -> None:
    """A ViT, Grounding DINO, SAM and InstructBLIP in their true architectures, with random weights."""
    import torch
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    from data_prep.config import GroundingConfig, LocalAnnotatorConfig
    from data_prep.dedup.embeddings import Embedder, Embedding
    from data_prep.emovit.votes import Voting
    from data_prep.grounding import Grounding, _models_key
    from data_prep.local_models.checkpoints import identity
    from tests.data_prep.emovit.conftest import save_base
    from tests.data_prep.grounding.models import save_models

    torch.manual_seed(0)
    folder = tmp_path / "vit"
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    paths = save_models(tmp_path, size={"shortest_edge": 64, "longest_edge": 96})
    config = GroundingConfig(
        backend="transformers", detector=str(paths["dino"]), segmenter=str(paths["sam"]), threshold=0.0, cut=0.0
    )
    voter = LocalAnnotatorConfig(
        name="emovit", role="emotion", backend="local", path=str(save_base(tmp_path / "emovit")), weight=0.4
    )
    embedding = Embedding(Embedder(str(folder)))
    step = Together(embedding, Grounding(config, _models_key(config)), Voting(voter, identity(voter.path)))
    rows = [ItemRow(row.sha256, row.extension, "a red dog") for row in rows_of(store)[:4]]
    here, there = (list(engine.map(store, [rows], step)) for engine in (LOCAL_ENGINE, RayEngine()))
    assert here == there
    vectors, regions, votes = zip(*[pickle.loads(cast(bytes, part)) for part in here[0]], strict=True)
    assert [len(np.frombuffer(vector, np.float16)) for vector in vectors] == [16] * 4
    assert all(json.loads(text) for text in (*regions, *votes)), "something is found and said of each image"
    # Another model under the same name on a worker.
    ViTModel(ViTConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(folder)
    with pytest.raises(UserError, match=r"vit.* is ViTModel-.* here and ViTModel-.* where the store lies"):
        pickle.loads(pickle.dumps(embedding)).load()
