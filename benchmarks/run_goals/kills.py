"""Goal 1: kill -9 anywhere, and every loss, validation and weight is identical to the bit. Goal 3: other ranks take over in mid-epoch."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from benchmarks.run_goals.lines import Given, Line
from benchmarks.run_goals.trainings import Setup, Training
from emo_lightning.core.checkpoints import check_content, read_checkpoint
from tests.elastic import random_switches

SETUPS = [
    Setup(f"{strategy}-{ranks}-workers-{workers}", ranks, workers, strategy)
    for ranks, strategy in ((1, "auto"), (2, "ddp"), (2, "fsdp"), (1, "fsdp"))
    for workers in (0, 2)
]
AIMS = 5
"""Times that a chain is begun until each of its kills comes where it is planned."""
FORCED = ("boundary", "validation", "save", "twice in a row", "right after a resume", "within an epoch")
Kill = Mapping[str, object]


def measure(given: Given) -> Iterator[Line]:
    """Goal 1."""
    draw = random.Random(given.seed)
    chains = [(setup, case) for setup in SETUPS for case in FORCED]
    if given.quick:
        chains = [(Setup("auto-1-workers-0"), case) for case in FORCED]
        chains += [(SETUPS[3], "twice in a row"), (SETUPS[4], "right after a resume")]
    failed, kills, again = [], 0, 0
    for setup, case in chains:
        found = chain(given.work, setup, case, draw)
        kills += found.kills
        again += found.begun - 1
        if found.wrong:
            failed.append(f"{setup.name}, {case}: {found.wrong}")
    said = f"{len(chains) - len(failed)}/{len(chains)} chains identical, all {kills} kills of them hit as planned; {again} were aimed again"
    yield Line(
        "kill -9 (boundary, validation, save, twice in a row, after a resume) × {1, 2 ranks} × {0, 2 workers} × {DDP, FSDP}, with dropout, "
        "packing, accumulation: losses, validation, weights to the bit",
        "; ".join([said, *failed]),
        not failed,
        "tests/experiment/test_places.py::test_every_kill",
    )
    setup = Setup("padded-1", kind="padded")
    found = chain(given.work, setup, "within an epoch", draw)
    yield Line(
        "the same, padded batches",
        found.wrong or f"1/1 chains identical, {found.kills} kills",
        not found.wrong,
        "tests/tasks/test_sft.py",
    )


def kills_of(case: str, draw: random.Random, steps: int, longest: float = 0.02) -> list[Kill]:
    """The kills of a chain of starts.

    Args:
        case: one of `FORCED`.
        draw: of steps and delays.
        steps: optimiser steps of the whole training.
        longest: seconds from the begin of a save to its kill.
    """
    last = steps - 1

    def within() -> int:
        return draw.randint(2, last - 1)

    match case:
        case "boundary":
            return [{"event": "boundary", "step": steps // 2}]
        case "validation":
            return [{"event": "validation", "step": within()}]
        case "save":
            return [{"event": "save", "step": 2 * n, "delay": draw.uniform(0.0, longest)} for n in (1, 2)]
        case "twice in a row":
            # An epoch's last step is saved: the second start begins there.
            return [{"event": "step", "step": min(steps // 2 + number, last)} for number in (1, 2)]
        case "right after a resume":
            # Of a start that begins anew, none is done.
            return [{"event": "step", "step": within()}, {"event": "start", "step": 1}]
        case _:
            return [{"event": "step", "step": within()}]


@cache
def uninterrupted(work: Path, setup: Setup) -> Training:
    """A training that is complete."""
    training = Training(work, setup, "whole")
    codes = training.start()
    assert not any(codes), training.said()
    return training


class Chain(NamedTuple):
    """What came of a chain of starts."""

    wrong: str
    """What differs from a training that nothing interrupted, or which kill missed; empty where all is as it should be."""
    kills: int
    """That hit as planned."""
    begun: int
    """Times that it was begun."""


def chain(work: Path, setup: Setup, case: str, draw: random.Random) -> Chain:
    """Start, kill, and start again until the training is complete; it counts only where every kill hit as planned.

    One that missed is aimed again, in a training from the beginning, as the one that it missed is further than planned.
    """
    whole = uninterrupted(work, setup)
    steps = 1 + max(int(note["step"]) for note in whole.notes().values() if "step" in note)
    missed = ""
    for aim in range(AIMS):
        training = Training(work, setup, case.replace(" ", "-"))
        # Closer each time: the process of a training that has saved its last checkpoint ends soon.
        kills = kills_of(case, draw, steps, 0.02 / 2**aim)
        for kill in kills:
            if missed := training.kill({**kill, "rank": draw.randrange(setup.ranks)}):
                break
        else:
            return Chain(_difference(training, whole), len(kills), aim + 1)
    return Chain(f"{missed}; aimed {AIMS} times", 0, AIMS)


def _difference(training: Training, whole: Training) -> str:
    """Go on to the end; what differs from a training that nothing interrupted."""
    codes = training.start()
    if any(codes):
        return f"exit codes {codes}: {training.said()}"
    notes, theirs = whole.notes(), training.notes()
    if theirs.keys() != notes.keys():
        return f"{len(theirs.keys() ^ notes.keys())} places more or less"
    if different := [at for at, note in theirs.items() if {**note, "start": 0} != {**notes[at], "start": 0}]:
        return f"{len(different)} of {len(notes)} notes differ, first: {different[0]}"
    return "" if training.weights() == whole.weights() else "the weights differ"


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
        if missed := training.kill(kill, ranks):
            return missed
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
