"""One image through annotators, cross-verification and critic, over real HTTP, with replies that are written down here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from data_prep.demo.config import DemoConfig
from data_prep.demo.simulation.serve import KEY_VARIABLE
from data_prep.export import export_store
from data_prep.export.earlier import ExportError
from data_prep.store.store import Store
from emo_lightning.core.records import Emotion, Record
from tests.data_prep.serving import completion, import_toys, run_pass, send, server

FULL = {
    "description": "first words",
    "background": "beach",
    "attribute": "running",
    "subject": "dog",
    "emotion": "awe",
    "confidence": 0.9,
    "intensity": 5,
}
ALL_VALID = {f"{field}_verdict": "valid" for field in ("description", "triplet", "emotion", "intensity")}


def inspection(overall: str = "valid", own: str = "awe", instructions: str = "", **verdicts: str) -> dict[str, str]:
    """A reply of the critic; `own` is the emotion that it would give."""
    steps = {step: f"about the {step}" for step in ("scene", "description_check", "triplet_check", "emotion_check")}
    judged = ALL_VALID | {f"{field}_verdict": verdict for field, verdict in verdicts.items()}
    return {**steps, **judged, "emotion": own, "intensity_level": "medium", "overall": overall, "instructions": instructions}


class Run:
    """What came of one image, and what was asked.

    Args:
        said: replies by model, in the order of the questions; the last one is given again and again.
    """

    def __init__(
        self, root: Path, write_config: Callable[..., Path], toys: list, said: dict[str, list[dict[str, Any]]]
    ) -> None:
        vote = {"emotion": "awe", "confidence": 0.9}
        said = {"sim-gpt": [FULL], "sim-gemini": [FULL], "sim-emovit": [vote], "sim-critic": [inspection()], **said}
        asked: Counter[str] = Counter()

        def answer(handler: BaseHTTPRequestHandler, body: dict) -> None:
            replies = said[body["model"]]
            reply = replies[min(asked[body["model"]], len(replies) - 1)]
            asked[body["model"]] += 1
            send(handler, 200, completion(json.dumps(reply)))

        import_toys(root, toys[:1])
        with server(answer) as (url, seen):
            self.report = run_pass(root, DemoConfig.load(write_config()), url)
        self.prompts: dict[str, list[str]] = {model: [] for model in said}
        for body in seen:
            texts = [part["text"] for part in body["messages"][-1]["content"] if part["type"] == "text"]
            self.prompts[body["model"]].append("\n".join(texts))
        with Store(root, write=False) as store:
            ((item, self.outcome),) = store.ledger.outcomes()
            self.exported = sum(self._export(store, root / "tars").values())
        self.record = Record.from_json(self.outcome.record, item.id)
        self.lineage: dict[str, Any] = self.record.provenance

    def _export(self, store: Store, tars: Path) -> dict[str, int]:
        if self.outcome.state == "valid":
            return export_store(store, tars, "toy")["counts"]
        with pytest.raises(ExportError, match="no record to export"):
            export_store(store, tars, "toy")
        return {}


@pytest.fixture
def run(tmp_path: Path, write_config: Callable[..., Path], toys: list, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    monkeypatch.setenv(KEY_VARIABLE, "x")
    return lambda **said: Run(
        tmp_path / "store", write_config, toys, {f"sim-{model}": replies for model, replies in said.items()}
    )


def test_instructions_go_to_who_can_follow_them_and_change_what_was_criticised(run: Callable[..., Run]) -> None:
    second = {
        **FULL,
        "subject": "wolf",
        "attribute": "howling",
        "description": "other words",
        "intensity": 9,
        "emotion": "fear",
    }
    asks = inspection("revisable", instructions="It is a wolf, and it howls.", triplet="revisable")
    done = run(gpt=[FULL, second], critic=[asks, inspection()])
    assert {model: len(prompts) for model, prompts in done.prompts.items()} == {
        "sim-gpt": 2,
        "sim-gemini": 1,
        "sim-emovit": 1,
        "sim-critic": 2,
    }, "the words are the preferred annotator's"
    request = done.prompts["sim-gpt"][1]
    assert "It is a wolf, and it howls." in request
    assert "Fields to change: triplet\n" in request
    assert '"description":"first words"' in request, "its own annotation"
    assert "It is a wolf" not in done.prompts["sim-gpt"][0]
    assert '"subject": "wolf"' in done.prompts["sim-critic"][1]
    record = done.record
    assert (done.outcome.state, done.outcome.revisions, done.exported) == ("valid", 1, 1)
    assert (record.subject, record.attribute, record.background) == ("wolf", "howling", "beach")
    assert (record.description, record.intensity, record.emotion) == ("first words", 5, Emotion.AWE), (
        "a second look spoils nothing"
    )
    assert [(row["annotator"], row["round"]) for row in done.lineage["said"]] == [
        ("critic", 0),
        ("emovit", 0),
        ("gemini", 0),
        ("gpt", 0),
        ("critic", 1),
        ("gpt", 1),
    ]
    assert [row["verdict"] for row in done.lineage["critic"]] == ["revisable", "valid"]
    first = done.lineage["critic"][0]
    assert first["instructions"] == "It is a wolf, and it howls."
    assert first["triplet_check"] == "about the triplet_check", "the chain of thought is kept"


def test_a_criticised_emotion_is_pooled_again(run: Callable[..., Run]) -> None:
    asks = inspection("revisable", own="fear", instructions="It frightens.", emotion="revisable")
    again = {**FULL, "emotion": "fear", "confidence": 0.95, "subject": "cat"}
    done = run(
        gpt=[FULL, again], gemini=[FULL, again], emovit=[{"emotion": "awe", "confidence": 0.5}], critic=[asks, inspection()]
    )
    assert {model: len(prompts) for model, prompts in done.prompts.items()} == {
        "sim-gpt": 2,
        "sim-gemini": 2,
        "sim-emovit": 1,
        "sim-critic": 2,
    }, "both that describe; a classifier has nothing to reconsider"
    assert done.record.emotion is Emotion.FEAR
    assert done.record.subject == "dog"
    assert done.record.confidence is not None
    assert done.record.emotion_scores is not None
    assert done.record.emotion_scores[Emotion.FEAR] == done.record.confidence > 0.5


def test_three_revisions_then_a_human(run: Callable[..., Run]) -> None:
    done = run(critic=[inspection("revisable", instructions="Look again.", description="revisable")])
    assert {model: len(prompts) for model, prompts in done.prompts.items()} == {
        "sim-gpt": 4,
        "sim-gemini": 1,
        "sim-emovit": 1,
        "sim-critic": 4,
    }
    assert len(set(done.prompts["sim-critic"])) == 4, (
        "the same words again are another question, never an answer from the cache"
    )
    assert (done.outcome.state, done.outcome.revisions) == ("human", 3)
    assert done.lineage["reason"] == "still revisable after the last revision"
    assert len(done.lineage["critic"]) == 4
    assert done.record.subject == "dog", "what there is waits for the human"
    assert done.exported == 0


def test_what_the_critic_discards_is_asked_no_more(run: Callable[..., Run]) -> None:
    done = run(critic=[inspection("discarded", instructions="A blank page.", triplet="revisable")])
    assert (done.outcome.state, done.outcome.revisions, len(done.prompts["sim-gpt"])) == ("discarded", 0, 1)
    assert done.lineage["critic"][0]["instructions"] == "A blank page."
    assert done.exported == 0


def test_close_votes_are_decided_by_the_critic_and_clear_ones_are_not(run: Callable[..., Run]) -> None:
    fear = {**FULL, "emotion": "fear", "confidence": 0.6}
    awe = {**FULL, "emotion": "awe", "confidence": 0.55}
    votes = {"gpt": [fear], "gemini": [awe], "emovit": [{"emotion": "contentment", "confidence": 0.125}]}
    done = run(**votes, critic=[inspection(own="awe")])
    assert done.lineage["pool"]["contested"] is True
    assert done.lineage["pool"]["margin"] < 0.2
    assert done.record.emotion is Emotion.AWE
    assert done.lineage["pool"]["agreement"] == pytest.approx(0.3), "gemini's weight: it alone had named what the critic chose"
    assert done.record.emotion_scores is not None
    assert done.record.confidence == max(done.record.emotion_scores.values())
    assert '"contested": true' in done.prompts["sim-critic"][0]


def test_an_accepted_pool_stands_whatever_the_critic_would_say(run: Callable[..., Run]) -> None:
    done = run(critic=[inspection(own="fear")])
    assert done.lineage["pool"]["contested"] is False
    assert (done.outcome.state, done.record.emotion) == ("valid", Emotion.AWE)
    assert '"contested": false' in done.prompts["sim-critic"][0]
