"""The backbone: what is read from it, what of it trains, and everything that would go wrong in silence is an error."""

from __future__ import annotations

import json
import shutil
import socketserver
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack, cast

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.image_processing_base import BatchFeature
from transformers.image_utils import ImageInput
from transformers.processing_utils import ImagesKwargs

from benchmarks.sft_given import published_3b
from emo_lightning.core.errors import InputError
from emo_lightning.data.batches import ChatBatch
from emo_lightning.data.chat import objective
from emo_lightning.data.collate import Collator, ImageQuestion
from emo_lightning.data.conversation_dataset import ConversationDataset
from emo_lightning.data.sampler import Slot
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models import DESHead, LinearProbes
from emo_lightning.models.adapters import attach
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, BackboneError, LoRA, Tuning
from emo_lightning.models.families import BACKBONE_PARTS, BackbonePart
from emo_lightning.models.families.base import Processor
from emo_lightning.models.families.qwen2_5_vl import QWEN2_5_VL
from emo_lightning.models.loading import load_backbone
from emo_lightning.models.loss import supervised_loss
from emo_lightning.models.tiny import TinyQwen, build_qwen


def frozen(model: Path) -> Backbone:
    """Nothing trains, no dropout."""
    return load_backbone(BackboneConfig(str(model), tuning="frozen")).eval()


def asked(backbone: Backbone, tars: Path, rows: Sequence[int], side: str = "left", name: str = "emotion") -> ChatBatch:
    """A batch without answers."""
    index = TarIndex.open(tars)
    collate = Collator(backbone.processor, backbone.model_type, answers=False, padding_side=side)
    return collate([ImageQuestion(index.key(row), index.image(row), objective(name).keys) for row in rows])


def answered(backbone: Backbone, tars: Path, name: str = "attributes") -> ChatBatch:
    """Four training samples with answers, on the backbone's device (bitsandbytes loads onto a GPU where there is one)."""
    dataset = ConversationDataset(TarIndex.open(str(tars / "*-train-*.tar")), {name: 1.0}, seed=0)
    batch = Collator(backbone.processor, backbone.model_type, answers=True)([dataset[Slot(i, False)] for i in range(4)])
    moved = {k: v.to(backbone.base.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    return cast(ChatBatch, moved)


def only(part: BackbonePart) -> dict[str, Any]:
    """Arguments that let one part train."""
    return {f"train_{p}": p == part for p in BACKBONE_PARTS}


# Reading hidden states


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_hidden_states_equal_those_of_transformers(world_tars: Path, tiny_qwen: Path, layers: int) -> None:
    backbone = frozen(tiny_qwen)
    batch = asked(backbone, world_tars, range(3))
    with torch.no_grad():
        expected = backbone.base.model(**backbone.family.model_inputs(batch), output_hidden_states=True).hidden_states[-layers:]
        found = backbone.hidden_states(batch, layers)
    assert found.shape == (layers, 3, batch["input_ids"].shape[1], 64)
    assert float((found - torch.stack(expected)).abs().max()) < 1e-6


def test_hooks_are_gone_afterwards(world_tars: Path, tiny_qwen: Path) -> None:
    backbone = frozen(tiny_qwen)
    with torch.no_grad():
        backbone.hidden_states(asked(backbone, world_tars, [0]))
    assert not any(m._forward_hooks for m in backbone.base.model.language_model.layers)


@pytest.mark.parametrize("layers", [0, -1, 5])
def test_number_of_layers_is_checked(tiny_qwen: Path, layers: int) -> None:
    with pytest.raises(BackboneError, match=f"num_layers={layers}: this backbone has 4 layers, allowed: 1 to 4"):
        frozen(tiny_qwen).hidden_states({}, layers)


def test_batch_and_padding_do_not_change_features(tiny_qwen: Path) -> None:
    """Images of unequal sizes: alone, padded left, padded right."""
    backbone = frozen(tiny_qwen)
    torch.manual_seed(0)
    pictures = [
        Image.fromarray(torch.randint(0, 256, (h, w, 3), dtype=torch.uint8).numpy()) for w, h in ((84, 84), (56, 60), (90, 40))
    ]
    keys = objective("emotion").keys

    def features(side: str, images: list[Image.Image]) -> list[torch.Tensor]:
        batch = Collator(backbone.processor, backbone.model_type, False, padding_side=side)(
            [ImageQuestion(str(i), image, keys) for i, image in enumerate(images)]
        )
        with torch.no_grad():
            hidden = backbone.hidden_states(batch)
        return [hidden[:, i, batch["attention_mask"][i].bool()] for i in range(len(images))]

    left, right = features("left", pictures), features("right", pictures)
    assert len({f.shape[1] for f in left}) > 1, "the test needs padding"
    for i, picture in enumerate(pictures):
        (alone,) = features("left", [picture])
        assert torch.allclose(left[i], alone, atol=1e-5)
        assert torch.allclose(right[i], alone, atol=1e-5)


# What trains


@pytest.mark.parametrize(("part", "modules"), [("vision", 2 * 5), ("merger", 2), ("language", 4 * 7)])
def test_lora_reaches_one_part_alone(tiny_qwen: Path, part: BackbonePart, modules: int) -> None:
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="lora", lora=LoRA(rank=4), **only(part)))
    names = [name for _, name, _ in backbone.parameter_groups()]
    assert {p for p, _, _ in backbone.parameter_groups()} == {part}
    assert all("lora_" in name for name in names)
    assert len(names) == 2 * modules
    counts = backbone.counts()
    assert counts["trainable"] == counts[f"trainable/{part}"] > 0
    assert counts["total"] == sum(counts[p] for p in BACKBONE_PARTS) == sum(p.numel() for p in backbone.parameters())


@pytest.mark.parametrize("part", BACKBONE_PARTS)
def test_full_tuning_trains_one_part_alone(tiny_qwen: Path, part: BackbonePart) -> None:
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="full", **only(part)))
    counts = backbone.counts()
    assert counts["trainable"] == counts[f"trainable/{part}"] == counts[part] > 0


def test_frozen_trains_nothing(tiny_qwen: Path) -> None:
    assert frozen(tiny_qwen).counts()["trainable"] == 0


@pytest.mark.parametrize("tuning", ["full", "lora"])
def test_nothing_to_train_is_an_error(tiny_qwen: Path, tuning: Tuning) -> None:
    nothing: dict[str, Any] = {f"train_{p}": False for p in BACKBONE_PARTS}
    with pytest.raises(BackboneError, match=f"tuning={tuning} but .*train_vision"):
        load_backbone(BackboneConfig(str(tiny_qwen), tuning=tuning, **nothing))


def test_lora_targets_that_match_nothing_are_an_error(tiny_qwen: Path) -> None:
    with pytest.raises(BackboneError, match=r"lora.targets='query' matches no module"):
        load_backbone(BackboneConfig(str(tiny_qwen), lora=LoRA(targets="query")))


def test_small_heads_are_exported() -> None:
    assert DESHead(64).des_dim == 32
    assert LinearProbes(8, 8, [(1e-3, 0.0)]).des_dim == 8


# The paper's 3B model, in its real shapes


def meta_3b() -> PreTrainedModel:
    """Qwen/Qwen2.5-VL-3B-Instruct by its published config, without weights."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    config: Any = published_3b()
    text, vision = config.text_config, config.vision_config
    assert (text.hidden_size, text.num_hidden_layers, text.num_attention_heads, text.num_key_value_heads) == (2048, 36, 16, 2)
    assert (text.intermediate_size, text.vocab_size, text.rope_parameters["mrope_section"]) == (11008, 151936, [16, 24, 24])
    assert (vision.hidden_size, vision.depth, vision.patch_size, vision.spatial_merge_size) == (1280, 32, 14, 2)
    assert (vision.window_size, vision.out_hidden_size, config.tie_word_embeddings) == (112, 2048, True)
    with torch.device("meta"):
        return Qwen2_5_VLForConditionalGeneration(config)


@pytest.mark.filterwarnings("ignore:The PEFT config's `base_model_name_or_path`")
@pytest.mark.parametrize(
    ("parts", "rank", "modules", "trainable"),
    [
        # Language model: 36 layers x (q, k, v, o, gate, up, down).
        (("language",), 64, 252, 119_734_272),
        # Merger: 5120 -> 5120 -> 2048.
        (("merger",), 64, 2, 1_114_112),
        # Vision tower: 32 blocks x (qkv, proj, gate, up, down).
        (("vision",), 64, 160, 44_605_440),
        # configs/model/qwen2_5_vl_3b.yaml, the paper's setting here; 3.1 % of 3,875,471,360.
        (("merger", "language"), 64, 254, 120_848_384),
    ],
)
def test_lora_on_the_real_3b(parts: tuple[BackbonePart, ...], rank: int, modules: int, trainable: int) -> None:
    trained: dict[str, Any] = {f"train_{p}": p in parts for p in BACKBONE_PARTS}
    config = BackboneConfig("meta", tuning="lora", lora=LoRA(rank=rank, alpha=2 * rank), **trained)
    with torch.device("meta"):
        model = attach(meta_3b(), QWEN2_5_VL, config, None, "Qwen/Qwen2.5-VL-3B-Instruct")
    adapted = {name.partition(".lora_A")[0] for name, _ in model.named_parameters() if ".lora_A" in name}
    assert len(adapted) == modules
    counts = Backbone(model, QWEN2_5_VL, cast(Processor, None), config).counts()
    assert counts["trainable"] == trainable
    assert counts["total"] == 3_754_622_976 + trainable
    assert {p for p in BACKBONE_PARTS if counts[f"trainable/{p}"]} == set(parts)


def test_full_tuning_of_the_real_3b() -> None:
    """The authors' release: vision frozen. Tied embeddings count once: 3,754,622,976 parameters in all."""
    config = BackboneConfig("meta", tuning="full", train_vision=False, train_merger=True, train_language=True)
    counts = Backbone(attach(meta_3b(), QWEN2_5_VL, config, None, "meta"), QWEN2_5_VL, cast(Processor, None), config).counts()
    assert counts["total"] == 3_754_622_976
    assert (counts["vision"], counts["merger"], counts["language"]) == (631_975_680, 36_708_608, 3_085_938_688)
    assert counts["trainable/vision"] == 0
    assert counts["trainable"] == 36_708_608 + 3_085_938_688


def test_des_of_the_real_3b_has_1024_dimensions() -> None:
    head = DESHead(2048)
    with torch.no_grad():
        des = head(torch.randn(4, 2, 7, 2048), torch.ones(2, 7, dtype=torch.bool))
    assert head.des_dim == 1024
    assert sum(p.numel() for p in head.parameters()) == 12_587_012
    assert des.shape == (2, 1024)


def test_config_file_is_the_setting_that_was_counted() -> None:
    import yaml

    from emo_lightning.experiment.files import ROOT

    backbone = yaml.safe_load((ROOT / "configs/model/qwen2_5_vl_3b.yaml").read_text())["model"]["backbone"]
    assert backbone["path"] == "Qwen/Qwen2.5-VL-3B-Instruct"
    assert (backbone["tuning"], backbone["lora"]["rank"]) == ("lora", 64)
    assert [p for p in BACKBONE_PARTS if backbone[f"train_{p}"]] == ["merger", "language"]


# Adapters that do not fit


@pytest.fixture(scope="module")
def adapter(tiny_qwen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter on the session's model."""
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="lora", lora=LoRA(rank=4)))
    return backbone.save(tmp_path_factory.mktemp("run"))


def copied(adapter: Path, out: Path, base: Path | str | None = None) -> Path:
    """A copy, for another base model."""
    shutil.copytree(adapter, out)
    if base is not None:
        config = json.loads((out / "adapter_config.json").read_text())
        (out / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": str(base)}))
    return out


def test_adapter_loads_on_its_base(adapter: Path) -> None:
    assert load_backbone(BackboneConfig(str(adapter), tuning="frozen")).counts()["trainable"] == 0
    assert load_backbone(BackboneConfig(str(adapter), tuning="lora")).counts()["trainable"] > 0


def test_adapter_brings_the_pixel_limits_it_was_trained_with(adapter: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    small = load_backbone(BackboneConfig(str(adapter), max_pixels=56 * 56, min_pixels=28 * 28)).save(tmp_path / "small")
    size = dict(load_backbone(BackboneConfig(str(small), tuning="frozen")).processor.image_processor.size)
    assert (size["shortest_edge"], size["longest_edge"]) == (28 * 28, 56 * 56)
    assert dict(frozen(tiny_qwen).processor.image_processor.size)["longest_edge"] != 56 * 56


def test_adapter_finds_a_relative_base_from_anywhere(
    adapter: Path, tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_qwen, tmp_path / "home/runs/demo/base/model")
    own = copied(adapter, tmp_path / "home/runs/demo/round2/adapter", "runs/demo/base/model")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    # What training goes on from there writes, stands on the same base.
    again = load_backbone(BackboneConfig(str(own), tuning="lora")).save(tmp_path / "again")
    base = Path(json.loads((again / "adapter_config.json").read_text())["base_model_name_or_path"])
    assert base.samefile(tmp_path / "home/runs/demo/base/model")
    shutil.rmtree(tmp_path / "home/runs/demo/base")
    with pytest.raises(BackboneError, match=r"adapter_config.json: key 'base_model_name_or_path': .*'runs/demo/base/model'"):
        load_backbone(BackboneConfig(str(own), tuning="frozen"))


def test_parts_of_an_adapter_train_as_configured(tiny_qwen: Path, tmp_path: Path) -> None:
    every: dict[str, Any] = {f"train_{part}": True for part in BACKBONE_PARTS}
    whole = load_backbone(BackboneConfig(str(tiny_qwen), lora=LoRA(rank=2), **every)).save(tmp_path)
    for part in BACKBONE_PARTS:
        counts = load_backbone(BackboneConfig(str(whole), tuning="lora", **only(part))).counts()
        assert counts["trainable"] == counts[f"trainable/{part}"] > 0


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_config.json"])
def test_a_damaged_adapter_is_named(adapter: Path, tmp_path: Path, name: str) -> None:
    broken = copied(adapter, tmp_path / "adapter")
    (broken / name).write_bytes(b"{ not this")
    with pytest.raises(InputError, match=r"adapter"):
        load_backbone(BackboneConfig(str(broken), tuning="frozen"))
    (broken / name).unlink()
    with pytest.raises(InputError, match=r"adapter"):
        load_backbone(BackboneConfig(str(broken), tuning="frozen"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.safetensors", r".*model/model\.safetensors: cut off, or no safetensors file"),
        ("processor_config.json", "backbone .*model': its processor cannot be read"),
    ],
)
def test_a_damaged_model_is_named(tiny_qwen: Path, tmp_path: Path, name: str, message: str) -> None:
    shutil.copytree(tiny_qwen, tmp_path / "model")
    (tmp_path / "model" / name).write_bytes(b"{ not this")
    with pytest.raises(BackboneError, match=message):
        load_backbone(BackboneConfig(str(tmp_path / "model"), tuning="frozen"))


def test_full_tuning_of_an_adapter_is_an_error(adapter: Path) -> None:
    with pytest.raises(BackboneError, match=r"tuning=full cannot start from the adapter .*emo export"):
        load_backbone(BackboneConfig(str(adapter), tuning="full"))


def test_renamed_key_of_an_adapter_is_an_error(adapter: Path, tmp_path: Path) -> None:
    broken = copied(adapter, tmp_path / "adapter")
    weights = load_file(broken / "adapter_model.safetensors")
    first = sorted(weights)[0]
    weights[first.replace("layers", "blocks")] = weights.pop(first)
    save_file(weights, broken / "adapter_model.safetensors")
    with pytest.raises(BackboneError, match=r"adapter .*: 1 keys missing and 1 unexpected"):
        load_backbone(BackboneConfig(str(broken), tuning="frozen"))


@pytest.mark.parametrize(("layers", "width"), [(3, 64), (6, 64), (4, 32)])
def test_adapter_of_another_base_is_an_error(adapter: Path, tmp_path: Path, layers: int, width: int) -> None:
    sizes = TinyQwen(hidden_size=width, layers=layers, heads=4, vision_hidden=32, vision_layers=2, vocabulary=700)
    other = build_qwen(tmp_path / "other", ["dog"], sizes, max_pixels=84 * 84, seed=0)
    of_another = copied(adapter, tmp_path / "adapter", other)
    with pytest.raises(BackboneError, match=r"adapter .* was trained on another base model than .*other"):
        load_backbone(BackboneConfig(str(of_another), tuning="frozen"))
    # As version 0.2 has written them, without the base model's content.
    (of_another / "made_of.json").unlink()
    with pytest.raises(BackboneError, match=r"adapter .*(missing|does not fit)"):
        load_backbone(BackboneConfig(str(of_another), tuning="frozen"))


def test_adapter_without_base_is_an_error(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"adapter_config.json: key 'base_model_name_or_path' is empty"):
        load_backbone(BackboneConfig(str(copied(adapter, tmp_path / "adapter", "")), tuning="frozen"))


# Models that are not there, or not of the family


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/model", "runs/round1/round1/adapter"])
def test_missing_folder_is_an_error(path: str) -> None:
    with pytest.raises(BackboneError, match=f"{path}.*no folder with config.json or adapter_config.json"):
        load_backbone(BackboneConfig(path))


def test_unknown_id_is_one_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hub that cannot be reached the client would retry each file for half a minute."""
    from huggingface_hub import constants

    connections = []

    class HangsUp(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            connections.append(self.client_address)

    with socketserver.TCPServer(("127.0.0.1", 0), HangsUp) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(
            BackboneError, match=r"'nobody/no-such-model' is neither a model folder nor in the local cache, and http"
        ):
            load_backbone(BackboneConfig("nobody/no-such-model"))
        server.shutdown()
    assert len(connections) == 1, "asked once, not once for every file and again"


def test_offline_switch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BackboneError, match="HF_HUB_OFFLINE is set"):
        load_backbone(BackboneConfig("nobody/no-such-model"))


def test_other_families_are_errors(tmp_path: Path) -> None:
    from transformers import CLIPConfig, LlavaConfig

    for config, name in ((CLIPConfig(), "clip"), (LlavaConfig(), "llava")):
        config.save_pretrained(tmp_path / name)
        with pytest.raises(BackboneError, match=f"model_type '{name}' is not supported; allowed: qwen2_5_vl"):
            load_backbone(BackboneConfig(str(tmp_path / name)))


# Pixel limits


@pytest.mark.parametrize(
    ("limits", "patches"),
    [({"max_pixels": 56 * 56}, 16), ({"min_pixels": 112 * 112, "max_pixels": 112 * 112}, 64), ({}, 36)],
)
def test_pixel_limits_take_effect(tiny_qwen: Path, limits: dict[str, Any], patches: int) -> None:
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen", **limits))
    image = Image.new("RGB", (224, 224))
    if "min_pixels" in limits:
        image = image.resize((30, 30))
    batch = Collator(backbone.processor, backbone.model_type, False)([ImageQuestion("a", image, ("emotion",))])
    assert len(backbone.family.model_inputs(batch)["pixel_values"]) == patches


def test_impossible_pixel_limits_are_an_error(tiny_qwen: Path) -> None:
    with pytest.raises(BackboneError, match="min_pixels=9000 is above max_pixels=7056"):
        load_backbone(BackboneConfig(str(tiny_qwen), min_pixels=9000))


def test_processor_that_ignores_its_limits_is_an_error(tiny_qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoProcessor, Qwen2VLImageProcessor

    class Deaf(Qwen2VLImageProcessor):
        """Keeps its own limits, as processors did with limits that were given at call time."""

        def __call__(self, images: ImageInput, *args: object, **kwargs: Unpack[ImagesKwargs]) -> BatchFeature:
            self.size = type(self.size)(shortest_edge=3136, longest_edge=28 * 28 * 1280)
            return super().__call__(images, *args, **kwargs)

    processor = AutoProcessor.from_pretrained(tiny_qwen)
    processor.image_processor = Deaf()
    monkeypatch.setattr(AutoProcessor, "from_pretrained", lambda *_, **__: processor)
    with pytest.raises(BackboneError, match=r"pixel limits are ignored: an image of 1234x777 .* max_pixels=200704"):
        load_backbone(BackboneConfig(str(tiny_qwen), tuning="frozen", max_pixels=200704))


# Gradient checkpointing


def test_checkpointing_leaves_a_frozen_vision_tower_alone(world_tars: Path, tiny_qwen: Path) -> None:
    """transformers lets inputs require gradients where it checkpoints: the frozen tower was differentiated, and steps took four times as long."""
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="lora", gradient_checkpointing=True)).train()
    seen: list[bool] = []
    for block in backbone.base.model.visual.blocks:
        block.register_forward_hook(lambda _module, _inputs, out: seen.append(out.requires_grad))
    backbone.answer_loss(answered(backbone, world_tars))[0].backward()
    assert seen
    assert not any(seen)
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)


# 4-bit


def test_qlora_quantises_the_language_model_alone_and_learns(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    from bitsandbytes.nn.modules import Linear4bit

    config = BackboneConfig(str(tiny_qwen), tuning="qlora", train_vision=True, lora=LoRA(rank=8, dropout=0.0))
    backbone = load_backbone(config)
    quantised = {name for name, module in backbone.base.named_modules() if isinstance(module, Linear4bit)}
    assert len(quantised) == 4 * 7
    assert all(".language_model.layers." in name for name in quantised)
    assert type(backbone.base.lm_head) is nn.Linear
    assert all("lora_" in name for _, name, _ in backbone.parameter_groups())

    batch = answered(backbone, world_tars, "emotion")
    optimizer = torch.optim.AdamW([p for _, _, p in backbone.parameter_groups()], lr=1e-2)

    def loss() -> torch.Tensor:
        total, count = supervised_loss(backbone.last_hidden_state(batch), batch["labels"], backbone.base.lm_head)
        return total / count

    first = float(loss().detach())
    for _ in range(30):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    last = float(loss().detach())
    assert last < 0.6 * first

    again = load_backbone(BackboneConfig(str(backbone.save(tmp_path)), tuning="qlora")).eval()
    backbone.eval()
    with torch.no_grad():
        assert torch.allclose(again.last_hidden_state(batch), backbone.last_hidden_state(batch), atol=1e-5)


def test_wrong_quantisation_is_an_error(tiny_qwen: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names to skip that the installed transformers does not honour leave the vision tower in 4 bits."""
    import transformers

    real = transformers.BitsAndBytesConfig
    monkeypatch.setattr(
        transformers, "BitsAndBytesConfig", lambda **kw: real(**(kw | {"llm_int8_skip_modules": ["visual_tower", "lm_head"]}))
    )
    with pytest.raises(BackboneError, match=r"qlora: 12 linear layers are not quantised as intended .* first: model\.visual"):
        load_backbone(BackboneConfig(str(tiny_qwen), tuning="qlora"))


def test_in_4_bits_it_learns_after_it_was_asked(tiny_qwen: Path) -> None:
    """bitsandbytes packs layers for inference in the first pass of eval mode; of what learns it must not."""
    pytest.importorskip("bitsandbytes")
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="qlora", lora=LoRA(rank=2, dropout=0.0)))
    collate = Collator(backbone.processor, backbone.model_type, answers=False, packed=True)
    batch = collate([ImageQuestion("a", Image.new("RGB", (56, 56), "orange"), ("emotion",))])
    with torch.no_grad():
        asked = backbone.eval().last_hidden_state(batch)
    learning = backbone.train().last_hidden_state(batch)
    learning.sum().backward()
    assert torch.allclose(learning, asked, atol=1e-2)
    silent = [name for _, name, p in backbone.parameter_groups() if p.grad is None]
    assert not silent
