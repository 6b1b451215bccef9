"""`emo _stage FOLDER`: one stage of a run, for the ranks that Lightning's launcher starts."""

from __future__ import annotations

import os


def main(argv: list[str]) -> int:
    """Run the stage whose resolved config stands in the folder."""
    from emo_lightning.core.endings import ENDING, STAGE_GROUP
    from emo_lightning.core.lifetimes import die_with_parent, end_forks_with_this_process
    from emo_lightning.experiment.arguments import check
    from emo_lightning.experiment.processes import run_stage
    from emo_lightning.experiment.status import stage_from_folder

    # The stage leads the group, and has started this process.
    die_with_parent(parent=int(os.environ[STAGE_GROUP]) if STAGE_GROUP in os.environ else None)
    stage = stage_from_folder(argv[0])
    # The file has lain in a folder: what the launching process has checked may be another.
    check(stage)
    # Of the whole process, so only once it is sure to be a stage's.
    end_forks_with_this_process()
    code = run_stage(stage)
    # The first rank tells how the stage ended. Lightning's observer would kill it for any other code than 0, while it still ends.
    return 0 if ENDING.stopped else code
