"""W&B's project and mode where nobody states them."""

from __future__ import annotations

import pytest

from emo_lightning.core.wandb_defaults import wandb_mode, wandb_project


@pytest.mark.parametrize("variable", [None, "", "ours"])
@pytest.mark.parametrize(("stated", "expected"), [((), None), ((None, ""), None), (("a", "b"), "a"), ((None, "b"), "b")])
def test_the_project(
    stated: tuple[str | None, ...], expected: str | None, variable: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    if variable is not None:
        monkeypatch.setenv("WANDB_PROJECT", variable)
    assert wandb_project(*stated) == (expected or variable or "emo-lightning")


def test_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "")
    assert (wandb_mode(), wandb_mode(default="online"), wandb_mode("disabled")) == ("offline", "online", "disabled")
    monkeypatch.setenv("WANDB_MODE", "shared")
    assert (wandb_mode(default="online"), wandb_mode("disabled")) == ("shared", "disabled")
