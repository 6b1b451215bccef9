"""What a user can get wrong ends in one clear line, through the real command line, before or at the first step.

How each kind of damage is found is tested in tests/data/test_tar_index.py; here, that its message reaches the terminal unspoilt.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from emo_lightning.cli import main
from emo_lightning.data.sampler import Slot
from emo_lightning.experiment.files import ROOT

CSV = "[{class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: '${run.out}', name: logs}}]"

Run = Callable[..., str]


@pytest.fixture
def failing_run(
    tmp_path: Path, world_tars: Path, tiny_qwen: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Run:
    """Runs round 1 on these tars, which must fail; returns the one line of the stage's error."""
    # Lightning's log handler keeps the captured stderr of an earlier test, which is closed, and would complain of it.
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def run(train: Path | str, **changes: object) -> str:
        options = {
            "vars.backbone": tiny_qwen,
            "vars.train": train,
            "vars.val": f"{world_tars}/*-val-*.tar",
            "data.num_workers": 0,
            "data.max_tokens": 640,
            "trainer.limit_val_batches": 0,
            "trainer.accelerator": "cpu",
            "trainer.enable_progress_bar": "false",
            "trainer.accumulate_grad_batches": 1,
            "trainer.logger": CSV,
            **changes,
        }
        words = [word for key, value in options.items() for word in (f"--{key}", str(value))]
        capfd.readouterr()
        assert main(["run", str(ROOT / "experiments/round1.yaml"), "--runs", str(tmp_path / "runs"), *words]) == 2
        err = capfd.readouterr().err
        assert "Traceback" not in err, err
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 2, err
        assert "stage 'round1' ended with exit code 2" in lines[1]
        assert lines[0].startswith("error: stage 'round1': ")
        return lines[0]

    return run


Members = list[tuple[str, bytes]]


def rewritten(source: Path, target: Path, change: Callable[[Members], Members]) -> Path:
    """A copy of a tar with other members."""
    with tarfile.open(source) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar.getmembers()]  # type: ignore[union-attr]
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in change(members):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return target


def record_with(**changes: object) -> Callable[[Members], Members]:
    """Changes the first record; `None` removes a key."""

    def change(members: Members) -> Members:
        out, done = [], False
        for name, data in members:
            if name.endswith(".json") and not done:
                record = json.loads(data) | changes
                data, done = json.dumps({k: v for k, v in record.items() if v is not None}).encode(), True
            out.append((name, data))
        return out

    return change


def broken_picture(members: Members) -> Members:
    """The first image is cut, and its record says so: only decoding can find it."""
    (image_name, image), (json_name, record) = members[0], members[1]
    assert json_name.endswith(".json")
    image = image[: len(image) // 2]
    record = json.dumps(json.loads(record) | {"sha256": hashlib.sha256(image).hexdigest()}).encode()
    return [(image_name, image), (json_name, record), *members[2:]]


RECORDS: dict[str, tuple[Callable[[Members], Members], str]] = {
    "field missing": (record_with(sha256=None), r".json: key 'sha256': is missing"),
    "unknown label": (record_with(emotion="joy"), "unknown emotion 'joy'; allowed: amusement, awe"),
    "box outside": (
        record_with(objects=[{"phrase": "dog", "bbox": [0, 0, 9000, 50], "score": 1.0}]),
        "objects[0].bbox [0.0, 0.0, 9000.0, 50.0] leaves the image",
    ),
    "unknown key": (record_with(emotoin="awe"), "key 'emotoin'"),
    "not an image": (broken_picture, "does not decode"),
}


@pytest.mark.parametrize("damage", RECORDS)
def test_damaged_samples(damage: str, failing_run: Run, world_tars: Path, tmp_path: Path) -> None:
    change, message = RECORDS[damage]
    shard = rewritten(sorted(world_tars.glob("*-train-*.tar"))[0], tmp_path / "bad.tar", change)
    error = failing_run(shard)
    assert message in error
    assert f"{shard}:" in error


def test_an_error_in_a_worker_is_one_line_too(capsys: pytest.CaptureFixture[str], world_tars: Path, tmp_path: Path) -> None:
    """A DataLoader wraps what its worker raised in the worker's whole traceback."""
    from torch.utils.data import DataLoader

    from emo_lightning.core.errors import print_error
    from emo_lightning.data.tar_index import ShardError, TarIndex
    from tests.tasks.test_sft import data

    shard = rewritten(sorted(world_tars.glob("*-train-*.tar"))[0], tmp_path / "bad.tar", broken_picture)
    dataset = data(world_tars).dataset("train")
    dataset.index = TarIndex.open(shard)
    loader = DataLoader(
        dataset, batch_sampler=[[Slot(0, False)]], num_workers=1, collate_fn=list, multiprocessing_context="fork"
    )
    with pytest.raises(ShardError) as caught:
        list(loader)
    assert "Traceback" in str(caught.value)
    assert print_error(caught.value, ["emo"], "stage 'x': ") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: stage 'x': {shard}:")
    assert "does not decode" in error


def truncated(shard: Path) -> None:
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])


def flipped(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        header = tar.getmembers()[6].offset
    data[header + 10] ^= 0x10
    shard.write_bytes(data)


def emptied(shard: Path) -> None:
    with tarfile.open(shard, "w"):
        pass


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "No such file"),
        (truncated, "byte"),
        (flipped, "byte"),
        (emptied, "holds no samples"),
        (lambda shard: shard.write_bytes(b""), "bad.tar"),
        (lambda shard: shard.write_bytes(b"PK\x03\x04" + bytes(5000)), "byte 0"),
    ],
    ids=["missing", "truncated", "bit flipped", "no members", "no bytes", "a zip"],
)
def test_damaged_tars(damage: Callable[[Path], Any], message: str, failing_run: Run, world_tars: Path, tmp_path: Path) -> None:
    shard = Path(shutil.copy(sorted(world_tars.glob("*-train-*.tar"))[0], tmp_path / "bad.tar"))
    damage(shard)
    error = failing_run(shard)
    assert message in error
    assert str(shard) in error


def test_wrong_hub_id(failing_run: Run, world_tars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    error = failing_run(f"{world_tars}/*-train-*.tar", **{"vars.backbone": "Qwen/Qwen2.5-VL-3B-Instructed"})
    assert "backbone 'Qwen/Qwen2.5-VL-3B-Instructed' is neither a model folder nor in the local cache" in error


def test_wandb_online_without_a_key(
    failing_run: Run, world_tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """W&B reads its key from the environment or from ~/.netrc; there is neither."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    error = failing_run(f"{world_tars}/*-train-*.tar")
    assert "No API key configured" in error
    assert "wandb login" in error


DEEP, LONG = "[" * 100_000, '{"id": ' + "9" * 5000 + "}"
"""Deeper, and with a longer number, than Python's JSON reader takes: neither is a JSONDecodeError."""

LINES: dict[str, tuple[str | bytes, str]] = {
    "nested too deep": (DEEP, "predictions.jsonl:1: JSON nested deeper than 64"),
    "number too long": (LONG, "predictions.jsonl:1: a whole number of"),
    "latin-1": (b'{"id": "caf\xe9"}', "predictions.jsonl:1: not JSON: 'utf-8' codec"),
    "utf-16": ('{"id": "a"}\n'.encode("utf-16"), "predictions.jsonl:1: not JSON: "),
    "cut": ('{"id": "a", "emo', "predictions.jsonl:1: not JSON: "),
    "a list": ("[]", "predictions.jsonl:1: key 'record'"),
}


def one_line(words: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error of a command that must end with exit code 2."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    error = capsys.readouterr().err
    assert code == 2, error
    assert "Traceback" not in error
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, error
    return lines[0]


@pytest.mark.parametrize("damage", LINES)
def test_damaged_lines(damage: str, tmp_path: Path, world_tars: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = LINES[damage]
    file = tmp_path / "predictions.jsonl"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in one_line(["eval", file, world_tars / "world-test-000000.tar"], capsys)


def test_a_disk_that_fails_while_a_file_is_read(capsys: pytest.CaptureFixture[str], world_tars: Path) -> None:
    """It opens, and the first byte cannot be read: what EIO of a network mount looks like."""
    error = one_line(["eval", "/proc/self/mem", world_tars / "world-test-000000.tar"], capsys)
    assert "/proc/self/mem:1: cannot be read: Input/output error" in error


def rewrite(file: str, text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / file).write_text(text)


def changed_config(**changes: object) -> Callable[[Path], object]:
    """Changes the language model's part of config.json."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"] |= changes
        (folder / "config.json").write_text(json.dumps(config))

    return change


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no template": (
        lambda folder: (folder / "chat_template.jinja").unlink(),
        "its chat template (chat_template.jinja) cannot be",
    ),
    "cut template": (
        rewrite("chat_template.jinja", "{% for x in %}"),
        "its chat template (chat_template.jinja) cannot be used: E",
    ),
    "tokenizer a list": (rewrite("tokenizer.json", "[]"), "its processor cannot be read"),
    "tokenizer empty": (rewrite("tokenizer.json", "{}"), "its processor cannot be read"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "instantiate the backend tokenizer from one of: (1)"),
    "tokenizer_config a list": (rewrite("tokenizer_config.json", "[]"), "its processor cannot be read"),
    "processor a list": (rewrite("processor_config.json", "[]"), "its processor cannot be read"),
    "config a list": (rewrite("config.json", "[]"), "config.json: found list; expected an object"),
    "another width": (changed_config(hidden_size=96), "its weights are not of the sizes that its config.json gives"),
    "width as text": (changed_config(hidden_size="x"), "Validation error for field 'hidden_size'"),
    "no heads": (changed_config(num_attention_heads=0), "config.json: gives no model: integer division or modulo by zero"),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:900]),
        "model.safetensors: cut off, or no safetensors file",
    ),
}


@pytest.mark.parametrize("damage", MODELS)
def test_damaged_model_folders(damage: str, tiny_qwen: Path, tmp_path: Path) -> None:
    from emo_lightning.core.errors import user_message
    from emo_lightning.models.backbone_config import BackboneConfig, BackboneError
    from emo_lightning.models.loading import load_frozen

    change, message = MODELS[damage]
    folder = tmp_path / "model"
    shutil.copytree(tiny_qwen, folder)
    change(folder)
    with pytest.raises(BackboneError) as caught:
        load_frozen(BackboneConfig(str(folder), tuning="frozen"))
    said = user_message(caught.value) or ""
    assert message in said
    assert str(folder) in said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["predict", "{model}", "{tar}", "--out", "{tmp}/p.jsonl", "--accelerator", "cpu", "--devices", "999"],
            "--devices: found 999",
        ),
        (["predict", "{model}", "{tar}", "--out", "{tmp}/p.jsonl", "--accelerator", "tpu"], "torch_xla"),
        (
            ["des", "retrieval", "{des}", "--references", "{tar}", "--out", "{tmp}/d", "--k", "0"],
            "--k 0: expected at least 1",
        ),
        (
            ["des", "retrieval", "{des}", "--references", "{tar}", "--out", "{tmp}/d", "--k", "2", "--seed", "-1"],
            "--seed -1: expected at least 0",
        ),
        (
            ["des", "distance", "{des}", "--references", "{tar}", "--out", "{tmp}/d", "--max-images", "-1"],
            "--max-images -1: expected at least 3",
        ),
        (["des", "distance", "{words}", "--references", "{tar}", "--out", "{tmp}/d"], "expected lists of floats"),
    ],
    ids=["processes", "no such package", "k", "seed", "sample", "embeddings of words"],
)
def test_numbers_out_of_range(
    words: list[str], message: str, tiny_qwen: Path, world_tars: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as parquet

    from emo_lightning.data.tar_index import TarIndex

    tar = world_tars / "world-test-000000.tar"
    index = TarIndex.open(tar)
    records = [index.record(row) for row in range(len(index))]
    columns = {"id": [r.id for r in records], "emotion": [str(r.emotion) for r in records], "split": ["test"] * len(records)}
    parquet.write_table(pa.table({**columns, "des": [[float(n), 1.0] for n in range(len(records))]}), tmp_path / "des.parquet")
    parquet.write_table(pa.table({**columns, "des": [["a"]] * len(records)}), tmp_path / "words.parquet")
    named = {
        "model": tiny_qwen,
        "tar": tar,
        "tmp": tmp_path,
        "des": tmp_path / "des.parquet",
        "words": tmp_path / "words.parquet",
    }
    assert message in one_line([word.format(**named) for word in words], capsys)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 0}, "no adapter of this base model: `r` should be a positive integer"),
        ({"r": "x"}, "no adapter of this base model"),
        ({"target_modules": "nothing"}, "no adapter of this base model"),
        ({"peft_type": "FOO"}, "key 'peft_type': found 'FOO'; expected 'LORA'"),
        ({"base_model_name_or_path": "/gone/base"}, "there is no folder '/gone/base'"),
        ({"base_model_name_or_path": None}, "key 'base_model_name_or_path' is empty"),
    ],
    ids=["no rank", "rank of words", "no module", "another kind", "base is gone", "no base"],
)
def test_damaged_adapters(changes: dict[str, object], message: str, adapter: Path, tmp_path: Path) -> None:
    from emo_lightning.models.backbone_config import BackboneConfig, BackboneError
    from emo_lightning.models.loading import load_frozen

    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    config = folder / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(BackboneError) as caught:
        load_frozen(BackboneConfig(str(folder), tuning="frozen"))
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def without_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    del weights["logit_scale"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def many_layers(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 1_000_000
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"config\.json: no such file"),
        (rewrite("config.json", "[]"), r"config\.json: found list; expected an object"),
        (lambda folder: (folder / "tokenizer_config.json").unlink(), r"tokenizer_config\.json: no such file"),
        (rewrite("model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:0"), "Git LFS pointer"),
        (without_a_weight, r"1 missing \(logit_scale\)"),
        (many_layers, "'num_hidden_layers': found 1,000,000"),
        (rewrite("tokenizer.json", "[]"), "is no CLIP that can be read"),
        (rewrite("config.json", '{"model_type": "bert"}'), "model of type 'bert'; expected 'clip'"),
    ],
    ids=[
        "no config",
        "config a list",
        "no tokenizer config",
        "LFS",
        "a weight less",
        "many layers",
        "tokenizer a list",
        "another model",
    ],
)
def test_damaged_clips(change: Callable[[Path], object], message: str, clip_folder: Path, tmp_path: Path) -> None:
    from emo_lightning.core.errors import InputError
    from emo_lightning.metrics.clip import ClipScorer
    from emo_lightning.tasks.clip import CLIPTask

    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    change(folder)
    with pytest.raises(InputError, match=message) as caught:
        CLIPTask(str(folder))
    assert str(folder) in str(caught.value)
    with pytest.raises(InputError) as caught:
        ClipScorer.load(str(folder))
    assert str(folder) in str(caught.value)
