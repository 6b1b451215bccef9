"""Both model backends on identical random weights of the true architectures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("groundingdino")
pytest.importorskip("segment_anything")

import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from data_prep.grounding import GroundingError, PhraseQuery, original_backend, transformers_backend
from data_prep.grounding.detect_segment import ModelGrounder, candidates_of
from data_prep.grounding.masks import decode_mask
from data_prep.local_models.checkpoints import CheckpointError
from tests.data_prep.grounding.models import DINO, SAM, save_models, segmenter_of

TEXTS = ["dog.", "a sad cat.", "old tree.", "a dog.", "cat.", "sad tree."]
PHRASES = ["Dog", "a sad cat.", "old tree", "a dog", "cat", "sad tree"]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    return save_models(tmp_path_factory.mktemp("models"), size={"shortest_edge": 96, "longest_edge": 160})


@pytest.fixture(scope="module")
def backends(paths: dict[str, Path]) -> tuple[ModelGrounder, ModelGrounder]:
    new = transformers_backend.load(str(paths["dino"]), str(paths["sam"]), threshold=0.0)
    old = original(paths)
    # Images as small as those of the folder; the authors' size is 800.
    old.detector.image_processor = new.detector.image_processor
    return new, old


def original(paths: dict[str, Path], **changed: str) -> ModelGrounder:
    arguments = {"detector": str(paths["dino.pth"]), "segmenter": str(paths["sam.pth"]), "text_encoder": str(paths["text"])}
    return original_backend.load(**{**arguments, **changed}, threshold=0.0, dino=DINO, sam=SAM)


@torch.inference_mode()
def test_both_backends_agree(backends: tuple[ModelGrounder, ModelGrounder], images: list[Image.Image]) -> None:
    new, old = (backend.detector.detect(images, TEXTS) for backend in backends)
    for (logits, boxes), (old_logits, old_boxes) in zip(new, old, strict=True):
        there = torch.isfinite(logits)
        assert torch.equal(there, torch.isfinite(old_logits))
        assert there.any(-1).all()
        assert (logits[there] - old_logits[there]).abs().max() <= 5e-4
        assert (boxes - old_boxes).abs().max() <= 1e-5
        assert boxes.std(0).max() > 0.05, "boxes that are all alike would agree by chance"
    corners = [candidates_of(logits, boxes, image.size, 0.0)[0] for (logits, boxes), image in zip(new, images, strict=True)]
    assert all(len(boxes) == DINO.queries for boxes in corners)
    drawn, old_drawn = (segmenter_of(backend).segment(images, corners) for backend in backends)
    differing = pixels = 0
    for masks, old_masks, image in zip(drawn, old_drawn, images, strict=True):
        for mask, old_mask in zip(map(decode_mask, masks), map(decode_mask, old_masks), strict=True):
            assert mask.shape == image.size[::-1]
            differing += int((mask != old_mask).sum())
            pixels += int(mask.sum())
    assert differing == 0
    assert 0.05 < pixels / sum(DINO.queries * i.width * i.height for i in images) < 0.95


def test_an_answer_does_not_depend_on_the_company(
    backends: tuple[ModelGrounder, ModelGrounder], images: list[Image.Image]
) -> None:
    queries = [PhraseQuery(image, phrase) for image, phrase in zip(images[:4], PHRASES, strict=False)]
    for backend in backends:
        together = backend.ground(queries)
        for query, found in zip(queries, together, strict=True):
            (alone,) = backend.ground([query])
            assert [o.primary for o in found] == [True] + [False] * (len(found) - 1)
            assert np.allclose([o.score for o in found], [o.score for o in alone], atol=1e-5)
            near = [min(np.abs(np.subtract(o.bbox, other.bbox)).max() for other in alone) for o in found]
            assert max(near) <= 0.02


def test_answers_are_in_pixels_of_the_image_and_from_the_threshold_on(
    backends: tuple[ModelGrounder, ModelGrounder], images: list[Image.Image]
) -> None:
    backend = backends[0]
    found, nothing = backend.ground([PhraseQuery(images[0], "Dog"), PhraseQuery(images[0], " ?")])
    assert nothing == []
    for o in found:
        assert 0 <= o.bbox[0] < o.bbox[2] <= 120
        assert 0 <= o.bbox[1] < o.bbox[3] <= 90
        assert o.mask is not None
        assert o.mask.size == (90, 120)
        assert o.phrase == "Dog"
    with pytest.raises(GroundingError, match="found none for 'dog'"):
        backend.ground([PhraseQuery(None, "dog")])
    logits = torch.logit(torch.tensor([[0.2, 0.1], [0.3, 0.25], [0.1, 0.9], [0.5, 0.5], [0.26, 0.1]], dtype=torch.float64))
    boxes = torch.tensor([[0.5] * 4] * 3 + [[1.5, 0.5, 0.2, 0.2], [0.0, 0.5, 0.2, 1.0]])
    corners, scores = candidates_of(logits, boxes, (100, 50), float(logits[1].max().sigmoid()))
    assert scores == pytest.approx([0.3, 0.9]), "equal to the threshold is enough; a box outside of the image is none"
    assert candidates_of(logits, boxes, (100, 50), 0.25)[0][-1].tolist() == [0, 0, 10, 50], "cut at the edges"
    assert corners[0].tolist() == [25, 12.5, 75, 37.5]


def test_transformers_itself_is_not_changed(paths: dict[str, Path]) -> None:
    from groundingdino.util import get_tokenlizer
    from transformers import BertModel

    original_backend.build_dino(DINO, str(paths["text"]))
    assert get_tokenlizer.BertModel is BertModel
    assert not hasattr(BertModel, "get_extended_attention_mask")


def changed(source: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> str:
    state = torch.load(source, weights_only=True)
    state = state.get("model", state)
    change(state)
    torch.save(state, target)
    return str(target)


def test_a_wrong_pth_is_one_clear_error(paths: dict[str, Path], tmp_path: Path) -> None:
    key = "module.transformer.level_embed"
    renamed = {"": lambda s: s.update({"module.level": s.pop(key)}), "2": lambda s: s.update({key: torch.zeros(4, 7)})}
    cases = [
        ({"detector": str(tmp_path / "no.pth")}, "no.pth: no such file"),
        (
            {"segmenter": changed(paths["sam.pth"], tmp_path / "a.pth", lambda s: s.pop("mask_decoder.iou_token.weight"))},
            "a.pth.*1 missing keys: mask_decoder.iou_token.weight",
        ),
        (
            {"detector": changed(paths["dino.pth"], tmp_path / "b.pth", renamed[""])},
            "b.pth.*1 missing keys: transformer.level_embed; 1 unknown keys: level",
        ),
        (
            {"detector": changed(paths["dino.pth"], tmp_path / "c.pth", renamed["2"])},
            r"c.pth.*1 keys of another shape: transformer.level_embed \(4, 7\) instead of \(4, 256\)",
        ),
        ({"text_encoder": str(tmp_path / "none")}, "none: cannot be loaded"),
    ]
    for arguments, message in cases:
        with pytest.raises(CheckpointError, match=message):
            original(paths, **arguments)
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(CheckpointError, match="not a checkpoint of plain tensors"):
        original(paths, detector=str(tmp_path / "text.pth"))
    with pytest.raises(CheckpointError, match=r"has width 16; known: 96 \(swin_T\), 128 \(swin_B\)"):
        original_backend.load(str(paths["dino.pth"]), None, text_encoder=str(paths["text"]))
    with pytest.raises(CheckpointError, match=r"key 'image_encoder.pos_embed' is missing"):
        original_backend.load(str(paths["dino.pth"]), str(paths["dino.pth"]), text_encoder=str(paths["text"]), dino=DINO)


def test_what_is_no_weight_may_be_in_the_file(paths: dict[str, Path], tmp_path: Path) -> None:
    extra = {"label_enc.weight": torch.zeros(3, 3), "bert.embeddings.position_ids": torch.arange(64)[None]}
    file = changed(paths["dino.pth"], tmp_path / "published.pth", lambda s: s.update(extra))
    assert original(paths, detector=file).segmenter is not None


def test_a_folder_with_a_hole_is_refused(paths: dict[str, Path], tmp_path: Path) -> None:
    for name in ("dino", "sam"):
        broken = tmp_path / name
        shutil.copytree(paths[name], broken)
        weights = load_file(broken / "model.safetensors")
        gone = next(key for key in weights if "encoder.layers.0" in key)
        del weights[gone]
        save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
        whole = {key: str(paths[key]) for key in ("dino", "sam")} | {name: str(broken)}
        with pytest.raises(CheckpointError, match=f"/{name}: .*1 missing "):
            transformers_backend.load(whole["dino"], whole["sam"])
    with pytest.raises(CheckpointError, match="nowhere: cannot be loaded"):
        transformers_backend.load(str(tmp_path / "nowhere"), None)


@pytest.mark.gpu
@torch.inference_mode()
def test_both_backends_agree_on_a_gpu(paths: dict[str, Path], images: list[Image.Image]) -> None:
    new = transformers_backend.load(str(paths["dino"]), str(paths["sam"]), device="cuda", threshold=0.0)
    old = original_backend.load(
        str(paths["dino.pth"]),
        str(paths["sam.pth"]),
        text_encoder=str(paths["text"]),
        device="cuda",
        threshold=0.0,
        dino=DINO,
        sam=SAM,
    )
    old.detector.image_processor = new.detector.image_processor
    with torch.backends.cudnn.flags(allow_tf32=False):
        found, old_found = (backend.detector.detect(images, TEXTS) for backend in (new, old))
        for (logits, boxes), (old_logits, old_boxes) in zip(found, old_found, strict=True):
            there = torch.isfinite(logits)
            assert torch.equal(there, torch.isfinite(old_logits))
            assert (logits[there] - old_logits[there]).abs().max() <= 5e-4
            assert (boxes - old_boxes).abs().max() <= 1e-5
