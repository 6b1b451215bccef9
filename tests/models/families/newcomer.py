"""What every family of backbones must do, tried with a small random model of it."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoProcessor

from emo_lightning.data.chat import objective, prompt
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone_config import BackboneConfig, LoRA
from emo_lightning.models.loading import load_backbone


def check_family(folder: Path, model_type: str, tars: Path, **options: object) -> None:
    """It loads, asks with the tokens that transformers would ask with, learns in all its parts, and embeds.

    Args:
        folder: of a small model, with its processor.
        model_type: of its family.
        tars: of images with their records.
        options: that its processor is given, where the family gives them too.
    """
    lora = LoRA(rank=2, dropout=0.0)
    backbone = load_backbone(BackboneConfig(str(folder), tuning="lora", train_vision=True, lora=lora))
    assert backbone.model_type == model_type
    counts = backbone.counts()
    assert all(counts[f"trainable/{part}"] > 0 for part in ("vision", "merger", "language")), counts

    index = TarIndex.open([str(tars)])
    record = index.record(0)
    question = ImageQuestion(record.id, index.image(0), objective("emotion").available(record), record)
    asked = Collator(backbone.processor, model_type, answers=False)([question])
    theirs = AutoProcessor.from_pretrained(folder)
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt(question.keys)}]}]
    text = theirs.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    found = theirs(text=[text], images=[question.image], return_tensors="pt", **options)
    assert asked["input_ids"].tolist() == found["input_ids"].tolist(), "see Family.image_frame and Family.image_tokens"

    batch = Collator(backbone.processor, model_type, answers=True)([question])
    loss, tokens = backbone.train().answer_loss(batch)
    loss.backward()
    assert tokens > 0
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)
    # Asked at every training step, for `perf/mfu`.
    assert backbone.step_flops(batch, [batch["input_ids"].shape[1]]) > 0

    states = backbone.eval().hidden_states(asked, 4)
    assert states.shape[:-1] == (4, *asked["input_ids"].shape)
    assert len(backbone.generate(asked, 3)) == 1
    # What follows changes nothing of what stands before it.
    inputs, more = backbone.family.model_inputs(asked), torch.tensor([[5, 6]])
    with torch.no_grad():
        alone = backbone.last_hidden_state(inputs)
        followed = backbone.last_hidden_state(backbone.family.extended(inputs, more, torch.ones_like(more)))
    torch.testing.assert_close(followed[:, : alone.shape[1]], alone, atol=1e-4, rtol=1e-4)
