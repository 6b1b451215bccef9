"""A wrong argument is named with what was found and what is allowed, in one short line, wherever in the tree it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from emo_lightning.experiment.argument_errors import plain
from emo_lightning.experiment.files import ExperimentError
from emo_lightning.experiment.arguments import check
from emo_lightning.experiment.stage import Stage

SAVER = "lightning.pytorch.callbacks.ModelCheckpoint"
CASES = [
    ("model.backbone.tunin", "lora", "unknown key model.backbone.tunin; did you mean tuning? allowed: attention, dtype, "),
    ("model.backbone.tuning", "half", "model.backbone.tuning: found half; allowed: full, lora, qlora, frozen"),
    (
        "model.backbone.lora.rnk",
        3,
        "model.backbone.lora: LoRA has no argument 'rnk'; did you mean rank? allowed: alpha, dropout, rank, targets",
    ),
    ("model.backbone.lora.rank", "many", "model.backbone.lora.rank: found many; allowed: a whole number"),
    ("model.optim.schedule", "step", "model.optim.schedule: found step; allowed: cosine, linear, constant"),
    ("model.optim.lr", "big", "model.optim.lr: found big; allowed: a number"),
    ("data.batchsize", 8, "unknown key data.batchsize; did you mean batch_size"),
    ("data.train", "a.tar", "data.train: found a.tar; allowed: a list"),
    ("data.train", None, "key data.train is missing"),
    ("data.objectives", {"emotion": "many"}, "data.objectives: found many; allowed: a number"),
    ("trainer.precision", "bf17", "trainer.precision: found bf17; allowed: "),
    (
        "trainer.callbacks",
        [{"class_path": SAVER, "init_args": {"dirpat": "x"}}],
        "trainer.callbacks: ModelCheckpoint has no argument 'dirpat'; did you mean dirpath? allowed: auto_insert_metric_name, ",
    ),
    (
        "trainer.callbacks",
        [{"class_path": SAVER, "init_args": {"save_top_k": "many"}}],
        "trainer.callbacks.save_top_k: found many; allowed: a whole number",
    ),
    (
        "trainer.callbacks",
        [{"class_path": SAVER[:-1]}],
        f"trainer.callbacks: there is no '{SAVER[:-1]}'; did you mean ModelCheckpoint",
    ),
    (
        "trainer.callbacks",
        [{"class_pat": SAVER}],
        "trainer.callbacks: found 'class_pat'; expected class_path, and init_args, of a Callback",
    ),
    ("modl", {"backbone": 1}, "unknown key modl; did you mean model? allowed: data, model, seed_everything, trainer"),
]


@pytest.mark.parametrize(("key", "value", "message"), CASES, ids=[f"{key}={value}" for key, value, _ in CASES])
def test_wrong_arguments(key: str, value: Any, message: str) -> None:
    config: dict[str, Any] = {
        "model": {"backbone": {"path": "m"}},
        "data": {"train": ["a"], "val": ["b"], "objectives": {"emotion": 1.0}},
        "trainer": {},
    }
    *parents, last = key.split(".")
    place = config
    for parent in parents:
        place = place.setdefault(parent, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    with pytest.raises(ExperimentError) as caught:
        check(Stage("s", "sft", "s", yaml.safe_load(yaml.safe_dump(config)), Path("nowhere")))
    found = str(caught.value)
    assert found.startswith(f"stage 's' (sft): {message}")
    assert "\n" not in found
    assert "<class" not in found
    assert "Union" not in found


def test_a_text_of_a_new_form_stays_as_it_is() -> None:
    assert plain("Something  else\n happened", []) == "Something else happened"
