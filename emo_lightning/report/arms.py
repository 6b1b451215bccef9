"""What each arm of a run is, in one line."""

from __future__ import annotations

from emo_lightning.core.tables.table import Result
from emo_lightning.report.run_folder import RunFolder, StageFolder


def explained_arms(run: RunFolder, stage: StageFolder, found: Result) -> dict[str, str]:
    """Arm -> what it is: as the stage's setting `about` says it, else by the title of the stage that made its backbone.

    Args:
        run: the run.
        stage: of kind `table5` or `table6`.
        found: its JSON.
    """
    said = found.get("about") or stage.table("about")
    places = stage.table("predictions") or stage.table("probes")
    lines = {arm: said.get(arm) or _title(run, places.get(arm)) for arm in found["arms"]}
    return {arm: str(line) for arm, line in lines.items() if line}


def _title(run: RunFolder, place: object) -> str | None:
    """The title of the stage that made the backbone behind a stage's file."""
    path = place[0] if isinstance(place, list) and place else place
    stage = run.owner(path) if isinstance(path, str) else None
    backbone = stage.setting("model", "backbone", "path") if stage else None
    maker = run.owner(str(backbone)) if backbone else None
    title = maker.info.get("title") if maker else None
    return title if isinstance(title, str) else None
