from __future__ import annotations

import json
from pathlib import Path

import pytest

from emo_lightning.core.records import SchemaError
from emo_lightning.inference.bundle import BUNDLE_FILE, Bundle, read_bundle, write_bundle


def test_a_folder_can_be_moved_and_a_hub_id_stays(tmp_path: Path) -> None:
    (tmp_path / "run" / "head").mkdir(parents=True)
    out = tmp_path / "run" / "model"
    out.mkdir()
    write_bundle(out, Bundle("Qwen/Qwen2.5-VL-3B", str(tmp_path / "run" / "head"), None, "emotion", ["emotion"]))
    assert json.loads((out / BUNDLE_FILE).read_text())["head"] == "../head"
    (tmp_path / "run").rename(tmp_path / "moved")
    bundle = read_bundle(tmp_path / "moved" / "model")
    assert bundle == Bundle("Qwen/Qwen2.5-VL-3B", str((tmp_path / "moved" / "head").resolve()), None, "emotion", ["emotion"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": 3}, "key 'head': found 3; expected text"),
        ({"head": ""}, "key 'head': found ''; expected text"),
        ({"questions": []}, "key 'questions': found []; expected a list of objectives"),
        ({"questions": ["emotion", "mood"]}, "found the objective 'mood'; allowed: attributes, emotion"),
        ({"features": "mood"}, "found the objective 'mood'; allowed: attributes, emotion"),
        ({"questions": "emotion"}, "key 'questions': found 'emotion'; expected a list of objectives"),
        (
            {"hed": "x"},
            "keys backbone, features, head, hed, probe, questions; expected backbone, features, head, probe, questions",
        ),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, object], message: str, tmp_path: Path) -> None:
    good = {"backbone": "x", "head": "h", "probe": None, "features": "emotion", "questions": ["emotion"]}
    (tmp_path / BUNDLE_FILE).write_text(json.dumps(good | change))
    with pytest.raises(SchemaError) as caught:
        read_bundle(tmp_path)
    assert f"{tmp_path / BUNDLE_FILE}: {message}" in str(caught.value)


def test_what_is_no_model_is_named_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / BUNDLE_FILE).write_text("{}")
    (tmp_path / "run" / "experiment.yaml").write_text("name: run")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    for name, config in (("plain", {"model_type": "qwen2_5_vl"}), ("head", {"class": "DESHead"})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    for name, what in {
        "run": f"holds several stages, of which {tmp_path / 'run' / 'model'} is a model",
        "adapter": "an adapter alone, without DES head and probe",
        "plain": "a plain model, without DES head and probe",
        "head": "a DESHead alone",
        "none": "no such folder",
    }.items():
        with pytest.raises(SchemaError, match="expected the folder of an emotion model") as caught:
            read_bundle(tmp_path / name)
        assert str(caught.value).startswith(f"{tmp_path / name}: {what}; ")
