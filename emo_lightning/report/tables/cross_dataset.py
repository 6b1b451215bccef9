"""What `cross_dataset` found, as tables and notes for the terminal and the report."""

from __future__ import annotations

from collections.abc import Iterator

from emo_lightning.core.tables.table import Cell, Result, Spread, Table, columns
from emo_lightning.metrics.bootstrap import FEW
from emo_lightning.report.page import Page


def cross_page(result: Result) -> Page:
    """What `cross_dataset` returned, as tables for the terminal and the report."""
    sets, arms, base = result["sets"], result["arms"], result["base"]
    inside = result["in_domain"]
    titles = [f"{name}{' (in domain)' if name == inside else ''}, n={about['images']:,}" for name, about in sets.items()]
    shown = list(zip(sets, titles, strict=True))
    accuracy: list[list[Cell]] = [["most frequent class", *(about["chance"] for about in sets.values()), None, None, None]]
    accuracy += [
        [arm, *(Spread(**rows[name]["accuracy"]) for name in sets), _spread(result["collapse"].get(arm)), *_worst(result, arm)]
        for arm, rows in arms.items()
    ]
    gain: list[list[Cell]] = [
        [arm, *(_spread(rows[name]["gain"]) for name in sets)] for arm, rows in arms.items() if arm != base
    ]
    said: list[list[Cell]] = [
        [arm, *(x for n in sets for x in (rows[n]["said"], rows[n]["unreadable"]))] for arm, rows in arms.items()
    ]
    maps: list[list[Cell]] = [
        [n, a["space"], a["images"], a["without_class"], a["trained_on"], a["map"]] for n, a in sets.items()
    ]
    return Page(
        "Across data sets",
        f"Every arm on every set, and what its training gained or lost against the untuned {base}. Every arm is one model: intervals "
        "are over images, and how much another training would change is not in them.",
        [
            Table(
                "cross-dataset-accuracy",
                "Accuracy (%)",
                columns("arm", *shown, "collapse", ("worst", "worst set"), ("worst-gain", "gained there")),
                accuracy,
                "By the class that holds most of the predicted distribution; Wilson's 95 % intervals. Collapse: accuracy out of the "
                f"domain minus the {base}'s on the same images, mean over those sets (without those of intensity), in points, with its "
                "95 % bootstrap interval; below zero the training has cost more than it gave.",
                1,
            ),
            Table(
                "cross-dataset-gain",
                f"Against the untuned {base} (points)",
                columns("arm", *shown),
                gain,
                "Paired on the same images; 95 % bootstrap intervals.",
                1,
            ),
            Table(
                "cross-dataset-words",
                "By the words alone (%)",
                columns("arm", *(x for name, title in shown for x in ((name, title), (f"{name}-unreadable", "unreadable")))),
                said,
                "What the arm said, by name; an answer that is no class of the set counts as wrong.",
                1,
            ),
            Table(
                "cross-dataset-label-spaces",
                "Label spaces",
                columns("set", "space", "images", ("without_class", "without a class"), ("trained_on", "trained on"), "map"),
                maps,
                "Images without a class in the space, and images that were trained on, are left out.",
            ),
        ],
        notes=[*_warnings(result), *_of_sets(result), *_of_answers(result)],
    )


def _worst(result: Result, arm: str) -> tuple[Cell, Cell]:
    """The set on which an arm has lost most, and what it gained there, in points."""
    name = result["worst"].get(arm)
    return (None, None) if name is None else (name, result["arms"][arm][name]["gain"]["difference"])


def _spread(gain: Result | None) -> Spread | None:
    if gain is None:
        return None
    low, high = gain["interval"] or (None, None)
    return Spread(gain["difference"], low, high)


def _warnings(result: Result) -> Iterator[str]:
    """What must be read before any number."""
    for arm, name in result["collapsed"]:
        (low, high), own = result["arms"][arm][name]["gain"]["interval"], result["arms"][arm][name]
        yield (
            f"{arm} has collapsed on {name}: {own['accuracy']['value']:.1f} % where the untuned {result['base']} has "
            f"{result['arms'][result['base']][name]['accuracy']['value']:.1f} % (difference {low:+.1f} to {high:+.1f} points)"
        )
    for arms in result["alike"]:
        yield (
            f"{', '.join(arms)} answered every image alike, to the last digit: what sets them apart changed nothing. Soft labels and "
            "distribution losses need emotion_scores in the training tars, a replay of attributes needs descriptions or triplets"
        )


def _of_sets(result: Result) -> Iterator[str]:
    for name, about in result["sets"].items():
        if about["trained_on"]:
            yield f"{name}: {about['trained_on']} images that were trained on are left out"
        if about["without_class"]:
            yield f"{name}: {about['without_class']} images have no class in the label space {about['space']!r} and are left out"
        if about["images"] == 1:
            yield f"{name}: one image, so there are no intervals"
        elif about["images"] < FEW:
            yield f"{name}: {about['images']} images are too few for the intervals of differences, which are too narrow here"
        if about["images"] > 1 and sum(n > 0 for n in about["classes"].values()) == 1:
            yield f"{name}: all {about['images']} images are of one class"


def _of_answers(result: Result) -> Iterator[str]:
    found: dict[tuple[str, str], list[str]] = {}
    for name, about in result["sets"].items():
        for arm, rows in result["arms"].items():
            for text in _remarks(rows[name], about):
                found.setdefault((name, text), []).append(arm)
    yield from (f"{', '.join(arms)}, {name}: {text}" for (name, text), arms in found.items())


def _remarks(row: Result, about: Result) -> Iterator[str]:
    """What is to be said of one arm on one set."""
    if row["missing"]:
        yield f"{row['missing']} images without a prediction count as wrong"
    if row["unscored"]:
        yield f"{row['unscored']} predictions without usable emotion_scores count as wrong"
    if row["by"] == "words" and about["space"] != "intensity":
        yield "no emotion_scores, judged by its words"
    if row["by"] == "words" and row["unreadable"]:
        yield f"{row['unreadable']} of {about['images']} answers name no class of the set and count as wrong"
