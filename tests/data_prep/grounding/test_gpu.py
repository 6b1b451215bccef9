"""Grounding on a GPU, by transformers alone: what the CPU finds, and `emo prep ground --device cuda`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_prep.cli import main
from data_prep.grounding import transformers_backend
from data_prep.grounding.detect_segment import ModelGrounder, candidates_of
from data_prep.grounding.masks import decode_mask
from data_prep.store.store import Store
from tests.data_prep.grounding.models import DINO, segmenter_of

pytestmark = pytest.mark.gpu

TEXTS = ["dog.", "a sad cat.", "old tree.", "a dog.", "cat.", "sad tree."]
Pair = tuple[ModelGrounder, ModelGrounder]


@pytest.fixture(scope="module")
def on_both(folders: dict[str, Path]) -> Pair:
    """The same weights on the CPU and on the GPU."""
    cpu, gpu = (
        transformers_backend.load(str(folders["dino"]), str(folders["sam"]), device=device, threshold=0.0)
        for device in ("cpu", "cuda")
    )
    return cpu, gpu


@torch.inference_mode()
def test_networks_give_what_they_give_on_a_cpu(on_both: Pair, images: list[Image.Image]) -> None:
    # By default convolutions round their factors to 10 bits (TF32); without it only the order of sums differs.
    with torch.backends.cudnn.flags(allow_tf32=False):
        found, on_gpu = (backend.detector.detect(images, TEXTS) for backend in on_both)
        for (logits, boxes), (gpu_logits, gpu_boxes) in zip(found, on_gpu, strict=True):
            assert gpu_logits.device.type == "cpu"
            there = torch.isfinite(logits)
            assert torch.equal(there, torch.isfinite(gpu_logits))
            assert logits[there].std() > 1, "logits that are all alike would agree by chance"
            assert (logits[there] - gpu_logits[there]).abs().max() <= 2e-3
            assert (boxes - gpu_boxes).abs().max() <= 1e-4
        corners = [candidates_of(logits, boxes, i.size, 0.0)[0] for (logits, boxes), i in zip(found, images, strict=True)]
        assert all(len(boxes) == DINO.queries for boxes in corners)
        drawn, gpu_drawn = (segmenter_of(backend).segment(images, corners) for backend in on_both)
    masks, gpu_masks = ([decode_mask(m) for of_image in all_masks for m in of_image] for all_masks in (drawn, gpu_drawn))
    differing = sum(int((a != b).sum()) for a, b in zip(masks, gpu_masks, strict=True))
    pixels = sum(mask.size for mask in masks)
    assert 0.05 < sum(int(mask.sum()) for mask in masks) / pixels < 0.95
    assert differing / pixels <= 1e-3


@torch.inference_mode()
def test_an_answer_does_not_depend_on_the_company(on_both: Pair, images: list[Image.Image]) -> None:
    detector = on_both[1].detector
    with torch.backends.cudnn.flags(allow_tf32=False):
        together = detector.detect(images, TEXTS)
        for image, text, (logits, boxes) in zip(images, TEXTS, together, strict=True):
            ((alone, alone_boxes),) = detector.detect([image], [text])
            tokens = int(torch.isfinite(alone).any(0).sum())
            assert (logits[:, :tokens] - alone[:, :tokens]).abs().max() <= 2e-3
            assert (boxes - alone_boxes).abs().max() <= 1e-4


def test_the_command_grounds_on_a_gpu_in_batches(
    store: Store, folders: dict[str, Path], write_config: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def change(config: dict) -> None:
        config["grounding"] = {
            "backend": "transformers",
            "detector": str(folders["dino"]),
            "segmenter": str(folders["sam"]),
            "device": "cpu",
        }

    root = store.root
    store.close()
    torch.cuda.reset_peak_memory_stats()
    command = ["ground", str(root), "--config", str(write_config(change)), "--device", "cuda", "--batch-size", "32"]
    assert main(command) == 0
    # Every weight of both networks was there.
    weights = sum((folders[name] / "model.safetensors").stat().st_size for name in ("dino", "sam"))
    assert torch.cuda.max_memory_allocated() > 0.9 * weights
    said = capsys.readouterr().out
    assert said.startswith("grounding: computed ")
    with Store(root, write=False) as store:
        rows = [json.loads(row[0]) for row in store.ledger.read("SELECT objects FROM groundings")]
    assert rows
    for candidates in rows:
        assert [c["primary"] for c in candidates] == [True] + [False] * (len(candidates) - 1)
        assert all(np.all(np.isfinite(c["bbox"])) and c["mask"]["size"] == [32, 40] for c in candidates)
    assert main(command) == 0
    assert "computed" not in capsys.readouterr().out, "nothing is computed again"
