"""What a table says of where its numbers came from: command, commit, config hash, and the data sets behind them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Data:
    """A data set that a stage has read or made."""

    path: str
    """Of its `manifest.json`, or of the file itself where there is none; within the run relative to it."""
    sha256: str | None
    """Of that file as it is now; None where `problem` says why."""
    problem: str = ""


@dataclass(frozen=True)
class Provenance:
    """Everything needed to make it again."""

    run: str
    stage: str
    command: str | None = None
    commit: str | None = None
    config_sha256: str | None = None
    started: str | None = None
    data: tuple[Data, ...] = field(default=())

    @property
    def short(self) -> str:
        """One line: stage, commit, and the first digits of the hashes."""
        parts = [self.stage, f"commit {self.commit or 'unknown'}", f"config {(self.config_sha256 or 'unknown')[:12]}"]
        hashes = [d.sha256[:12] for d in self.data if d.sha256]
        more = f" and {len(hashes) - 3} more" if len(hashes) > 3 else ""
        return " · ".join([*parts, f"data {', '.join(hashes[:3]) or 'unknown'}{more}"])

    def as_json(self) -> dict[str, object]:
        """Flat, JSON-ready; what is unknown is null."""
        return {
            "run": self.run,
            "stage": self.stage,
            "command": self.command,
            "commit": self.commit,
            "config_sha256": self.config_sha256,
            "started": self.started,
            "data": {d.path: d.sha256 or d.problem for d in self.data},
        }


def source_lines(source: Provenance) -> Mapping[str, str]:
    """Name -> value of everything that a source says."""
    data = "; ".join(f"{d.path} {'sha256 ' + d.sha256 if d.sha256 else d.problem}" for d in source.data)
    return {
        "run": source.run,
        "stage": source.stage,
        "command": source.command or "unknown",
        "commit": source.commit or "unknown",
        "config sha256": source.config_sha256 or "unknown",
        "started": source.started or "unknown",
        "data": data or "unknown",
    }


def source_texts(sources: Iterable[Provenance]) -> list[str]:
    """A line for each source with everything that it says."""
    return [", ".join(f"{key} {value}" for key, value in source_lines(source).items()) for source in sources]
