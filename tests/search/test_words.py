"""A text as a question: which images stand for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.search import Filters, SearchIndex
from emo_lightning.search.words import MAX_WORD_EXAMPLES, of_words, parts_of
from tests.search.planted import planted, write


def test_the_images_whose_words_match_stand_for_a_triplet(index: SearchIndex) -> None:
    found = of_words(index, "beaches - runs - cats", Filters(emotion="awe"))
    assert len(found.examples) == MAX_WORD_EXAMPLES
    for name in found.examples:
        hit = index.get(name)
        assert hit.emotion == "awe"
    triplets = {str(index.get(name).triplet) for name in found.examples[:3]}
    assert triplets == {"beach - running - old cat"}
    hits = index.search(found.vector, 10)
    assert {(hit.emotion, hit.record["background"]) for hit in hits} == {("awe", "beach")}
    assert 0 < found.score <= 1


def test_parts_may_be_left_open(index: SearchIndex) -> None:
    assert parts_of("street - ? - people") == {"background": "street", "subject": "people"}
    assert parts_of("a well-known street – crowded — ?") == {"background": "a well-known street", "attribute": "crowded"}
    assert parts_of("dog") == dict.fromkeys(("background", "attribute", "subject"), "dog")
    assert {index.get(name).record["subject"] for name in of_words(index, "dog").examples} == {"dog"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("volcano", "'volcano': no image of .* has one of these words .* 800 of 800 images have any words there"),
        ("a - b", "2 parts; expected BACKGROUND - ATTRIBUTE - SUBJECT"),
        ("a - b - c - d", "4 parts"),
        ("? - ? - ?", "no words in it"),
        (" ", "no words in it"),
        ("the - the - the", "has one of these words"),
    ],
)
def test_what_says_nothing(index: SearchIndex, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        of_words(index, text)


def test_an_index_without_words(tmp_path: Path) -> None:
    write(tmp_path, planted(16, words=False))
    with pytest.raises(InputError, match="0 of 16 images have any words there"):
        of_words(SearchIndex.open(tmp_path), "street")
