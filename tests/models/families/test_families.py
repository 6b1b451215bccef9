"""The seam between the project and its backbone families: what a newcomer adds is enough, and nothing else names one."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from emo_lightning.core.records import GroundedObject
from emo_lightning.data.chat import objective, parse_answer
from emo_lightning.data.collate import IGNORE_INDEX, Collator, ImageQuestion
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.models.backbone_config import BackboneConfig, BackboneError, LoRA
from emo_lightning.models.families import FAMILIES, AbsolutePixels, FamilyError, Relative1000, family_of, strictest_aspect_ratio
from emo_lightning.models.families.qwen2_5_vl import QWEN2_5_VL, Qwen25VL
from emo_lightning.models.loading import load_backbone, load_frozen
from tests.models.families.newcomer import check_family

ROOT = Path(__file__).parents[3]


def test_an_unknown_family_is_refused_with_those_that_are_supported() -> None:
    with pytest.raises(FamilyError, match=f"model_type 'llava' is not supported; allowed: {', '.join(sorted(FAMILIES))}$"):
        family_of("llava")
    assert isinstance(family_of("qwen2_5_vl").codec, AbsolutePixels)
    assert strictest_aspect_ratio() == 200


def test_families_cost_no_torch() -> None:
    code = "import sys, emo_lightning.models.families; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("model.visual.blocks.0.attn.qkv.weight", "vision"),
        ("base_model.model.model.visual.blocks.0.attn.qkv.lora_A.default.weight", "vision"),
        ("backbone.model.model.visual.merger.mlp.0.bias", "merger"),
        ("model.visual.merger", "merger"),
        ("model.language_model.layers.3.mlp.up_proj.weight", "language"),
        ("lm_head.weight", "language"),
    ],
)
def test_parts_by_name(name: str, part: str) -> None:
    assert QWEN2_5_VL.part_of(name) == part


# A newcomer


class ToyConfig(Qwen2_5_VLConfig):
    """Qwen2.5-VL's architecture under another name."""

    model_type = "toy_vl"


class ToyModel(Qwen2_5_VLForConditionalGeneration):
    config_class = ToyConfig


class ToyFamily(Qwen25VL):
    """What differs: the class that is loaded, and that its vision tower stays as transformers has it."""

    def model_class(self) -> type[ToyModel]:
        return ToyModel

    def prepare(self, model: object, attention: str) -> None:
        pass


@pytest.fixture
def toy(tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a model of the new family, which is registered for the length of one test."""
    folder, first = tmp_path / "toy", load_frozen(BackboneConfig(str(tiny_qwen)))
    config = first.base.config.to_dict()
    model = ToyModel(ToyConfig(**{name: value for name, value in config.items() if name != "model_type"}))
    model.load_state_dict(first.base.state_dict())
    model.generation_config = first.base.generation_config
    model.save_pretrained(folder)
    first.processor.save_pretrained(folder)
    AutoConfig.register("toy_vl", ToyConfig, exist_ok=True)
    facts = {name: getattr(QWEN2_5_VL, name) for name in QWEN2_5_VL.__dataclass_fields__}
    family = ToyFamily(**{**facts, "model_type": "toy_vl", "title": "Toy", "codec": Relative1000()})
    monkeypatch.setitem(FAMILIES, "toy_vl", family)
    return folder


def test_a_new_family_is_one_object_in_the_registry(toy: Path, tiny_qwen: Path, world_tars: Path, tmp_path: Path) -> None:
    """It loads, adapts, answers, learns and saves like the first, in its own coordinates of boxes, and no other line changes."""
    backbone = load_backbone(BackboneConfig(str(toy), tuning="lora", train_vision=True, lora=LoRA(rank=2, dropout=0.0)))
    assert backbone.model_type == "toy_vl"
    assert type(backbone.base) is ToyModel
    assert all(count > 0 for name, count in backbone.counts().items() if name.startswith("trainable/"))

    index = TarIndex.open([str(world_tars)])
    record = next(r for r in map(index.record, range(len(index))) if r.primary_objects)
    row = next(i for i in range(len(index)) if index.record(i).id == record.id)
    question = ImageQuestion(record.id, index.image(row), objective("grounding").available(record), record)
    collate = Collator(backbone.processor, backbone.model_type, answers=True)
    batch = collate([question])
    text = backbone.processor.tokenizer.decode(batch["labels"][0][batch["labels"][0] != IGNORE_INDEX], skip_special_tokens=True)
    assert isinstance(text, str)
    boxes = sorted(o.bbox for o in record.primary_objects)
    sides = (record.width, record.height) * 2
    for spoken, box in zip(sorted(json.loads(text)["bbox_2d"]), boxes, strict=True):
        assert spoken == pytest.approx([1000 * x / side for x, side in zip(box, sides, strict=True)], abs=1)
    read = parse_answer(
        text, id=record.id, original=batch["original_size"][0], resized=batch["resized_size"][0], codec=collate.codec
    )
    found = sorted(o.bbox for o in read.objects)
    unit = max(record.width, record.height) / 1000
    assert all(abs(a - b) <= unit for x, y in zip(found, boxes, strict=True) for a, b in zip(x, y, strict=True))

    # The same architecture and weights as the first family's: the same states.
    first = load_frozen(BackboneConfig(str(tiny_qwen)))
    batch = Collator(backbone.processor, "toy_vl", answers=False)([question])
    states = backbone.eval().hidden_states(batch, 4)
    assert torch.allclose(states, first.hidden_states(batch, 4), atol=1e-5)
    assert backbone.generate(batch, 3) == first.generate(batch, 3)

    loss, _ = backbone.train().answer_loss(collate([question]))
    loss.backward()
    assert all(p.grad is not None for p in backbone.parameters() if p.requires_grad)
    again = load_frozen(BackboneConfig(str(backbone.save(tmp_path / "saved"))))
    assert again.model_type == "toy_vl"


def test_the_first_family_does_what_every_one_must(tiny_qwen: Path, world_tars: Path) -> None:
    check_family(tiny_qwen, "qwen2_5_vl", world_tars)


def test_a_picture_is_framed_where_the_template_does_not(tiny_qwen: Path) -> None:
    processor = load_frozen(BackboneConfig(str(tiny_qwen))).processor
    vocabulary = processor.tokenizer.get_vocab()
    image, begin, end = (vocabulary[f"<|{name}|>"] for name in ("image_pad", "box_start", "box_end"))
    assert QWEN2_5_VL.framed(processor, [1, image, 2]) == [1, image, 2]
    other = replace(QWEN2_5_VL, image_frame=(("<|box_start|>",), ("<|box_end|>",)))
    assert other.framed(processor, [1, image, 2]) == [1, begin, image, end, 2]
    for ids, times in (([1, 2], 0), ([image, image], 2)):
        with pytest.raises(FamilyError, match=rf"writes '<\|image_pad\|>' {times} times for one picture; expected once"):
            other.framed(processor, ids)


def test_facts_alone_are_a_replacement(world_tars: Path) -> None:
    other = replace(QWEN2_5_VL, model_type="other_vl", codec=Relative1000())
    assert other.part_of("model.visual.merger.mlp.0") == "merger"
    assert isinstance(other.codec, Relative1000)


def test_a_model_of_no_family_is_refused(tiny_qwen: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    with pytest.raises(BackboneError, match=f"model_type 'llava' is not supported; allowed: {', '.join(sorted(FAMILIES))}$"):
        load_backbone(BackboneConfig(str(tmp_path)))


# Nothing else names a family

BUILDERS = {"emo_lightning/models/tiny.py", "emo_lightning/stages/tiny_models.py"}
"""Make a small model in the true architecture; `tiny_qwen` is the public name of the stage that does."""

FAMILY_WORDS = re.compile(r"qwen|mm_token_type_ids|image_grid_thw|<\|im_end\|>|<\|image_pad\|>", re.IGNORECASE)


def names_in_code(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of identifiers and strings of a module; docstrings and those under fields are for people."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_people = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in for_people:
            continue
        for field in ("id", "attr", "arg", "name", "asname", "module", "value"):
            if isinstance(found := getattr(node, field, None), str):
                yield getattr(node, "lineno", 0), found


@pytest.mark.parametrize("package", ["emo_lightning", "data_prep"])
def test_no_other_module_names_a_family(package: str) -> None:
    for path in sorted((ROOT / package).rglob("*.py")):
        place = str(path.relative_to(ROOT))
        if place.startswith("emo_lightning/models/families/") or place in BUILDERS:
            continue
        for line, text in names_in_code(path):
            # The help of a command is for people.
            if "/commands/" in place and " " in text:
                continue
            found = FAMILY_WORDS.search(text.replace("tiny_qwen", ""))
            assert not found, f"{place}:{line}: {text!r} belongs into models/families"


def test_an_image_that_no_processor_takes_is_refused(tmp_path: Path) -> None:
    from emo_lightning.data.images import open_rgb_image

    Image.new("RGB", (401, 2)).save(tmp_path / "long.png")
    with pytest.raises(ValueError, match="aspect ratio above 200"):
        open_rgb_image(tmp_path / "long.png")


def test_boxes_of_both_conventions_come_back() -> None:
    box = GroundedObject(phrase="dog", bbox=(3.0, 5.0, 40.0, 33.0), score=1.0, primary=True).bbox
    for codec in (AbsolutePixels(), Relative1000()):
        spoken = codec.encode(box, (100, 50), (112, 56))
        assert all(abs(a - b) <= 0.5 for a, b in zip(codec.decode(spoken, (100, 50), (112, 56)), box, strict=True))
