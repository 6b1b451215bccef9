"""Feature cache and DES table: written by several ranks, resumed, read back, and refused when not whole."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from emo_lightning.core.errors import InputError, MissingFileError
from emo_lightning.core.records import Emotion, Record
from emo_lightning.data.buffers import Buffers
from emo_lightning.data.embeddings import EmbeddingTable
from emo_lightning.data.feature_parts import FeatureError
from emo_lightning.data.feature_rows import FeatureRows
from emo_lightning.data.features import FeatureCache, FeatureWriter, collate_features
from emo_lightning.data.loader import ResumableLoader
from emo_lightning.data.mapped_parts import PART_BYTES
from emo_lightning.data.sampler import EpochBatches, Slot, Slots
from emo_lightning.data.supervision import Supervision

LAYERS, HIDDEN = 3, 4


def sample(i: int) -> tuple[str, torch.Tensor, Supervision]:
    generator = torch.Generator().manual_seed(i)
    distribution = torch.rand(8, generator=generator).double()
    labels = Supervision((distribution / distribution.sum()).tolist(), i % 8, 1.0 + i % 10) if i % 5 else Supervision()
    return f"img{i:03}", torch.randn(LAYERS, 1 + i % 4, HIDDEN, generator=generator), labels


def write(
    directory: Path,
    indices: Iterable[int],
    rank: int = 0,
    world_size: int = 1,
    fingerprint: str = "f",
    part_bytes: int = 300,
) -> FeatureWriter:
    with FeatureWriter(
        directory, LAYERS, HIDDEN, torch.float32, fingerprint, rank=rank, world_size=world_size, part_bytes=part_bytes
    ) as writer:
        for i in indices:
            key, hidden, labels = sample(i)
            if key not in writer.done:
                writer.append(key, hidden, labels)
    return writer


def interrupted(after: int) -> Iterator[int]:
    yield from range(after)
    raise KeyboardInterrupt


def test_two_ranks_write_and_one_cache_reads_in_key_order(tmp_path: Path) -> None:
    for rank in (1, 0):
        write(tmp_path, range(rank, 23, 2), rank=rank, world_size=2)
    assert len(list(tmp_path.glob("part-00001-*.safetensors"))) > 1
    cache = FeatureCache(tmp_path, fingerprint="f")
    assert cache.keys == [sample(i)[0] for i in range(23)]
    for i in range(23):
        key, hidden, labels = sample(i)
        read = cache[i]
        assert (read.key, read.filler) == (key, False)
        assert torch.equal(read.hidden, hidden)
        np.testing.assert_allclose(read.labels.distribution, labels.distribution, rtol=1e-6)
        assert (read.labels.emotion, repr(read.labels.intensity)) == (labels.emotion, repr(labels.intensity))


def test_batches_are_padded_on_the_right(tmp_path: Path) -> None:
    write(tmp_path, range(6))
    cache = FeatureCache(tmp_path)
    batch = collate_features([cache[Slot(2, False)], cache[Slot(5, True)], cache[3]])
    assert batch["hidden_states"].shape == (LAYERS, 3, 4, HIDDEN)
    assert batch["mask"].tolist() == [[True] * 3 + [False], [True] * 2 + [False] * 2, [True] * 4]
    assert torch.equal(batch["hidden_states"][:, 0, :3], sample(2)[1])
    assert (batch["hidden_states"][:, 0, 3] == 0).all()
    assert batch["filler"].tolist() == [False, True, False]
    assert batch["emotion"].tolist() == [2, -1, 3]
    assert batch["target"][1].isnan().all()
    assert batch["intensity"].isnan().tolist() == [False, True, False]
    assert batch["key"] == ["img002", "img005", "img003"]


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_delivers_every_sample_once(tmp_path: Path, workers: int) -> None:
    write(tmp_path, range(11))
    cache = FeatureCache(tmp_path)
    assert cache[0].key == "img000"  # mapped before the workers fork
    loader = ResumableLoader(
        pickle.loads(pickle.dumps(cache)), EpochBatches(11, 3, seed=1), num_workers=workers, collate_fn=collate_features
    )
    batches = list(loader)
    assert sorted(key for batch in batches for key in batch["key"]) == cache.keys
    for batch in batches:
        for row, key in enumerate(batch["key"]):
            assert torch.equal(batch["hidden_states"][:, row][:, batch["mask"][row]], sample(int(key[3:]))[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("part_bytes", "longest"), [(300, 4), (1 << 20, 4), (300, 1), (300, 9), (1 << 20, 9)])
def test_a_gathered_batch_is_the_collated_samples(tmp_path: Path, dtype: torch.dtype, part_bytes: int, longest: int) -> None:
    """Samples of one vector and of many, in one part and in several."""
    with FeatureWriter(tmp_path, LAYERS, HIDDEN, dtype, "f", part_bytes=part_bytes) as writer:
        for i in range(23):
            key, hidden, labels = sample(i)
            writer.append(key, hidden.repeat(1, 3, 1)[:, : 1 + i % longest], labels)
    rows = FeatureRows(FeatureCache(tmp_path))
    loader = ResumableLoader(rows, EpochBatches(23, 4, seed=1), collate_fn=rows.collate)
    batches = EpochBatches(23, 4, seed=1)
    for found, slots in zip(loader, batches, strict=True):
        expected = collate_features([rows.cache[slot] for slot in slots])
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(found[name], value, rtol=0, atol=0, equal_nan=True)  # type: ignore[literal-required]
            else:
                assert found[name] == value  # type: ignore[literal-required]
    again = pickle.loads(pickle.dumps(rows)).collate(Slots(np.arange(23), 0, filler=True))
    assert again["filler"].all()
    assert again["hidden_states"].dtype == dtype


def test_memory_of_a_batch_is_used_again_when_nobody_holds_it() -> None:
    buffers = Buffers(most=2)
    first = buffers.tensor((3, 5), torch.float32)
    place, view = first.data_ptr(), first[1:]
    assert place % 64 == 0
    second = buffers.tensor((3, 5), torch.bfloat16)
    third = buffers.tensor((3, 5), torch.float32)
    assert len({place, second.data_ptr(), third.data_ptr()}) == 3
    del first
    assert buffers.tensor((1,), torch.float32).data_ptr() != place, "a view still shows it"
    del view
    assert buffers.tensor((3, 5), torch.float32).data_ptr() == place
    assert buffers.tensor((1000,), torch.float32).shape == (1000,)


def test_interrupted_extraction_goes_on_even_with_other_ranks(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, interrupted(9))
    for name in ("part-00000-00099", "part-00001-00000", "part-00007-00000"):
        (tmp_path / f"{name}.safetensors.tmp").write_bytes(b"torn")
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("part-*.safetensors")}
    with pytest.raises(FeatureError, match="no finished feature cache"):
        FeatureCache(tmp_path)
    write(tmp_path, range(0, 23, 2), rank=0, world_size=2)
    # Another rank may be writing its own.
    assert [path.name for path in tmp_path.glob("*.tmp")] == ["part-00001-00000.safetensors.tmp"]
    with pytest.raises(FeatureError, match=r"no index of ranks \[1\]"):
        FeatureCache(tmp_path)
    write(tmp_path, range(1, 23, 2), rank=1, world_size=2)
    assert not list(tmp_path.glob("*.tmp"))
    assert len(FeatureCache(tmp_path)) == 23
    assert all((tmp_path / name).stat().st_mtime_ns == time for name, time in before.items())
    # Again with three ranks: nothing to do, and the marks of the two-rank run go.
    for rank in range(3):
        write(tmp_path, range(rank, 23, 3), rank=rank, world_size=3)
    assert len(FeatureCache(tmp_path)) == 23


def test_caches_that_are_not_whole_or_not_the_expected_are_refused(tmp_path: Path) -> None:
    write(tmp_path, range(8))
    with pytest.raises(FeatureError, match="fingerprint is 'f'; expected 'other'"):
        FeatureCache(tmp_path, fingerprint="other")
    with pytest.raises(FeatureError, match="fingerprint is 'f'; expected 'g'"):
        write(tmp_path, range(8), fingerprint="g")
    with pytest.raises(FeatureError, match=r"num_layers is 3; expected 2"):
        FeatureWriter(tmp_path, 2, HIDDEN, torch.float32, "f")
    part = sorted(tmp_path.glob("part-*"))[1]
    content = part.read_bytes()
    part.write_bytes(content[:-3])
    with pytest.raises(FeatureError, match=f"{part.name}: cut off"):
        FeatureCache(tmp_path)
    part.unlink()
    with pytest.raises(FeatureError, match=rf"parts missing: \['{part.name}'\]"):
        FeatureCache(tmp_path)
    part.write_bytes(content)
    (tmp_path / "part-00007-00000.safetensors").write_bytes(content)
    with pytest.raises(FeatureError, match=r"parts in no index: \['part-00007-00000.safetensors'\]"):
        FeatureCache(tmp_path)
    with pytest.raises(FeatureError, match="no finished feature cache"):
        FeatureCache(tmp_path / "nowhere")
    index = tmp_path / "index-00000.json"
    for text, message in (
        ("{", "not JSON"),
        ("[]", "version is None"),
        ('{"version": 1}', "'world_size': found nothing"),
    ):
        index.write_text(text)
        with pytest.raises(FeatureError, match=rf"index-00000\.json: {message}"):
            FeatureCache(tmp_path)


def test_bad_samples_are_refused(tmp_path: Path) -> None:
    writer = FeatureWriter(tmp_path, LAYERS, HIDDEN, torch.float16, "f")
    key, hidden, labels = sample(1)
    writer.append(key, hidden, labels)
    with pytest.raises(FeatureError, match=r"'img001' is in .* already"):
        writer.append(key, hidden, labels)
    with pytest.raises(FeatureError, match=r"'b': hidden has shape \[2, "):
        writer.append("b", hidden[:2], labels)
    with pytest.raises(FeatureError, match="'c': hidden states are not finite in float16"):
        writer.append("c", hidden * 1e9, labels)
    for wrong, message in (
        ({"distribution": [0.2] * 8}, "sum to 1"),
        ({"emotion": 8}, "emotion is 8"),
        ({"intensity": 0.0}, "intensity is 0.0"),
        ({"distribution": [1.0]}, "has 1 values"),
    ):
        with pytest.raises(ValueError, match=message):
            Supervision(**wrong)


def test_empty_cache_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [])
    with pytest.raises(FeatureError, match="holds no sample"):
        FeatureCache(tmp_path)


def test_disk_dtype_is_kept_and_parts_are_plain_safetensors(tmp_path: Path) -> None:
    with FeatureWriter(tmp_path, LAYERS, HIDDEN, torch.bfloat16, "f") as writer:
        writer.append(*sample(3))
    assert torch.equal(FeatureCache(tmp_path)[0].hidden, sample(3)[1].bfloat16())
    with safe_open(tmp_path / "part-00000-00000.safetensors", "pt") as file:
        assert file.get_tensor("hidden").shape == (4, LAYERS, HIDDEN)


def test_labels_of_a_record() -> None:
    record = Record(id="a", source="s", width=1, height=1, sha256="0" * 64, split="train", emotion=Emotion.FEAR, intensity=7)
    labels = Supervision.of(record)
    assert (labels.emotion, labels.intensity, list(labels.distribution).index(1.0)) == (6, 7.0, 6)
    unlabelled = Supervision.of(record.model_copy(update={"emotion": None, "intensity": None}))
    assert unlabelled.emotion == -1
    assert math.isnan(unlabelled.intensity)
    assert all(map(math.isnan, unlabelled.distribution))


def test_embedding_table_round_trip(tmp_path: Path) -> None:
    des = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    table = EmbeddingTable(["a", "b", "c"], ["awe", None, "fear"], ["test"] * 3, des)
    table.write(tmp_path / "des.parquet")
    read = EmbeddingTable.read(tmp_path / "des.parquet")
    assert (read.id, read.emotion, read.split) == (table.id, table.emotion, table.split)
    np.testing.assert_array_equal(read.des, des)
    assert pq.read_schema(tmp_path / "des.parquet").field("des").type == pa.list_(pa.float32())
    assert len(EmbeddingTable.concatenate([table, read])) == 6


def test_embedding_tables_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "des.parquet"
    columns = {"id": ["a", "b"], "emotion": ["awe", "fear"], "split": ["t", "t"], "des": [[1.0, 2.0], [1.0]]}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match="column 'des' has rows of"):
        EmbeddingTable.read(path)
    pq.write_table(pa.table({k: v for k, v in columns.items() if k != "split"}), path)
    with pytest.raises(InputError, match=r"columns missing: \['split'\]"):
        EmbeddingTable.read(path)
    pq.write_table(pa.table({**columns, "des": [[1.0], [2.0]], "emotion": ["joy", "fear"]}), path)
    with pytest.raises(InputError, match=r"des.parquet: unknown emotion 'joy'"):
        EmbeddingTable.read(path)
    path.write_bytes(b"no parquet")
    with pytest.raises(InputError, match="not a parquet file"):
        EmbeddingTable.read(path)
    pq.write_table(pa.table({**columns, "des": ["one", "two"]}), path)
    with pytest.raises(InputError, match=r"des\.parquet: column 'des' is of type string; expected lists of floats"):
        EmbeddingTable.read(path)
    with pytest.raises(MissingFileError, match=r"no\.parquet: no such file"):
        EmbeddingTable.read(tmp_path / "no.parquet")


@pytest.mark.parametrize("name", ["offsets", "target", "emotion", "intensity", "hidden"])
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_tensor_that_is_not_as_its_header_says_is_named(tmp_path: Path, name: str, how: str) -> None:
    write(tmp_path, range(6), part_bytes=1 << 20)
    (part,) = tmp_path.glob("part-*.safetensors")
    with safe_open(part, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    if how == "missing":
        del tensors[name]
    else:
        tensors[name] = tensors[name][:1].clone()
    save_file(tensors, part, metadata=metadata)
    with pytest.raises(FeatureError, match=rf"{part.name}: tensor '\w+' (is missing|has shape|holds other values)"):
        FeatureCache(tmp_path)


def rewritten(folder: Path, said: dict[str, object] | None = None, /, **tensors: torch.Tensor) -> None:
    """The only part of a cache, with other tensors under the same header, or with something else `said` in it."""
    (part,) = folder.glob("part-*.safetensors")
    with safe_open(part, framework="pt") as file:
        kept = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
        header = file.metadata()
    # Without checksums, as version 0.2 wrote it.
    header.pop("crc32", None)
    found = {key: value for key, value in json.loads(header["features"]).items() if key != "crc32"}
    header["features"] = json.dumps({**found, **(said or {})})
    save_file(kept | tensors, part, metadata=header)


@pytest.mark.parametrize(
    "origins",
    [
        [],
        [["train", None, None]],
        [["train", None]] * 2,
        [["train", None, None, None, None]] * 2,
        [[7, None, None]] * 2,
        "ab",
        [{}, {}],
    ],
)
def test_origins_are_three_texts_of_each_sample(tmp_path: Path, origins: object) -> None:
    write(tmp_path, range(2), part_bytes=1 << 20)
    rewritten(tmp_path, {"origins": [["train", "0" * 64, None], [None, None, "near:1"]]})
    assert [one.group for one in FeatureCache(tmp_path).origins] == [None, "near:1"]
    rewritten(tmp_path, {"origins": origins})
    with pytest.raises(FeatureError, match=r"part-00000-00000\.safetensors: header: 'origins'"):
        FeatureCache(tmp_path)


def test_what_earlier_versions_did_not_note_is_taken(tmp_path: Path) -> None:
    """How a part was computed: parts without it go together with any, and those that say so with their like."""
    write(tmp_path, range(3))
    computed = {"precision": "32-true", "attention": "sdpa"}

    def writer(**now: str) -> FeatureWriter:
        return FeatureWriter(tmp_path, LAYERS, HIDDEN, torch.float32, "f", computed=now)

    with writer(**computed) as more:
        more.append(*sample(7))
    assert len(FeatureCache(tmp_path)) == 4
    assert writer(**computed, compiled="no").done == writer().done
    with pytest.raises(FeatureError, match="was computed with attention 'sdpa'; here it is 'eager'"):
        writer(**computed | {"attention": "eager"})


def test_what_version_0_2_began_is_finished_by_it_alone(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    write(tmp_path, range(5))  # neither names what it is made of: it goes on
    with pytest.raises(FeatureError, match=rf"was begun by version 0\.2, .* delete {tmp_path} to make it anew"):
        FeatureWriter(tmp_path, LAYERS, HIDDEN, torch.float32, "g", made_of={"backbone": "0" * 64})
    assert len(FeatureCache(tmp_path)) == 5, "a finished one is read"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("target", lambda old: old.index_put((torch.tensor(0), torch.tensor(0)), torch.tensor(math.nan))),
        ("target", lambda old: old + 1),
        ("target", lambda old: torch.full_like(old, math.inf)),
        ("emotion", lambda old: old + 8),
        ("emotion", lambda old: old.float()),
        ("intensity", lambda old: torch.full_like(old, 1e9)),
        ("intensity", lambda old: torch.full_like(old, math.inf)),
        ("offsets", lambda old: old.float()),
        ("offsets", lambda old: old + 0.5),
        ("offsets", lambda old: old + 1),
        ("offsets", lambda old: old.flip(0)),
        ("offsets", lambda old: old * (1 << 40)),
        ("hidden", lambda old: old.double()),
    ],
)
def test_labels_and_places_are_checked_when_a_cache_is_opened(
    tmp_path: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    with FeatureWriter(tmp_path, 1, 2, torch.float32, "f") as writer:
        for row in range(3):
            writer.append(f"{row}", torch.ones(1, 2, 2), Supervision([0.5, 0.5] + [0.0] * 6, row, 5.0))
    old = {"target": torch.tensor([[0.5, 0.5] + [0.0] * 6] * 3), "emotion": torch.arange(3), "intensity": torch.full((3,), 5.0)}
    old |= {"offsets": torch.tensor([0, 2, 4, 6]), "hidden": torch.ones(6, 1, 2)}
    rewritten(tmp_path, **old)
    assert len(FeatureCache(tmp_path)) == 3
    rewritten(tmp_path, **{name: change(old[name])})
    with pytest.raises(FeatureError, match=rf"part-00000-00000\.safetensors: tensor '{name}' "):
        FeatureCache(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"world_size": 1_000_000_000}, r"no index of ranks \[1, 2, 3, 4, 5, 6, 7, 8\] and 999,999,991 more"),
        ({"world_size": True}, "'world_size': found True"),
        ({"world_size": 0}, "'world_size': found 0"),
        ({"rank": 3}, "'rank': found 3"),
        ({"rank": 0.0}, "'rank': found 0.0"),
        ({"parts": "all"}, "'parts': found the text 'all'"),
        ({"parts": [1]}, "'parts': found 1"),
        ({"parts": ["../part-00000-00000.safetensors"]}, r"'parts': .* holds '\.\.'"),
        ({"version": True}, "version is True"),
    ],
)
def test_an_index_that_claims_what_there_is_not(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with FeatureWriter(tmp_path, 1, 2, torch.float32, "f") as writer:
        writer.append("0", torch.ones(1, 2, 2), Supervision())
    index = tmp_path / "index-00000.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | changes))
    with pytest.raises(FeatureError, match=said):
        FeatureCache(tmp_path)


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    """Wherever it stands in a part: in what is mapped, in labels and places, in the header or before it."""
    write(tmp_path, range(6), part_bytes=1 << 20)
    (part,) = tmp_path.glob("part-*.safetensors")
    whole = part.read_bytes()
    missed, said = [], []
    for place in range(0, len(whole), 13):
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            cache = FeatureCache(tmp_path)
            missed.append((place, [cache[row].key for row in range(6)]))
        except FeatureError as error:
            said.append(str(error))
    assert not missed
    assert all(part.name in text for text in said)
    part.write_bytes(whole)
    assert len(FeatureCache(tmp_path)[0].hidden) == LAYERS


def test_a_kill_loses_at_most_one_small_part(tmp_path: Path) -> None:
    """Parts as large as they are by default: what has been appended is on disk but for less than one of them."""
    hidden = torch.zeros(1, 1 << 10, 1 << 10)
    writer = FeatureWriter(tmp_path, 1, 1 << 10, torch.float32, "f")
    for row in range(10):
        writer.append(f"{row}", hidden, Supervision())
    left = 10 * hidden.nbytes - sum(part.stat().st_size for part in tmp_path.glob("part-*.safetensors"))
    assert 0 < left < PART_BYTES <= 64 << 20


def test_batch_after_batch_is_gathered_whatever_parts_are_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each batch meets parts that none before it has met; a process that may keep three open closes others."""
    with FeatureWriter(tmp_path, 1, 5, torch.float32, "f", part_bytes=100) as writer:
        for number in range(60):
            writer.append(f"{number:03}", torch.full((1, 1, 5), float(number)), Supervision())
    for most in (4096, 3):
        for module in ("features", "feature_rows"):
            monkeypatch.setattr(f"emo_lightning.data.{module}.MAX_OPEN_FEATURE_PARTS", most)
        cache = FeatureCache(tmp_path)
        assert len(set(cache.columns.parts.tolist())) > 10
        rows = FeatureRows(cache)
        for row in torch.randperm(60, generator=torch.Generator().manual_seed(0)).split(4) * 2:
            batch = rows.collate([Slot(int(one), False) for one in row])
            assert batch["hidden_states"][0, :, 0].equal(row[:, None].expand(-1, 5).float())


def test_short_samples_are_gathered_out_of_all_parts(tmp_path: Path) -> None:
    """Of several parts, layers and lengths, in any dtype, also after a part was closed; ids are looked up where somebody asks."""
    draw = torch.Generator().manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        folder = tmp_path / str(dtype)
        with FeatureWriter(folder, 2, 5, dtype, "f", part_bytes=100) as writer:
            for number in range(40):
                writer.append(
                    f"{number:03}", torch.randn(2, 1 + number % 4, 5, generator=draw), Supervision(emotion=number % 8)
                )
        cache = FeatureCache(folder)
        assert len({int(part) for part in cache.columns.parts}) > 10
        rows = FeatureRows(cache)
        slots = [Slot(int(row), False) for row in torch.randperm(40, generator=draw)[:25]]
        for _ in range(2):
            found, expected = rows.collate(slots), collate_features([cache[slot] for slot in slots])
            assert found["hidden_states"].equal(expected["hidden_states"])
            assert found["mask"].equal(expected["mask"])
            assert found["emotion"].equal(expected["emotion"])
            assert found["key"] == expected["key"]
            again = pickle.loads(pickle.dumps(found["key"]))
            assert (type(again), again, found["key"][3:5]) == (list, expected["key"], expected["key"][3:5])
            cache = FeatureCache(folder)
            rows = pickle.loads(pickle.dumps(rows))
