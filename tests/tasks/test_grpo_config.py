"""Settings of round 3 that mean nothing are refused where they are written."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emo_lightning.core.errors import InputError
from emo_lightning.data.rollouts import RolloutDataModule
from emo_lightning.models.backbone_config import BackboneConfig
from emo_lightning.tasks.grpo import GRPOTask
from emo_lightning.tasks.grpo_config import GRPOConfig, Rewards


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GRPOConfig(algorithm="ppo"), r"grpo\.algorithm: found 'ppo'; allowed: grpo, dr_grpo, dapo, gspo"),  # type: ignore[arg-type]
        (lambda: GRPOConfig(kl_weight=-1), r"grpo\.kl_weight: found -1; expected at least 0"),
        (lambda: GRPOConfig(clip_dual=0.5), r"grpo\.clip_dual: found 0\.5; expected at least 1"),
        (lambda: GRPOConfig(tolerance=-0.1), r"grpo\.tolerance: found -0\.1; expected at least 0"),
        (
            lambda: GRPOTask(BackboneConfig("none"), grpo=GRPOConfig(tolerance=1.0)),
            r"tolerance: found 1, and no weight of model\.rewards is above 1; all replies",
        ),
        (lambda: GRPOConfig(sample_every=0), r"grpo\.sample_every: found 0; expected 1 to 1000"),
        (lambda: GRPOConfig(cut="drop"), "allowed: keep, leave_out"),  # type: ignore[arg-type]
        (lambda: GRPOConfig(labels_floor=2), r"grpo\.labels_floor"),
        (lambda: Rewards(emotion=0, format=0), "rewards: every weight is 0; set one of emotion, valence_arousal"),
        (lambda: Rewards(emotion=-1), r"rewards\.emotion: found -1"),
        (lambda: Rewards(divergence=0.3), r"rewards\.divergence: found 0\.3 without rewards\.lexicon"),
        (lambda: Rewards(valence_arousal=1), r"without rewards\.anchors, which it is measured by"),
        (lambda: Rewards(box=1).check_keys(("emotion",), "emotion"), r"'emotion' asks for no 'bbox_2d' \(keys: emotion\)"),
        (lambda: RolloutDataModule(["a"], ["b"], {"val": ["c"]}), r"data\.others: found the name 'val', which is taken"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()
