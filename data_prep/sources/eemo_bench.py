"""EEmo-Bench: the truth of each image, EEmo-Logic's `Ebench_1_data(jac_en_check).json`, and the questions on one and on two images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data_prep.sources.labels import EKMAN, SourceLabels, top
from data_prep.sources.suites import SuiteSource
from data_prep.sources.tree import Tree
from emo_lightning.core.records import Emotion
from emo_lightning.core.suites import SuiteItem

_EEMO: dict[str, Emotion | None] = {**EKMAN, "neutral": None}
_STD = ("Std-EEmo-Bench-Single-Perception.json", "Std-EEmo-Bench-Pair-Perception.json")


class EEmoBenchSource(SuiteSource):
    """The emotion that people scored highest (`emotion_raw`, none on a tie), which is the label where one of the eight is called so.

    Valence, arousal and dominance are means of nine people from 1 to 9, with the second value of each list as their standard deviation,
    which is inferred: no file says so. What the third one is is not known; all three stand in `attributes`, with the scores of the three
    strongest emotions, which are no distribution. A question on two images stands at both.
    """

    name = suite = "eemo_bench"
    files = (
        "Ebench_1_data(jac_en_check).json",
        "test_data/Ebench_1_data(jac_en_check).json",
        "Ebench_imgpir(en).json",
        "test_data/Ebench_imgpir(en).json",
        "EEmo-Bench(single).json",
        "EEmo-Bench(pair).json",
        *_STD,
        *(f"EEmo-Bench/{name}" for name in _STD),
        *(f"benchmarks/EEmo-Bench/{name}" for name in _STD),
    )

    def index_files(self, tree: Tree) -> list[Path]:
        """One file of the questions on one image, and one of those on two: the others ask the same."""
        found = super().index_files(tree)
        of_two = [file for file in found if any(word in file.name.lower() for word in ("pair", "imgpir"))]
        return [*[file for file in found if file not in of_two][:1], *of_two[:1]]

    def labels(self, items: Sequence[SuiteItem]) -> SourceLabels:
        """Of the image's assessment, where there is one."""
        labels: SourceLabels = {}
        for item in items:
            if not item.ratings:
                continue
            if winner := top(item.scored_emotions):
                labels["emotion_raw"] = winner
                if (emotion := _EEMO[winner]) is not None:
                    labels["emotion"] = str(emotion)
            valence, arousal, dominance = (item.ratings[name] for name in ("valence", "arousal", "dominance"))
            labels["valence"], labels["arousal"], labels["dominance"] = valence.mean, arousal.mean, dominance.mean
            if valence.std is not None and arousal.std is not None and dominance.std is not None:
                labels["valence_std"], labels["arousal_std"], labels["dominance_std"] = valence.std, arousal.std, dominance.std
            labels["attributes"] = {"scored_emotions": dict(item.scored_emotions), **item.extra}
        return labels
