"""The head's part of the loss: as much memory as its chunks are allowed, whatever the length of the row, and the same gradients."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from emo_lightning.models import loss
from emo_lightning.models.loss import emotion_terms, supervised_loss

WIDTH, WORDS = 2048, 151_936
"""Of the 3B."""
GB = 1e9


class Live(TorchDispatchMode):
    """Counts the bytes of tensors that are alive, and the most that were at once; nothing is computed where all are on meta.

    Args:
        given: tensors that are there already, and are not counted.
    """

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in given}

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        found = func(*args, **(kwargs or {}))
        for one in tree_leaves(found):
            if isinstance(one, Tensor):
                storage = one.untyped_storage()
                if storage._cdata not in self._known:
                    self._known.add(storage._cdata)
                    self._now += storage.nbytes()
                    self.peak = max(self.peak, self._now)
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        return found

    def _gone(self, storage: int, size: int) -> None:
        self._known.discard(storage)
        self._now -= size


@pytest.mark.parametrize("supervised", [512, 8_000])
@pytest.mark.parametrize("learns", [False, True])
def test_the_head_of_the_3b_takes_no_more_than_its_chunks(supervised: int, learns: bool) -> None:
    """Of 8,192 tokens; with full tuning the gradient of its weight is there besides, once."""
    with torch.device("meta"):
        head = nn.Linear(WIDTH, WORDS, bias=False, dtype=torch.bfloat16).requires_grad_(learns)
        hidden = torch.empty(1, 8192, WIDTH, dtype=torch.bfloat16, requires_grad=True)
        at, labels = torch.arange(1, supervised + 1), torch.zeros(1, 8192, dtype=torch.int64)
    with Live(head.weight, hidden, at, labels) as live:
        total, _ = supervised_loss(hidden, labels, head, at)
        total.backward()
    gradient = head.weight.nbytes if learns else 0
    assert live.peak - gradient < 0.7 * GB
    assert live.peak > 0.3 * GB, "what is counted is a chunk of logits at least"


def test_emotion_terms_of_the_3b_take_no_more_either() -> None:
    count = 2_000
    with torch.device("meta"):
        head = nn.Linear(WIDTH, WORDS, bias=False, dtype=torch.bfloat16).requires_grad_(False)
        hidden = torch.empty(1, 8192, WIDTH, dtype=torch.bfloat16, requires_grad=True)
        named = torch.arange(count)
        batch = {
            "lengths": [8192],
            "labels": torch.zeros(1, 8192, dtype=torch.int64),
            "emotion_at": named + 1,
            "emotion_rows": named,
            "emotion_first": torch.zeros(count, 8, dtype=torch.int64),
            "emotion_target": torch.zeros(count, 8),
        }
    held = [one for one in batch.values() if isinstance(one, Tensor)]
    with Live(head.weight, hidden, *held) as live:
        emotion_terms(hidden, batch, head, soft=True, distribution_weight=1.0).backward()  # type: ignore[arg-type]
    assert 0.3 * GB < live.peak < 0.7 * GB


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three positions at once, and seven words of the gradient."""
    monkeypatch.setattr(loss, "MAX_LOGITS", 3 * 50)
    monkeypatch.setattr(loss, "_ROWS", 7)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("weighed", [False, True])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_head_that_learns_has_the_gradients_of_one_product(weighed: bool, dtype: torch.dtype | None) -> None:
    """Float32, and bfloat16 by autocast, whose gradients autograd rounds to bfloat16 as well."""
    torch.manual_seed(0)
    head = nn.Linear(16, 50, bias=False)
    hidden = torch.randn(1, 40, 16, requires_grad=True)
    labels, at = torch.randint(0, 50, (1, 40)), torch.arange(1, 24)
    weights = torch.rand(1, 40) if weighed else None

    def found() -> tuple[Tensor, Tensor, Tensor]:
        head.zero_grad()
        hidden.grad = None
        with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
            total, count = supervised_loss(hidden, labels, head, at, weights)
        (3.0 * total / count).backward()
        assert head.weight.grad is not None
        assert hidden.grad is not None
        return total.detach(), head.weight.grad.clone(), hidden.grad.clone()

    ours = found()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss, "MAX_LOGITS", 2**25)
        whole = found()
    for one, other in zip(ours, whole, strict=True):
        assert torch.allclose(one, other, atol=1e-6 if dtype is None else 2e-2, rtol=1e-5 if dtype is None else 2e-2)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("change", ["hook", "bias", "frozen", "no gradients"])
def test_any_other_head_is_called_itself(change: str) -> None:
    torch.manual_seed(0)
    head = nn.Linear(16, 50, bias=change == "bias")
    called: list[int] = []
    if change == "hook":
        head.register_forward_hook(lambda *_: called.append(1))
    head.requires_grad_(change != "frozen")
    hidden = torch.randn(1, 40, 16, requires_grad=True)
    labels, at = torch.randint(0, 50, (1, 40)), torch.arange(1, 24)
    with torch.set_grad_enabled(change != "no gradients"):
        total, _ = supervised_loss(hidden, labels, head, at)
    expected = nn.functional.cross_entropy(head(hidden[0, at - 1]), labels[0, at], reduction="sum")
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert len(called) == (9 if change == "hook" else 0)
