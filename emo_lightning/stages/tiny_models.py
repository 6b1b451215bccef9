"""The stages `tiny_qwen`, `tiny_clip`, `restore_words`, `cast` and `tiny_card`: small models of the demo world, and the one that is shipped."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, cast

from emo_lightning.core.errors import InputError
from emo_lightning.core.files import read_object, write_text
from emo_lightning.core.terminal import say
from emo_lightning.data.chat import objective, target_answer
from emo_lightning.data.collate import Collator
from emo_lightning.models.tiny import TinyQwen, build_qwen, words_of
from emo_lightning.models.tiny_clip import build_clip
from emo_lightning.models.weights import save_model

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from emo_lightning.analysis.table5_result import ScoredColumn, Table5Result
    from emo_lightning.data.tar_index import TarIndex
    from emo_lightning.models.backbone import Backbone


def tiny_qwen_stage(
    out: Path,
    tars: list[str],
    sizes: TinyQwen | None = None,
    max_pixels: int = 112 * 112,
    seed: int = 0,
    tower: str | None = None,
) -> None:
    """Make a randomly initialised Qwen2.5-VL in `OUT/model`, its tokenizer made for the words of these tars.

    Args:
        out: the stage's directory.
        tars: whose texts the vocabulary comes from.
        sizes: of the model.
        max_pixels: pixel limit of the image processor.
        seed: of the weights.
        tower: a model whose vision tower it takes, with the mergers; all else stays random.

    Raises:
        InputError: the tower of that model has other sizes.
    """
    words = words_of(tars)
    build_qwen(out / "model", [*words, *(f" {word}" for word in words)], sizes or TinyQwen(), max_pixels=max_pixels, seed=seed)
    if tower:
        _take_tower(out / "model", tower)


def _take_tower(folder: Path, of: str) -> None:
    """Put the vision tower of another model into one that was just made."""
    from emo_lightning.models.backbone_config import BackboneConfig
    from emo_lightning.models.loading import load_frozen

    own, other = (load_frozen(BackboneConfig(path, dtype="float32")) for path in (str(folder), of))
    into, found = (one.family.module(one.base, one.family.vision_tower) for one in (own, other))
    sizes, wanted = ({name: tuple(value.shape) for name, value in one.state_dict().items()} for one in (found, into))
    if wrong := next((name for name in sizes.keys() | wanted.keys() if sizes.get(name) != wanted.get(name)), None):
        msg = f"tower {of}: {wrong} is {sizes.get(wrong, 'missing')}; the model that is made has {wanted.get(wrong, 'none')}"
        raise InputError(msg)
    into.load_state_dict(found.state_dict())
    save_model(own.base, own.processor, folder)


def tiny_clip_stage(out: Path, tars: list[str], seed: int = 0) -> None:
    """Make a randomly initialised CLIP in `OUT/model`, its tokenizer made for the words of these tars.

    Args:
        out: the stage's directory.
        tars: whose texts the vocabulary comes from.
        seed: of the weights.
    """
    build_clip(out / "model", words_of(tars), seed=seed)


def cast_stage(out: Path, backbone: str) -> None:
    """Write a backbone with its weights in bfloat16 to `OUT/model`: half the bytes, for passing it on.

    Args:
        out: the stage's directory.
        backbone: model folder or hub id.

    Raises:
        BackboneError: no backbone can be read there.
    """
    from emo_lightning.models.backbone_config import BackboneConfig
    from emo_lightning.models.loading import load_frozen

    loaded = load_frozen(BackboneConfig(backbone, dtype="bfloat16"))
    save_model(loaded.merged(), loaded.processor, out / "model")


def restore_words_stage(out: Path, backbone: str, start: str, tars: list[str], objectives: list[str]) -> None:
    """Tell the words apart again that a training never showed, and write the model to `OUT/model`.

    Every step pushes the embeddings of such words down alike, and AdamW makes that drift so large that they end as one direction (cosine
    0.98 after 3,300 steps of the tiny base): a later training that teaches them cannot tell which is meant. Their common drift stays, so
    that the model says them as seldom as before, and each takes back what was its own at the start.

    Args:
        out: the stage's directory.
        backbone: the trained model.
        start: what its training began with.
        tars: that it was trained on.
        objectives: that it was trained on.

    Raises:
        BackboneError: no backbone can be read at one of the paths.
        InputError: the two have other words.
    """
    from emo_lightning.data.tar_index import TarIndex
    from emo_lightning.models.backbone_config import BackboneConfig
    from emo_lightning.models.loading import load_frozen

    trained, fresh = (load_frozen(BackboneConfig(path, dtype="float32")) for path in (backbone, start))
    words, first = (cast("Tensor", one.base.get_input_embeddings().weight).detach() for one in (trained, fresh))
    if words.shape != first.shape:
        msg = f"{backbone} has embeddings of shape {tuple(words.shape)}, {start} has {tuple(first.shape)}; they must be of one model"
        raise InputError(msg)
    shown = _shown_tokens(trained, TarIndex.open(tars, bad_images=True), objectives)
    texts = trained.processor.tokenizer.batch_decode([[number] for number in range(len(words))])
    # Not numbers: a form that was never shown would be as near to its neighbours again as at the start, and be said for them.
    hidden = [number for number, text in enumerate(texts) if text.strip().isalpha() and number not in shown]
    words[hidden] = words[hidden].mean(0) + first[hidden] - first[hidden].mean(0)
    save_model(trained.base, trained.processor, out / "model")
    say(f"{len(hidden)} of {len(words)} tokens are words that were never shown")


def _shown_tokens(backbone: Backbone, index: TarIndex, objectives: Sequence[str]) -> set[int]:
    """Of all prompts and answers of a training; and those that the tokenizer treats apart."""
    family, processor = backbone.family, backbone.processor
    tokens = Collator(processor, backbone.model_type, answers=True)
    shown = set(processor.tokenizer.all_special_ids)
    asked = [objective(name) for name in objectives]
    for row in range(len(index)):
        record = index.record(row)
        resized = family.resized_size(processor, (record.width, record.height))
        for one in asked:
            keys = one.available(record)
            shown.update(tokens.prompt_ids(keys))
            shown.update(
                tokens.tokenizer(target_answer(keys, record, family.codec, resized), add_special_tokens=False)["input_ids"]
            )
    return shown


CARD_TEMPLATE = Path(__file__).with_name("tiny_card.md")
_NAMED = ("background", "subject", "attribute", "triplet")
_CONSTANT = "constant, median box"


def tiny_card_stage(out: Path, backbone: Path, table5: Path, arm: str, trained: Path, about: str) -> None:
    """Write the model that the package carries, with its card, to `OUT/model`; the values are read from a Table 5.

    Args:
        out: the stage's directory.
        backbone: model folder.
        table5: `table5.json` over fresh images.
        arm: of that table.
        trained: `stage.json` of the training, which names its commit.
        about: one sentence about the images that it was trained on.

    Raises:
        InputError: the table has no such arm, or lacks a value of the card.
    """
    table = cast("Table5Result", read_object(table5))
    try:
        column, constant = table["arms"][arm], table["baselines"][_CONSTANT]
        values = {row: _with_interval(column, row) for row in (*_NAMED, "bbox_iou")}
        box = _with_interval(constant, "bbox_iou")
    except KeyError as error:
        msg = f"{table5}: no {error} of arm {arm!r} or of the baseline {_CONSTANT!r}, which the card shows"
        raise InputError(msg) from None
    text = Template(CARD_TEMPLATE.read_text(encoding="utf-8")).substitute(
        values,
        constant=box,
        data=about,
        images=table["references"],
        commit=read_object(trained).get("commit") or "unknown",
        megabytes=f"{(backbone / 'model.safetensors').stat().st_size / 1e6:.1f}",
    )
    shutil.copytree(backbone, out / "model", dirs_exist_ok=True)
    write_text(out / "model" / "README.md", text)


def _with_interval(column: ScoredColumn, row: str) -> str:
    low, high = column["intervals"]["strict"][row] or (math.nan, math.nan)
    return f"{column['strict'][row]:.1f} [{low:.1f}, {high:.1f}]"
