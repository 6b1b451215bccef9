from __future__ import annotations

import itertools

import numpy as np
import pytest

from emo_lightning.metrics import matching as m


def test_scores_of_two_boxes_by_hand() -> None:
    a, b = m.as_boxes([(0, 0, 10, 10)]), m.as_boxes([(5, 0, 15, 10)])
    assert m.iou_matrix(a, b)[0, 0] == pytest.approx(50 / 150)
    assert m.dice_matrix(a, b)[0, 0] == pytest.approx(0.5)
    assert m.center_matrix(a, b)[0, 0] == pytest.approx(1 - 5 / np.hypot(15, 10))
    assert m.center_matrix(a, a)[0, 0] == 1


@pytest.mark.parametrize("bad", [(5, 5, 5, 9), (9, 0, 1, 5), (float("nan"), 0, 1, 1), (0, 0, float("inf"), 1)])
def test_an_invalid_box_scores_nothing(bad: tuple[float, ...]) -> None:
    a, b = m.as_boxes([bad, (0, 0, 10, 10)]), m.as_boxes([(0, 0, 10, 10)])
    for scores in (m.iou_matrix, m.center_matrix, m.dice_matrix):
        assert scores(a, b).tolist() == [[0.0], [1.0]]


def test_no_boxes() -> None:
    none, one = m.as_boxes([]), m.as_boxes([(0, 0, 1, 1)])
    for first, second in ((none, one), (one, none), (none, none)):
        scores = m.iou_matrix(first, second)
        assert scores.shape == (len(first), len(second))
        assert m.greedy(scores) == m.hungarian(scores) == []


def test_boxes_of_another_shape() -> None:
    with pytest.raises(ValueError, match=r"\(1, 3\)"):
        m.as_boxes([(1, 2, 3)])


def test_greedy_takes_the_best_first_and_never_a_zero() -> None:
    scores = np.array([[0.9, 0.8], [0.8, 0.0]])
    assert m.greedy(scores) == [(0, 0)]
    assert sorted(m.hungarian(scores)) == [(0, 1), (1, 0)]


@pytest.mark.parametrize("shape", [(1, 4), (3, 3), (4, 3), (5, 2)])
def test_hungarian_is_the_best_of_all_matchings(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(shape)
    for _ in range(20):
        scores = rng.random(shape)
        wide = scores if shape[0] <= shape[1] else scores.T
        best = max(
            sum(wide[row, column] for row, column in enumerate(columns))
            for columns in itertools.permutations(range(wide.shape[1]), wide.shape[0])
        )
        pairs = m.hungarian(scores)
        assert sum(scores[pair] for pair in pairs) == pytest.approx(best)
        assert len({r for r, _ in pairs}) == len({c for _, c in pairs}) == len(pairs) == min(shape)
