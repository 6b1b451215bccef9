"""A grid of linear probes equals probes trained one by one; statistics are exact; saved and read back."""

import pytest
import torch
import torch.nn.functional as F

from emo_lightning.models.probe import LinearProbes

GRID = [(1e-2, 0.0), (1e-3, 0.1), (3e-2, 1.0)]


def data(rows=200, dim=6):
    torch.manual_seed(0)
    return torch.randn(rows, dim) * torch.tensor([1, 10, 0.1, 1, 1, 1]) + torch.tensor([0, 1e3, 5, 0, -7, 0]), torch.randint(
        4, (rows,)
    )


def test_one_pass_trains_each_probe_as_if_alone():
    des, labels = data()
    probes = LinearProbes(6, 4, GRID)
    probes.fit_statistics([des])
    optimizer = torch.optim.AdamW(probes.parameter_groups())
    for _ in range(20):
        logits = probes(des)
        assert logits.shape == (3, 200, 4)
        loss = sum(F.cross_entropy(each, labels) for each in logits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for (rate, decay), together in zip(GRID, probes(des), strict=True):
        alone = LinearProbes(6, 4, [(rate, decay)])
        alone.fit_statistics([des])
        single = torch.optim.AdamW(alone.parameter_groups())
        for _ in range(20):
            single.zero_grad()
            F.cross_entropy(alone(des)[0], labels).backward()
            single.step()
        torch.testing.assert_close(together, alone(des)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cut", [1, 7, 200])
def test_statistics_are_exact_for_any_cut(cut):
    des, _ = data()
    probes = LinearProbes(6, 4, GRID)
    probes.fit_statistics([torch.zeros(0, 6), *des.split(cut)])
    torch.testing.assert_close(probes.mean, des.double().mean(0).float(), atol=0, rtol=1e-7)
    torch.testing.assert_close(probes.scale, (1 / des.double().std(0, correction=0)).float(), atol=0, rtol=1e-6)
    assert int(probes.count) == 200
    standard = probes.standardise(des)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(6), atol=1e-3, rtol=0)


def test_a_constant_feature_is_ignored():
    des, _ = data()
    des[:, 2] = 0.1
    probes = LinearProbes(6, 4, GRID)
    probes.fit_statistics(des.split(7))
    assert (probes.standardise(des)[:, 2] == 0).all()
    des[0, 2] = 9.0
    assert probes.standardise(des)[0, 2] == 0


def test_chosen_probe_is_saved_and_read_back(tmp_path):
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


def test_bad_grid_is_named():
    with pytest.raises(ValueError, match="grid is empty"):
        LinearProbes(6, 4, [])
    with pytest.raises(ValueError, match="learning rates > 0"):
        LinearProbes(6, 4, [(0.0, 0.1)])
    with pytest.raises(ValueError, match="no training embedding"):
        LinearProbes(6, 4, GRID).fit_statistics([])
