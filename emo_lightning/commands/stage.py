"""`emo _stage FOLDER`: one stage of a run, for the ranks that Lightning's launcher starts."""

from __future__ import annotations


def main(argv: list[str]) -> int:
    """Run the stage whose resolved config stands in the folder."""
    from emo_lightning.experiment.processes import run_stage
    from emo_lightning.experiment.status import stage_from_folder

    return run_stage(stage_from_folder(argv[0]))
