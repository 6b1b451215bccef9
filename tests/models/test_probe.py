"""A grid of linear probes equals probes trained one by one; statistics are exact; saved and read back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from emo_lightning.core.errors import InputError
from emo_lightning.models.probe import LinearProbes

GRID = [(0.3, 0.0), (0.01, 0.1), (0.1, 1.0)]


def data(rows: int = 200, dim: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(rows, dim) * torch.tensor([1, 10, 0.1, 1, 1, 1]) + torch.tensor([0, 1e3, 5, 0, -7, 0]), torch.randint(
        4, (rows,)
    )


def descend(probes: LinearProbes, des: torch.Tensor, labels: torch.Tensor, steps: int) -> None:
    optimizer = torch.optim.SGD(probes.parameter_groups(), momentum=0.9, nesterov=True)
    for step in range(steps):
        for group, (rate, _) in zip(optimizer.param_groups, probes.grid, strict=True):
            group["lr"] = rate * (1 - step / steps)
        logits = probes(des)
        optimizer.zero_grad()
        torch.stack([functional.cross_entropy(each, labels) for each in logits]).sum().backward()
        probes.finish_gradients()
        optimizer.step()


def test_one_pass_trains_each_probe_as_if_alone() -> None:
    des, labels = data()
    probes = LinearProbes(6, 4, GRID)
    probes.fit_statistics([des])
    descend(probes, des, labels, 20)
    assert probes(des).shape == (3, 200, 4)
    for point, together in zip(GRID, probes(des), strict=True):
        alone = LinearProbes(6, 4, [point])
        alone.fit_statistics([des])
        descend(alone, des, labels, 20)
        torch.testing.assert_close(together, alone(des)[0], atol=1e-5, rtol=1e-5)


def nearly_flat(rows: int = 3000, dim: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of condition number 1e6, the class in the narrow directions."""
    random = np.random.default_rng(0)
    spread = np.logspace(0, -3, dim)
    latent = random.normal(size=(rows, dim))
    noise = random.gumbel(size=(rows, 4)) * 2
    labels = (latent[:, -4:] @ random.normal(size=(4, 4)) * 2 + noise).argmax(1)
    mixed = (latent * spread) @ np.linalg.qr(random.normal(size=(dim, dim)))[0]
    return torch.tensor(mixed, dtype=torch.float32), torch.tensor(labels)


@pytest.mark.parametrize("decay", [1e-5, 1e-3, 1e-1])
def test_it_is_the_logistic_regression_of_scikit_learn_on_ill_conditioned_embeddings(decay: float) -> None:
    des, labels = nearly_flat()
    probes = LinearProbes(24, 4, [(0.3, decay)])
    probes.fit_statistics([des])
    descend(probes, des, labels, 300)
    features = probes.standardise(des).double().numpy()
    peer = LogisticRegression(C=1 / (len(des) * decay), max_iter=20_000, tol=1e-8).fit(features, labels.numpy())
    said, expected = probes(des)[0].softmax(-1).detach().numpy(), peer.predict_proba(features)
    np.testing.assert_allclose(said, expected, atol=1e-4)
    assert (said.argmax(1) == expected.argmax(1)).mean() >= 0.995


@pytest.mark.parametrize("cut", [1, 7, 200])
def test_statistics_are_exact_for_any_cut(cut: int) -> None:
    des, _ = data()
    probes = LinearProbes(6, 4, GRID)
    probes.fit_statistics([torch.zeros(0, 6), *des.split(cut)])
    torch.testing.assert_close(probes.mean, des.double().mean(0).float(), atol=0, rtol=1e-7)
    torch.testing.assert_close(probes.scale, (1 / des.double().std(0, correction=0)).float(), atol=0, rtol=1e-6)
    assert int(probes.count) == 200
    standard = probes.standardise(des)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)


def test_a_constant_feature_is_ignored() -> None:
    des, _ = data()
    des[:, 2] = 0.1
    probes = LinearProbes(6, 4, GRID)
    probes.fit_statistics(des.split(7))
    assert (probes.standardise(des)[:, 2] == 0).all()
    des[0, 2] = 9.0
    assert probes.standardise(des)[0, 2] == 0


def test_chosen_probe_is_saved_and_read_back(tmp_path: Path) -> None:
    des, _ = data()
    probes = LinearProbes(6, 4, GRID)
    with pytest.raises(RuntimeError, match="no feature statistics"):
        probes(des)
    probes.fit_statistics([des])
    for parameter in probes.parameters():
        torch.nn.init.normal_(parameter)
    probes.select(1).save_pretrained(tmp_path)
    read = LinearProbes.from_pretrained(tmp_path)
    assert read.grid == [GRID[1]]
    torch.testing.assert_close(read(des)[0], probes(des)[1])


def test_a_probe_without_statistics_is_refused(tmp_path: Path) -> None:
    LinearProbes(6, 4, [GRID[0]]).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="the probe has no statistics of a training set"):
        LinearProbes.from_pretrained(tmp_path)
    probe = LinearProbes(6, 4, [GRID[0]])
    probe.fit_statistics([data()[0]])
    probe.half().save_pretrained(tmp_path)
    assert LinearProbes.from_pretrained(tmp_path)(data()[0]).dtype == torch.float16


def test_bad_grid_is_named() -> None:
    with pytest.raises(ValueError, match="grid is empty"):
        LinearProbes(6, 4, [])
    with pytest.raises(ValueError, match="learning rates > 0"):
        LinearProbes(6, 4, [(0.0, 0.1)])
    with pytest.raises(ValueError, match="no training embedding"):
        LinearProbes(6, 4, GRID).fit_statistics([])
