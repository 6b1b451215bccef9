"""The report in Weights & Biases: its tables, its pictures with boxes, the page, and all files as an artifact."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from emo_lightning.core.boxes import inside
from emo_lightning.core.images import open_image
from emo_lightning.core.tables.csv import flat_rows
from emo_lightning.core.wandb_defaults import wandb_mode, wandb_project
from emo_lightning.report.build import Report
from emo_lightning.report.examples import Examples
from emo_lightning.report.kinds import AnsweredPictures
from emo_lightning.report.pictures import ReportPicture, ShownAnswer
from emo_lightning.report.sections import RunSections

if TYPE_CHECKING:
    import wandb


def log_report(report: Report, folder: Path, project: str | None = None) -> Path:
    """Log a written report as one W&B run; offline unless `WANDB_MODE` says otherwise (`wandb sync` sends it later).

    Args:
        report: from `build_report`.
        folder: where W&B keeps the run, in `folder/wandb/`.
        project: of W&B; None takes `WANDB_PROJECT`, else `emo-lightning`.

    Returns:
        The run's own directory.
    """
    import wandb

    names = [run.run.name for run in report.runs]
    folder.mkdir(parents=True, exist_ok=True)
    sources = {
        f"{run.run.name}/{stage.name}": run.sources.of(stage).as_json() for run in report.runs for stage in run.run.stages
    }
    config = {"runs": names, "sources": sources}
    if wandb.run is not None:
        # A stage's own: it is begun and ended where the stage is.
        wandb.run.config.update(config)  # type: ignore[no-untyped-call]  # wandb has no type for it
        _log(wandb.run, report, sources)
        return Path(wandb.run.dir).parent
    run = wandb.init(
        project=wandb_project(project),
        dir=folder,
        name=f"{'+'.join(names)}/report",
        group=names[0],
        job_type="report",
        mode=wandb_mode(),  # type: ignore[arg-type]
        config=config,
        settings=wandb.Settings(silent=True, console="off"),
    )
    with run:
        _log(run, report, sources)
        return Path(run.dir).parent


def _log(run: wandb.Run, report: Report, sources: Mapping[str, object]) -> None:
    import wandb

    for table in report.tables:
        columns, rows = flat_rows(table)
        run.log({f"tables/{table.name}": wandb.Table(columns=list[str | int](columns), data=rows, allow_mixed_types=True)})
    for one in report.runs:
        at = f"{one.run.name}/" if len(report.runs) > 1 else ""
        for key, picture in _pictures(one):
            run.log({f"{at}{key}": picture})
        for key, drawing in _drawings(one):
            run.log({f"{at}{key}": drawing})
    run.log({"report": wandb.Html(report.html.read_text(encoding="utf-8"), inject=False)})
    run.summary["missing_or_skipped"] = report.notes
    artifact = wandb.Artifact(
        _name("-".join(["report", *(one.run.name for one in report.runs)])), "report", metadata={"sources": sources}
    )
    artifact.add_file(str(report.html))
    artifact.add_dir(str(report.tables_dir), name=report.tables_dir.name)
    run.log_artifact(artifact)


def _pictures(run: RunSections) -> Iterator[tuple[str, wandb.Image]]:
    """Images with true and predicted boxes: the panel, and what was answered rightly and wrongly."""
    for section in run.sections:
        for stage, found in section.details.items():
            lists: dict[str, list[ReportPicture]] = {}
            if isinstance(found, AnsweredPictures):
                lists = {"items": found.items}
            elif isinstance(found, Examples):
                lists = {"right": found.right, "wrong": found.wrong}
            for name, items in lists.items():
                for n, item in enumerate(items):
                    # A key each: under one key W&B wants images of one size.
                    yield f"images/{stage}/{name}/{n:02d}", _image(item)


def _image(item: ReportPicture) -> wandb.Image:
    import wandb

    said: dict[str, ShownAnswer | None] = {"true": item["truth"], **item["predictions"]}
    labels = dict(enumerate(said))
    width, height = item["size"]
    boxes = {}
    for number, (name, answer) in enumerate(said.items()):
        # Shares of the image, which may have been made smaller.
        data = [
            {
                "position": {"minX": x1 / width, "minY": y1 / height, "maxX": x2 / width, "maxY": y2 / height},
                "class_id": number,
                "box_caption": f"{name}: {answer['subject'] or '–'}",
            }
            for box in (answer["boxes"] if answer else [])
            if answer and (shown := inside(box, (width, height)))
            for x1, y1, x2, y2 in [shown]
        ]
        if data:
            boxes[name] = {"box_data": data, "class_labels": labels}
    words = [f"{name}: {(answer and answer['emotion']) or 'no emotion'}" for name, answer in said.items()]
    caption = f"{item['id']} · {' · '.join(words)}"
    return wandb.Image(open_image(item["image"], item["id"]), caption=caption, boxes=boxes or None)


def _drawings(run: RunSections) -> Iterator[tuple[str, wandb.Html]]:
    import wandb

    for section in run.sections:
        for figure in section.figures:
            style = "<style>body{font-family:sans-serif;color:#1f2328;background:#fff}svg{max-width:720px}iframe{width:100%;height:95vh}</style>"
            name = _name(f"{section.key}-{figure.source.stage}-{figure.title}")
            yield f"figures/{name}", wandb.Html(f"<!doctype html>{style}{figure.drawing}", inject=False)


def _name(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-")[:100]
