"""Qwen3.5: linear attention beside full attention. What every family must do, `test_parity` tries."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen3_5Config, Qwen3_5ForConditionalGeneration, Qwen3_5TextConfig, masking_utils
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from emo_lightning.core.errors import InputError
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.des import DESHead
from emo_lightning.models.families import FamilyError, Relative1000, family_of
from emo_lightning.models.families.delta_rule import RowDelta, read_in_samples
from emo_lightning.models.families.samples import Samples
from emo_lightning.models.loading import load_frozen
from tests.models.families.test_parity import batch_of, loaded, questions  # noqa: F401 - fixture
from tests.models.families.tiny_qwen3_5 import build_qwen3_5
from tests.worded import worded_qwen  # noqa: F401 - fixture

IMAGES = [[5], [70, 3, 4, 3], [2, 6], [1, 4, 3]]
"""Tokens of what is shared, and of each branch: shorter and longer than the convolution and a chunk of the rule."""


@pytest.fixture(scope="module")
def tiny(worded_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    return build_qwen3_5(tmp_path_factory.mktemp("qwen35") / "model", worded_qwen, layers=5)


def layer() -> Qwen3_5GatedDeltaNet:
    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        hidden_size=24,
        num_hidden_layers=4,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=8,
        linear_value_head_dim=6,
    )
    found = Qwen3_5GatedDeltaNet(cast(Any, config), 0)
    with torch.no_grad():
        found.conv1d.weight.normal_()
        found.A_log.sub_(3)
    return found


def test_the_layer_keeps_samples_apart() -> None:
    """Values and gradients of transformers' layer, a question at a time: what is shared, and itself."""
    ours = layer()
    rows = torch.randn(1, sum(map(sum, IMAGES)), 24)
    among = Samples.branched(IMAGES, rows.device)
    weigh = torch.randn_like(rows)

    def learned(computed: Any) -> list[Tensor]:  # noqa: ANN401
        states = rows.clone().requires_grad_()
        out: Tensor = computed(states)
        (out * weigh).sum().backward()
        gradients = [cast(Tensor, parameter.grad).clone() for parameter in ours.parameters()]
        ours.zero_grad()
        return [out.detach(), cast(Tensor, states.grad), *gradients]

    def alone(states: Tensor) -> Tensor:
        found = torch.zeros_like(states)
        for parts in among.parts:
            places = torch.tensor([place for part in parts for place in part])
            own = ours(states[:, places])[:, -len(parts[-1]) :]
            found = found.index_copy(1, torch.tensor(list(parts[-1])), own)
        return found

    expected = learned(alone)
    read_in_samples(torch.nn.ModuleList([ours]))
    assert type(ours) is RowDelta
    for found, other in zip(learned(lambda states: ours(states, samples=among)), expected, strict=True):
        torch.testing.assert_close(found, other, atol=1e-5 * max(1.0, float(other.abs().max())), rtol=0)
    # transformers' own forward would mix them.
    assert not torch.allclose(ours(rows), expected[0], atol=1e-2)


def test_hidden_states_are_the_last_layers_by_order(tiny: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    """Of five layers the last four: two and one linear, full, linear; the fourth is after the final norm."""
    backbone = loaded(tiny).eval()
    batch = cast("dict[str, Any]", batch_of(backbone, questions[:2], packed=False))
    assert backbone.base.config.get_text_config().layer_types[-4:] == [
        *["linear_attention"] * 2,
        "full_attention",
        "linear_attention",
    ]
    inputs = backbone.family.model_inputs(batch)
    with torch.no_grad():
        expected = backbone.base(**inputs, output_hidden_states=True).hidden_states[-4:]
        found = backbone.hidden_states(batch, 4)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    head = DESHead(backbone.hidden_size)
    des = head(found, batch["attention_mask"].bool())
    assert (des[0] if isinstance(des, tuple) else des).shape == (2, backbone.hidden_size // 2)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_padded_on_the_left_answers_are_those_alone(tiny: Path, questions: list[ImageQuestion], attention: str) -> None:  # noqa: F811
    """A state that had read padding would answer otherwise; a batch of one among them, which older versions of transformers read so."""
    backbone = load_frozen(BackboneConfig(str(tiny), attention=attention, dtype="float32"))
    collate = Collator(backbone.processor, backbone.model_type, answers=False)
    asked = [
        replace(one, keys=keys, record=None)
        for one, keys in zip(questions, [("emotion",), ("description", "emotion")] * 2, strict=True)
    ]
    together = collate(asked)
    assert int((together["attention_mask"] == 0).sum()) > 10
    answers = backbone.generate(together, 8)
    assert answers == [backbone.generate(collate([one]), 8)[0] for one in asked]
    assert len(set(answers)) > 1
    inputs = backbone.family.model_inputs(collate(asked[:1]))
    padded = {
        name: pad_sequence([value[0].flip(0), value.new_empty(value.shape[1] + 7)], batch_first=True)[:1].flip(1)
        if value.shape == inputs["input_ids"].shape
        else value
        for name, value in inputs.items()
    }
    with torch.no_grad():
        one, other = (backbone.last_hidden_state(given)[0, -5:] for given in (inputs, padded))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_other_attention_cannot_pack_and_says_so(tiny: Path) -> None:
    backbone = load_frozen(BackboneConfig(str(tiny), attention="eager"))
    assert not backbone.packs
    assert not any(isinstance(module, RowDelta) for module in backbone.modules())
    assert loaded(tiny).packs


def test_a_version_that_reads_padding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(masking_utils, "create_recurrent_attention_mask")
    with pytest.raises(
        FamilyError, match=r"Qwen3\.5: this version of transformers lets the padding of a single sample .* install a newer one"
    ):
        family_of("qwen3_5").model_class()
    assert issubclass(FamilyError, InputError)


REAL: dict[str, tuple[dict[str, int], dict[str, int], int, bool]] = {
    "0.8B": (
        {
            **{"hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 24, "num_attention_heads": 8},
            **{"num_key_value_heads": 2, "linear_num_value_heads": 16},
        },
        {"depth": 12, "hidden_size": 768, "num_heads": 12, "intermediate_size": 3072, "out_hidden_size": 1024},
        852_985_920,
        True,
    ),
    "4B": (
        {"hidden_size": 2560, "intermediate_size": 9216, "num_hidden_layers": 32, "num_attention_heads": 16},
        {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "out_hidden_size": 2560},
        4_539_265_536,
        True,
    ),
    "9B": ({}, {"out_hidden_size": 4096}, 9_409_813_744, False),
}
"""Of the published models: text, vision, number of parameters without the layer that predicts a second token, whether the head is the embedding."""


@pytest.mark.parametrize("size", REAL)
def test_published_shapes(size: str) -> None:
    text, vision, parameters, tied = REAL[size]
    config = Qwen3_5Config(text_config={**text, "tie_word_embeddings": tied}, vision_config=vision, tie_word_embeddings=tied)
    with torch.device("meta"):
        model = Qwen3_5ForConditionalGeneration(config)
    model.tie_weights()
    family = family_of("qwen3_5")
    assert isinstance(family.codec, Relative1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    text_config = cast(Qwen3_5TextConfig, config.text_config)
    layers, depth = text_config.num_hidden_layers, cast(Any, config.vision_config).depth
    assert len(family.layers(model)) == layers
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    found = {part: sum(bool(re.fullmatch(targets, name)) for name in linear) for part, targets in family.lora_targets.items()}
    # Three in four with five projections of linear attention, one in four with four of full attention, all with three of an MLP.
    assert found == {"vision": 4 * depth, "merger": 2, "language": layers * 3 // 4 * 5 + layers // 4 * 4 + layers * 3}
    assert sum(found.values()) == len(linear) - 1, "all but the head"
    assert (text_config.layer_types or [])[-4:] == [*["linear_attention"] * 3, "full_attention"]
    assert DESHead(text_config.hidden_size).des_dim == text_config.hidden_size // 2


def test_a_step_counts_layers_by_their_kind(tiny: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    """Twice the tokens are twice the work of linear attention, and four times that of full attention."""
    backbone = loaded(tiny)
    batch = batch_of(backbone, questions[:1], packed=False)
    length = batch["input_ids"].shape[1]
    family = cast(Any, backbone.family)
    assert json.loads((tiny / "config.json").read_text())["model_type"] == backbone.model_type
    one, two = (family._among_tokens(backbone.base, n, n**2 / 2) for n in (length, 2 * length))
    full = 4.0 * 4 * 32 * length**2 / 2
    assert two - 2 * one == pytest.approx(2 * full)
