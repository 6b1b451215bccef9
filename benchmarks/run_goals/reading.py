"""Goal 7: images out of tars. Goal 10: caches of features and of the frozen tower."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import features, loader
from benchmarks.run_goals.lines import Given, Line, Tested, tested

CEILING, PEER, VECTORS = 0.9, 1.5, 1_000_000
"""Goals: of two threads that read, decode by Pillow and resize as ours does; of webdataset as it comes, which checks nothing; vectors a second."""


def measure(given: Given) -> Iterator[Line | Tested]:
    """Goal 7."""
    # At an epoch's end one worker has nothing to do while the other reads the last batch: of 25 batches that would be 4 %.
    found = loader.measure(*((2400, 5) if not given.quick else (200, 2)))
    yield Line(
        "images out of tars, 2 workers, against two threads that only read and decode by Pillow",
        f"{found['samples_per_s']['ours']:.0f} samples/s, ratio {found['ratio']:.2f} (goal {CEILING}); "
        f"{found['threads_decoding_as_ours']:.2f} of such that decode as ours does",
        found["ratio"] >= CEILING,
        "tests/test_benchmarks.py",
    )
    yield Line(
        "the same against webdataset's WebLoader, which checks neither bytes nor records",
        f"ratio {found['webdataset']:.2f} (goal {PEER})",
        found["webdataset"] >= PEER,
        "tests/test_benchmarks.py",
    )


def caches(given: Given) -> Iterator[Line | Tested]:
    """Goal 10."""
    # Small caches would measure what a batch costs, and not what its vectors do.
    for shape, found in features.measure(False, given.count(5, 2)):
        alone = found.vectors_per_s["ours"]
        yield Line(
            f"shuffled reads of a feature cache, {shape}",
            f"{found.by_clock:,.0f} vectors/s by the clock (goal {VECTORS:,}); "
            f"{alone:,.0f} in processor time of one thread, {found.ratio:.2f} of a plain memory map",
            found.by_clock >= VECTORS,
            "tests/test_benchmarks.py",
        )
    yield tested(
        "feature cache: a kill loses at most one small part, every flipped byte is found, other ranks go on",
        "tests/data/test_features.py",
    )
    yield tested(
        "cache of the frozen tower: equal to the live tower, a killed pass goes on, whatever decides the states invalidates it",
        "tests/tasks/test_frozen_vision.py",
    )
    yield tested("cached features and the live backbone give one head, to the bit", "tests/tasks/test_des_online.py")
    # One test for each mutation and state of the stage: the line counts them.
    yield tested(
        "content under the same path has changed, of a finished and of a half-finished stage: each mutation is named",
        "tests/experiment/test_identity.py::test_other_content_is_refused_by_name",
        "tests/experiment/test_identity.py::test_other_limits_of_pixels_are_other_settings",
        "tests/experiment/test_results.py::test_a_changed_result_is_refused_by_name",
        "tests/experiment/test_results.py::test_who_reads_a_result_compares_it",
        "tests/core/test_fingerprints.py::test_a_change_whose_time_is_put_back_is_noticed",
        "tests/tasks/test_des_online.py::test_a_cache_that_was_computed_otherwise_is_not_taken",
    )
