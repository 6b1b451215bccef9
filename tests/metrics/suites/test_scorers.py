"""Each published scorer's rules on made-up replies that tell it from the others, and from ours."""

from __future__ import annotations

import pytest

from emo_lightning.metrics.suites import eemo_bench, eemo_logic, emobserver, emocaliber, own

EIGHT = ["amusement", "awe", "contentment", "excitement", "anger", "disgust", "fear", "sadness"]
OPTIONS = {"A": "Neutral", "B": "Fear", "C": "Sadness", "D": "Joy"}
PROMPT = f"Which emotion is common to both? {OPTIONS}"


@pytest.mark.parametrize(
    ("reply", "caliber", "overall", "observer", "ours"),
    [
        ("<answer>fear</answer>", "fear", "fear", "fear", "fear"),
        # A thought counts in EmoCaliber's overall alone.
        ("<think>awe, or fear?</think><answer>Fear</answer>", "fear", "awe", "fear", "fear"),
        # Nothing is found: unknown, the first candidate, and none.
        ("<answer>dread</answer>", "unknown", "unknown", "amusement", None),
        ("", "unknown", "unknown", "amusement", None),
        # Two are named: the earlier in the list of candidates, or none.
        ("<answer>sadness rather than anger</answer>", "anger", "anger", "anger", None),
        # A candidate within a word.
        ("<answer>awesome</answer>", "awe", "awe", "awe", None),
        # An answer over two lines is none to EmoCaliber, which searches the whole reply.
        ("<think>awe</think><answer>\nfear\n</answer>", "awe", "awe", "fear", "fear"),
        ("<think>awe</think><answer></answer>", "awe", "awe", "amusement", None),
        # Two answers: the first, or the last.
        ("<answer>fear</answer> No: <answer>sadness</answer>", "fear", "fear", "fear", "sadness"),
        # No tags: behind the thought, or anywhere.
        ("<think>awe comes first</think> I choose sadness.", "awe", "awe", "sadness", "sadness"),
        ("<answer>disgust", "disgust", "disgust", "disgust", "disgust"),
    ],
)
def test_one_of_eight(reply: str, caliber: str, overall: str, observer: str, ours: str | None) -> None:
    assert emocaliber.choice(reply, EIGHT) == caliber
    assert emocaliber.overall_choice(reply, EIGHT) == overall
    assert emobserver.candidate(reply, EIGHT) == observer
    assert own.candidate(reply, EIGHT) == ours


def test_capital_letters_and_parts_of_candidates() -> None:
    candidates = ["Joy", "Joy of life"]
    # EmoCaliber's overall searches small letters for a capital one.
    assert emocaliber.choice("<answer>Joy</answer>", candidates) == "joy"
    assert emocaliber.overall_choice("<answer>Joy</answer>", candidates) == "unknown"
    assert emocaliber.is_right("joy", "Joy")
    assert not emocaliber.is_right("unknown", "Joy")
    assert emobserver.candidate("<answer>joy of life</answer>", candidates) == "Joy"
    assert own.candidate("<answer>joy of life</answer>", candidates) == "Joy of life"


@pytest.mark.parametrize(
    ("reply", "observer", "ours"),
    [
        ("<answer>Correct</answer>", "A", "correct"),
        ("<answer>Incorrect</answer>", "B", "incorrect"),
        ("The statement is not correct.", "A", "incorrect"),
        ("<answer>A</answer>", "A", "correct"),
        ("<answer>B</answer>", "B", "incorrect"),
        # Any capital A anywhere.
        ("<answer>All right: B.</answer>", "A", "incorrect"),
        ("the answer is b", "B", None),
        ("a picture of joy", "A", None),
        ("<answer>true</answer>", "C", "correct"),
        ("<answer>It is false</answer>", "C", "incorrect"),
        ("<answer>correct, or incorrect</answer>", "B", None),
        ("", "C", None),
    ],
)
def test_statements(reply: str, observer: str, ours: str | None) -> None:
    assert emobserver.verdict(reply) == observer
    assert own.verdict(reply) == ours


def test_a_verdict_that_is_given_up_is_never_right() -> None:
    assert emobserver.verdict_is_right("A", " Correct ")
    assert emobserver.verdict_is_right("B", "incorrect")
    assert not emobserver.verdict_is_right("C", "correct")
    assert not emobserver.verdict_is_right("C", "incorrect")


@pytest.mark.parametrize(
    ("reply", "truth", "observer", "ours"),
    [
        ("D: Joy", "D", "D", "D"),
        ("D", "D", "D", "D"),
        # Capital letters of other words come first: the kind of reply for which GPT-4o has 36.9 instead of 61.5.
        ("Both images are joyful. The answer is D: Joy.", "D", "B", "D"),
        ("In Both pictures, the Common emotion is D.", "D", "B", "D"),
        ("**D: Joy**\n\nA smile is in both.", "D", "A", "D"),
        # Nothing that is a letter: A, the text of an option, or none.
        ("joy", "A", "A", "D"),
        ("happiness", "A", "A", None),
        ("", "A", "A", None),
        # The text of the true option counts where the answer stands between tags.
        ("<answer>Joy, and not A</answer>", "D", "D", "D"),
        ("<answer>not Joy but Fear</answer>", "D", "D", None),
        ("not Joy but Fear", "D", "A", None),
        ("I weigh A, then B; so it is option C.", "C", "A", "C"),
    ],
)
def test_options(reply: str, truth: str, observer: str, ours: str | None) -> None:
    assert emobserver.option(reply, truth, PROMPT) == observer
    assert own.option(reply, OPTIONS) == ours


@pytest.mark.parametrize("prompt", ["no options", "{'A': 'Joy'", "{A: Joy}", "{1, 2}", '{"D": "Joy"}', "{'D': 'Joy'}"])
def test_options_that_a_prompt_does_not_give_are_letters(prompt: str) -> None:
    said = emobserver.option("<answer>Joy: B</answer>", "D", prompt)
    assert said == ("D" if "'D'" in prompt or '"D"' in prompt else "B")


def test_options_that_stand_beside_the_prompt_are_read_where_it_lists_none() -> None:
    asked = "Choose between one of the following options: A:Neutral B:Fear C:Sadness D:Joy"
    assert emobserver.option("<answer>Joy</answer>", "D", asked, OPTIONS) == "D"
    assert emobserver.option("Joy", "D", asked, OPTIONS) == "A"
    assert emobserver.option("<answer>Joy</answer>", "D", "{'D': 'Fear'}", OPTIONS) == "A"


def test_stated_confidence() -> None:
    assert emocaliber.confidence("<confidence>{0.85}</confidence>") == own.confidence("<confidence>{0.85}</confidence>") == 0.85
    assert emocaliber.confidence("sure") is own.confidence("sure") is None
    # As it stands there, and as what it means.
    assert (emocaliber.confidence("<confidence>85</confidence>"), own.confidence("<confidence>85</confidence>")) == (85.0, None)
    assert own.confidence("<confidence>85%</confidence>") == 0.85
    with pytest.raises(emocaliber.NoNumberError):
        emocaliber.confidence("<confidence>high</confidence>")


def test_rankings() -> None:
    truth = ["joy", "neutral", "surprise"]
    # EEmo-Logic's worked example: the first and the third, in order.
    assert (
        eemo_logic.ranking_score(truth, ["joy", "surprise", "fear"])
        == own.ranking_score(truth, ["joy", "surprise", "fear"])
        == 0.6833
    )
    assert eemo_logic.ranking_score(truth, truth) == own.ranking_score(truth, truth) == 1.0
    assert eemo_logic.ranking_score(truth, ["surprise", "joy"]) == own.ranking_score(truth, ["surprise", "joy"]) == 0.35
    assert eemo_logic.ranking_score(truth, ["neutral", "fear", "anger"]) == 0.15
    assert eemo_logic.ranking_score(truth, []) == own.ranking_score(truth, []) == 0.0
    # Another word for an emotion has a place in the order, and no hit.
    assert eemo_logic.ranking_score(truth, ["joyful", "surprise"]) == pytest.approx(0.10 + 0.3333)
    # Of three, theirs compares places in the alphabet: one pair is turned round, and all three count as if.
    turned = ["joy", "surprise", "neutral"]
    assert eemo_logic.ranking_score(["surprise", "joy", "neutral"], turned) == 0.5
    assert own.ranking_score(["surprise", "joy", "neutral"], turned) == pytest.approx(0.5 + 0.3333)


def test_what_a_reply_ranks_and_rates() -> None:
    seven = ["joy", "anger", "disgust", "sadness", "surprise", "fear", "neutral"]
    said = "<think>fear?</think><answer>Emotion ranking: Joy, Neutral, Surprise</answer>"
    assert eemo_logic.ranking(said) == own.ranking(said, seven) == ["joy", "neutral", "surprise"]
    assert eemo_logic.ranking("[Joy, Neutral, Surprise]") == []
    assert own.ranking("[Joy, Neutral, Surprise], not fear", seven) == ["joy", "neutral", "surprise"]
    assert eemo_logic.attribute("<answer>Valence: 0.71</answer>") == own.number("<answer>Valence: 0.71</answer>") == 0.71
    # The first character behind the colon is not read.
    assert (eemo_logic.attribute("<answer>Valence:12</answer>"), own.number("<answer>Valence:12</answer>")) == (2.0, 12.0)
    assert eemo_logic.attribute("0.71") is None
    assert own.number("0.71") == 0.71
    assert own.number("between 0.2 and 0.4") is None


def test_judgements() -> None:
    assert eemo_bench.description_score([2, 2, 1, 2, 1]) == 80.0
