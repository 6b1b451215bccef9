"""A tiny random InstructBLIP of the true architecture, and images for it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import transformers as t
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from data_prep.config import EMOVIT_QUESTION
from data_prep.emovit.scorer import ANSWER_PREFIX
from tests.data_prep.grounding.models import randomise


def language_tokenizer() -> t.PreTrainedTokenizerFast:
    """A byte-pair tokenizer in the manner of Llama's: blanks belong to the word that follows, labels have several tokens."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>", "[PAD]", "<image>"]
    tokenizer.train_from_iterator([EMOVIT_QUESTION, ANSWER_PREFIX], trainers.BpeTrainer(vocab_size=90, special_tokens=special))
    return t.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="[PAD]",
        extra_special_tokens={"image_token": "<image>"},
    )


def save_base(folder: Path) -> Path:
    """A tiny InstructBLIP with its processor, as a hub model is stored."""
    torch.manual_seed(0)
    language = language_tokenizer()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(re.findall(r"\w+|[^\w\s]", EMOVIT_QUESTION.lower())))]
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    question = t.BertTokenizer(str(folder / "vocab.txt"))
    image_token = language.convert_tokens_to_ids("<image>")
    assert isinstance(image_token, int)
    config = t.InstructBlipConfig(
        vision_config=t.InstructBlipVisionConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
        ),
        qformer_config=t.InstructBlipQFormerConfig(
            vocab_size=len(words),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=128,
        ),
        text_config=t.LlamaConfig(
            vocab_size=len(language), hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
        ),
        num_query_tokens=4,
        image_token_index=image_token,
    )
    model = t.InstructBlipForConditionalGeneration(config)
    randomise(model, 0)
    model.save_pretrained(folder)
    images = t.BlipImageProcessor(size={"height": 28, "width": 28})
    t.InstructBlipProcessor(images, language, question, num_query_tokens=4).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("emovit") / "base")


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    return [Image.linear_gradient("L").rotate(90 * i).convert("RGB").resize((40 + i, 30)) for i in range(3)]
