from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from emo_lightning.analysis.mds import knn_purity, mds_map, stratified_sample, turned_towards


def clusters(per_label: int, spread: float, dim: int = 32) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, dim))
    vectors = np.concatenate([c + spread * rng.normal(size=(per_label, dim)) for c in centers])
    return vectors, [name for name in ("awe", "fear", "anger") for _ in range(per_label)]


def test_points_of_a_plane_are_laid_out_exactly() -> None:
    plane = np.random.default_rng(1).normal(size=(40, 2))
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(16, 16)))[0][:2]
    layout = mds_map(plane @ turn, ["awe", "fear"] * 20)
    assert layout.stress < 1e-3
    distances = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    assert np.linalg.norm(layout.coords[:, None] - layout.coords[None], axis=2) == pytest.approx(distances, abs=0.02)


def test_figures_of_clear_clusters() -> None:
    vectors, labels = clusters(30, 0.05)
    layout = mds_map(vectors, labels)
    assert layout.knn_purity_des == layout.knn_purity_2d == 1
    assert layout.silhouette_des == pytest.approx(silhouette_score(vectors, labels))
    assert 0 < layout.stress < 0.2
    mixed = mds_map(vectors, np.random.default_rng(3).permutation(labels).tolist())
    assert mixed.knn_purity_des < 0.5


def test_the_same_seed_gives_the_same_picture() -> None:
    vectors, labels = clusters(40, 1.0)
    first, again = (mds_map(vectors, labels, seed=4, max_points=60) for _ in range(2))
    assert first.ids == again.ids
    assert np.array_equal(first.coords, again.coords)
    assert first.ids != mds_map(vectors, labels, seed=5, max_points=60).ids
    assert (len(first.ids), first.available) == (60, 120)


def test_sample_keeps_shares() -> None:
    labels = ["a"] * 600 + ["b"] * 300 + ["c"] * 101
    chosen = stratified_sample(labels, 100, seed=0)
    assert len(set(chosen.tolist())) == 100
    assert [sum(labels[i] == name for i in chosen) for name in "abc"] == [60, 30, 10]
    assert stratified_sample(labels, 5000, 0).tolist() == list(range(1001))


def test_a_map_is_turned_and_mirrored_but_not_changed() -> None:
    vectors, labels = clusters(20, 0.4)
    first = mds_map(vectors, labels)
    angle = np.array([[np.cos(2), -np.sin(2)], [np.sin(2), np.cos(2)]])
    moved = replace(first, coords=3 * first.coords[:, ::-1] @ angle)
    back = turned_towards(moved, first)
    assert back.coords == pytest.approx(3 * first.coords, abs=1e-9)  # its own scale
    assert back.summary() == moved.summary()


def test_purity_by_hand() -> None:
    line = np.array([0.0, 1.0, 10.0, 11.5])
    assert knn_purity(abs(line[:, None] - line[None]), ["a", "a", "a", "b"], 1) == 0.5


def test_what_cannot_be_laid_out() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        mds_map(np.zeros((2, 4)), ["a", "b"])
    with pytest.raises(ValueError, match="all embeddings are equal"):
        mds_map(np.ones((5, 4)), ["a"] * 5)
    bad = np.random.default_rng(0).normal(size=(5, 4))
    bad[3, 1] = np.nan
    with pytest.raises(ValueError, match="'img3'"):
        mds_map(bad, ["a"] * 5, [f"img{i}" for i in range(5)])
    with pytest.raises(ValueError, match="do not belong together"):
        mds_map(bad, ["a"] * 4)
