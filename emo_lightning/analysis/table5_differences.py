"""What columns of Table 5 differ by, on the same images: arms from each other, and from the best answer given without looking."""

from __future__ import annotations

from collections.abc import Mapping

from emo_lightning.analysis.table5_result import ArmColumn, BaselineColumn, OverBlind, Paired, ScoredColumn
from emo_lightning.analysis.table5_rows import SCORING_MODES, TABLE5_ROWS, ScoringMode
from emo_lightning.metrics import bootstrap
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.bootstrap import Difference

Replicates = dict[ScoringMode, dict[str, Array]]
"""Each row's value in each resample, (resamples,), NaN where nothing could be scored."""

ArmReplicates = tuple[ArmColumn, Replicates]
"""A column and its values in each resample."""

_LOWER: dict[ScoringMode, set[str]] = {
    mode: {row.key for row in TABLE5_ROWS[mode] if row.lower_is_better} for mode in SCORING_MODES
}


def paired(found: Mapping[str, ArmReplicates], against: str) -> Paired:
    """Differences of every column to one of them, on the same images.

    Args:
        found: by arm, with the same resamples, seed and references.
        against: the arm that is subtracted.
    """
    others = {name: one for name, one in found.items() if name != against}
    return {
        "against": against,
        "arms": {
            name: {
                mode: {row: _difference(other, found[against], mode, row) for row in other[0][mode]} for mode in SCORING_MODES
            }
            for name, other in others.items()
        },
    }


def _difference(
    other: tuple[ScoredColumn, Replicates], base: tuple[ScoredColumn, Replicates], mode: ScoringMode, row: str
) -> Difference | None:
    """The other minus the base in one row, None where one of them has no value."""
    value, subtracted = other[0][mode][row], base[0][mode][row]
    if value is None or subtracted is None:
        return None
    replicates = (other[1][mode][row], base[1][mode][row])
    return bootstrap.difference(value, subtracted, replicates, other[0]["support"][mode][row])


def over_blind(
    arm: ArmReplicates, floors: Mapping[str, tuple[BaselineColumn, Replicates]], mode: ScoringMode
) -> dict[str, OverBlind | None]:
    """Row -> the arm minus the best of the answers given without looking."""
    found: dict[str, OverBlind | None] = {}
    for row in arm[0][mode]:
        known = {name: value for name, (column, _) in floors.items() if (value := column[mode][row]) is not None}
        best = (min if row in _LOWER[mode] else max)(known, key=known.__getitem__, default=None)
        one = None if best is None else _difference(arm, floors[best], mode, row)
        found[row] = None if best is None or one is None else {**one, "baseline": best}
    return found


def ahead(arms: Mapping[str, ArmReplicates], mode: ScoringMode) -> dict[str, str | None]:
    """Row -> the arm whose differences to all others have intervals on the better side of 0."""
    found: dict[str, str | None] = {}
    for row in next(iter(arms.values()))[0][mode]:
        sign = -1 if row in _LOWER[mode] else 1
        known = {name: sign * value for name, (column, _) in arms.items() if (value := column[mode][row]) is not None}
        best = max(known, key=known.__getitem__, default=None)
        gaps = [_difference(arms[best], arms[name], mode, row) for name in known if name != best] if best else []
        clear = [min(sign * end for end in gap["interval"]) > 0 for gap in gaps if gap and gap["interval"]]
        found[row] = best if len(clear) == len(gaps) > 0 and all(clear) else None
    return found
