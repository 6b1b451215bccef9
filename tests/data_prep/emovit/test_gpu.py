"""EmoViT on a GPU: the scores of the CPU, and `emo prep vote` in bfloat16."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as t
from PIL import Image

from data_prep.cli import main
from data_prep.config import EMOVIT_QUESTION
from data_prep.emovit.scorer import LocalVoter
from data_prep.store.store import Store
from emo_lightning.core.records import EMOTIONS
from tests.data_prep.conftest import item_of

pytestmark = pytest.mark.gpu


def test_scores_are_those_of_a_cpu(base: Path, images: list[Image.Image]) -> None:
    model = t.InstructBlipForConditionalGeneration.from_pretrained(base)
    processor = t.InstructBlipProcessor.from_pretrained(base)
    # By default convolutions round their factors to 10 bits (TF32); without it only the order of sums differs.
    with torch.backends.cudnn.flags(allow_tf32=False):
        # The voter moves the model.
        on_cpu = LocalVoter(model, processor, EMOVIT_QUESTION, device="cpu").log_probabilities(images)
        on_gpu = LocalVoter(model, processor, EMOVIT_QUESTION, device="cuda").log_probabilities(images)
    assert on_cpu.std(-1).min() > 0.1, "scores that are all alike would agree by chance"
    assert torch.allclose(on_cpu, on_gpu, rtol=0, atol=1e-3)


def test_the_command_votes_in_bfloat16(
    base: Path, write_config: Callable[..., Path], tmp_path: Path, toys: list, capsys: pytest.CaptureFixture[str]
) -> None:
    def change(config: dict) -> None:
        config["annotators"] = [a for a in config["annotators"] if a["name"] != "emovit"]
        row = {"name": "emovit", "role": "emotion", "backend": "local", "path": str(base), "weight": 0.4, "batch_size": 5}
        config["annotators"].append(row)

    with Store(tmp_path / "store", write=True) as store:
        store.import_items([item_of(record, data) for record, data in toys[:7]])
    torch.cuda.reset_peak_memory_stats()
    assert main(["vote", str(tmp_path / "store"), "--config", str(write_config(change))]) == 0
    assert capsys.readouterr().out == "votes: emovit 7 new\n"
    used = torch.cuda.max_memory_allocated()
    assert used > 0, "`device: auto` takes the GPU that is there"
    voter = LocalVoter.from_pretrained(str(base), EMOVIT_QUESTION, device="cuda")
    assert voter.model.dtype == torch.bfloat16
    exact = LocalVoter.from_pretrained(str(base), EMOVIT_QUESTION, device="cpu")
    with Store(tmp_path / "store", write=False) as store:
        for item in store.ledger.items():
            (row,) = store.ledger.read("SELECT distribution FROM local_votes WHERE image_sha256 = ?", (item.sha256,))
            vote = json.loads(row[0])
            assert vote.keys() == set(map(str, EMOTIONS))
            assert sum(vote.values()) == pytest.approx(1)
            image = Image.open(store.image_path(item.sha256, item.extension)).convert("RGB")
            # Eight bits of a bfloat16, summed over the tokens of an answer.
            (expected,) = exact.vote([image])
            assert [vote[e] for e in EMOTIONS] == pytest.approx([expected[e] for e in EMOTIONS], abs=0.1)
