"""VECBench: `Std-VECBench.json` or `test_8k.jsonl`, and the images that it names, of six data sets."""

from __future__ import annotations

from collections.abc import Sequence

from data_prep.sources.base import RefusedError
from data_prep.sources.labels import MIKELS, SourceLabels, translate
from data_prep.sources.suites import SuiteSource
from emo_lightning.core.records import Emotion
from emo_lightning.core.suites import SuiteItem

_FILES = (
    "Std-VECBench.json",
    "VECBench/Std-VECBench.json",
    "benchmarks/VECBench/Std-VECBench.json",
    "test_8k.jsonl",
    "input_data/test_8k.jsonl",
)
_POLARITIES = ("negative", "positive")


class VECBenchSource(SuiteSource):
    """The label of a task with eight answers is that of the image, by name (`sad` is sadness, `content` contentment).

    A task with two answers gives the polarity (`valence_level`), if its word is negative or positive. UnbiasedEmo's and WebEmo's words
    are kept as they are (`emotion_raw`: of the task with the most answers); where the broadest of them is called like one of the eight it
    is the label as well, so that joy, love and surprise have none. Each task's word stands in `attributes.tasks`.
    """

    name = suite = "vecbench"
    files = _FILES
    sets: tuple[str, ...] = ()
    """Data sets that are read; empty: all."""

    def wanted(self, item: SuiteItem) -> bool:
        """Whether its data set is read."""
        return not self.sets or item.task.rpartition("-")[0] in self.sets

    def labels(self, items: Sequence[SuiteItem]) -> SourceLabels:
        """By the tasks of the image, those with more answers first."""
        words: dict[str, str] = {}
        for item in sorted(items, key=lambda item: -_answers(item.task)):
            word = (item.truth or "").strip().lower()
            if words.setdefault(item.task, word) != word:
                msg = f"contradiction: {item.task} says {words[item.task]} and {word} of one image"
                raise RefusedError(msg)
        labels: SourceLabels = {"attributes": {"tasks": words}}
        named = {task: word for task, word in words.items() if _answers(task) > 2}
        # WebEmo's words were not seen: what is no polarity by name stays a word of its task.
        if polarity := next((word for task, word in words.items() if _answers(task) == 2 and word in _POLARITIES), None):
            labels["valence_level"] = polarity
        if named:
            labels["emotion_raw"] = next(iter(named.values()))
            task, broadest = list(named.items())[-1]
            if emotion := translate(broadest, MIKELS) if _answers(task) == 8 else _by_name(broadest):
                labels["emotion"] = emotion
        return labels


def _answers(task: str) -> int:
    return int(task.rpartition("-")[2])


def _by_name(word: str) -> str | None:
    return word if word in set(map(str, Emotion)) else None
