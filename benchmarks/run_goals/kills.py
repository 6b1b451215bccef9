"""Goal 1: kill -9 anywhere, and every loss, validation and weight is identical to the bit. Goal 3: other ranks take over in mid-epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

from benchmarks.run_goals.lines import Given, Line
from benchmarks.run_goals.trainings import Setup, Training
from emo_lightning.core.checkpoints import check_content, read_checkpoint
from tests.elastic import random_switches

SETUPS = [
    Setup(f"{strategy}-{ranks}-workers-{workers}", ranks, workers, strategy)
    for ranks, strategy in ((1, "auto"), (2, "ddp"), (2, "fsdp"), (1, "fsdp"))
    for workers in (0, 2)
]
FORCED = ("boundary", "validation", "save", "twice in a row", "right after a resume", "within an epoch")
Kill = Mapping[str, object]


def measure(given: Given) -> Iterator[Line]:
    """Goal 1."""
    draw = random.Random(given.seed)
    chains = [(setup, case) for setup in SETUPS for case in FORCED]
    if given.quick:
        chains = [(Setup("auto-1-workers-0"), case) for case in FORCED]
        chains += [(SETUPS[3], "twice in a row"), (SETUPS[4], "right after a resume")]
    failed, kills = [], 0
    for setup, case in chains:
        wrong, done = chain(given.work, setup, case, draw)
        kills += done
        if wrong:
            failed.append(f"{setup.name}, {case}: {wrong}")
    found = f"{len(chains) - len(failed)}/{len(chains)} chains identical, {kills} kills"
    yield Line(
        "kill -9 (boundary, validation, save, twice in a row, after a resume) × {1, 2 ranks} × {0, 2 workers} × {DDP, FSDP}, with dropout, "
        "packing, accumulation: losses, validation, weights to the bit",
        "; ".join([found, *failed]),
        not failed,
        "tests/experiment/test_places.py::test_every_kill",
    )
    setup = Setup("padded-1", kind="padded")
    wrong, kills = chain(given.work, setup, "within an epoch", draw)
    yield Line(
        "the same, padded batches", wrong or f"1/1 chains identical, {kills} kills", not wrong, "tests/tasks/test_sft.py"
    )


def kills_of(case: str, draw: random.Random, steps: int) -> list[Kill]:
    """The kills of a chain of starts."""
    last = steps - 1

    def within() -> int:
        return draw.randint(2, last - 1)

    match case:
        case "boundary":
            return [{"event": "boundary", "step": steps // 2}]
        case "validation":
            return [{"event": "validation", "step": within()}]
        case "save":
            return [{"event": "save", "step": 2 * n, "delay": draw.uniform(0.0, 0.02)} for n in (1, 2)]
        case "twice in a row":
            # An epoch's last step is saved: the second start begins there.
            return [{"event": "step", "step": steps // 2 + 1}, {"event": "step", "step": steps // 2 + 2}]
        case "right after a resume":
            return [{"event": "step", "step": within()}, {"event": "start", "step": 0}]
        case _:
            return [{"event": "step", "step": within()}]


@cache
def uninterrupted(work: Path, setup: Setup) -> Training:
    """A training that is complete."""
    training = Training(work, setup, "whole")
    codes = training.start()
    assert not any(codes), training.said()
    return training


def chain(work: Path, setup: Setup, case: str, draw: random.Random) -> tuple[str, int]:
    """Start, kill, and start again until the training is complete; what differs from one that nothing interrupted, and how many kills hit."""
    whole = uninterrupted(work, setup)
    notes, weights = whole.notes(), whole.weights()
    steps = 1 + max(int(note["step"]) for note in notes.values() if "step" in note)
    training = Training(work, setup, case.replace(" ", "-"))
    hits = 0
    for kill in kills_of(case, draw, steps):
        codes = training.start({**kill, "rank": draw.randrange(setup.ranks)})
        hits += any(codes)
        if not all(codes):
            break
    codes = training.start()
    if any(codes):
        return f"exit codes {codes}: {training.said()}", hits
    theirs = training.notes()
    if theirs.keys() != notes.keys():
        return f"{len(theirs.keys() ^ notes.keys())} places more or less", hits
    if different := [at for at, note in theirs.items() if {**note, "start": 0} != {**notes[at], "start": 0}]:
        return f"{len(different)} of {len(notes)} notes differ, first: {different[0]}", hits
    if not hits:
        return "no kill hit", hits
    return "" if training.weights() == weights else "the weights differ", hits


def elastic(given: Given) -> Iterator[Line]:
    """Goal 3."""
    found = [random_switches(given.seed * 1000 + number) for number in range(200)]
    same, switches = sum(one for one, _ in found), sum(count for _, count in found)
    yield Line(
        "another number of ranks in mid-epoch, padded and packed: the same ordered steps, each sample once",
        f"{same}/200 trainings through {switches} switches",
        same == 200,
        "tests/data/test_elastic.py::test_200_random_switches",
    )
    draw = random.Random(given.seed)
    setups = [Setup("elastic-2-ddp", 2, 0, "ddp", "at once"), Setup("elastic-2-fsdp", 2, 2, "fsdp", "at once")]
    for setup in setups[: given.count(2, 1)]:
        wrong = take_over(given.work, setup, draw)
        yield Line(
            f"the command, killed on 2 ranks ({setup.strategy}), goes on with 1 and again with 2: steps and losses, dropout among them",
            wrong or "the same samples, losses within 1e-4",
            not wrong,
            "tests/tasks/test_elastic.py::test_one_rank_and_two_take_over_from_each_other",
        )


def take_over(work: Path, setup: Setup, draw: random.Random) -> str:
    """Two ranks, then one, then two; what is wrong."""
    whole = uninterrupted(work, setup).steps()
    training = Training(work, setup, "switched")
    kills = [{"event": "step", "step": 3, "rank": 1}, {"event": "step", "step": 5, "rank": 0}]
    for kill, ranks in zip(kills, (2, 1), strict=True):
        if not all(codes := training.start(kill, ranks)):
            return f"exit codes {codes}: {training.said()}"
        check_content(training.stage / "checkpoints/last.ckpt")
    if any(codes := training.start()):
        return f"exit codes {codes}: {training.said()}"
    assert read_checkpoint(training.stage / "checkpoints/last.ckpt")
    theirs = training.steps()
    if theirs.keys() != whole.keys():
        return f"steps {sorted(theirs.keys() ^ whole.keys())} more or less"
    for step, (keys, loss) in whole.items():
        if theirs[step][0] != keys:
            return f"step {step} holds other samples"
        if abs(theirs[step][1] - loss) > 1e-4 * abs(loss):
            return f"step {step}: loss {theirs[step][1]} in place of {loss}"
    return ""
