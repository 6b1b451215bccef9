"""The stage that gathers what the others of its run have written on one page."""

from __future__ import annotations

from pathlib import Path

from emo_lightning.core.terminal import say


def report_stage(out: Path, run_dir: Path, samples: int = 4, wandb: bool = False) -> None:
    """Write `run_dir/report.html` and `run_dir/report_tables/` from whatever stages of the run exist, and print where they are.

    Args:
        out: the stage's directory; receives `report.json` with the paths.
        run_dir: the run's directory.
        samples: images shown of right and of wrong answers each.
        wandb: also log tables, images and the page as an artifact to W&B, offline unless `WANDB_MODE=online`.
    """
    from emo_lightning.core.files import write_json
    from emo_lightning.report.build import build_report

    report = build_report(run_dir, run_dir / "report.html", samples)
    written = {"report": str(report.html), "tables": str(report.tables_dir), "notes": report.notes}
    say(f"report: {report.html}")
    if wandb:
        from emo_lightning.report.wandb import log_report

        written["wandb"] = str(log_report(report, out))
        say(f"W&B: {written['wandb']}")
    write_json(out / "report.json", written)
