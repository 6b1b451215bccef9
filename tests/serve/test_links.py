"""Words of a sentence and what they stand for."""

from __future__ import annotations

import pytest

from emo_lightning.inference.results import Region, Said
from emo_lightning.serve.links import linked


def said(text: str | None, *phrases: str | None, subject: str | None = None, **parts: str) -> Said:
    regions = tuple(Region(phrase, (0, 0, 1, 1)) for phrase in phrases)
    given = {"background": None, "attribute": None, **parts}
    return Said(text, given["background"], given["attribute"], subject, None, None, regions)


@pytest.mark.parametrize(
    ("text", "phrases", "subject", "named"),
    [
        ("A dog on a beach.", ("dog",), None, {"dog": (0,)}),
        ("Two DOGS, and a box!", ("dog", "boxes"), None, {"DOGS": (0,), "box": (1,)}),
        ("The old man and the sea", ("an old man",), None, {"old man": (0,)}),
        ("A dog and a dog", ("dog",), None, {"dog": (0,)}),
        ("A cat", ("dog",), None, {}),
        ("A dog", (None, "puppy"), "dog", {"dog": (0, 1)}),
        ("A hot dog stand", ("hot dog", "dog stand"), None, {"hot": (0,), "dog": (0, 1), "stand": (1,)}),
        ("Glass on a church", ("glasses", "churches"), None, {"Glass": (0,), "church": (1,)}),
        ("", ("dog",), None, {}),
        ("犬が走る 🐕 dog", ("dog",), None, {"dog": (0,)}),
    ],
)
def test_a_phrase_is_found_as_it_is_or_by_its_words(
    text: str, phrases: tuple[str | None, ...], subject: str | None, named: dict[str, tuple[int, ...]]
) -> None:
    pieces = linked(said(text, *phrases, subject=subject))
    assert "".join(piece.text for piece in pieces) == text, "nothing is added or lost"
    assert {piece.text: piece.regions for piece in pieces if piece.regions} == named


def test_parts_of_the_triplet_are_named_and_stand_for_a_sentence_that_is_missing() -> None:
    pieces = linked(said("A dog runs on a beach", "dog", subject="dog", background="beach", attribute="runs"))
    assert {piece.text: piece.parts for piece in pieces if piece.parts} == {
        "dog": ("subject",),
        "runs": ("attribute",),
        "beach": ("background",),
    }
    alone = linked(said(None, "dog", subject="dog", background="beach"))
    assert "".join(piece.text for piece in alone) == "beach – dog"
    assert linked(said(None)) == []
