"""`emo prep status` on a large ledger: the command as it is typed, the start of the process included.

Peer: the same figures by GROUP BY over the tables, in one process that is running already.

.venv/bin/python benchmarks/status.py [--calls 1000000] [--quick] [--json FILE]
"""

from __future__ import annotations

import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.command import command_line, write_json
from data_prep.store.ledger import Ledger

STATES = ("reply", "reply", "reply", "rejected", "unknown")


def fill(path: Path, calls: int) -> None:
    """A ledger with so many calls, and an image and an outcome for each four."""
    Ledger(path, write=True).close()
    raw, record = b"x" * 700, "y" * 1500
    with sqlite3.connect(path) as db:
        db.executemany(
            "INSERT INTO calls (id, cache_key, image_sha256, prompt_sha256, annotator, model, state, raw, prompt_tokens, cost_nano, "
            "started) VALUES (?, ?, ?, 'p', ?, 'm', ?, ?, 100, 1000, 0)",
            ((i, f"{i:064x}", f"{i // 4:064x}", f"a{i % 4}", STATES[i % 5], raw) for i in range(1, calls + 1)),
        )
        db.executemany(
            "INSERT INTO items VALUES (?, 's', ?, ?, 'png', 1, 1, NULL, NULL, '{}', '[]', NULL, NULL)",
            ((f"i{i:08d}", str(i), f"{i:064x}") for i in range(calls // 4)),
        )
        db.executemany(
            "INSERT INTO outcomes VALUES (?, ?, 'c', 0, ?)",
            ((f"i{i:08d}", ("valid", "human")[i % 10 == 0], record) for i in range(calls // 4)),
        )


def timed(command: list[str]) -> tuple[float, float]:
    """Milliseconds on the clock and of the processor (on a busy machine only the second says what the command needs)."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return 1000 * (time.perf_counter() - began), 1000 * worked


def scan(path: Path) -> float:
    """The same by reading the tables; milliseconds."""
    with sqlite3.connect(path) as db:
        began = time.perf_counter()
        db.execute("SELECT annotator, state, count(*), sum(cost_nano) FROM calls GROUP BY annotator, state").fetchall()
        db.execute("SELECT state, count(*) FROM outcomes GROUP BY state").fetchall()
        db.execute("SELECT count(*) FROM items").fetchall()
        return 1000 * (time.perf_counter() - began)


def main() -> None:
    """Seven starts, median; and the start of an interpreter that does nothing."""
    parser = command_line(__doc__, "few calls, one start: that it runs, not how fast")
    parser.add_argument("--calls", type=int, default=1_000_000)
    asked = parser.parse_args()
    calls, starts = (2_000, 1) if asked.quick else (asked.calls, 7)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "ledger.sqlite"
        fill(path, calls)
        program = "import sys; from data_prep.cli import main; sys.exit(main(sys.argv[1:]))"
        runs = [timed([sys.executable, "-c", program, "status", name]) for _ in range(starts)]
        empty = [timed([sys.executable, "-c", "pass"]) for _ in range(starts)]
        (clock, worked), (clock_empty, worked_empty) = (
            tuple(statistics.median(column) for column in zip(*rows, strict=True)) for rows in (runs, empty)
        )
        scanned = scan(path)
        print(
            f"{calls:,} calls, {calls // 4:,} images, {path.stat().st_size / 1e9:.1f} GB: status {clock:.0f} ms with the start of the "
            f"process ({worked:.0f} ms of processor time), an empty process {clock_empty:.0f} ms ({worked_empty:.0f} ms), scanning the "
            f"tables {scanned:.0f} ms; ratio {clock / scanned:.3f}"
        )
    found = {"calls": calls, "status_ms": clock, "status_processor_ms": worked, "empty_ms": clock_empty, "scan_ms": scanned}
    write_json(asked.json, "GROUP BY over the tables", clock / scanned, found)


if __name__ == "__main__":
    main()
