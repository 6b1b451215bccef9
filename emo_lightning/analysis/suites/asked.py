"""A question of a suite as all its scorers see it, and what each suite consists of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from emo_lightning.core.suites.eemo_bench import CHOICE_TASKS
from emo_lightning.core.suites.item import SuiteName
from emo_lightning.metrics.suites import emobserver

ImageCarrier = Literal["single", "pair", ""]
"""Whether a question of EEmo-Bench is about one image or two."""


OUT_OF_DOMAIN: Mapping[SuiteName, tuple[str, ...]] = {"mvei": (), "vecbench": emobserver.OOD_VER, "eemo_bench": CHOICE_TASKS}
"""Tasks out of the domain where nobody says otherwise: VECBench's, of what EmoCaliber is trained on, and EEmo-Bench, whose images are its own.
MVEI's images are EmoSet's."""

RANKING_TASK = "Ranking"


@dataclass(frozen=True)
class SuiteQuestion:
    """One question."""

    id: str
    task: str
    """VECBench: the task; MVEI: the class of the statement; EEmo-Bench: the type of the question, `Ranking`, or an attribute."""
    truth: str = ""
    """The true candidate, verdict or letter."""
    candidates: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    """Letter -> text."""
    prompt: str = ""
    images: tuple[str, ...] = ()
    """Paths as the suite writes them: questions about one image, or one pair, are resampled together."""
    carrier: ImageCarrier = ""
    dimension: str = ""
    """EEmo-Bench: what is perceived."""
    ranking: tuple[str, ...] = ()
    """The true three emotions, the strongest first."""
    value: float | None = None
    """The annotated valence, arousal or dominance, on whatever scale."""
    question: str = ""
    """What is asked, without the instructions around it, where the file has it alone."""
    numbered: bool = field(default=False, compare=False)
    """Whether its id is the number of its line: in another file the same question may have another."""

    @property
    def content(self) -> tuple[object, ...]:
        """By this it is the same question in another file, where it has no id of its own."""
        return self.task, self.images, self.prompt

    @property
    def unit(self) -> str:
        """What is resampled: its image or images, or itself."""
        return " ".join(self.images) or self.id


@dataclass(frozen=True)
class SuiteReply:
    """What a model said to one question."""

    text: str
    confidence: float | None = None
    """Given beside the reply, 0–1."""
    value: float | None = None
    """Of an attribute, where it is not read from the words."""
    verdict: bool | None = None
    """Whether the suite's authors call it right."""
    invalid: bool = False
    """Whether they call the question invalid."""
    judgements: tuple[float, ...] = ()
    """Of a description, 0–2 each."""
    judge: str = ""
    """The model that gave them; empty: as published, DeepSeek by the authors' own words."""


NO_REPLY = SuiteReply("")
"""Of a question that was not answered; it counts as wrong."""
