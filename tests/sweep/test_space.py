"""What runs are given: whole grids, seeded draws as W&B defines its distributions, and Optuna's suggestions."""

from __future__ import annotations

import math
import sys
from typing import Any, cast

import numpy as np
import pytest
import yaml
from scipy import stats

from emo_lightning.sweep.bayes import Bayes
from emo_lightning.sweep.parameters import DISTRIBUTIONS, Parameter, SweepError, read_parameter
from emo_lightning.sweep.records import labels, run_name
from emo_lightning.sweep.space import Grid, Random, Search, draw
from emo_lightning.sweep.values import TrialValues, as_text, values_digest


def parameter(name: str = "x", **body: object) -> Parameter:
    """As a sweep's file has it."""
    problems: list[str] = []
    read = read_parameter(name, body, problems)
    assert read is not None, problems
    return read


def asked(search: Search) -> list[TrialValues]:
    """Everything that a search asks for, if all ends well."""
    found = []
    while (values := search.ask()) is not None:
        search.tell(values, 1.0)
        found.append(values)
    return found


def test_a_grid_is_the_product_in_order() -> None:
    grid = [parameter("a", values=["p", None]), parameter("b", value=3), parameter("c", min=1, max=3)]
    runs = asked(Grid(grid, None))
    assert runs == [{"a": a, "b": 3, "c": c} for a in ("p", None) for c in (1, 2, 3)]
    assert asked(Grid(grid, 2)) == runs[:2]
    assert Grid(grid, 99).total == 6
    assert parameter(min=0.0, max=1.0, q=0.25, distribution="q_uniform").countable() == (0.0, 0.25, 0.5, 0.75)


LOW, HIGH = 1e-4, 0.1
E = (math.log(LOW), math.log(HIGH))
LAWS: dict[str, tuple[dict[str, Any], Any]] = {
    "uniform": ({"min": LOW, "max": HIGH}, stats.uniform(LOW, HIGH - LOW)),
    "log_uniform_values": ({"min": LOW, "max": HIGH}, stats.loguniform(LOW, HIGH)),
    "log_uniform": ({"min": E[0], "max": E[1]}, stats.loguniform(LOW, HIGH)),
    "inv_log_uniform_values": ({"min": LOW, "max": HIGH}, stats.loguniform(LOW, HIGH)),
    "inv_log_uniform": ({"min": -E[1], "max": -E[0]}, stats.loguniform(LOW, HIGH)),
    "normal": ({"mu": 3, "sigma": 2}, stats.norm(3, 2)),
    "log_normal": ({"mu": 1, "sigma": 0.5}, stats.lognorm(0.5, scale=math.e)),
    "beta": ({"a": 2, "b": 5}, stats.beta(2, 5)),
}


@pytest.mark.parametrize("name", LAWS)
def test_draws_follow_their_distribution(name: str) -> None:
    options, law = LAWS[name]
    rng = np.random.default_rng(0)
    values = [draw(parameter(distribution=name, **options), rng) for _ in range(2000)]
    assert stats.kstest(values, law.cdf).pvalue > 0.01


@pytest.mark.parametrize("name", [n for n in DISTRIBUTIONS if n.startswith("q_")])
def test_quantized_draws_are_multiples(name: str) -> None:
    options: dict[str, dict[str, Any]] = {
        "log_uniform": {"min": 0.0, "max": 3.0},
        "log_uniform_values": {"min": 1.0, "max": 20.0},
        "uniform": {"min": 0.0, "max": 9.0},
    }
    rng = np.random.default_rng(0)
    for q in (0.1, 2):
        law = parameter(distribution=name, q=q, **options.get(name[2:], {}))
        values = cast(list[float], [draw(law, rng) for _ in range(200)])
        assert all(abs(v / q - round(v / q)) < 1e-9 for v in values)
        assert {type(v) for v in values} == {type(q)}
        assert all(len(str(v)) < 8 for v in values)


def test_choices() -> None:
    rng = np.random.default_rng(0)
    assert {draw(parameter(min=1, max=3), rng) for _ in range(99)} == {1, 2, 3}
    weighted = [draw(parameter(values=["a", "b"], probabilities=[0.9, 0.1]), rng) for _ in range(1000)]
    assert 860 < weighted.count("a") < 940
    assert draw(parameter(value=[1]), rng) == [1]


def test_random_is_a_function_of_seed_and_number() -> None:
    space = [parameter("a", min=0.0, max=1.0), parameter("b", values=[1, 2])]
    runs = asked(Random(space, 8, seed=1))
    assert runs == asked(Random(space, 8, seed=1))
    assert runs[:5] == asked(Random(space, 5, seed=1))
    assert runs != asked(Random(space, 8, seed=2))
    small = Random([parameter("b", values=[1, 2])], 8, seed=0)
    assert sorted(str(r["b"]) for r in asked(small)) == ["1", "2"]
    assert small.total == 2


@pytest.mark.parametrize(
    "value", [1e-05, 0.1 + 0.2, 3, True, None, "none", "null", "1e-4", "a: b", ["x", None], {"a": [1.5e-9]}, "ü", ""]
)
def test_the_command_line_reads_back_what_was_meant(value: object) -> None:
    assert yaml.safe_load(as_text(value)) == value
    assert "\n" not in as_text(value)


def test_names() -> None:
    assert labels(["a.model.x", "b.model.x", "vars.seed"]) == {
        "a.model.x": "a.model.x",
        "b.model.x": "b.model.x",
        "vars.seed": "seed",
    }
    varied = [parameter("des.model.head.fusion", values=["both", "none"])]
    one, two = (TrialValues({"des.model.head.fusion": "both", "vars.seed": seed}) for seed in (0, 1))
    assert run_name(varied, one) == f"fusion=both-{values_digest(one)}"
    assert run_name(varied, one) != run_name(varied, two)
    assert len(run_name([parameter(values=["a/b c" * 99, "x"])], {"x": "a/b c" * 99})) < 120


# Bayes


def test_bayes_without_optuna_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(SweepError, match=r"pip install 'emo-lightning\[sweep\]'"):
        Bayes([parameter(min=0.0, max=1.0)], 3, 0, True, 1)


SPACE = [
    parameter("x", min=-2.0, max=2.0),
    parameter("lr", min=1e-5, max=1e-1, distribution="log_uniform_values"),
    parameter("n", min=1, max=8),
    parameter("mix", values=[{"a": 1}, [1, 2], None, "s"]),
    parameter("fixed", value=7),
    parameter("q", min=0.0, max=1.0, q=0.25, distribution="q_uniform"),
]


def searched(
    count: int, earlier: list[tuple[TrialValues, float | None]] | None = None, seed: int = 0
) -> list[tuple[TrialValues, float]]:
    """Runs and results of a search for the smallest (x - 1)²."""
    search = Bayes(SPACE, count, seed, False, 1, earlier or [])
    found = []
    while (values := search.ask()) is not None:
        found.append((values, (cast(float, values["x"]) - 1) ** 2))
        search.tell(*found[-1])
    return found


def test_bayes_finds_better_than_it_starts() -> None:
    pytest.importorskip("optuna")
    runs = searched(40)
    assert len(runs) == 40
    assert runs == searched(40)
    assert np.mean([m for _, m in runs[-10:]]) < 0.5 * np.mean([m for _, m in runs[:10]])
    for values, _ in runs:
        assert values["fixed"] == 7
        assert values["mix"] in [{"a": 1}, [1, 2], None, "s"]
        assert isinstance(values["n"], int)
        assert cast(float, values["q"]) % 0.25 == 0


def test_bayes_goes_on_where_it_was() -> None:
    pytest.importorskip("optuna")
    done = searched(12)
    unfinished = ({**done[0][0], "x": 0.125}, None)
    rest = searched(20, [*done, unfinished])
    assert len(rest) == 8
    assert rest[0][0] == unfinished[0]
    assert not {values_digest(v) for v, _ in rest} & {values_digest(v) for v, _ in done}
