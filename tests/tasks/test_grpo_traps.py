"""Round 3 from a model that sees, knows the form of an answer, and nothing of emotions: what it learns by rewards alone, and by looking."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.demo.world import World
from data_prep.export import write_shards
from emo_lightning.data.chat import OBJECTIVES, parse_answer
from emo_lightning.data.conversations import ConversationDataModule
from emo_lightning.data.tar_index import TarIndex
from emo_lightning.metrics.arrays import Array
from emo_lightning.metrics.rewards import ReadReplies
from emo_lightning.models.backbone import Backbone
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.models.loading import load_frozen
from emo_lightning.models.sampling import Sampling
from emo_lightning.tasks.grpo_config import GRPOConfig, Rewards
from emo_lightning.tasks.grpo_rewards import counterfactual, emotion_probabilities
from emo_lightning.tasks.optim import OptimConfig
from emo_lightning.tasks.sft import SFTTask
from tests.made import write_world
from tests.tasks.test_grpo import Seen, data, fit, tars, task_of
from tests.tasks.test_sft import trainer

IMAGES = 8


class Round:
    """A round 3 of `IMAGES` images.

    Attributes:
        before: the model that it began with.
        after: the model that it ended with.
        seen: what was logged.
        index: its images.
    """

    def __init__(self, folder: Path) -> None:
        world = write_world(folder / "world", train=IMAGES, val=4)
        self.before = speaks_at_random(folder, world)
        optim = OptimConfig(lr=7e-4, warmup=0.0, schedule="constant", weight_decay=0.0)
        task = task_of(
            self.before,
            grpo=GRPOConfig(algorithm="dr_grpo", kl_weight=0.0),
            optim=optim,
            sampling=Sampling(replies=16, max_new_tokens=12),
            rewards=Rewards(emotion=1.0, format=0.1),
        )
        self.seen: Seen = fit(task, data(world, others={}, limit=None, batch_size=IMAGES), folder / "run", max_steps=20)[0]
        self.after = folder / "run/model"
        self.index = TarIndex.open(tars(world, "train"))


def speaks_at_random(folder: Path, world: Path) -> Path:
    """The base that comes with the package, fine-tuned on emotions that are those of other images."""
    samples = list(World(seed=0).samples("train", 400))
    emotions = [sample.truth.emotion for sample in samples]
    random.Random(0).shuffle(emotions)
    mixed = (
        (s.truth.model_copy(update={"emotion": emotion}), s.image, s.extension)
        for s, emotion in zip(samples, emotions, strict=True)
    )
    write_shards(mixed, folder / "mixed", "world", 400)
    torch.manual_seed(0)
    task = SFTTask(BackboneConfig("emo-lightning/tiny-base", tuning="full"), OptimConfig(lr=3e-3))
    source = ConversationDataModule(tars(folder / "mixed", "train"), tars(world, "val"), {"emotion": 1.0}, batch_size=8)
    trainer(folder / "round2", max_steps=60, max_epochs=-1, limit_val_batches=0, gradient_clip_val=1.0).fit(
        task, datamodule=source
    )
    return folder / "round2/model"


@pytest.fixture(scope="module")
def round3(tmp_path_factory: pytest.TempPathFactory) -> Round:
    return Round(tmp_path_factory.mktemp("round3"))


def test_it_learns_more_than_the_form_and_the_best_constant_answer(round3: Round) -> None:
    emotions = Counter(str(round3.index.record(row).emotion) for row in range(IMAGES))
    best = max(emotions.values()) / IMAGES
    right = round3.seen.of("reward/emotion")
    assert np.mean(round3.seen.of("reward/format")[:3]) > 0.6
    assert np.mean(right[:2]) < best
    assert np.mean(right[-3:]) > best + 0.2


def test_a_judge_that_does_not_look_earns_nothing(round3: Round) -> None:
    """Of one that looks, another picture lowers what it makes of an answer; one that always says the same is worth nothing as a judge."""
    looks, knows_nothing, blind = (
        load_frozen(BackboneConfig(str(path))) for path in (round3.after, round3.before, round3.after)
    )
    with torch.no_grad():
        for name, parameter in blind.named_parameters():
            if blind.part_of(name) == "merger":
                parameter.zero_()
    assert falls(looks, round3.index).mean() > 0.15
    assert abs(falls(knows_nothing, round3.index).mean()) < 0.05
    assert np.abs(falls(blind, round3.index)).max() <= 1e-6
    assert earned(looks, round3.index).mean() > 0.02
    assert np.abs(earned(blind, round3.index)).max() <= 1e-6


def falls(judge: Backbone, index: TarIndex) -> Array:
    """(images,): by how much the probability of an image's emotion falls before a picture of another emotion, and of the same size."""
    pictures = [index.image(row) for row in range(IMAGES)]
    truth = np.array([emotion.position for row in range(IMAGES) if (emotion := index.record(row).emotion)])
    # By its size alone a policy may know a picture again.
    others = [
        pictures[next(n for n in range(IMAGES) if truth[n] != truth[row])].resize(pictures[row].size) for row in range(IMAGES)
    ]
    p = emotion_probabilities(judge, [*pictures, *others])[range(2 * IMAGES), np.tile(truth, 2)]
    found: Array = p[:IMAGES] - p[IMAGES:]
    return found


def earned(judge: Backbone, index: TarIndex) -> Array:
    """(images,): of the right emotion and the true box."""
    records, pictures = [index.record(row) for row in range(IMAGES)], [index.image(row) for row in range(IMAGES)]
    texts = [
        json.dumps({"bbox_2d": [list(one.bbox) for one in record.objects], "emotion": str(record.emotion), "intensity": 5})
        for record in records
    ]
    read = [
        parse_answer(text, id="a", original=picture.size, resized=picture.size, codec=judge.family.codec)
        for text, picture in zip(texts, pictures, strict=True)
    ]
    return counterfactual(ReadReplies(read, records, OBJECTIVES["explain"].keys), judge, pictures)
