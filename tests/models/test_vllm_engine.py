"""The engine behind the sampling protocol that vLLM fills: here a second model of transformers' stands behind the same calls, and generates.

It holds its own weights, gets them by the handles that vLLM gets, reads pictures by its own processor, and draws by its own generator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from emo_lightning.core.errors import InputError
from emo_lightning.data.batches import ChatBatch, ReplyTargets
from emo_lightning.data.collate import ImageQuestion
from emo_lightning.models import vllm_engine
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, BackboneError, LoRA
from emo_lightning.models.loading import load_backbone
from emo_lightning.models.merged_weights import merged_weights
from emo_lightning.models.policies import Policy
from emo_lightning.models.reply_rows import reply_log_probs, with_replies
from emo_lightning.models.sampling import Replies, Sampling, check_replies, drawing_numbers, never_drawn
from emo_lightning.models.vllm_engine import VLLMEngine
from emo_lightning.models.vllm_server import EngineConfig, OpenedEngine, check_vllm
from emo_lightning.tasks.grpo import GRPOTask
from emo_lightning.tasks.optim import OptimConfig
from tests.models.test_packing import questions, tuned  # noqa: F401 - fixture
from tests.models.test_sampling import ASKED, asked, with_ends
from tests.tasks.test_grpo import data, fit
from tests.worded import worded_model, worded_qwen  # noqa: F401 - fixtures

HOW = Sampling(replies=3, temperature=0.9, max_new_tokens=10)
LORA = {"tuning": "lora", "lora": LoRA(rank=2, dropout=0.0)}


@dataclass(frozen=True)
class Params:
    """Of vLLM's `SamplingParams` the fields that are set; another name would be an error, as there."""

    n: int
    temperature: float
    seed: int
    max_tokens: int
    stop_token_ids: list[int]
    logit_bias: dict[int, float]
    logprobs: int
    detokenize: bool


@dataclass
class Said:
    token_ids: list[int]
    logprobs: list[dict[int, Any]]
    finish_reason: str


@dataclass
class Answered:
    prompt_token_ids: list[int]
    outputs: list[Said]


@dataclass
class Probability:
    logprob: float


class SecondModel:
    """What `vllm.LLM` does with a folder without weights, by transformers."""

    def __init__(self, folder: str, dtype: str, *, max_pixels: int | None = None) -> None:
        self.model = (
            AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder)).to(getattr(torch, dtype)).eval()
        )
        self.processor = AutoProcessor.from_pretrained(folder)
        if max_pixels is not None:
            self.processor.image_processor.size = {**dict(self.processor.image_processor.size), "longest_edge": max_pixels}
        self.updates: list[int] = []
        self.names: set[str] = set()
        self.open = False

    def start_weight_update(self) -> None:
        assert not self.open
        self.open = True
        self.updates.append(0)

    def update_weights(self, request: dict[str, object]) -> None:
        assert self.open
        info = cast("dict[str, Any]", request["update_info"])
        weights = {}
        for name, dtype, shape, by_device in zip(
            *(info[key] for key in ("names", "dtype_names", "shapes", "ipc_handles")), strict=True
        ):
            rebuild, arguments = by_device["cpu"]
            weights[name] = rebuild(*arguments).clone()
            assert (str(weights[name].dtype), list(weights[name].shape)) == (f"torch.{dtype}", shape)
        missing = self.model.load_state_dict(weights, strict=False)
        assert not missing.unexpected_keys
        self.names |= weights.keys()
        self.updates[-1] += 1

    def finish_weight_update(self) -> None:
        assert self.open
        self.open = False
        assert self.names == {name for name, _ in self.model.named_parameters()}

    def reset_prefix_cache(self) -> bool:
        return True

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Mapping[str, object]], sampling_params: Sequence[Params], *, use_tqdm: bool
    ) -> list[Answered]:
        assert not use_tqdm
        assert not self.open
        return [self._answer(prompt, how) for prompt, how in zip(prompts, sampling_params, strict=True)]

    def _answer(self, prompt: Mapping[str, Any], how: Params) -> Answered:
        (picture,) = prompt["multi_modal_data"]["image"]
        assert len(prompt["multi_modal_uuids"]["image"]) == 1
        pixels = dict(self.processor.image_processor([picture], return_tensors="pt"))
        tokens = int(pixels["image_grid_thw"].prod()) // self.processor.image_processor.merge_size**2
        image = self.processor.image_token_id
        ids = [token for one in prompt["prompt_token_ids"] for token in ([image] * tokens if one == image else [one])]
        generator = torch.Generator().manual_seed(how.seed)
        said = Said([], [], "length")
        while len(said.token_ids) < how.max_tokens and said.finish_reason == "length":
            whole = torch.tensor([ids + said.token_ids])
            marks = (whole == image).long()
            logits = self.model(
                input_ids=whole, attention_mask=torch.ones_like(whole), mm_token_type_ids=marks, **pixels
            ).logits[0, -1]
            for token, bias in how.logit_bias.items():
                logits[token] += bias
            log_p = (logits / how.temperature).log_softmax(-1)
            token = int(torch.multinomial(log_p.exp(), how.n, generator=generator))
            said.token_ids.append(token)
            said.logprobs.append({token: Probability(float(log_p[token]))})
            if token in how.stop_token_ids:
                said.finish_reason = "stop"
        return Answered(ids, [said])


@dataclass
class Bench:
    backbone: Backbone
    batch: dict[str, Any]
    engine: VLLMEngine
    servers: list[SecondModel] = field(default_factory=list)

    def draw(self, images: Sequence[int] = (0, 1), how: Sampling = HOW) -> Replies:
        numbers = drawing_numbers(0, 0, [self.batch["key"][n] for n in images], how)
        return self.engine(self.backbone, self.batch, images, numbers, how)

    def gap(self, replies: Replies, images: Sequence[int] = (0, 1)) -> float:
        assert list(images) == list(range(len(self.batch["key"])))
        banned = torch.tensor(never_drawn(self.backbone))
        with torch.no_grad():
            found = reply_log_probs(self.backbone, with_replies(self.batch, replies.tokens), banned, HOW.temperature)[0]
        return float((found - torch.cat(replies.log_p)).abs().max())


def bench(path: Path, some: list[ImageQuestion], tuning: dict[str, Any] | None = None, **server: Any) -> Bench:  # noqa: ANN401
    backbone = with_ends(tuned(path, tuning))
    batch = {**asked(backbone, some), "asked": ReplyTargets([], [cast(Image.Image, one.image) for one in some])}
    found = Bench(backbone, batch, None)  # type: ignore[arg-type]

    def opened(_config: EngineConfig, folder: str, dtype: str) -> OpenedEngine:
        found.servers.append(SecondModel(folder, dtype, **server))
        return OpenedEngine(cast(Any, found.servers[-1]), Params)

    found.engine = VLLMEngine(EngineConfig("vllm"), opened)
    return found


@pytest.mark.parametrize("tuning", [pytest.param({"tuning": "full"}, id="full"), pytest.param(LORA, id="lora")])
def test_both_sides_give_a_reply_the_same_probability(
    worded_model: Path,  # noqa: F811
    questions: list[ImageQuestion],  # noqa: F811
    tuning: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of the policy's own weights, adapters folded in, which come in several pieces; a reply is that of its number alone."""
    monkeypatch.setattr(vllm_engine, "CHUNK_BYTES", 40_000)
    found = bench(worded_model, questions[2:4], tuning)
    replies = found.draw()
    check_replies(replies, 6, never_drawn(found.backbone), HOW.max_new_tokens)
    assert replies.wanted is None
    assert found.gap(replies) <= 2e-5
    assert len({tuple(one.tolist()) for one in replies.tokens}) > 3
    (server,) = found.servers
    assert server.updates[0] > 3
    alone = found.draw([1])
    assert [one.tolist() for one in alone.tokens] == [one.tolist() for one in replies.tokens[3:]]
    assert server.updates == server.updates[:1], "nothing has changed"
    assert replies.ended == [int(one[-1]) in found.backbone.end_token_ids for one in replies.tokens]


def test_weights_follow_every_step_and_the_policy_that_samples(worded_qwen: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    found = bench(worded_qwen, questions[2:4], LORA)
    model = found.backbone
    found.draw()
    optimiser = torch.optim.SGD([parameter for _, _, parameter in model.parameter_groups()], lr=1.0)
    sampler = Policy(model)
    for parameter in optimiser.param_groups[0]["params"]:
        parameter.grad = torch.randn_like(parameter) * 0.02
    optimiser.step()
    assert found.gap(found.draw()) <= 2e-5
    assert found.engine.handovers == 2
    with torch.no_grad(), sampler.within(model):
        replies = found.draw()
        assert found.engine.handovers == 3
        assert found.gap(replies) <= 2e-5
    assert found.gap(replies) > 1e-3, "the two policies differ"
    sampler.renew(model)
    with torch.no_grad(), sampler.within(model):
        assert found.gap(found.draw()) <= 2e-5


def test_merged_weights_are_those_of_a_merged_model(worded_model: Path) -> None:  # noqa: F811
    backbone = tuned(worded_model, LORA)
    before = {name: parameter.clone() for name, parameter in backbone.base.named_parameters()}
    found = {name: weight.clone() for name, weight in merged_weights(backbone.base)}
    assert all(torch.equal(before[name], parameter) for name, parameter in backbone.base.named_parameters())
    expected = dict(backbone.merged().named_parameters())
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        torch.testing.assert_close(weight, expected[name].detach(), atol=1e-6, rtol=1e-6)


def test_another_limit_of_pixels_is_refused(worded_qwen: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    found = bench(worded_qwen, questions[4:5], max_pixels=56 * 56)
    with pytest.raises(
        InputError, match=r"vLLM reads \d+ tokens with 4 of the picture where the policy reads \d+ with 9: .*limits of pixels"
    ):
        found.draw([0])


def test_a_token_of_a_picture_is_never_drawn(worded_qwen: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    found = bench(worded_qwen, questions[2:4])
    wanted = found.backbone.processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    weight = cast(Tensor, found.backbone.lm_head.weight)
    with torch.no_grad():
        weight[wanted] = found.backbone.last_hidden_state(cast(ChatBatch, found.batch))[0, -1]
    replies = found.draw()
    assert wanted not in torch.cat(replies.tokens)
    assert found.gap(replies) <= 2e-5


def test_other_pixels_show_in_the_gap(worded_qwen: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    found = bench(worded_qwen, questions[2:4])
    found.batch["asked"] = ReplyTargets(
        [], [cast(Image.Image, one.image).transpose(Image.Transpose.FLIP_LEFT_RIGHT) for one in questions[2:4]]
    )
    assert found.gap(found.draw()) > 1e-3


def test_a_training_draws_by_it(
    worded_qwen: Path,  # noqa: F811
    world_tars: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two steps, each with the weights that the one before has left: weights decay, so that they change whatever the replies are worth."""
    task = GRPOTask(
        BackboneConfig(str(worded_qwen), tuning="lora", dtype="float32", lora=LoRA(rank=2)),
        OptimConfig(lr=1e-2, warmup=0.0, schedule="constant", weight_decay=0.5),
        sampling=Sampling(replies=2, max_new_tokens=6),
        engine=EngineConfig("vllm"),
    )
    assert task.wants_images()
    engine = cast(VLLMEngine, task.rollouts.engine)
    servers: list[SecondModel] = []

    def opened(_config: EngineConfig, folder: str, dtype: str) -> OpenedEngine:
        servers.append(SecondModel(folder, dtype))
        return OpenedEngine(cast(Any, servers[-1]), Params)

    monkeypatch.setattr(engine, "_open", opened)
    source = data(world_tars, batch_size=2, limit=4)
    if find_spec("vllm") is None:
        with pytest.raises(InputError, match="which is not installed"):
            fit(task, source, tmp_path / "without")
    monkeypatch.setattr("emo_lightning.tasks.grpo.check_vllm", lambda: None)
    seen, _ = fit(task, data(world_tars, batch_size=2, limit=4), tmp_path / "with")
    assert max(seen.of("rollout/gap")) <= 1e-5
    assert "rollout/picture_tokens" not in seen.logged[0], "vLLM does not tell"
    assert engine.handovers == 2
    assert [len(server.updates) for server in servers] == [2]
    short = GRPOTask(task.net.config, sampling=Sampling(max_new_tokens=6), engine=EngineConfig("vllm", max_length=4101))
    with pytest.raises(
        InputError, match=r"engine\.max_length: found 4101; data\.max_length and sampling\.max_new_tokens need 4102"
    ):
        fit(short, data(world_tars), tmp_path / "short")


def test_what_cannot_run_is_refused(worded_qwen: Path) -> None:  # noqa: F811
    with pytest.raises(InputError, match=r"engine\.name: found 'sglang'; allowed: own, vllm"):
        EngineConfig(cast(Any, "sglang"))
    with pytest.raises(InputError, match=r"engine\.memory: found 1"):
        EngineConfig("vllm", memory=1)
    with pytest.raises(InputError, match=r"model\.engine\.name: found 'vllm' with model\.backbone\.tuning qlora"):
        GRPOTask(BackboneConfig(str(worded_qwen), tuning="qlora"), engine=EngineConfig("vllm"))
    if find_spec("vllm") is None:
        with pytest.raises(InputError, match=r"which is not installed: pip install 'emo-lightning\[vllm\]'"):
            check_vllm()


def test_4_bits_are_not_handed_over(worded_qwen: Path) -> None:  # noqa: F811
    pytest.importorskip("bitsandbytes")
    backbone = load_backbone(BackboneConfig(str(worded_qwen), tuning="qlora", lora=LoRA(rank=2, dropout=0.0), dtype="float32"))
    with pytest.raises(BackboneError, match="is in 4 bits"):
        list(merged_weights(backbone.base))


@pytest.mark.gpu
def test_vllm_itself(worded_qwen: Path, questions: list[ImageQuestion]) -> None:  # noqa: F811
    """Needs the extra `vllm`: names of its arguments, both sides' probabilities, and weights that follow a step."""
    pytest.importorskip("vllm")
    backbone = with_ends(tuned(worded_qwen, LORA)).to("cuda")
    some = [replace(one, keys=ASKED, record=None) for one in questions[2:4]]
    batch = {
        **move_data_to_device(asked(backbone, some), torch.device("cuda")),
        "asked": ReplyTargets([], [cast(Image.Image, one.image) for one in some]),
    }
    engine = VLLMEngine(EngineConfig("vllm", memory=0.2, max_length=1024))
    banned = torch.tensor(never_drawn(backbone), device="cuda")
    for _ in range(2):
        replies = engine(backbone, batch, [0, 1], drawing_numbers(0, 0, batch["key"], HOW), HOW)
        check_replies(replies, 6, banned.tolist(), HOW.max_new_tokens)
        with torch.no_grad():
            found = reply_log_probs(backbone, with_replies(batch, replies.tokens), banned, HOW.temperature)[0]
            assert float((found - torch.cat(replies.log_p)).abs().max()) <= 0.05
            for _, _, parameter in backbone.parameter_groups():
                parameter.add_(torch.randn_like(parameter) * 0.01)
