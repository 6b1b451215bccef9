"""What a sweep found: one table and one plot, best first, and the exact command of each run."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from emo_lightning.core.console import Console
from emo_lightning.core.files import replacing, write_text
from emo_lightning.core.tables.files import RENDERERS
from emo_lightning.core.tables.markdown import markdown_rows
from emo_lightning.core.tables.table import Cell, Column, Spread, Table, number_of
from emo_lightning.core.tables.terminal import show
from emo_lightning.sweep.config import Sweep
from emo_lightning.sweep.local import LocalSettings, SweepOutcome
from emo_lightning.sweep.records import Run, labels
from emo_lightning.sweep.values import as_text

_MOST_IN_PLOT = 40


@dataclass
class Setting:
    """Runs that differ in nothing but their seed.

    Args:
        values: what the setting is, seeds left out.
        runs: complete ones, best first.
        mean: of their metric.
        std: sample standard deviation of their metric; None with one run.
    """

    values: dict[str, Any]
    runs: list[Run]
    mean: float
    std: float | None


def settings_of(sweep: Sweep, runs: Sequence[Run]) -> list[Setting]:
    """Complete runs by setting, best mean first; runs are one setting where only keys that end in `seed` differ."""
    names = [p.name for p in sweep.varied if p.name.split(".")[-1] != "seed"]
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.metric is not None:
            groups.setdefault(json.dumps([run.values[name] for name in names]), []).append(run)
    sign = -1 if sweep.maximize else 1
    found = []
    for members in groups.values():
        members.sort(key=lambda run: sign * _metric(run))
        metrics = [_metric(run) for run in members]
        std = statistics.stdev(metrics) if len(metrics) > 1 else None
        found.append(Setting({name: members[0].values[name] for name in names}, members, statistics.fmean(metrics), std))
    return sorted(found, key=lambda setting: sign * setting.mean)


def write_results(sweep: Sweep, settings: LocalSettings, outcome: SweepOutcome) -> list[Path]:
    """Write results.json, .md, .tex, .csv and .png into the sweep's folder; returns their paths (without a result the first two alone)."""
    ranked = settings_of(sweep, outcome.runs)
    folder = settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    written = [_write(folder / "results.json", _json(sweep, settings, outcome, ranked))]
    written.append(_write(folder / "results.md", _markdown(sweep, settings, outcome, ranked)))
    if not ranked:
        # Of an earlier call: they would be taken for this one's.
        for suffix in (".tex", ".csv", ".png"):
            (folder / f"results{suffix}").unlink(missing_ok=True)
    else:
        table = replace(results_table(sweep, ranked), name=sweep.name)
        written += [_write(folder / f"results{suffix}", RENDERERS[suffix](table)) for suffix in (".tex", ".csv")]
        _plot(sweep, outcome, ranked, folder / "results.png")
        written.append(folder / "results.png")
    return written


def show_results(sweep: Sweep, outcome: SweepOutcome, console: Console) -> None:
    """Print the table, the commands, and what is missing."""
    ranked = settings_of(sweep, outcome.runs)
    show([results_table(sweep, ranked)], console)
    console.print("The command of each run, in this order:")
    for setting in ranked:
        for run in setting.runs:
            console.print(f"  {run.command}", soft_wrap=True, markup=False)
    console.print(escape(summary(outcome)), soft_wrap=True)


def summary(outcome: SweepOutcome) -> str:
    """How many runs there are of each kind, and why it ended early."""
    complete = sum(run.status == "complete" for run in outcome.runs)
    parts = [f"{complete} complete", f"{outcome.failed} failed"]
    open_ = sum(run.status == "running" for run in outcome.runs)
    left = (outcome.planned or len(outcome.runs)) - len(outcome.runs)
    parts += [f"{open_} interrupted"] if open_ else []
    parts += [f"{left} not started"] if left > 0 else []
    return ", ".join(parts) + (f"; stopped: {outcome.stopped}" if outcome.stopped else "")


def _metric(run: Run) -> float:
    assert run.metric is not None
    return run.metric


def _number(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= abs(value) < 1000 or value == 0 else f"{value:.4g}"


def results_table(sweep: Sweep, ranked: Sequence[Setting]) -> Table:
    """A setting a row, best first; metrics of the same stage stand beside it.

    Args:
        sweep: its metric and parameters.
        ranked: best first.
    """
    repeated = any(len(setting.runs) > 1 for setting in ranked)
    names = list(ranked[0].values) if ranked else []
    short = labels([p.name for p in sweep.parameters])
    stage = sweep.metric.split("/")[0] + "/"
    beside = [
        f
        for f in (ranked[0].runs[0].metrics if ranked else {})
        if f.startswith(stage) and f != sweep.metric and "loss" not in f
    ]
    beside = [metric for metric in beside if metric.rsplit("/", 1)[-1] == sweep.metric.rsplit("/", 1)[-1]][:4]
    rows: list[list[Cell]] = []
    for rank, setting in enumerate(ranked, 1):
        others = [_mean([run.metrics.get(metric) for run in setting.runs]) for metric in beside]
        count = [len(setting.runs)] if repeated else []
        seconds = round(sum(run.seconds for run in setting.runs))
        values = map(as_text, setting.values.values())
        rows.append([rank, Spread(setting.mean, std=setting.std), *values, *others, *count, seconds])
    return Table(
        "sweep",
        f"{sweep.name}: {sweep.metric}, best first",
        [
            Column("rank", "#"),
            Column(sweep.metric, sweep.metric.rsplit("/", 1)[-1] + (" ± std" if repeated else "")),
            *(Column(name, short[name]) for name in names),
            *(Column(metric, metric.removeprefix(stage)) for metric in beside),
            *([Column("runs", "runs")] if repeated else []),
            Column("seconds", "seconds"),
        ],
        rows,
        digits=_digits([number for row in rows if (number := number_of(row[1])) is not None]),
    )


def _digits(values: Sequence[float]) -> int:
    """Behind the point: two, and more where the smallest value would lose what tells it from another."""
    smallest = min((abs(value) for value in values if value), default=1.0)
    return 2 if smallest >= 0.1 else min(10, 3 - math.floor(math.log10(smallest)))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _json(sweep: Sweep, settings: LocalSettings, outcome: SweepOutcome, ranked: Sequence[Setting]) -> str:
    content = {
        "sweep": sweep.name,
        "file": str(sweep.path),
        "program": str(sweep.program),
        "method": sweep.method,
        "metric": {"name": sweep.metric, "goal": "maximize" if sweep.maximize else "minimize"},
        "seed": settings.seed,
        "fixed": settings.fixed,
        "summary": summary(outcome),
        "planned": outcome.planned,
        "complete": sum(run.status == "complete" for run in outcome.runs),
        "failed": outcome.failed,
        "stopped": outcome.stopped,
        "settings": [
            {"rank": n, "values": s.values, "mean": s.mean, "std": s.std, "runs": [run.name for run in s.runs]}
            for n, s in enumerate(ranked, 1)
        ],
        "runs": [asdict(run) for setting in ranked for run in setting.runs]
        + [asdict(run) for run in outcome.runs if run.metric is None],
    }
    return json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"


def _markdown(sweep: Sweep, settings: LocalSettings, outcome: SweepOutcome, ranked: Sequence[Setting]) -> str:
    direction = "higher is better" if sweep.maximize else "lower is better"
    said = sweep.raw.get("description")
    lines = [f"# {sweep.name}", "", *([said.strip(), ""] if said else [])]
    lines += [
        f"`{sweep.path}` ({sweep.method}, seed {settings.seed}) over `{sweep.program}`; {sweep.metric}, {direction}. "
        f"{summary(outcome)}.",
        "",
    ]
    if ranked:
        lines += markdown_rows(results_table(sweep, ranked))
        lines += ["", "![best first](results.png)", "", "## Commands, best setting first", ""]
        lines += ["Each made its run; again it finds it complete. With another `--runs` it makes the same run anew.", ""]
        lines += [f"- #{n}, {_number(_metric(run))}: `{run.command}`" for n, s in enumerate(ranked, 1) for run in s.runs]
    open_ = [run for run in outcome.runs if run.metric is None]
    if open_:
        lines += ["", "## Without a result", ""]
        lines += [f"- `{run.command}`: {run.status}{': ' + run.error if run.error else ''}" for run in open_]
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> Path:
    write_text(path, text)
    return path


def _plot(sweep: Sweep, outcome: SweepOutcome, ranked: Sequence[Setting], path: Path) -> None:
    """Best first, from the top: every run a ring, the mean of a setting a dot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = ranked[:_MOST_IN_PLOT]
    short = labels([p.name for p in sweep.parameters])
    figure = Figure(figsize=(8, 1.6 + 0.3 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, setting in enumerate(shown):
        metrics = [_metric(run) for run in setting.runs]
        if len(metrics) > 1:
            axes.plot([min(metrics), max(metrics)], [row, row], color="#9aa7b8", linewidth=1.5, zorder=1)
            axes.scatter(metrics, [row] * len(metrics), s=22, facecolors="white", edgecolors="#3b6ea5", zorder=2)
        axes.scatter([setting.mean], [row], s=42, color="#C4500A" if row == 0 else "#3b6ea5", zorder=3)
    axes.set_yticks(
        range(len(shown)), [", ".join(f"{short[k]}={as_text(v)}" for k, v in s.values.items()) or "all" for s in shown]
    )
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_xlabel(f"{sweep.metric} ({'higher' if sweep.maximize else 'lower'} is better)")
    more = f", the best {len(shown)} of {len(ranked)}" if len(ranked) > len(shown) else ""
    repeated = "; rings: single runs, dots: means over seeds" if any(len(s.runs) > 1 for s in shown) else ""
    axes.set_title(f"{sweep.name}{more} ({summary(outcome)}){repeated}", fontsize=9, loc="left", wrap=True)
    axes.grid(axis="x", color="#e3e7ec", zorder=0)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0, labelsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
