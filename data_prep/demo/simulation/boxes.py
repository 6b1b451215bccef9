"""The simulated critic's verdict on a box: the truth, with errors at the configured rates (`box` of recall and false_alarm)."""

from __future__ import annotations

import json
import random
import re

from data_prep.demo.simulation.config import SimulatedModel
from emo_lightning.core.records import Record

_SHOWN = re.compile(r"^Box, in shares of .*: (\{.*\})$", re.MULTILINE)
"""How `prompts.BOX_CRITIC_PROMPT` shows a box."""
_SAME = 0.5


def box_verdict(model: SimulatedModel, truth: Record, prompt: str, rng: random.Random) -> dict[str, object] | None:
    """The reply about a box; None if the prompt shows none."""
    shown = _SHOWN.search(prompt)
    if shown is None:
        return None
    box = json.loads(shown[1])
    asked = (box["left"] * truth.width, box["top"] * truth.height, box["right"] * truth.width, box["bottom"] * truth.height)
    right = any(_overlap(asked, known.bbox) >= _SAME for known in truth.primary_objects)
    flagged = rng.random() < (model.false_alarm if right else model.recall).get("box", 0.0)
    return {
        "seen": f"the {truth.subject} is in the {truth.background}",
        "box_check": f"the box {'does not agree' if flagged else 'agrees'} with the subject",
        "box_verdict": "revisable" if flagged else "valid",
    }


def _overlap(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    both = max(width, 0.0) * max(height, 0.0)
    return both / (sum((b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)) - both)
