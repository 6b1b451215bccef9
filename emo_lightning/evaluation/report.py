"""One self-contained page of a run: whatever stages exist are shown, whatever is missing is named.

The page asks nothing of the network: styles, pictures and drawings are inside it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from emo_lightning.evaluation import figures
from emo_lightning.evaluation.artifacts import write_bytes
from emo_lightning.evaluation.console import mean_std
from emo_lightning.evaluation.table5 import MODES, ROWS, definition_hash
from emo_lightning.evaluation.table6 import METRICS, SETS
from emo_lightning.schema import SchemaError

OUTPUTS = {"table5": "table5.json", "table6": "table6.json", "mds": "mds.json", "panel": "panel.json", "prep": "prep.json"}
"""Kind of stage -> the file that the page reads of it."""

COMPLETE = "complete"
"""`status` in `stage.json` of a stage that is done; the page names every stage with another."""

STATUS = {"running": "was interrupted, or is still running", "failed": "failed"}
"""What the page says of a stage that is not complete."""

CONFIG_LIMIT = 20_000
"""Characters of a stage's config.yaml that are shown."""

_T = TypeVar("_T")


@dataclass
class Stage:
    """A stage directory as found."""

    name: str
    path: Path
    info: dict[str, Any] = field(default_factory=dict)
    config: str | None = None


def build_report(run_dir: Path, out: Path) -> Path:
    """Write the page.

    Args:
        run_dir: `runs/NAME`, with one directory per stage.
        out: the .html file.

    Returns:
        `out`.

    Raises:
        FileNotFoundError: `run_dir` is no directory. An empty or half-finished run is no error: the page says what is missing.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise FileNotFoundError(f"{run_dir}: no such run directory")
    page = _Page(run_dir)
    environment = Environment(
        loader=PackageLoader("emo_lightning.evaluation"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(percent=_percent, mean_std=mean_std, seconds=_seconds)
    environment.tests["scalar"] = lambda value: not isinstance(value, dict | list)
    html = environment.get_template("report.html.j2").render(page.context())
    write_bytes(Path(out), html.encode())
    return Path(out)


class _Page:
    """Reads a run; what cannot be read or is absent goes to `notes`, which the page shows first."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.notes: list[str] = []
        self.stages = sorted(
            (self._stage(path) for path in run_dir.iterdir() if path.is_dir() and not path.name.startswith(".")),
            key=lambda stage: (str(stage.info.get("started") or "~"), stage.name),
        )
        self.stages = [s for s in self.stages if s.info or s.config or any((s.path / f).is_file() for f in OUTPUTS.values())]

    def context(self) -> dict[str, Any]:
        """Everything that the template names."""
        context = {
            "run": self.run_dir.resolve().name,
            "stages": self.stages,
            "table5": self._collect("table5", self._table5),
            "table6": self._collect("table6", lambda stage, found: found),
            "mds": self._collect("mds", self._mds),
            "panels": self._collect("panel", self._panel),
            "prep": self._collect("prep", lambda stage, found: found),
            "losses": self._losses(),
            "modes": MODES,
            "rows": ROWS,
            "metrics": METRICS,
            "sets": SETS,
            "arm_colours": figures.ARM_COLOURS,
        }
        return {**context, "notes": self._stage_notes() + self.notes}

    def _stage(self, path: Path) -> Stage:
        stage = Stage(path.name, path)
        if (path / "stage.json").is_file():
            stage.info = self._attempt(path / "stage.json", lambda: _read_object(path / "stage.json")) or {}
        if (path / "config.yaml").is_file():
            stage.config = (path / "config.yaml").read_text(encoding="utf-8", errors="replace")
            if len(stage.config) > CONFIG_LIMIT:
                stage.config = stage.config[:CONFIG_LIMIT] + f"\n… cut at {CONFIG_LIMIT} characters; the rest is in config.yaml"
        return stage

    def _attempt(self, path: Path, read: Callable[[], _T]) -> _T | None:
        """One damaged file must not cost the page: it is named there instead."""
        try:
            return read()
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            reason = f"key {error} is missing" if isinstance(error, KeyError) else str(error).removeprefix(f"{path}: ")
            self.notes.append(f"{path.relative_to(self.run_dir)} could not be shown: {reason}")
            return None

    def _collect(self, kind: str, show: Callable[[Stage, dict[str, Any]], Any]) -> list[tuple[str, Any]]:
        found = []
        for stage in self.stages:
            path = stage.path / OUTPUTS[kind]
            if path.is_file():
                shown = self._attempt(path, lambda stage=stage, path=path: show(stage, _read_object(path)))  # type: ignore[misc]
                if shown is not None:
                    found.append((stage.name, shown))
            elif stage.info.get("kind") == kind and stage.info.get("status") == COMPLETE:
                self.notes.append(f"stage {stage.name!r} is complete but has no {path.name}")
        return found

    def _stage_notes(self) -> list[str]:
        notes = [
            f"stage {stage.name!r} {STATUS.get(str(stage.info.get('status')), 'has no status')}; the same command goes on there"
            for stage in self.stages
            # The stage that writes this page is still running while it does.
            if stage.info and stage.info.get("status") != COMPLETE and stage.info.get("kind") != "report"
        ]
        kinds = {stage.info.get("kind") for stage in self.stages}
        present = {kind for kind, name in OUTPUTS.items() if any((s.path / name).is_file() for s in self.stages)}
        titles = {"table5": "Table 5", "table6": "Table 6", "mds": "MDS", "panel": "image panel", "prep": "dataset statistics"}
        return notes + [f"no {title}: this run has no such stage" for k, title in titles.items() if k not in kinds | present]

    def _table5(self, stage: Stage, found: dict[str, Any]) -> dict[str, Any]:
        columns = {**found["arms"], **found["baselines"]}
        best: dict[str, set[tuple[str, str]]] = {}
        for mode in MODES:
            best[mode] = set()
            for row in ROWS[mode]:
                values = {arm: v for arm, c in found["arms"].items() if (v := c[mode][row.key]) is not None}
                if len(values) > 1:
                    top = (min if row.lower_is_better else max)(values.values())
                    best[mode] |= {(row.key, arm) for arm, v in values.items() if v == top}
        if not found["clip"]:
            self.notes.append(f"stage {stage.name!r}: CLIP rows were not computed, no CLIP model was given")
        elif found["clip_truncated"]:
            self.notes.append(f"stage {stage.name!r}: {found['clip_truncated']} descriptions were cut to CLIP's text length")
        for arm, column in found["arms"].items():
            counts = {k.replace("_", " "): v for k, v in column["counts"].items() if v and k != "references"}
            if counts:
                listed = ", ".join(f"{v} {k}" for k, v in counts.items())
                self.notes.append(f"stage {stage.name!r}, {arm}, of {found['references']} images: {listed}")
        if found["definition"] != definition_hash():
            self.notes.append(f"stage {stage.name!r} was scored by another version of the definitions than the installed one")
        return {**found, "columns": columns, "best": best}

    def _mds(self, stage: Stage, found: dict[str, Any]) -> dict[str, Any]:
        with np.load(stage.path / "mds.npz", allow_pickle=False) as points:
            drawn = {
                arm: Markup(figures.cloud_svg(points[f"coords_{n}"], points[f"labels_{n}"].tolist(), arm))
                for n, arm in enumerate(found["arms"])
            }
        for arm, summary in found["arms"].items():
            if summary["without_emotion"]:
                self.notes.append(f"stage {stage.name!r}, {arm}: {summary['without_emotion']} embeddings have no emotion")
        return {"arms": {arm: {**summary, "svg": drawn[arm]} for arm, summary in found["arms"].items()}}

    def _panel(self, stage: Stage, found: dict[str, Any]) -> dict[str, Any]:
        items = []
        for item in found["items"]:
            said = item["predictions"]
            image = (stage.path / item["image"]).read_bytes()
            boxes = {arm: (said[arm] or {}).get("boxes", []) for arm in found["arms"]}
            svg = figures.overlay_svg(image, "image/jpeg", tuple(item["size"]), item["truth"]["boxes"], boxes)
            items.append({**item, "svg": Markup(svg)})
        return {**found, "items": items}

    def _losses(self) -> list[tuple[str, Markup]]:
        drawn = []
        for stage in self.stages:
            for path in sorted(stage.path.rglob("metrics.csv")):
                curves = self._attempt(path, lambda path=path: figures.read_losses(path))  # type: ignore[misc]
                if curves:
                    drawn.append((stage.name, Markup(figures.loss_svg(curves, stage.name))))
                elif curves is not None:
                    self.notes.append(f"{path.relative_to(self.run_dir)} holds no loss")
        return drawn


def _read_object(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SchemaError(f"{path}: not JSON: {error}") from None
    if not isinstance(found, dict):
        raise SchemaError(f"{path}: found {type(found).__name__}; expected an object")
    return found


def _percent(value: float | None) -> str:
    return "not computed" if value is None else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "–"
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{value:.1f} s"
