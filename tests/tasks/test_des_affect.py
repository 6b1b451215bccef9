"""`model.va_weight`: valence and arousal are learnt from people's ratings and, where there are none, from anchors; what is kept of it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from emo_lightning.core.errors import InputError
from emo_lightning.core.records import EMOTIONS
from emo_lightning.data.feature_module import FeatureDataModule
from emo_lightning.data.feature_rows import FeatureRows
from emo_lightning.data.features import FeatureCache, FeatureWriter
from emo_lightning.data.sampler import Slot
from emo_lightning.data.supervision import Supervision
from emo_lightning.metrics.emotion_space import read_anchors
from emo_lightning.models.affect import AffectHead
from emo_lightning.models.des import DESHead
from emo_lightning.tasks.des import DESHeadArgs, DESTask
from emo_lightning.tasks.optim import OptimConfig
from tests.tasks.test_des_probe import HIDDEN, LAYERS, trainer_of

ANCHORS = read_anchors("ddes")


def _cache(folder: Path, count: int, *, rated: bool) -> str:
    """Images whose class is a direction; where they are rated, people say what the anchors say."""
    directions = torch.randn(8, HIDDEN, generator=torch.Generator().manual_seed(99))
    generator = torch.Generator().manual_seed(count)
    with FeatureWriter(folder, LAYERS, HIDDEN, torch.float32, "toy") as writer:
        for i in range(count):
            hidden = torch.randn(LAYERS, 4, HIDDEN, generator=generator) + 2 * directions[i % 8]
            target = [float(c == i % 8) for c in range(8)]
            affect = [*ANCHORS.points[str(EMOTIONS[i % 8])], math.nan] if rated else [math.nan] * 3
            writer.append(f"{folder.name}-{i:03}", hidden, Supervision(target, i % 8, math.nan, affect))
    return str(folder)


def _parts(folder: str) -> list[str]:
    with safe_open(next(Path(folder).glob("part-*.safetensors")), "pt") as file:
        return list(file.keys())


@pytest.mark.parametrize(("rated", "anchors"), [(True, None), (False, "ddes")])
def test_it_is_learnt_and_kept_beside_the_head(tmp_path: Path, rated: bool, anchors: str | None) -> None:
    train, val = _cache(tmp_path / "train", 64, rated=rated), _cache(tmp_path / "val", 24, rated=True)
    assert ("affect" in _parts(train)) == rated
    task = DESTask(DESHeadArgs(dropout=0.0), OptimConfig(lr=1e-2), va_weight=1.0, anchors=anchors)
    trainer = trainer_of(tmp_path / "run", 8)
    trainer.fit(task, datamodule=FeatureDataModule(train, val, batch_size=16))
    logged = trainer.callback_metrics
    assert logged.keys() >= {"val/valence_plcc", "val/valence_ccc", "val/arousal_ccc"}
    assert "val/dominance_ccc" not in logged
    assert logged["val/valence_ccc"] > 0.7
    cache = FeatureCache(val)
    batch = FeatureRows(cache).collate([Slot(n, filler=False) for n in range(len(cache))])
    head, affect = DESHead.from_pretrained(tmp_path / "run/head"), AffectHead.from_pretrained(tmp_path / "run/affect")
    with torch.no_grad():
        said = affect(head(batch["hidden_states"], batch["mask"]))
    plcc = torch.corrcoef(torch.stack([said[:, 0], batch["affect"][:, 0]]))[0, 1]
    assert float(plcc) == pytest.approx(float(logged["val/valence_plcc"]), abs=1e-4)
    assert affect.anchors == (None if anchors is None else ANCHORS.source)


def test_anchors_that_nothing_asks_for_and_anchors_that_are_none() -> None:
    with pytest.raises(InputError, match=r"model.anchors is 'ddes', and model.va_weight 0"):
        DESTask(anchors="ddes")
    with pytest.raises(InputError, match="one of ours: ddes, eemo_logic"):
        DESTask(va_weight=1.0, anchors="none")
