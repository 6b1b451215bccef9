"""DES of images (to a table) and of whole tars (to new tars)."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import webdataset

from emo_lightning.core.errors import InputError
from emo_lightning.core.file_names import MANIFEST_FILE
from emo_lightning.core.files import read_object, replacing, write_json, write_text
from emo_lightning.core.fingerprints import file_sha256
from emo_lightning.core.progress import progress_bars
from emo_lightning.core.ranks import Ranks, forget_job_variables
from emo_lightning.core.records import DES_EXTENSION
from emo_lightning.core.shard_index import write_index
from emo_lightning.core.terminal import say
from emo_lightning.data.tar_index import ShardRange, TarIndex
from emo_lightning.inference.bundle import bundle_fingerprint, bundle_folder
from emo_lightning.inference.inputs import entries
from emo_lightning.inference.many import embed_work, look_at_all, write_failures
from emo_lightning.inference.model import EmotionModel
from emo_lightning.inference.parts import OutputParts
from emo_lightning.inference.tables import write_results
from emo_lightning.models.fingerprints import weights_fingerprint
from emo_lightning.models.sound import naming

EMBEDDING_FILE = "embedding.json"
"""Which model's embeddings a folder holds."""


class EmbedError(InputError):
    """Embeddings cannot be written where they were asked for."""


def embed_images(inputs: Sequence[str], out: Path, model: Path, batch_size: int, device: str | None = None) -> int:
    """Write a table of embeddings; what is there already goes on. Images that cannot be opened are counted, named and left out.

    Args:
        inputs: see `inference.inputs.entries`; the id is the path as given, or the record's.
        out: parquet (id, emotion, split, des, of which the middle two are empty) or JSON lines (id, des).
        model: folder, or hub id.
        batch_size: images at a time.
        device: torch device.

    Returns:
        How many images could not be opened.

    Raises:
        InputError: no image, one given twice, or none that can be opened.
    """
    found = entries(inputs)
    folder = bundle_folder(model)
    parts = OutputParts(out, {"weights": bundle_fingerprint(folder), "embeddings": 1})
    looked = look_at_all(found, parts, lambda: embed_work(EmotionModel(folder, device)), batch_size, "embed")
    count = write_results(out, [entry.id for entry in found], parts)
    write_failures(out, looked.failures)
    parts.remove()
    say(f"{count} embeddings: {out}{looked.rate and f' ({looked.rate})'}")
    return len(looked.failures)


def embed_tars(paths: Sequence[str], out: Path, model: Path, batch_size: int, device: str | None = None) -> None:
    """Write each tar anew below `out` with `{key}.des.npy` added; the ranks share the shards, and finished ones are kept.

    Args:
        paths: tars.
        out: folder; it gets `manifest.json` once all shards are there.
        model: bundle folder.
        batch_size: images at a time.
        device: torch device.

    Raises:
        EmbedError: `out` is the folder of the tars or holds embeddings of another model or of other tars, or two shards have the
            same name.
    """
    model = bundle_folder(model)
    index = TarIndex.open(list(paths))
    shards = index.shards
    names = [Path(s.path).name for s in shards]
    if len(set(names)) != len(names):
        msg = f"two shards are named {max(names, key=names.count)!r}; embed them into different folders"
        raise EmbedError(msg)
    if any(Path(s.path).resolve().parent == out.resolve() for s in shards):
        msg = f"--out {out} is the folder of the tars; choose another"
        raise EmbedError(msg)
    out.mkdir(parents=True, exist_ok=True)
    forget_job_variables()
    ranks = Ranks.from_environment()
    _check_model(out, model, any((out / name).exists() for name in names))
    mine = [s for s in shards[ranks.rank :: ranks.world_size] if not _is_finished(index, s, out / Path(s.path).name)]
    if mine:
        net = EmotionModel(model, device)
        for shard in mine:
            _embed_shard(index, shard, out / Path(shard.path).name, net, batch_size)
    if all((out / name).exists() for name in names):
        _write_manifest(out, shards)
    say(f"{len(mine)} of {len(shards)} shards embedded by rank {ranks.rank}: {out}")


def _check_model(out: Path, model: Path, begun: bool) -> None:
    """Finished shards are kept, so they have to be this model's; where there are none, nothing is bound to a model."""
    made_by, weights = out / EMBEDDING_FILE, bundle_fingerprint(model)
    old = read_object(made_by).get("weights") if begun and made_by.exists() else weights
    if old != weights and old != bundle_fingerprint(model, weights_fingerprint):
        msg = (
            f"{out} holds embeddings of another model (weights {str(old)[:12]}, of {model} {weights[:12]}); choose another folder, "
            "or remove it"
        )
        raise EmbedError(msg)
    # Every rank writes the same, and two may do so at once.
    write_text(made_by, json.dumps({"weights": weights}) + "\n", shared=True)


def _is_finished(index: TarIndex, shard: ShardRange, target: Path) -> bool:
    """Whether the shard has been embedded already.

    Raises:
        EmbedError: another tar of this name was, with other images or records.
    """
    if not target.exists():
        return False
    made = TarIndex.open(target, check_sha256=False)
    same = len(made) == shard.stop - shard.start and all(
        made.key(n) == index.key(row)
        and made.record_bytes(n) == index.record_bytes(row)
        and made.image_bytes(n) == index.image_bytes(row)
        for n, row in enumerate(range(shard.start, shard.stop))
    )
    if not same:
        msg = (
            f"{target} was made from another tar than {shard.path}, which has changed since; remove it, or choose another --out"
        )
        raise EmbedError(msg)
    return True


def _embed_shard(index: TarIndex, shard: ShardRange, target: Path, net: EmotionModel, batch_size: int) -> None:
    # Nothing of this machine or moment gets into a member's header: the same input gives the same bytes.
    header = {"mtime": 0, "user": "", "group": "", "mode": 0o644}
    with (
        replacing(target) as temporary,
        open(temporary, "wb") as stream,
        webdataset.TarWriter(stream, **header) as tar,
        progress_bars("images") as bars,
    ):
        bar = bars.add_task(target.name, total=shard.stop - shard.start)
        for start in range(shard.start, shard.stop, batch_size):
            rows = range(start, min(start + batch_size, shard.stop))
            with naming([index.id(row) for row in rows]):
                vectors = net.embed([index.image(row) for row in rows]).numpy().astype(np.float32)
            for row, vector in zip(rows, vectors, strict=True):
                image, extension = index.image_bytes(row)
                buffer = io.BytesIO()
                np.save(buffer, vector)
                # The key holds the folder within the tar, if there is one.
                tar.write(
                    {
                        "__key__": index.key(row),
                        extension: image,
                        "json": index.record_bytes(row),
                        DES_EXTENSION: buffer.getvalue(),
                    }
                )
            bars.advance(bar, len(rows))
    # One of an earlier tar of this name would take the new embeddings for damage.
    write_index(target)


def _write_manifest(out: Path, shards: Sequence[ShardRange]) -> None:
    """The sources' manifest with the new shards' sizes and hashes; only where the sources have one."""
    sources = {Path(s.path).parent / MANIFEST_FILE for s in shards}
    if len(sources) != 1 or not (source := sources.pop()).exists():
        return
    manifest = read_object(source)
    kept = {Path(s.path).name for s in shards}
    rows = [row for row in manifest["shards"] if row["file"] in kept]
    for row in rows:
        row["sha256"] = file_sha256(out / row["file"])
        row["bytes"] = (out / row["file"]).stat().st_size
    splits = {row["split"] for row in rows}
    counts = {split: sum(row["count"] for row in rows if row["split"] == split) for split in sorted(splits)}
    labels = {k: v for k, v in manifest["label_counts"].items() if k in splits}
    write_json(out / MANIFEST_FILE, manifest | {"shards": rows, "counts": counts, "label_counts": labels})
