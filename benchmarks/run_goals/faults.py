"""The faults R1 to R11, what held already, and sources of others: what is fast of each is tests, and storage is measured."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import remote
from benchmarks.run_goals.lines import Given, Line, Tested

LINK = 0.8
"""Goal: of what a slow link gives."""
FAULTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "R1": (
        "SIGTERM to the stage's own process: cut short, never complete",
        (
            "tests/experiment/test_supervision.py::test_a_signal_saves_first",
            "tests/experiment/test_supervision.py::test_complete_is_what_says_so",
        ),
    ),
    "R2": (
        "a second kill after a resume from an epoch's last step; kills in validations, and after the last of `max_steps`: each event and row once",
        ("tests/experiment/test_places.py",),
    ),
    "R3": (
        "SIGTERM to rank 1: all save and end",
        (
            "tests/experiment/test_runner.py::test_a_signal_to_the_second_rank_saves_and_ends_all",
            "tests/tasks/test_fsdp.py::test_two_sharded_ranks_equal_one_process",
        ),
    ),
    "R4": (
        "the command dies, by kill -9, SIGUSR1, or under nohup in the background: so does the stage",
        (
            "tests/experiment/test_supervision.py::test_a_kill_ends_all",
            "tests/experiment/test_supervision.py::test_under_nohup",
            "tests/experiment/test_supervision.py::test_one_that_is_stuck_is_ended",
        ),
    ),
    "R5": (
        "content that changed under the same path, finished or half finished",
        (
            "tests/experiment/test_identity.py",
            "tests/experiment/test_results.py",
            "tests/core/test_fingerprints.py::test_a_change_whose_time_is_put_back_is_noticed",
            "tests/data/test_shard_indices.py::test_a_tar_of_equal_length_written_anew_is_told_from_the_old_one",
            "tests/data/test_features.py::test_every_flipped_byte_is_found",
        ),
    ),
    "R6": (
        "a damaged last.ckpt: named, and the one before taken only when asked; plain data alone is loaded",
        (
            "tests/experiment/test_saving.py::test_each_of_twenty_damages_is_named",
            "tests/experiment/test_saving.py::test_a_flipped_bit_is_found",
            "tests/experiment/test_saving.py::test_go_back",
            "tests/core/test_checkpoints.py",
        ),
    ),
    "R7": (
        "NaN stops the run, names step and samples, and keeps the last good checkpoint; it is no answer of a model",
        (
            "tests/tasks/test_finite.py",
            "tests/tasks/test_grpo.py::test_a_policy_that_becomes_nan_ends_the_training",
            "tests/tasks/test_grpo.py::test_all_ranks_stop_where_the_policy_of_one_is_nan",
            "tests/models/test_label_scoring.py::test_what_is_no_number_is_no_answer",
        ),
    ),
    "R8": (
        "the newest checkpoint wherever it was left; TERM and Ctrl-C save; the interval changes in mid-run; temporary files go",
        ("tests/experiment/test_saving.py",),
    ),
    "R9": (
        "clocks of machines are not compared; a run folder may be moved",
        ("tests/experiment/test_peers.py", "tests/experiment/test_identity.py::test_paths_are_no_part_of_it"),
    ),
    "R10": (
        "http, s3, gs, hf: tars, indices, caches and exports, with requests dropped, cut and answered 503: nothing lost, doubled or altered",
        (
            "tests/data/test_remote_shards.py",
            "tests/data/test_ahead.py",
            "tests/data/test_s3.py",
            "tests/data/test_gs_and_hf.py",
        ),
    ),
    "R11": (
        "W&B: every stage a run with settings, figures and curves to the last step, one run through kills, sent whole to a server",
        ("tests/experiment/test_tracking.py",),
    ),
    "6, held": (
        "one bad image: skipped, counted, named, the same after a resume; every byte held against manifest and index (`emo check`)",
        ("tests/data/test_skips.py", "tests/data/test_checking.py"),
    ),
    "held": (
        "other settings, two experiments in one folder, a full disk, a read-only run folder: named, one line, and goes on",
        (
            "tests/experiment/test_runner.py::test_other_settings_in_one_run_directory_are_an_error",
            "tests/experiment/test_runner.py::test_one_run_directory_one_process",
            "tests/experiment/test_runner.py::test_no_room_on_the_disk_is_one_line_and_resumes",
            "tests/experiment/test_runner.py::test_a_read_only_run_folder_is_one_line_and_resumes",
        ),
    ),
    "formats": (
        "tars and folders of others: .jpeg, upper case, .cls and .txt in place of records, folders per emotion, CSV",
        ("tests/data/test_tar_labels.py", "tests/data_prep/sources/test_labelled.py"),
    ),
}
"""Number -> what it is, and the tests."""


def measure(_given: Given) -> Iterator[Tested]:
    """One line for each."""
    for number, (what, tests) in FAULTS.items():
        yield Tested(what, tests, number)


def storage(given: Given) -> Iterator[Line]:
    """A cold epoch behind a slow link."""
    samples, rate = given.count(800, 200), given.count(2, 1)
    for faults in (0.0, 0.05):
        found = remote.measure(samples, 1, rate, 0.02, faults)
        what = f"a cold epoch of {samples} shuffled images behind a link of {rate} MB/s, decoded"
        yield Line(
            what + (f", {faults:.0%} of the answers 503 or cut" if faults else ""),
            f"{found['ratio']:.2f} of what the link gives (goal {LINK}), {found['lost']} lost, doubled or altered, "
            f"{found['twice']:.1%} of the bytes sent twice",
            found["lost"] == 0 and (bool(faults) or found["ratio"] >= LINK),
            "tests/data/test_ahead.py, tests/data/test_remote_shards.py",
        )
