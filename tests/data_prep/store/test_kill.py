"""kill -9 in batch mode: the two books agree to the nano-dollar. (One by one: `test_pipeline`; fifty kills: `benchmarks/paid_once.py`.)"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep.demo.simulation.serve import KEY_VARIABLE, simulated_annotators
from data_prep.store.store import Store
from tests.data_prep.serving import import_toys
from tests.patience import PATIENCE

PROGRAM = "import sys; from data_prep.cli import main; sys.exit(main(sys.argv[1:]))"


def every_one_in_batches(config: dict) -> None:
    config["annotators"] = [{**a, "role": "full", "model": "sim-gpt", "batch": True} for a in config["annotators"][:1]]
    config["annotators"][0]["weight"] = 1.0
    config["batches"] = {"poll_seconds": 0.05, "settle_seconds": 0.2}
    config["simulation"]["batches"] = {"seconds": 0.3}


def test_kill_in_batch_mode_pays_nothing_twice(
    tmp_path: Path, toys: list, write_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "x")
    path, root = write_config(every_one_in_batches), tmp_path / "s"
    import_toys(root, toys[:10])

    def states() -> list[str]:
        with Store(root, write=False) as store:
            return [state for (state,) in store.ledger.read("SELECT state FROM batches ORDER BY id")]

    with simulated_annotators([r for r, _ in toys], path) as sim:
        arguments = ["annotate", str(root), "--config", str(path), "--base-url", sim.base_url, "--batch"]
        command = [sys.executable, "-c", PROGRAM, *arguments]
        for batches in (1, 2):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ)
            deadline = time.monotonic() + PATIENCE
            while len(states()) < batches and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            assert process.wait(60) == -signal.SIGKILL
        subprocess.run(command, stdout=subprocess.DEVNULL, env=os.environ, check=True)
        bill = sim.bill()
    with Store(root, write=False) as store:
        assert store.ledger.outcome_counts()["pending"] == 0
        assert store.ledger.open_calls() == {}
        assert store.ledger.total_cost() == sum(row["nano_dollars"] for row in bill.values())
    assert sum(row["repeated"] for row in bill.values()) == 0
    assert set(states()) == {"ended"}
