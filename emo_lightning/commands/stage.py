"""`emo _stage FOLDER`: one stage of a run, for the ranks that Lightning's launcher starts."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Run the stage whose resolved config stands in the folder."""
    from emo_lightning.experiment.arguments import check
    from emo_lightning.experiment.processes import run_stage
    from emo_lightning.experiment.status import stage_from_folder

    stage = stage_from_folder(argv[0])
    # The file has lain in a folder: what the launching process has checked may be another.
    check(stage)
    return run_stage(stage)
