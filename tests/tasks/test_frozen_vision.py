"""The cache of a frozen vision tower: the same losses as live, found again by content alone, and by nothing else."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import lightning.pytorch as pl
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from emo_lightning.core.disk import SPARE_BYTES, require_room
from emo_lightning.core.errors import InputError
from emo_lightning.core.mirrors import copy_here
from emo_lightning.core.remote import RemoteStore
from emo_lightning.data import vision_cache
from emo_lightning.data.features import FeatureCache
from emo_lightning.data.mapped_parts import PartError, checksum
from emo_lightning.data.questions import QuestionDataModule
from emo_lightning.data.tar_index import ShardError, TarIndex
from emo_lightning.data.vision_cache import VisionCache, VisionKey, VisionWriter, vision_folder
from emo_lightning.models import vision_facts
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig, BackboneError, LoRA
from emo_lightning.models.families import BackbonePart, FamilyError
from emo_lightning.models.families.qwen2_5_vl import takes_encoded_pictures
from emo_lightning.models.loading import load_backbone, load_frozen
from emo_lightning.tasks.features import FeatureTask
from emo_lightning.tasks.frozen_vision import FrozenVision, vision_key
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.predict import PredictTask
from emo_lightning.tasks.sft import SFTTask
from tests.made import stir_adapters
from tests.ranks import run_ranks
from tests.tasks.test_sft import Recorder, data, trainer

ROW = 640


class Seen(Recorder):
    """Whether training batches held pixels."""

    pixels = False

    def on_train_batch_start(
        self, trainer: pl.Trainer, module: pl.LightningModule, batch: Mapping[str, object], *_: object
    ) -> None:
        self.pixels = self.pixels or "pixel_values" in batch


def fit(
    tars: Path,
    model: Path,
    out: Path,
    cache: Path | None,
    *,
    precision: str = "32-true",
    row: int | None = ROW,
    devices: int = 1,
    **changes: Any,  # noqa: ANN401
) -> tuple[list[float], float]:
    """Losses of the steps, and of the validation."""
    torch.manual_seed(0)
    config = {"tuning": "lora", "lora": LoRA(rank=2), "vision_cache": "off" if cache is None else str(cache), **changes}
    task = SFTTask(BackboneConfig(str(model), **config), OptimConfig(lr=1e-3, warmup=0))
    seen = Seen()
    run = trainer(
        out, precision=precision, callbacks=[seen], max_epochs=1, devices=devices, strategy="ddp" if devices > 1 else "auto"
    )
    run.fit(task, datamodule=data(tars, max_tokens=row, limit=12))
    assert seen.pixels == (cache is None)
    return seen.losses, float(run.callback_metrics["val/loss"])


@pytest.mark.parametrize(
    ("changes", "row"),
    [({}, ROW), ({"train_merger": False}, ROW), ({}, None), ({"tuning": "full", "train_language": False}, ROW)],
    ids=["tower", "tower and merger", "padded", "full"],
)
def test_losses_are_those_of_the_live_tower(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path, changes: dict[str, Any], row: int | None
) -> None:
    """To the bit, in the pass that fills the cache and in those that read it."""
    if row is None and not takes_encoded_pictures():
        with pytest.raises(FamilyError, match=r"set data\.max_tokens"):
            fit(world_tars, tiny_qwen, tmp_path / "0", tmp_path / "cache", row=row, **changes)
        return
    live = fit(world_tars, tiny_qwen, tmp_path / "live", None, row=row, **changes)
    for number in range(2):
        assert fit(world_tars, tiny_qwen, tmp_path / f"{number}", tmp_path / "cache", row=row, **changes) == live


def test_a_frozen_tower_with_adapters_has_no_dropout(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """Live and cached are the same, and the parts that learn keep theirs."""
    lora = LoRA(rank=2, dropout=0.5)
    first = load_backbone(BackboneConfig(str(tiny_qwen), train_vision=True, lora=lora))
    stir_adapters(first, 0.1)
    adapter = first.save(tmp_path)
    net = load_backbone(BackboneConfig(str(adapter))).train()
    rates = {net.part_of(name): module.p for name, module in net.model.named_modules() if isinstance(module, nn.Dropout)}
    assert rates == {"vision": 0.0, "merger": 0.5, "language": 0.5}
    assert json.loads((net.save(tmp_path / "again") / "adapter_config.json").read_text())["lora_dropout"] == 0.5
    live = fit(world_tars, adapter, tmp_path / "live", None, lora=None)
    assert fit(world_tars, adapter, tmp_path / "cached", tmp_path / "cache", lora=None) == live
    assert fit(world_tars, adapter, tmp_path / "learns", None, lora=None, train_vision=True) != live


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_losses_in_half_precision(world_tars: Path, tiny_qwen: Path, tmp_path: Path, precision: str) -> None:
    live = fit(world_tars, tiny_qwen, tmp_path / "live", None, precision=precision)
    cached = fit(world_tars, tiny_qwen, tmp_path / "cached", tmp_path / "cache", precision=precision)
    assert cached[0] == pytest.approx(live[0], abs=1e-4)
    assert cached[1] == pytest.approx(live[1], abs=1e-4)


def images_of(folder: Path) -> list[str]:
    """SHA-256 of all images in the parts of all caches in a folder, as often as they stand there."""
    found = []
    for path in sorted(folder.glob("*/part-*.safetensors")):
        with safe_open(path, framework="pt") as file:
            found += vision_images(file.metadata()["vision"])
    return found


def vision_images(header: str) -> list[str]:
    return list(json.loads(header)["images"])


@pytest.mark.slow
@pytest.mark.skipif(
    not takes_encoded_pictures(), reason="of padded batches, which this transformers takes no cached pictures in"
)
def test_ranks_fill_a_cache_together(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    run_ranks(partial(fit, world_tars, tiny_qwen, tmp_path / "run", tmp_path / "cache", devices=2))
    images = images_of(tmp_path / "cache")
    # 12 to train on and 8 of the validation.
    assert len(images) == len(set(images)) == 20
    assert not list(tmp_path.glob("cache/*/*.tmp"))


def test_features_and_answers_are_those_of_the_live_tower(
    world_tars: Path, tiny_qwen: Path, adapter: Path, tmp_path: Path
) -> None:
    """Of the base and of an arm, whose language model has learned: one cache serves both."""
    sets = {"val": [str(world_tars / "*-val-*.tar")]}
    found: dict[tuple[str, Path], tuple[list[torch.Tensor], bytes]] = {}
    for setting in ("off", str(tmp_path / "cache")):
        for arm in (tiny_qwen, adapter):
            out = tmp_path / f"{setting == 'off'}-{arm.name}"
            config = BackboneConfig(str(arm), vision_cache=setting)
            trainer(out).test(FeatureTask(config), datamodule=QuestionDataModule(sets, ["emotion"], 3), verbose=False)
            task = PredictTask(config, 8, out=str(out))
            trainer(out).test(task, datamodule=QuestionDataModule(sets, ["emotion", "attributes"], 3), verbose=False)
            cache = FeatureCache(out / "val")
            found[setting, arm] = [cache[row].hidden for row in range(8)], (out / "predictions.jsonl").read_bytes()
    (cached,) = {setting for setting, _ in found} - {"off"}
    for arm in (tiny_qwen, adapter):
        assert all(torch.equal(a, b) for a, b in zip(found["off", arm][0], found[cached, arm][0], strict=True))
        assert found["off", arm][1] == found[cached, arm][1]
    assert not torch.equal(found["off", adapter][0][0], found["off", tiny_qwen][0][0])
    assert len(images_of(tmp_path / "cache")) == len(set(images_of(tmp_path / "cache"))) == 8


# --- what decides the states -----------------------------------------------------------------------------------------------------------


def key(backbone: Backbone, out: Path, part: BackbonePart = "vision", precision: str = "32-true") -> str:
    return vision_key(part, trainer(out, precision=precision), backbone)[0].name


def nudged(path: str) -> Callable[[Backbone], None]:
    def change(backbone: Backbone) -> None:
        with torch.no_grad():
            weight = backbone.base.get_parameter(path)
            # The last bit of one number.
            weight.view(-1)[3:4].view(torch.int32).bitwise_xor_(1)

    return change


def of_images(**settings: object) -> Callable[[Backbone], None]:
    def change(backbone: Backbone) -> None:
        for name, value in settings.items():
            assert getattr(backbone.processor.image_processor, name) != value
            setattr(backbone.processor.image_processor, name, value)

    return change


def limits(low: int, high: int) -> Callable[[Backbone], None]:
    def change(backbone: Backbone) -> None:
        found = backbone.family.pixel_limits(backbone.processor)
        backbone.family.set_pixel_limits(
            backbone.processor, found._replace(lowest=found.lowest + low, highest=found.highest + high)
        )

    return change


def tower_setting(backbone: Backbone) -> None:
    backbone.base.config.vision_config.window_size += 28


def compiled(backbone: Backbone) -> None:
    backbone.config.compile = True


def attended(backbone: Backbone) -> None:
    for module in backbone.base.get_submodule("model.visual").modules():
        if (config := getattr(module, "config", None)) is not None:
            config._attn_implementation = "eager"


MUTATIONS: dict[str, tuple[BackbonePart, Callable[[Backbone], object]]] = {
    "weight of a block": ("vision", nudged("model.visual.blocks.1.mlp.down_proj.weight")),
    "bias of a block": ("vision", nudged("model.visual.blocks.0.attn.qkv.bias")),
    "norm": ("vision", nudged("model.visual.blocks.0.norm1.weight")),
    "patch embedding": ("vision", nudged("model.visual.patch_embed.proj.weight")),
    "merger": ("merger", nudged("model.visual.merger.mlp.2.weight")),
    "mean": ("vision", of_images(image_mean=[0.48, 0.45, 0.41])),
    "standard deviation": ("vision", of_images(image_std=[0.27, 0.26, 0.28])),
    "normalising": ("vision", of_images(do_normalize=False)),
    "rescaling": ("vision", of_images(rescale_factor=1 / 256)),
    "resampling": ("vision", of_images(resample=2)),
    "smallest picture": ("vision", limits(1, 0)),
    "largest picture": ("vision", limits(0, 28 * 28)),
    "windows": ("vision", tower_setting),
    "type of the weights": ("vision", lambda backbone: backbone.bfloat16()),
    "attention": ("vision", attended),
    "compiled": ("vision", compiled),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_whatever_decides_the_states_is_in_the_key(tiny_qwen: Path, tmp_path: Path, name: str) -> None:
    part, change = MUTATIONS[name]
    backbone = load_frozen(BackboneConfig(str(tiny_qwen), dtype="float32"))
    before = key(backbone, tmp_path, part)
    change(backbone)
    assert key(backbone, tmp_path, part) != before


def test_surroundings_are_in_the_key(tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Precision, device, our own version; and what is not: the language model, and the merger where it learns."""
    backbone = load_frozen(BackboneConfig(str(tiny_qwen), dtype="float32"))
    found = [key(backbone, tmp_path), key(backbone, tmp_path, "merger"), key(backbone, tmp_path, precision="bf16-mixed")]
    facts = vision_facts.vision_facts(backbone, "vision", torch.zeros(1, 1, device="meta"))
    assert facts["device"] == "meta"
    # As in caches that were made on a CPU before GPUs were told apart.
    assert vision_facts.vision_facts(backbone, "vision", torch.zeros(1, 1))["device"] == "cpu"
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    found.append(key(backbone, tmp_path))
    torch.set_float32_matmul_precision(before)
    with monkeypatch.context() as patch:
        patch.setattr(vision_facts, "VISION_CODE_VERSION", 0)
        found.append(key(backbone, tmp_path))
    tuned = load_backbone(BackboneConfig(str(tiny_qwen), dtype="float32", train_vision=True, lora=LoRA(rank=2, alpha=4)))
    found.append(key(tuned, tmp_path))
    layer = tuned.base.get_submodule("model.visual.blocks.0.attn.qkv")
    assert isinstance(layer.scaling, dict)
    layer.scaling["default"] *= 2
    found.append(key(tuned, tmp_path))
    assert len(set(found)) == len(found) == 7
    for path in ("model.language_model.layers.0.mlp.up_proj.weight", "model.visual.merger.mlp.2.weight"):
        nudged(path)(backbone)
    assert key(backbone, tmp_path) == found[0]


# --- what is on disk --------------------------------------------------------------------------------------------------------------------


class Passed:
    """Counts the pictures that pass a tower."""

    def __init__(self, backbone: Backbone) -> None:
        self.pictures = 0
        backbone.base.get_submodule("model.visual").register_forward_hook(self._count, with_kwargs=True)

    def _count(self, _tower: nn.Module, _given: object, named: Mapping[str, torch.Tensor], _out: object) -> None:
        self.pictures += len(named["grid_thw"])


def filled(index: TarIndex, model: Path, out: Path) -> tuple[VisionCache, int]:
    """The cache of an index, and how often eight pictures have passed the tower for it."""
    backbone = load_frozen(BackboneConfig(str(model), dtype="float32", vision_cache=str(out / "cache")))
    passed = Passed(backbone)
    module = data(out)
    found = FrozenVision().pictures(index, module, trainer(out), backbone)
    assert found is not None
    # One picture of our own tells how large states are.
    return found, (passed.pictures - 1) // 8


def test_an_image_goes_by_its_bytes(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """Not by its tar's path or name; and one that has changed under its record is named though nobody decodes it."""
    (tar,) = world_tars.glob("*-val-*.tar")
    assert filled(TarIndex.open(str(tar)), tiny_qwen, tmp_path)[1] == 1
    other = Path(shutil.copy(tar, tmp_path / "other.tar"))
    assert filled(TarIndex.open(str(other)), tiny_qwen, tmp_path)[1] == 0
    index = TarIndex.open(str(other))
    whole, row = bytearray(other.read_bytes()), index._rows[3]
    whole[int(row["image_o"]) + int(row["image_l"]) // 2] ^= 1
    other.write_bytes(whole)
    with pytest.raises(ShardError, match=r"(sha256|CRC-32) of the bytes is"):
        filled(TarIndex.open(str(other)), tiny_qwen, tmp_path)


def test_damage_is_found_and_made_good(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    index = TarIndex.open(str(world_tars / "*-val-*.tar"))
    cache, _ = filled(index, tiny_qwen, tmp_path)
    (part,) = cache.folder.glob("part-*")
    sums = [index.record(row).sha256 for row in range(len(index))]
    right = [cache.states(one).clone() for one in sums]
    whole, missed = part.read_bytes(), []
    for place in [*range(0, 1600, 67), *range(1600, len(whole), len(whole) // 12), -1]:
        damaged = bytearray(whole)
        damaged[place] ^= 1
        part.write_bytes(damaged)
        again = VisionCache(tmp_path / "cache", cache.key)
        if not again.damaged:
            with pytest.raises(PartError, match=rf"{part.name}: .*damaged"):
                again.states(sums[0])
            aside = part.with_suffix(".damaged")
            assert aside.read_bytes() == damaged
            aside.unlink()
        elif part not in again.damaged:
            missed.append(place)
    assert not missed
    # A folder of that name is nobody's part.
    (cache.folder / "part-x.safetensors").mkdir()
    # Cut off, of another key, gone: its images pass the tower again.
    part.write_bytes(whole[:-1])
    assert filled(index, tiny_qwen, tmp_path)[1] == 1
    assert f"{part}: damaged" in capsys.readouterr().out
    strange = VisionCache(tmp_path / "cache", cache.key._replace(part="merger"))
    strange.folder.mkdir()
    shutil.copy(part, strange.folder)
    assert "another model" in VisionCache(tmp_path / "cache", strange.key).damaged[strange.folder / part.name]
    part.unlink()
    again, passed = filled(index, tiny_qwen, tmp_path)
    assert passed == 1
    assert all(torch.equal(again.states(one), states) for one, states in zip(sums, right, strict=True))


CRAFTED: dict[str, tuple[Callable[[dict[str, torch.Tensor], dict[str, str]], object], str]] = {
    "no checksum of the header": (lambda _, said: said.pop("crc32"), "the checksum of its header"),
    "a number for states": (
        lambda tensors, _: tensors.update(states=torch.tensor(1.0)),
        r"states are torch.float32 of shape \[\]",
    ),
    "another width": (
        lambda tensors, _: tensors.update(states=torch.zeros(6, 5)),
        r"shape \[6, 5\]; .* of shape \[tokens, 4\]",
    ),
    "another type": (lambda tensors, _: tensors.update(states=torch.zeros(6, 4).bfloat16()), "states are torch.bfloat16"),
    "whole numbers": (lambda tensors, _: tensors.update(states=torch.zeros(6, 4).int()), "states are torch.int32"),
    "ends that are no whole numbers": (
        lambda tensors, _: tensors.update(ends=torch.tensor([2.0, 4.0, 6.0])),
        "ends are torch.float32",
    ),
    "one end": (lambda tensors, _: tensors.update(ends=torch.tensor(6)), r"ends are torch.int64 of shape \[\]"),
    "ends elsewhere": (lambda tensors, _: tensors.update(ends=torch.tensor([2, 4, 5])), "cut at other places"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_part_that_somebody_else_made_is_passed_over(tmp_path: Path, name: str) -> None:
    """Its checksums are right: it is what it holds that no cache writes."""
    change, said = CRAFTED[name]
    key = VisionKey("vision", {"weights": "w"})
    whole = VisionCache(tmp_path, key, like=torch.zeros(1, 4))
    with VisionWriter(whole) as writer:
        for one in "abc":
            writer.append(one, torch.ones(2, 4))
    (part,) = whole.folder.glob("part-*")
    with safe_open(part, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    if "crc32" in metadata:
        header = json.loads(metadata["vision"])
        header["crc32"] = {one: checksum(tensor) for one, tensor in tensors.items()}
        metadata["vision"] = json.dumps(header)
        metadata["crc32"] = f"{zlib.crc32(metadata['vision'].encode()):08x}"
    else:
        header = json.loads(metadata["vision"])
        del header["crc32"]
        metadata["vision"] = json.dumps(header)
    save_file(tensors, part, metadata=metadata)
    found = VisionCache(tmp_path, key, like=torch.zeros(1, 4))
    assert "a" not in found
    assert re.search(said, found.damaged[part])
    found.remove_damaged()
    assert not part.exists()


def test_a_disk_without_the_room_refuses_before_the_tower_runs(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = TarIndex.open(str(world_tars / "*-val-*.tar"))
    free = shutil.disk_usage(tmp_path)._replace(free=SPARE_BYTES + 100)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: free)
        with pytest.raises(InputError, match=r"MB are needed, .* are free on its disk.*model\.backbone\.vision_cache"):
            filled(index, tiny_qwen, tmp_path)
    assert not list(tmp_path.glob("cache/*/part-*"))
    assert filled(index, tiny_qwen, tmp_path)[1] == 1


FAR = "memory://vision-of-others"


def far(folder: Path) -> VisionCache:
    """A cache with the same one behind its URL."""
    return VisionCache(folder, VisionKey("vision", {"weights": "w"}), FAR, torch.zeros(1, 4))


@pytest.fixture
def parts_of_others(tmp_path: Path) -> Iterator[int]:
    """Forty parts of an image each, and the size of one."""
    with VisionWriter(far(tmp_path / "other machine"), part_bytes=1) as writer:
        for number in range(40):
            writer.append(f"{number}", torch.full((2, 4), float(number)))
    yield next((tmp_path / "other machine").glob("*/part-*")).stat().st_size
    fsspec.filesystem("memory").rm(FAR, recursive=True)


def test_of_what_others_have_computed_only_what_is_needed_is_copied(tmp_path: Path, parts_of_others: int) -> None:
    assert parts_of_others
    cache = far(tmp_path)
    assert len(cache) == 0, "nobody has asked for an image"
    cache.fetch(["7", "11", "7", "none"])
    assert len(list(cache.copies.glob("part-*"))) == len(cache) == 2
    assert cache.missing(["7", "11", "none"]) == [2]
    assert torch.equal(cache.states("11"), torch.full((2, 4), 11.0))


def test_copies_that_have_no_room_are_refused(tmp_path: Path, parts_of_others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the disk, or in what may be kept of places behind URLs; before the first one."""
    wanted = [f"{number}" for number in range(12)]
    free = shutil.disk_usage(tmp_path)._replace(free=SPARE_BYTES + 11 * parts_of_others)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: free)
        with pytest.raises(InputError, match=r"MB are needed, .* are free on its disk"):
            far(tmp_path).fetch(wanted)
        far(tmp_path / "fewer").fetch(wanted[:11])
    monkeypatch.setenv("EMO_SHARD_CACHE_GB", f"{11.5 * parts_of_others / 1e9}")
    with pytest.raises(InputError, match=rf"{FAR}/.* more than EMO_SHARD_CACHE_GB .* raise it"):
        far(tmp_path).fetch(wanted)
    assert not list(far(tmp_path).folder.rglob("part-*"))
    far(tmp_path).fetch(wanted[:11])
    assert len(far(tmp_path)) == 11


def test_one_of_several_copies(tmp_path: Path, parts_of_others: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All ranks of a machine ask at once."""
    assert parts_of_others
    copied: list[Path] = []

    def copy(store: RemoteStore, target: Path) -> None:
        copied.append(target)
        copy_here(store, target)

    monkeypatch.setattr(vision_cache, "copy_here", copy)
    ranks = [far(tmp_path) for _ in range(4)]
    wanted = [f"{number}" for number in range(10)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda rank: rank.fetch(wanted), ranks))
    assert len(copied) == len(set(copied)) == 10
    assert all(not rank.missing(wanted) for rank in ranks)


def test_a_damaged_part_behind_a_url_is_not_copied(
    tmp_path: Path, parts_of_others: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert parts_of_others
    files = fsspec.filesystem("memory")
    name = next(name for name in files.find(FAR) if b'"images": ["7"]' in files.cat_file(name).replace(b"\\", b""))
    whole = files.cat_file(name)
    at = whole.index(b"weights")
    files.pipe_file(name, whole[:at] + b"W" + whole[at + 1 :])
    cache = far(tmp_path)
    cache.fetch(["7", "8"])
    assert cache.missing(["7", "8"]) == [0]
    assert "the checksum of its header is another one" in capsys.readouterr().out


def killed(cache: VisionCache, images: list[str], states: list[torch.Tensor]) -> None:
    writer = VisionWriter(cache, part_bytes=1)
    for one, found in zip(images, states, strict=True):
        writer.append(one, found)
    (cache.folder / f"part-0.safetensors.{writer._name}.tmp").write_bytes(b"half")
    writer.part_bytes = 1 << 20
    writer.append("0" * 64, states[0])
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_pass_goes_on(world_tars: Path, tiny_qwen: Path, tmp_path: Path) -> None:
    """All parts that were whole are kept, what was half-written is gone, and no image passes the tower twice."""
    index = TarIndex.open(str(world_tars / "*-train-*.tar")).take(range(16))
    sums = [index.record(row).sha256 for row in range(16)]
    whole, _ = filled(index, tiny_qwen, tmp_path / "whole")
    begun = VisionCache(tmp_path / "cache", whole.key)
    half = [whole.states(one).clone() for one in sums[:8]]
    process = multiprocessing.get_context("fork").Process(target=killed, args=(begun, sums[:8], half))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert list(begun.folder.glob("*.tmp"))
    cache, passed = filled(index, tiny_qwen, tmp_path)
    assert passed == 1
    assert not list(begun.folder.glob("*.tmp"))
    assert all(torch.equal(cache.states(one), whole.states(one)) for one in sums)


def test_where_it_is_and_when_there_is_none(
    world_tars: Path, tiny_qwen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EMO_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert vision_folder("auto") == tmp_path / "x/emo-lightning/vision"
    monkeypatch.setenv("EMO_CACHE", str(tmp_path / "own"))
    assert vision_folder("auto") == tmp_path / "own/vision"
    assert vision_folder(f"file://{tmp_path}/there") == tmp_path / "there"
    assert BackboneConfig("m", vision_cache="auto", train_vision=True).cached_part is None
    assert BackboneConfig("m", vision_cache="auto", train_merger=False).cached_part == "merger"
    assert BackboneConfig("m", vision_cache="auto", train_merger=False).frozen().cached_part == "vision"
    with pytest.raises(BackboneError, match="vision_cache: found an empty text"):
        BackboneConfig("m", vision_cache=" ")
    with pytest.raises(InputError, match=r"none: 1,000,000\.0 GB are needed, .* are free on its disk"):
        require_room(tmp_path / "none", 10**15, "free some")
    backbone = load_backbone(BackboneConfig(str(tiny_qwen), tuning="full", train_vision=True, vision_cache=str(tmp_path)))
    assert FrozenVision().pictures(TarIndex.open(str(world_tars)), data(world_tars), trainer(tmp_path), backbone) is None
