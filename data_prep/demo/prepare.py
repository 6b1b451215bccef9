"""The data of the demo, from nothing: draw the world, annotate it over HTTP, verify, criticise, ground, export."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from data_prep.annotate.pipeline import PassReport, annotate
from data_prep.demo.config import DemoConfig, WorldConfig
from data_prep.demo.simulation.serve import simulated_annotators
from data_prep.demo.world_source import draw, world_item, world_truth
from data_prep.demo.world_tars import WorldLabels, tars_origin, write_world_tars
from data_prep.export import MANIFEST, export_store
from data_prep.grounding import ground
from data_prep.provider.budget import NANO
from data_prep.settings import CONFIGS
from data_prep.store.items import SourceItem
from data_prep.store.store import Store
from emo_lightning.core.errors import InputError
from emo_lightning.core.files import read_object, write_json
from emo_lightning.core.records import Record, read_jsonl, write_jsonl
from emo_lightning.core.terminal import say

Progress = Callable[[str, int, int, str], None]
"""Called with (what is happening, done, total, note)."""


def prepare_world(
    out: Path,
    *,
    seed: int,
    train: int,
    val: int,
    test: int,
    heldout: int,
    pretrain: int,
    config: Path,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Make all tars of the demo; a call that was interrupted goes on where it stopped.

    `out/store` is the store, `out/truth.jsonl` the truth of its images, `out/tars` train and val as annotated, `out/reference`
    test and heldout with the known truth, `out/neutral` pretrain and val with neutral captions, `out/prep.json` what is returned.

    Args:
        out: directory.
        seed: of the world; label noise and everything else come from `config`.
        train: images of this split; 0 leaves a split out.
        val: as `train`.
        test: as `train`.
        heldout: as `train`.
        pretrain: as `train`.
        config: YAML with `world` and `simulation` keys (`configs/prep/world.yaml`).
        progress: told what is happening.

    Returns:
        Counts by outcome, rates, cost in dollars (and the server's own bill of this run), accuracy of the annotation against
        the truth, paths, seconds.

    Raises:
        ConfigError: the configuration is wrong.
        LedgerError, StoreError, CallError: see there.
    """
    started = time.monotonic()
    tell = progress or _silent
    prep = DemoConfig.load(config)
    world = WorldConfig(seed=seed, label_noise=prep.world.label_noise if prep.world else 0.05)
    out.mkdir(parents=True, exist_ok=True)
    annotated = {split: n for split, n in (("train", train), ("val", val)) if n}
    truth = _import(out, world, annotated, tell)
    with Store(out / "store", write=True) as store, simulated_annotators(truth, config) as server:
        at_server = prep.at(server.base_url, prep.critic.api_key_env)
        total = len(truth)

        def on_progress(report: PassReport) -> None:
            ended = report.done_before + sum(report.outcomes.values())
            tell("annotate", ended, total, f"${report.tally.cost_nano / NANO:.2f}, {report.tally.requests} requests")

        report = asyncio.run(annotate(store, at_server, on_progress=on_progress, resend_unknown=True))
        if report.stopped:
            raise KeyboardInterrupt
        bill = server.bill()
        valid = store.ledger.outcome_counts().get("valid", 0)
        at = count(1)
        tell("ground", 0, valid, "")
        grounded = ground(store, prep.grounding, on_item=lambda: tell("ground", next(at), valid, ""))
        tell("export", 0, valid, "")
        manifest = export_store(store, out / "tars", "world")
        tell("export", sum(manifest["counts"].values()), valid, "")
        result = _summary(store, truth, report)
    result |= {"grounding": dict(grounded), "server_bill": bill, "exported": manifest["counts"]}
    _reference(out / "reference", world, {"test": test, "heldout": heldout}, "truth", tell)
    _reference(out / "neutral", world, {"pretrain": pretrain, "val": val if pretrain else 0}, "neutral", tell)
    result["paths"] = {name: str(out / name) for name in ("store", "tars", "reference", "neutral")}
    result["seconds"] = round(time.monotonic() - started, 1)
    write_json(out / "prep.json", result)
    return result


def _silent(_what: str, _done: int, _total: int, _note: str) -> None:
    """No progress."""


def _import(out: Path, world: WorldConfig, splits: dict[str, int], tell: Progress) -> list[Record]:
    """Draw and import; the truth file is written last, so it says that the import is complete."""
    path = out / "truth.jsonl"
    if path.exists():
        truth = list(read_jsonl(path, Record))
        if Counter(r.split for r in truth) == Counter(splits) and _begins_as(truth, world):
            return truth
    truth = []
    with Store(out / "store", write=True) as store:

        def items() -> Iterable[SourceItem]:
            for sample in draw(world, splits):
                truth.append(world_truth(sample))
                tell("draw", len(truth), sum(splits.values()), sample.split)
                yield world_item(sample)

        changed = store.import_items(items()).changed
    if changed:
        msg = f"{out / 'store'}: {changed} images are there already with other content; was it made with another seed?"
        raise InputError(msg)
    write_jsonl(path, truth)
    return truth


def _begins_as(truth: Iterable[Record], world: WorldConfig) -> bool:
    """Whether the first image of each split is the one that this world draws: another seed has the same ids and numbers."""
    first = {record.split: record for record in reversed(list(truth))}
    return all(world_truth(sample) == first[sample.split] for sample in draw(world, dict.fromkeys(first, 1)))


def _reference(out: Path, world: WorldConfig, splits: dict[str, int], labels: WorldLabels, tell: Progress) -> None:
    wanted = {split: n for split, n in splits.items() if n}
    if not wanted or _complete(out, tars_origin(world, wanted, labels)):
        return
    tell(f"draw {', '.join(wanted)}", 0, sum(wanted.values()), labels)
    write_world_tars(out, world, wanted, labels)
    tell(f"draw {', '.join(wanted)}", sum(wanted.values()), sum(wanted.values()), labels)


def _complete(out: Path, origin: Mapping[str, object]) -> bool:
    manifest = out / MANIFEST
    return manifest.exists() and read_object(manifest).get("created_from") == origin


def _summary(store: Store, truth: list[Record], report: PassReport) -> dict[str, object]:
    known = {record.id: record for record in truth}
    right: Counter[str] = Counter()
    valid = revised = 0
    for item, outcome in store.ledger.outcomes():
        if outcome.state != "valid":
            continue
        valid += 1
        revised += outcome.revisions > 0
        right.update(_right_fields(Record.from_json(outcome.record, item.id), known[item.id]))
    states = store.ledger.outcome_counts()
    return {
        "outcomes": states,
        "rates": {state: round(n / max(1, len(truth)), 4) for state, n in states.items()}
        | {"revised": round(revised / max(1, valid), 4)},
        "accuracy": {
            field: round(right[field] / max(1, valid), 4) for field in ("emotion", "triplet", "description", "intensity_level")
        },
        "requests": report.tally.requests,
        "cached": report.tally.cached,
        "cost_usd": round(store.ledger.total_cost() / NANO, 6),
        "cost_nano": store.ledger.total_cost(),
        "annotate_seconds": round(report.seconds, 1),
    }


def _right_fields(record: Record, truth: Record) -> list[str]:
    descriptions = (truth.description, truth.provenance["neutral_description"])
    checks = {
        "emotion": record.emotion is truth.emotion,
        "triplet": record.triplet == truth.triplet,
        "description": record.description in descriptions,
        "intensity_level": record.intensity_level == truth.intensity_level,
    }
    return [field for field, ok in checks.items() if ok]


def world_stage(
    out: Path,
    seed: int = 0,
    train: int = 2400,
    val: int = 160,
    test: int = 300,
    heldout: int = 300,
    pretrain: int = 4000,
    config: Path | None = None,
) -> None:
    """Stage of an experiment: `prepare_world` with progress bars; its report goes to `prep.json`.

    Args:
        out: the stage's directory.
        seed: of the world.
        train: annotated training images.
        val: annotated validation images.
        test: images of seen combinations, labelled with the truth.
        heldout: images of combinations that are never trained on, labelled with the truth.
        pretrain: images with neutral captions.
        config: the factory's configuration; null is configs/prep/world.yaml.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns) as bars:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, total: int, note: str) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total or None, note=note)
            bars.update(tasks[what], completed=done, total=total or None, note=note)

        result = prepare_world(
            out,
            seed=seed,
            train=train,
            val=val,
            test=test,
            heldout=heldout,
            pretrain=pretrain,
            config=config or CONFIGS / "world.yaml",
            progress=tell,
        )
    valid = result["outcomes"].get("valid", 0)
    cost = f"${result['cost_usd']:.2f} at the simulated price list"
    say(f"{valid} of {train + val} records valid; {result['requests']} requests, {cost}")
