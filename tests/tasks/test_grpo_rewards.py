"""Rewards as a training adds them up: what is worth nothing, by the weights that are shipped, and those that look at the picture again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from emo_lightning.core.records import EMOTIONS
from emo_lightning.data.batches import ReplyTargets
from emo_lightning.data.chat import OBJECTIVES, parse_answer
from emo_lightning.data.images import masked
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.experiment.files import ROOT
from emo_lightning.experiment.resolve import load_experiment
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.emotion_space import Anchors
from emo_lightning.metrics.rewards import ReadReplies
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.loading import load_frozen
from emo_lightning.models.sampling import Sampling
from emo_lightning.tasks.grpo_config import Rewards
from emo_lightning.tasks.grpo_rewards import Judge, counterfactual, emotion_probabilities
from tests.made import make_record
from tests.tasks.test_grpo import data, fit, tars, task_of
from tests.worded import worded_qwen  # noqa: F401 - fixture

LIST = json.dumps(list(map(str, EMOTIONS)))


@pytest.fixture(scope="module")
def policy(worded_qwen: Path) -> Backbone:  # noqa: F811
    return load_frozen(BackboneConfig(str(worded_qwen)))


def shipped(experiment: str, stage: str) -> tuple[Rewards, str]:
    """Weights of a stage, and what it asks."""
    stages = {one.name: one.config for one in load_experiment(ROOT / f"experiments/{experiment}.yaml").stages}
    said: dict[str, Any] = dict(stages[stage]["model"]["rewards"])
    if said.get("anchors"):
        said["anchors"] = Anchors(**said["anchors"])
    return Rewards(**said), stages[stage]["data"]["objective"]


def totals(rewards: Rewards, objective: str, texts: list[str], policy: Backbone) -> Array:
    """(N,) of replies to one image."""
    record = make_record("a", [(10, 10, 60, 40)], emotion="awe", intensity=5)
    size = (record.width, record.height)
    read = [parse_answer(text, id="a", original=size, resized=size, codec=policy.family.codec) for text in texts]
    judge = Judge(rewards)
    answers = ReadReplies(read, [record] * len(texts), OBJECTIVES[objective].keys)
    return judge.total(judge.parts(answers, policy, ReplyTargets([record], [Image.new("RGB", size, "teal")]), [0] * len(texts)))


WEIGHTS = {
    "round3": ("round3", "rl-grpo-0"),
    "round3 near": ("round3", "rl-near-0"),
    "emo_r3": ("emo_r3", "round3"),
    "all that can be judged": None,
}


@pytest.mark.parametrize("weights", WEIGHTS)
def test_a_reply_that_leaves_the_emotion_open_is_worth_nothing(weights: str, policy: Backbone) -> None:
    """In the sum: what is beside the emotion would else pay for naming none, or several."""
    if (named := WEIGHTS[weights]) is not None:
        rewards, objective = shipped(*named)
    else:
        anchors = shipped("round3", "rl-near-0")[0].anchors
        rewards = Rewards(1.0, valence_arousal=0.3, format=0.1, box=0.2, intensity=0.1, counterfactual=0.1, anchors=anchors)
        objective = "explain"

    def saying(emotion: str, intensity: int = 5) -> str:
        return f'{{"bbox_2d": [[10, 10, 60, 40]], "emotion": {emotion}, "intensity": {intensity}}}'

    awe, fear = saying('"awe"'), saying('"fear"')
    nothing = {
        "empty": "",
        "no emotion": '{"bbox_2d": [[10, 10, 60, 40]], "intensity": 5}',
        "null": saying("null"),
        "an empty text": saying('""'),
        "none of the eight": saying('"happiness"'),
        "a number": saying("3"),
        "a list of all": saying(LIST),
        "a list of one": saying('["awe"]'),
        "a text of all": saying(json.dumps(", ".join(EMOTIONS))),
        "two in a text": saying('"awe or fear"'),
        "two objects, the last wrong": f"{awe}\n{fear}",
        "two objects, the last right": f"{fear}\n{awe}",
        "all eight, the last right": "\n".join(saying(f'"{one}"') for one in sorted(EMOTIONS, key="awe".__eq__)),
        "a list of two objects": f"[{fear}, {awe}]",
        "a list, and an answer": f"[{fear}, {awe}]\n{awe}",
        "within an object": f'{{"answers": [{fear}, {awe}]}}',
        "within an object, and an answer": f'{{"draft": {{"answers": [{fear}, {fear}]}}}} {awe}',
        "the key twice": '{"bbox_2d": [[10, 10, 60, 40]], "emotion": "fear", "emotion": "awe", "intensity": 5}',
        "the key twice, and an answer": f'{{"emotion": "fear", "Emotion": "awe"}} {awe}',
        "in two spellings": '{"bbox_2d": [[10, 10, 60, 40]], "emotion": "fear", "Emotion": "awe", "intensity": 5}',
        "in fences": f"```json\n{fear}\n```\n```json\n{awe}\n```",
    }
    found = dict(zip(nothing, totals(rewards, objective, list(nothing.values()), policy), strict=True))
    assert found == dict.fromkeys(nothing, 0.0)
    # And what does not: a wrong emotion, the same one twice, a draft in thinking, words around it.
    some = [awe, fear, f"{awe}\n{awe}", f"<think>{fear}</think>{awe}", f"fear? {awe}", saying('" Awe"')]
    right, wrong, *others = totals(rewards, objective, some, policy).tolist()
    assert right > wrong >= rewards.intensity + rewards.box - 0.1 * (rewards.counterfactual > 0)
    assert all(one > 0.4 for one in others)


@pytest.mark.parametrize("weights", ["round3", "round3 near"])
def test_the_best_reply_is_worth_all_weights(weights: str, policy: Backbone) -> None:
    """But for the expected distance from an annotated distribution, which is 0 here."""
    rewards, objective = shipped(*WEIGHTS[weights] or ("", ""))
    (found,) = totals(rewards, objective, ['{"emotion": "awe", "intensity": 5}'], policy)
    assert found == pytest.approx(sum(rewards.parts.values()))


# Rewards that look again


def test_covering_what_does_not_matter_is_worth_nothing(policy: Backbone, world_tars: Path) -> None:
    """A policy that says the same whatever it sees earns nothing by it, and a picture in which nothing is hidden neither."""
    index = TarIndex.open(tars(world_tars, "train"))
    picture = index.image(0)
    plain = Image.new("RGB", picture.size, (90, 90, 90))
    box = [5, 5, picture.width // 2, picture.height // 2]
    said = {"bbox_2d": [box], "emotion": "awe", "intensity": 5}
    texts = [json.dumps(said), json.dumps(said | {"bbox_2d": []}), json.dumps(said | {"emotion": "joy"}), json.dumps(said)]
    codec = policy.family.codec
    read = [parse_answer(text, id="a", original=picture.size, resized=picture.size, codec=codec) for text in texts]
    answers = ReadReplies(read, [make_record("a", emotion="awe")] * 4, OBJECTIVES["explain"].keys)
    found = counterfactual(answers, policy, [picture, picture, picture, plain])
    covered = masked(picture, (box[0], box[1], box[2], box[3]), "mean")
    p = emotion_probabilities(policy, [picture, covered])[:, EMOTIONS.index("awe")]
    share = (box[2] - box[0]) * (box[3] - box[1]) / (picture.width * picture.height)
    assert found[0] == pytest.approx((p[0] - p[1]) * (1 - share), abs=1e-6)
    assert found[0] != 0
    assert found[1:3].tolist() == [0, 0]
    assert found[3] == pytest.approx(0, abs=1e-6)


def test_the_pictures_are_there_for_a_reward_that_looks_again(worded_qwen: Path, world_tars: Path, tmp_path: Path) -> None:  # noqa: F811
    task = task_of(
        worded_qwen, rewards=Rewards(emotion=1.0, counterfactual=0.1), sampling=Sampling(replies=2, max_new_tokens=16)
    )
    seen, _ = fit(task, data(world_tars, objective="explain", limit=4), tmp_path, max_steps=1)
    assert -1 <= seen.logged[0]["reward/counterfactual"] <= 1
