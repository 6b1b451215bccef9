"""Questions and replies of suites, made up so that their metrics are known."""

from __future__ import annotations

from collections.abc import Mapping

from emo_lightning.analysis.suites.asked import Asked, Reply

EIGHT = ("amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness")

EMOCALIBER = {
    "Abstract-8": (29.26, 229),
    "Artphoto-8": (41.94, 806),
    "EmoSet-8": (68.10, 1000),
    "FI-2": (88.10, 1000),
    "FI-8": (69.70, 1000),
    "UnbiasedEmo-6": (79.90, 1000),
    "WebEmo-2": (75.80, 1000),
    "WebEmo-7": (54.00, 1000),
    "WebEmo-25": (28.28, 997),
}
"""Its table: task -> accuracy and questions."""


def vecbench(sizes: Mapping[str, int]) -> list[Asked]:
    """Questions whose answer is the first candidate of every even one, and the last of every odd one."""
    return [
        Asked(f"{task}/{n}", task, truth=EIGHT[-(n % 2)], candidates=EIGHT, images=(f"{task}/{n}.jpg",))
        for task, count in sizes.items()
        for n in range(count)
    ]


def mvei(count: int = 8) -> list[Asked]:
    """Statements of two classes, correct and incorrect in turn."""
    classes = ("sentiment polarity", "scene context")
    return [
        Asked(f"m{n}", classes[n // 2 % 2], truth=("Correct", "Incorrect")[n % 2], images=(f"{n}.jpg",)) for n in range(count)
    ]


def eemo(count: int = 6) -> list[Asked]:
    """For each of so many images, and pairs of them, one question of each kind, a ranking, and three attributes."""
    options = {"A": "Neutral", "B": "Fear", "C": "Sadness", "D": "Joy"}
    found = []
    for n in range(count):
        for carrier in ("single", "pair"):
            images = (f"{n}.jpg",) if carrier == "single" else (f"{n}.jpg", f"{n + 1}.jpg")
            for at, (task, truth) in enumerate((("Yes-or-No", "B"), ("What/How", "D"))):
                found.append(
                    Asked(
                        f"{carrier}/{2 * n + at}",
                        task,
                        truth,
                        options={"A": "Yes.", "B": "No."} if at == 0 else options,
                        prompt=f"Which? {options}",
                        images=images,
                        carrier=carrier,
                        dimension=("Valence perception", "Emotion perception")[at],
                    )
                )
        found.append(Asked(f"ranking/{n}", "Ranking", images=(f"{n}.jpg",), ranking=("joy", "neutral", "surprise")))
        found += [
            Asked(f"{name}/{n}", name, images=(f"{n}.jpg",), value=1.0 + n) for name in ("valence", "arousal", "dominance")
        ]
    return found


def said(questions: list[Asked], texts: Mapping[str, str]) -> dict[str, Reply]:
    """Replies of these texts, by id."""
    return {asked.id: Reply(texts[asked.id]) for asked in questions if asked.id in texts}
